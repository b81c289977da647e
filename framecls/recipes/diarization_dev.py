"""Simulate conversations from the corpus' voices, and measure and choose the settings of speaker timelines on them.

In a conversation each voice says what its clips hold, once, in turns that end where it pauses; turns follow each other
after pauses or before the other has ended (some 5 to 25 % of the speech is overlapped), all in one shoebox room by
pyroomacoustics, with a microphone's noise. Where each speaks, silero-vad marks in its dry voice: by level alone, the
noise in a voice's own recording is speech. The first seconds of each voice are kept to enroll it with. Half of the
voices, by a digest of their names, are for choosing settings (--side fit), the others for the figures (--side dev).

    pip install pyroomacoustics pyannote.metrics silero-vad Resemblyzer
    python -m framecls.recipes.diarization_dev make CORPUS/manifest.jsonl --out DIR [--marks level]
    python -m framecls.recipes.diarization_dev measure DIR [--model speaker] [--side fit --try same_speaker=0.3,0.4]
    python -m framecls.recipes.diarization_dev measure DIR --embed resemblyzer --try same_speaker=0.62 unknown=-1
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from framecls.config import DiarizationConfig, ModelConfig
from framecls.inference.engine import Engine, load_engine
from framecls.inference.segments import clean_runs, find_runs
from framecls.recipes.make_meetings import draw_room, microphone_noise
from framecls.recipes.prepare_language import read_rows
from framecls.recipes.prepare_sound import HOP, RATE, loudness_db, read_all
from framecls.recipes.prepare_speaker import hold_out
from framecls.speakers import diarization, listening
from framecls.speakers.gallery import Clip
from framecls.speakers.recognition import Enrolled, embed_recording
from framecls.training.data.labels.labelfiles import parse_rttm

if TYPE_CHECKING:
    from pyannote.core import Annotation

# LibriSpeech: the voices that no model of ours has heard. FLEURS: a voice a language in each conversation, because its
# voices were told apart by clustering within a language.
SOURCES = ("librispeech-train-clean-100", "fleurs")
LEAST_S = {"librispeech-train-clean-100": 11.0, "fleurs": 25.0}  # of a voice
ENROLLED_S = {"librispeech-train-clean-100": 4.0, "fleurs": 8.0}  # at most, at its beginning
N_SPEAKERS = (2, 4, 8)
# Least and most seconds of reverberation, metres to the microphone, and decibels of speech above noise.
ROOMS = {"clean": ((0.2, 0.4), (0.5, 2.0), (25.0, 40.0)), "far": ((0.4, 0.9), (1.0, 4.0), (10.0, 25.0))}
PAUSE_S = 0.3  # a shorter pause is part of what is said
Rng = np.random.Generator
Samples = NDArray[np.float32]
# Finds the runs of frames of 10 ms in which a dry voice speaks.
Marker = Callable[[Samples], list[tuple[int, int]]]


def read_voices(manifest: Path, side: str) -> dict[str, dict[str, list[Path]]]:
    """Return the clips of each voice of one side, by source and voice."""
    rows = [row for row in read_rows(manifest) if row["source"] in SOURCES and row.get("speaker")]
    unheard = hold_out(rows)
    clips: dict[str, dict[str, list[Path]]] = {source: defaultdict(list) for source in SOURCES}
    seconds: dict[str, float] = defaultdict(float)
    for row in rows:
        voice = row["speaker"]
        is_fit = hashlib.sha256(voice.encode()).digest()[-1] % 2 == 0
        if is_fit == (side == "fit") and (row["source"] != SOURCES[0] or voice in unheard):
            clips[row["source"]][voice].append(Path(row["path"]))
            seconds[voice] += row["seconds"]
    return {
        source: {voice: files for voice, files in voices.items() if seconds[voice] >= LEAST_S[source]}
        for source, voices in clips.items()
    }


def language_of(voice: str) -> str:
    """Return the language in the name of a FLEURS voice; of others, the voice itself: all of them go together."""
    return voice.rpartition("-")[0] if voice.startswith("fl-") else voice


def find_speech(samples: Samples) -> list[tuple[int, int]]:
    """Return the runs of frames of 10 ms in which a dry voice is loud enough to be heard."""
    level_db = loudness_db(samples)
    return clean_runs(find_runs(level_db > max(float(np.quantile(level_db, 0.95)) - 33, -75)), 5, 15)


def load_silero() -> Marker:
    """Return silero-vad as a marker of turns that have digital silence between them."""
    import torch
    from silero_vad import get_speech_timestamps, load_silero_vad

    network = load_silero_vad()

    def mark(samples: Samples) -> list[tuple[int, int]]:
        sounding = np.abs(samples).reshape(-1, HOP).max(axis=1) > 0
        marks = []
        for first, last in clean_runs(find_runs(sounding), 1, 5):
            turn = samples[first * HOP : last * HOP]
            spans = get_speech_timestamps(
                torch.from_numpy(turn / np.abs(turn).max()),
                network,
                min_speech_duration_ms=50,
                min_silence_duration_ms=round(1000 * PAUSE_S),
                speech_pad_ms=0,
            )
            marks += [(first + round(span["start"] / HOP), first + round(span["end"] / HOP)) for span in spans]
        return marks

    return mark


def cut_turns(samples: Samples, rng: Rng) -> list[Samples]:
    """Cut (sample,) what a voice says into turns of some seconds, at its pauses."""
    turns: list[Samples] = []
    runs = find_speech(samples)
    while runs:
        wanted = int(rng.gamma(2.0, 1.6) * RATE / HOP) + 50
        n_runs = next((n for n, (_, end) in enumerate(runs, 1) if end - runs[0][0] >= wanted), len(runs))
        turns.append(samples[max(0, runs[0][0] - 3) * HOP : (runs[n_runs - 1][1] + 3) * HOP])
        runs = runs[n_runs:]
    return turns


@dataclasses.dataclass(frozen=True)
class Said:
    """A conversation without its room."""

    voices: NDArray[np.float32]  # (voice, sample)
    active: NDArray[np.bool_]  # (voice, frame of 10 ms)

    @property
    def overlap(self) -> float:
        """The share of the time of speech in which more than one voice speaks."""
        counts = self.active.sum(axis=0)
        return float((counts > 1).sum() / max(1, (counts > 0).sum()))


def draw_conversation(turns: Sequence[Sequence[Samples]], rng: Rng, mark: Marker = find_speech) -> Said:
    """Let voices take turns until all have said everything; `mark` says where each speaks."""
    wanted, n_shared, n_said = rng.uniform(0.05, 0.2), 0, 0
    left = [list(own) for own in turns]
    placed: list[tuple[int, int, Samples]] = []
    at, who, before = int(0.5 * RATE), -1, 0
    while any(left):
        others = [index for index, own in enumerate(left) if own and index != who]
        who = int(rng.choice(others or [who], p=None if not others else _weigh(left, others)))
        turn = left[who].pop(0)
        # Two who speak at once pause at times, so more of their turns is shared than of their speech.
        if placed and n_shared < 1.4 * wanted * n_said and rng.random() < 0.8:
            shared = int(min(rng.uniform(0.4, 3.0) * RATE, 0.9 * before, 0.9 * len(turn)))
            start, n_shared = at - shared, n_shared + shared
        else:
            start = at + int(min(rng.exponential(0.5), 4.0) * RATE)
        own_end = max((first + len(sound) for voice, first, sound in placed if voice == who), default=0)
        start = max(start, own_end + int(0.1 * RATE))
        placed.append((who, start, turn))
        at, before, n_said = max(at, start + len(turn)), len(turn), n_said + len(turn)
    n_samples = (at + RATE // 2) // HOP * HOP
    voices, active = np.zeros((len(turns), n_samples), np.float32), np.zeros((len(turns), n_samples // HOP), bool)
    for voice, first, sound in placed:
        voices[voice, first : first + len(sound)] += sound[: n_samples - first]
    for voice, row in enumerate(voices):
        for first, last in clean_runs(mark(row), 5, int(PAUSE_S * RATE / HOP)):
            active[voice, first:last] = True
    return Said(voices, active)


def _weigh(left: Sequence[Sequence[Samples]], indices: Sequence[int]) -> NDArray[np.float64]:
    """Return (index,) chances of voices, by how many turns they have left."""
    counts = np.array([len(left[index]) for index in indices], float)
    return np.asarray(counts / counts.sum())


def make_conversation(
    clips: Sequence[Sequence[Path]], enrolled_s: float, room: str, rng: Rng, mark: Marker
) -> tuple[Samples, Said, list[Samples]]:
    """Return (sample,) a conversation, what is said in it, and (sample,) something else that each voice says."""
    reverb_s, distance_m, snr_db = ROOMS[room]
    before, turns = [], []
    for files in clips:
        samples = np.concatenate([read_all(file) for file in files])
        runs = find_speech(samples)
        least = min(enrolled_s * RATE, len(samples) / 3) / HOP
        cut = min(next(last for _, last in runs if last >= least or last == runs[-1][1]), int(1.5 * least))
        power = float(np.square(np.concatenate([samples[first * HOP : last * HOP] for first, last in runs])).mean())
        samples = samples * np.float32(10 ** (rng.uniform(-33, -27) / 20) / power**0.5)
        before.append(samples[: cut * HOP])
        turns.append(cut_turns(samples[cut * HOP :], rng))
    said = draw_conversation(turns, rng, mark)
    heard = np.zeros(said.voices.shape[1], np.float32)
    for dry, response in zip(said.voices, draw_room(rng, len(clips), reverb_s, distance_m), strict=True):
        loudness = np.float32(1 / np.sqrt(np.square(response).sum()))  # nobody is drowned by who sits nearer
        heard += fftconvolve(dry, response)[: len(heard)].astype(np.float32) * loudness
    power = float(np.square(heard).mean())
    heard += microphone_noise(rng, len(heard)) * np.float32((power * 10 ** (-rng.uniform(*snr_db) / 10)) ** 0.5)
    return heard * np.float32(0.7 / np.abs(heard).max()), said, before


def make_all(options: argparse.Namespace) -> None:
    """Write conversations, their references and a manifest."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    mark = load_silero() if options.marks == "silero" else find_speech
    with (out / "conversations.jsonl").open("w", encoding="utf-8") as manifest:
        for side, (n_source, source) in itertools.product(("fit", "dev"), enumerate(SOURCES)):
            voices = read_voices(options.manifest, side)[source]
            for n_speakers, (n_room, room), number in itertools.product(
                N_SPEAKERS, enumerate(ROOMS), range(options.number)
            ):
                rng = np.random.default_rng((options.seed, side == "dev", n_source, n_speakers, n_room, number))
                chosen = list(draw_voices(sorted(voices), n_speakers, rng))
                sound, said, before = make_conversation(
                    [voices[v] for v in chosen], ENROLLED_S[source], room, rng, mark
                )
                name = f"{side}-{source.partition('-')[0]}-{n_speakers}-{room}-{number}"
                soundfile.write(out / f"{name}.flac", sound, RATE)
                for voice, clip in zip(chosen, before, strict=True):
                    soundfile.write(out / f"{name}.{voice}.flac", clip, RATE)
                (out / f"{name}.rttm").write_text("".join(write_turns(name, chosen, said)), encoding="utf-8")
                row: dict[str, Any] = {"name": name, "side": side, "source": source, "room": room, "voices": chosen}
                row |= {"overlap": round(said.overlap, 3), "seconds": len(sound) / RATE}
                manifest.write(json.dumps(row) + "\n")
                manifest.flush()


