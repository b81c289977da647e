"""Measure `phones` and pocketsphinx's phone recogniser on the same recordings: which phone is heard every 20 ms.

    pip install pocketsphinx
    python -m framecls.recipes.compare_phones phones.jsonl [--model phones]

The recordings are those of the manifest's dev split. A string's error rate counts phones alone, silence is none.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framecls.inference.ctc import count_edits
from framecls.model import load
from framecls.recipes.prepare_phones import ARPABET, SAMPLE_RATE, SILENCE, Phones, join_phones, read_samples
from framecls.training.data.manifest import Recording, read_manifest

_HOP_S = 0.02


class PhoneLoop:
    """pocketsphinx as it comes: any phone may follow any other, as likely as in English."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder, get_model_path

        self._decoder = Decoder(
            samprate=SAMPLE_RATE,
            allphone=get_model_path("en-us/en-us-phone.lm.bin"),
            lw=2.0,
            beam=1e-20,
            pbeam=1e-20,
            loglevel="FATAL",
        )

    def __call__(self, samples: NDArray[np.float32]) -> Phones:
        """Return what is heard in (sample,) audio: phones and the seconds at which they end."""
        self._decoder.start_utt()
        self._decoder.process_raw((np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        names = [(segment.word.lower(), segment.end_frame) for segment in self._decoder.seg()]
        return join_phones((name if name in ARPABET else SILENCE, (last + 1) / 100) for name, last in names)


def at_frames(phones: Phones, n_frames: int) -> NDArray[np.str_]:
    """Return (frame,) the phone at the middle of each frame."""
    ends = np.array([end for _, end in phones])
    index = np.searchsorted(ends, (np.arange(n_frames) + 0.5) * _HOP_S, side="right")
    return np.array([*(phone for phone, _ in phones), SILENCE])[index]


def truth_of(recording: Recording) -> Phones:
    """Return the phones of a recording as the manifest has them."""
    spans = sorted(recording.spans, key=lambda span: span.start_s)
    return [(span.label, span.end_s or span.start_s) for span in spans]


def spoken(phones: Phones) -> list[str]:
    """Return the phones without the times and the silence."""
    return [phone for phone, _ in phones if phone != SILENCE]


def main() -> None:
    """Print a line a system."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--model", default="phones")
    options = arguments.parse_args()
    model, loop = load(options.model), PhoneLoop()
    n_right = {"framecls": 0, "pocketsphinx": 0}
    n_wrong = dict.fromkeys(n_right, 0)
    n_frames = n_phones = 0
    for recording in read_manifest(options.manifest):
        if recording.split != "dev":
            continue
        samples, truth = read_samples(recording.file), truth_of(recording)
        count = int(truth[-1][1] / _HOP_S)
        wanted = at_frames(truth, count)
        tagged, looped = model.tag(samples, sample_rate=SAMPLE_RATE), loop(samples)
        frames = {"framecls": [(segment.label, segment.end) for segment in tagged.segments], "pocketsphinx": looped}
        strings = {
            "framecls": model.tag_string(samples, sample_rate=SAMPLE_RATE).phones,
            "pocketsphinx": spoken(looped),
        }
        n_frames, n_phones = n_frames + count, n_phones + len(spoken(truth))
        for system, phones in frames.items():
            n_right[system] += int((at_frames(phones, count) == wanted).sum())
            n_wrong[system] += count_edits(spoken(truth), strings[system]).total
    for system, right in n_right.items():
        line = f"{system:14} frames right {right / n_frames:.3f}  phone error rate {n_wrong[system] / n_phones:.3f}\n"
        sys.stdout.write(line)


if __name__ == "__main__":
    main()
