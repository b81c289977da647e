"""Networks that teach `sound`, and that it is compared with: YAMNet and FireRed's AED and VAD (all Apache 2.0).

None of them is shipped. `framecls.recipes` wants a folder with yamnet.tflite, yamnet_class_map.csv,
fireredvad_aed.onnx, fireredvad_vad.onnx and cmvn.ark.

    pip install ai-edge-litert onnxruntime torchaudio
"""

from __future__ import annotations

import csv
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from framecls.inference.windows import frame_times

RATE = 16000
HOP_S = 0.02
Scores = NDArray[np.float32]

_PATCH = 15600  # samples that YAMNet judges at once
_PATCH_HOP_S = 0.24
_FIRERED_HOP_S = 0.01
# AudioSet's classes, as the file of names numbers them; a class stands for its whole kind.
_SPEECH = ("Speech", "Child speech, kid speaking", "Conversation", "Narration, monologue", "Speech synthesizer")
_MUSIC_FIRST, _MUSIC_LAST = "Music", "Scary music"
_SUNG_FIRST, _SUNG_LAST = "Singing", "Humming"


def at_frames(scores: Scores, hop_s: float, n_samples: int) -> Scores:
    """Return (frame, ...) every 20 ms of a clip what was found every `hop_s`, the first around 0 s."""
    times = frame_times(max(1, round(n_samples / RATE / HOP_S)), HOP_S)
    return np.asarray(scores[np.clip((times / hop_s).astype(int), 0, len(scores) - 1)], np.float32)


class YamNet:
    """Speech and music every 20 ms, from windows of about a second."""

    def __init__(self, folder: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._network: Any = Interpreter(str(folder / "yamnet.tflite"), num_threads=1)
        self._network.allocate_tensors()
        self._input = self._network.get_input_details()[0]
        self._output = self._network.get_output_details()[0]["index"]
        with (folder / "yamnet_class_map.csv").open(newline="", encoding="utf-8") as stream:
            names = [row["display_name"] for row in csv.DictReader(stream)]
        self._speech = [names.index(name) for name in _SPEECH]
        bounds = [(_MUSIC_FIRST, _MUSIC_LAST), (_SUNG_FIRST, _SUNG_LAST)]
        self._music = [i for first, last in bounds for i in range(names.index(first), names.index(last) + 1)]

    def __call__(self, samples: Scores) -> dict[str, Scores]:
        """Return for speech and music (frame,) the probability of the likeliest class of that kind."""
        padded = np.pad(samples, _PATCH // 2)
        heard = []
        for start in range(0, len(padded) - _PATCH + 1, round(_PATCH_HOP_S * RATE)):
            patch = padded[start : start + _PATCH].reshape(self._input["shape"])
            self._network.set_tensor(self._input["index"], patch)
            self._network.invoke()
            classes = self._network.get_tensor(self._output)[0]
            heard.append((classes[self._speech].max(), classes[self._music].max()))
        # A window stands for the time around its middle.
        frames = at_frames(np.repeat(np.array(heard, np.float32), 2, axis=0)[1:], _PATCH_HOP_S / 2, len(samples))
        return {"speech": frames[:, 0], "music": frames[:, 1]}


class FireRed:
    """Speech and music every 20 ms from filter banks of 10 ms; singing counts as music."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._aed, self._vad = (
            onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in ("fireredvad_aed.onnx", "fireredvad_vad.onnx")
        )
        self._mean, self._scale = _read_cmvn((folder / "cmvn.ark").read_bytes())

    def __call__(self, samples: Scores) -> dict[str, Scores]:
        """Return (frame,) "vad" and "speech" (of the AED), "singing" and "music"."""
        import torchaudio.compliance.kaldi as kaldi

        padded = np.pad(samples, (0, max(0, 400 - len(samples))))
        bands = kaldi.fbank(torch.from_numpy(padded * 32768)[None], num_mel_bins=80, dither=0.0).numpy()
        given = {"feat": ((bands - self._mean) * self._scale).astype(np.float32)[None]}
        events = at_frames(self._aed.run(None, given)[0][0], _FIRERED_HOP_S, len(samples))
        voiced = at_frames(self._vad.run(None, given)[0][0], _FIRERED_HOP_S, len(samples))
        return {"vad": voiced[:, 0], "speech": events[:, 0], "singing": events[:, 1], "music": events[:, 2]}


def _read_cmvn(data: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read a binary Kaldi matrix of sums and sums of squares, the count last; return the means and the scales."""
    at = data.index(b"\0B") + 2
    kind, at = ("<f8" if data[at : at + 1] == b"D" else "<f4"), at + 3
    n_rows, n_columns = (struct.unpack_from("<i", data, at + offset)[0] for offset in (1, 6))
    sums = np.frombuffer(data, kind, n_rows * n_columns, at + 10).reshape(n_rows, n_columns).astype(float)
    count = sums[0, -1]
    mean = sums[0, :-1] / count
    return mean, 1 / np.sqrt(np.maximum(sums[1, :-1] / count - mean**2, 1e-20))