def draw_voices(names: Sequence[str], number: int, rng: Rng) -> Iterator[str]:
    """Draw voices, no two of one language of FLEURS."""
    seen: set[str] = set()
    for name in rng.permutation(names).tolist():
        if len(seen) < number and language_of(name) not in seen:
            seen.add(language_of(name))
            yield name


def write_turns(name: str, voices: Sequence[str], said: Said) -> Iterator[str]:
    """Yield the lines of an RTTM file."""
    for voice, active in zip(voices, said.active, strict=True):
        for first, last in find_runs(active):
            start_s, length_s = first * HOP / RATE, (last - first) * HOP / RATE
            yield f"SPEAKER {name} 1 {start_s:.3f} {length_s:.3f} <NA> <NA> {voice} <NA> <NA>\n"


@dataclasses.dataclass(frozen=True, eq=False)
class Heard:
    """A conversation as a model hears it."""

    name: str
    source: str
    room: str
    heard: listening.Heard
    truth: list[tuple[float, float, str]]
    clips: list[Clip]  # of its voices, from elsewhere in their recordings


def hear_all(options: argparse.Namespace, voices: Engine, engine: listening.ListeningEngine) -> Iterator[Heard]:
    """Yield the conversations of one side, each heard once."""
    folder: Path = options.folder
    for line in (folder / "conversations.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        name = row["name"]
        if row["side"] != options.side or int(name.rpartition("-")[2]) >= options.number:
            continue
        with closing(engine.run([folder / f"{name}.flac"])) as requests:
            heard = listening.collect(next(requests), engine)
        if options.embed == "resemblyzer":
            heard = dataclasses.replace(heard, vectors=embed_resemblyzer(folder / f"{name}.flac", heard))
        clips = []
        for voice in row["voices"]:
            file = folder / f"{name}.{voice}.flac"
            embedding = embed_recording(voices, file)
            clips.append(Clip(voice, "dev", file.name, embedding.heard_s, embedding.vector))
        rttm = (folder / f"{name}.rttm").read_text(encoding="utf-8")
        yield Heard(name, row["source"], row["room"], heard, parse_rttm(rttm)[name], clips)


def embed_resemblyzer(file: Path, heard: listening.Heard) -> NDArray[np.float32]:
    """Return (window, number) the embeddings of Resemblyzer of its own windows, of 1.6 s, in the middle of the same."""
    import torch
    from resemblyzer import VoiceEncoder, audio, hparams

    samples = audio.normalize_volume(read_all(file), hparams.audio_norm_target_dBFS)
    frames_per_s = 1000 / hparams.mel_window_step
    shift = (heard.width * heard.hop_s * frames_per_s - hparams.partials_n_frames) / 2
    firsts = np.round(heard.starts * heard.hop_s * frames_per_s + shift).astype(int).clip(0)
    mel = audio.wav_to_mel_spectrogram(samples)
    mel = np.pad(mel, ((0, hparams.partials_n_frames), (0, 0)))
    windows = np.stack([mel[first : first + hparams.partials_n_frames] for first in firsts])
    with torch.inference_mode():
        vectors: NDArray[np.float32] = VoiceEncoder("cpu", verbose=False)(torch.from_numpy(windows)).numpy()
    return vectors


class Figures:
    """The figures of several conversations."""

    def __init__(self) -> None:
        from pyannote.metrics.diarization import DiarizationErrorRate

        self._rate: Any = DiarizationErrorRate()
        self._n_wrong = self._n_speech = self._n_off = self._n = 0

    def add(self, conversation: Heard, settings: DiarizationConfig, config: ModelConfig, n_enrolled: int) -> None:
        """Find and name who speaks in a conversation of which so many voices are enrolled."""
        turns = diarization.find_turns(conversation.heard, settings, diarization.Count())
        enrolled = Enrolled(conversation.clips[:n_enrolled])
        speakers = diarization.name_speakers(turns, enrolled, config)
        found = [
            (first * turns.frame_s, last * turns.frame_s, speaker.name)
            for speaker in speakers
            for first, last in diarization.runs_of(turns, speaker)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the extent was not given
            self._rate(_annotate(conversation.truth), _annotate(found))
        self._n += 1
        self._n_off += abs(len(turns.centroids) - len(conversation.clips))
        grid = len(turns.best), turns.frame_s
        anybody = np.any([_mask(conversation.truth, clip.name, *grid) for clip in conversation.clips], axis=0)
        wrong = np.zeros_like(anybody)  # somebody else speaks, and not the one who is named
        for name in enrolled.names:
            wrong |= _mask(found, name, *grid) & ~_mask(conversation.truth, name, *grid) & anybody
        self._n_wrong += int(wrong.sum())
        self._n_speech += int(anybody.sum())

    def __str__(self) -> str:
        parts = self._rate[:]
        rates = [parts[key] / parts["total"] for key in ("missed detection", "false alarm", "confusion")]
        shown = "  ".join(f"{rate:6.1%}" for rate in (abs(self._rate), *rates, self._n_wrong / max(1, self._n_speech)))
        return f"{self._n:4}  {shown}  {self._n_off / max(1, self._n):5.2f}"

    @property
    def error_rate(self) -> float:
        """The diarization error rate."""
        return float(abs(self._rate))


def _annotate(rows: Iterable[tuple[float, float, str]]) -> Annotation:
    from pyannote.core import Annotation, Segment

    annotation = Annotation()
    for number, (start, end, label) in enumerate(rows):
        annotation[Segment(start, end), number] = label
    return annotation


def _mask(rows: Iterable[tuple[float, float, str]], name: str, n_frames: int, hop_s: float) -> NDArray[np.bool_]:
    mask = np.zeros(n_frames, bool)
    for start, end, label in rows:
        if label == name:
            mask[round(start / hop_s) : round(end / hop_s)] = True
    return mask


def measure_all(options: argparse.Namespace) -> None:
    """Print the figures of each kind of conversation, or those of each setting that is to be tried."""
    voices = load_engine(options.model, device="cpu", threads=1)
    engine = listening.ListeningEngine(voices, voices.config)
    settings = engine.config.diarization
    conversations = list(hear_all(options, voices, engine))
    out = sys.stdout
    out.write(f"{'':44}   n     DER    missed  f.alarm  confus.  wrong name  |n-N|\n")
    if options.settings:
        names = [text.partition("=")[0] for text in options.settings]
        values = [map(float, text.partition("=")[2].split(",")) for text in options.settings]
        for chosen in itertools.product(*values):
            tried, figures = dataclasses.replace(settings, **dict(zip(names, chosen, strict=True))), Figures()
            for conversation in conversations:
                figures.add(conversation, tried, engine.config, 0)
            out.write(f"{', '.join(f'{n} {v:g}' for n, v in zip(names, chosen, strict=True)):44}{figures}\n")
            out.flush()
        return
    groups: dict[tuple[int, str, str], list[Heard]] = defaultdict(list)
    for conversation in conversations:
        kinds = itertools.product(
            (0, len(conversation.clips)), (conversation.room, "any"), (conversation.source, "any")
        )
        for kind in kinds:
            groups[kind].append(conversation)
    for (n_speakers, room, source), members in sorted(groups.items()):
        for share, what in ((0.0, "nobody"), (0.5, "half"), (1.0, "all")):
            figures = Figures()
            for conversation in members:
                figures.add(conversation, settings, engine.config, round(share * len(conversation.clips)))
            name = f"{n_speakers or 'any'} voices, {room}, {source.partition('-')[0]}, {what} enrolled"
            out.write(f"{name:44}{figures}\n")
            out.flush()


def main() -> None:
    """Make conversations, or measure on them."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = arguments.add_subparsers(required=True)
    make = commands.add_parser("make")
    make.add_argument("manifest", type=Path, help="of the corpus")
    make.add_argument("--out", type=Path, required=True)
    make.add_argument("--number", type=int, default=6, help="conversations of each kind")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--marks", choices=("silero", "level"), default="silero", help="how speech is told in dry voices")
    make.set_defaults(run=make_all)
    measure = commands.add_parser("measure")
    measure.add_argument("folder", type=Path, help="what make wrote")
    measure.add_argument("--model", default="speaker")
    measure.add_argument("--side", choices=("fit", "dev"), default="dev")
    measure.add_argument("--embed", choices=("model", "resemblyzer"), default="model", help="with nobody enrolled")
    measure.add_argument("--number", type=int, default=99, help="conversations of each kind, at most")
    measure.add_argument("--try", dest="settings", nargs="*", help="settings: name=value,value; with nobody enrolled")
    measure.set_defaults(run=measure_all)
    options = arguments.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
