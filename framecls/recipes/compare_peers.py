"""Measure `sound` and silero-vad on the same mixtures: frames of 20 ms, speech or not.

The mixtures are those of the `sound` recipe's dev set: voices, music and noise from recordings and whole sources that
training never heard.

    pip install silero-vad
    python -m framecls.recipes.compare_peers sound.jsonl [--model sound]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from framecls.inference.engine import load_engine
from framecls.training.data.clips import open_clips
from framecls.training.data.manifest import read_manifest, split_recordings
from framecls.training.examples.mixtures import Batch, FrameExamples
from framecls.training.metrics import scores as metrics
from framecls.training.metrics.measure import collect
from framecls.training.recipe import find_recipe, read_recipe
from framecls.training.supply import DEV_NUMBER, N_DEV_BATCHES

_VAD_CHUNK = 512  # samples that silero-vad judges at once


def silero_scores(vad: Any, batch: Batch, margin: int, hop: int) -> NDArray[np.float32]:
    """Return (batch, frame) silero-vad's probability of speech at the middle of each frame."""
    n_frames = int(batch.n_frames[0])
    inside = batch.waveform[:, margin : margin + n_frames * hop]
    with torch.inference_mode():
        chances = torch.cat([vad.audio_forward(row, sr=16000) for row in inside]).numpy()
    middles = np.arange(n_frames) * hop + hop // 2
    return np.asarray(chances[:, np.minimum(middles // _VAD_CHUNK, chances.shape[1] - 1)], np.float32)


def main() -> None:
    """Print a line a system."""
    from silero_vad import load_silero_vad

    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--model", default="sound")
    arguments.add_argument("--recipe", default="sound")
    arguments.add_argument("--cache", type=Path)
    options = arguments.parse_args()
    engine, recipe = load_engine(options.model), read_recipe(find_recipe(options.recipe))
    dev = split_recordings(read_manifest(options.manifest)).dev
    with tempfile.TemporaryDirectory() as temporary:
        store = open_clips(dev, engine.config.features.sample_rate, options.cache or Path(temporary))
        examples = FrameExamples(dev, engine.config, recipe, store, number_from=DEV_NUMBER)
        logits, batches = collect(engine.network, (examples.make_batch(n) for n in range(N_DEV_BATCHES)))
    speech = engine.config.labels.index("speech")
    truth = np.concatenate([batch.targets[:, :, speech].numpy().ravel() > 0.5 for batch in batches])
    vad = load_silero_vad()
    margin, hop = engine.config.features.margin_samples, engine.config.hop_samples
    systems = {
        f"framecls {options.model}": np.concatenate([values[:, :, speech].ravel() for values in logits]),
        "silero-vad": np.concatenate([silero_scores(vad, batch, margin, hop).ravel() for batch in batches]),
    }
    systems[f"framecls {options.model}"] = 1 / (1 + np.exp(-systems[f"framecls {options.model}"]))
    for name, scores in systems.items():
        auc, best = metrics.roc_auc(scores, truth), metrics.best_detection(scores, truth)
        sys.stdout.write(f"{name:20} speech ROC-AUC {auc:.4f}  best F1 {best.f1:.4f} at {best.threshold:.2f}\n")


if __name__ == "__main__":
    main()
