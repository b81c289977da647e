"""Measure `sound`, silero-vad, YAMNet and FireRed on the same recordings: frames of 20 ms, speech and music or not.

Recordings are the mixtures of the `sound` recipe's dev set: voices, music and noise from recordings and whole sources
that training never heard; and, with --whole, those of other manifests as they are, by source, such as recipes.sound_dev
and recipes.make_meetings write. Where a source has one label throughout, the share of its frames that each system calls
so is told, at the thresholds that it comes with or, with --recall, at those where each finds as much of the mixtures'
speech, music and noise: a threshold alone makes no system better.

    pip install silero-vad ai-edge-litert onnxruntime torchaudio
    python -m framecls.recipes.compare_peers sound.jsonl --whole dev.jsonl meetings.jsonl [--teachers DIR]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from framecls.config import ReadOptions
from framecls.inference.engine import Engine, load_engine
from framecls.inference.windows import stitch
from framecls.recipes.prepare_sound import LABELS
from framecls.recipes.teachers import FireRed, YamNet, at_frames
from framecls.training.data.clips import open_clips
from framecls.training.data.manifest import read_manifest
from framecls.training.data.splits import split_recordings
from framecls.training.examples.frames import FrameExamples
from framecls.training.examples.loader import DEV_NUMBER, N_DEV_BATCHES
from framecls.training.examples.mixtures import MixtureExamples
from framecls.training.metrics import scores as metrics
from framecls.training.recipe import find_recipe, read_recipe

_RATE = 16000
_VAD_CHUNK_S = 0.032  # what silero-vad judges at once
MIXTURES = "mixtures"
Samples = NDArray[np.float32]
Heard = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Example:
    """A recording or a mixture, and what is to be heard in each frame."""

    samples: Samples
    truth: NDArray[np.bool_]  # (frame, label)
    source: str = MIXTURES


@dataclass(frozen=True)
class System:
    """One that listens: its probabilities by label, and where it says yes."""

    hear: Callable[[Samples], Heard]
    thresholds: dict[str, float]


def read_examples(engine: Engine, manifest: Path, recipe: str, cache: Path, *, whole: bool) -> Iterator[Example]:
    """Yield the dev side of a manifest, mixed as the recipe says or as it is."""
    dev = split_recordings(read_manifest(manifest)).dev
    store = open_clips(dev, _RATE, cache)
    kind = FrameExamples if whole else MixtureExamples
    examples = kind(dev, engine.config, read_recipe(find_recipe(recipe)), store, number_from=DEV_NUMBER)
    hop, margin = engine.config.hop_samples, engine.config.features.margin_samples
    for recording in dev if whole else ():
        samples = store.read(recording.file)
        truth = examples.annotate(recording, 0, max(1, len(samples) // hop)) > 0.5
        yield Example(samples, truth, recording.source)
    for number in () if whole else range(N_DEV_BATCHES):
        batch = examples.make_batch(number)
        inside = batch.waveform[:, margin : margin + batch.targets.shape[1] * hop].numpy()
        yield from map(Example, inside, batch.targets.numpy() > 0.5)


def framecls_system(name: str) -> System:
    """Return one of our models."""
    engine = load_engine(name)

    def hear(samples: Samples) -> Heard:
        [windows] = [list(recording) for recording in engine.run([samples], ReadOptions(sample_rate=_RATE))]
        scores = np.asarray(1 / (1 + np.exp(-stitch(windows, engine.config.overlap_frames))), np.float32)
        return {label: scores[:, column] for column, label in enumerate(engine.config.labels)}

    return System(hear, dict(engine.config.decision.thresholds))


def silero_system() -> System:
    """Return silero-vad."""
    from silero_vad import load_silero_vad

    vad = load_silero_vad()

    def hear(samples: Samples) -> Heard:
        with torch.inference_mode():
            chances = vad.audio_forward(torch.from_numpy(samples), sr=_RATE)[0].numpy()
        return {"speech": at_frames(chances, _VAD_CHUNK_S, len(samples))}

    return System(hear, {"speech": 0.5})


def open_systems(models: Sequence[str], teachers: Path | None) -> dict[str, System]:
    """Return all that are compared, by name."""
    systems = {f"framecls {name}": framecls_system(name) for name in models} | {"silero-vad": silero_system()}
    if teachers is None:
        return systems
    yamnet, firered = YamNet(teachers), FireRed(teachers)

    def hear_events(samples: Samples) -> Heard:
        heard = firered(samples)
        return {"speech": heard["speech"], "music": np.maximum(heard["singing"], heard["music"])}

    half = {"speech": 0.5, "music": 0.5}
    systems |= {"YAMNet": System(yamnet, half), "FireRed AED": System(hear_events, half)}
    return systems | {"FireRed VAD": System(lambda samples: {"speech": firered(samples)["vad"]}, half)}


def set_recall(system: System, heard: Sequence[Heard], truths: Sequence[NDArray[np.bool_]], recall: float) -> System:
    """Return a system with thresholds at which it finds a share of the frames of each label.

    Args:
        system: whose thresholds to change.
        heard: what it hears in each recording.
        truths: (frame, label) of each recording, the labels in the order of those of `sound`.
        recall: 0..1, of the frames of all recordings.
    """
    thresholds = {}
    for label, column in ((label, LABELS.index(label)) for label in heard[0]):
        found = [h[label][: len(t)][t[: len(h[label]), column]] for h, t in zip(heard, truths, strict=True)]
        thresholds[label] = float(np.quantile(np.concatenate(found), 1 - recall))
    return replace(system, thresholds=thresholds)


def describe(system: System, label: str, scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> str:
    """Return how well (frame,) scores tell a label; where it is always there, or never, how often it is called so."""
    threshold = system.thresholds.get(label, 0.5)
    if 0.02 < truth.mean() < 0.98:
        auc, best = metrics.roc_auc(scores, truth), metrics.best_detection(scores, truth)
        at = metrics.detection_at(scores, truth, threshold)
        return f"ROC-AUC {auc:.4f}  best F1 {best.f1:.4f} at {best.threshold:.2f}  F1 {at.f1:.4f} at {threshold:.2f}"
    return f"called so {100 * float((scores >= threshold).mean()):.1f} % of the frames"


def main() -> None:
    """Print a line a source, label and system."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path, nargs="?", help="whose dev side is mixed")
    arguments.add_argument("--model", nargs="+", default=["sound"], help="names or paths")
    arguments.add_argument("--recipe", default="sound")
    arguments.add_argument("--whole", type=Path, nargs="*", default=[], help="manifests of recordings as they are")
    arguments.add_argument("--teachers", type=Path, help="folder of the networks of recipes.teachers")
    arguments.add_argument("--recall", type=float, help="share of the mixtures' frames of a label that all shall find")
    arguments.add_argument("--only-models", action="store_true", help="leave the peers out")
    arguments.add_argument("--cache", type=Path)
    options = arguments.parse_args()
    engine = load_engine(options.model[0])
    if options.only_models:
        systems = {f"framecls {name}": framecls_system(name) for name in options.model}
    else:
        systems = open_systems(options.model, options.teachers)
    with tempfile.TemporaryDirectory() as temporary:
        cache = options.cache or Path(temporary)
        manifests = [(file, True) for file in options.whole]
        manifests += [(options.manifest, False)] if options.manifest else []
        examples = [
            example
            for manifest, whole in manifests
            for example in read_examples(engine, manifest, options.recipe, cache, whole=whole)
        ]
    heard = {name: [system.hear(example.samples) for example in examples] for name, system in systems.items()}
    if options.recall:
        mixed = [index for index, example in enumerate(examples) if example.source == MIXTURES]
        truths = [examples[index].truth for index in mixed]
        for name, system in systems.items():
            systems[name] = set_recall(system, [heard[name][index] for index in mixed], truths, options.recall)
    for source in sorted({example.source for example in examples}):
        of = [index for index, example in enumerate(examples) if example.source == source]
        for column, label in enumerate(engine.config.labels):
            for name, system in systems.items():
                if label not in heard[name][of[0]]:
                    continue
                pairs = [(heard[name][i][label], examples[i].truth) for i in of]
                lengths = [min(len(scores), len(truth)) for scores, truth in pairs]
                scores = np.concatenate([s[:n] for (s, _), n in zip(pairs, lengths, strict=True)])
                truth = np.concatenate([t[:n] for (_, t), n in zip(pairs, lengths, strict=True)])
                if not truth[:, column].any() or truth[:, column].sum() == truth.any(axis=1).sum():
                    # One kind of sound throughout: what is quiet says nothing of it, unless it is talk and its pauses.
                    loud = truth.any(axis=1)
                    if label != "speech" or not truth[:, column].any():
                        scores, truth = scores[loud], truth[loud]
                sys.stdout.write(
                    f"{source:12} {label:7} {name:24} {describe(system, label, scores, truth[:, column])}\n"
                )


if __name__ == "__main__":
    main()
