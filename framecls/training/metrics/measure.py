"""Measure a network on dev batches."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from framecls.nn.network import Network
from framecls.training.examples.batch import Batch
from framecls.training.metrics.frames import report_exclusive, report_overlapping
from framecls.training.metrics.pooled import report_pooled
from framecls.training.metrics.report import DevReport
from framecls.training.metrics.verification import report_voices


@torch.inference_mode()
def collect(network: Network, batches: Iterable[Batch]) -> tuple[list[NDArray[np.float32]], list[Batch]]:
    """Return the logits of each batch, on the CPU, and the batches."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    logits, kept = [], []
    for batch in batches:
        output = network(batch.waveform.to(device), batch.n_frames.to(device))
        logits.append(output.logits.float().cpu().numpy())
        kept.append(batch)
    network.train(was_training)
    return logits, kept


def measure(network: Network, batches: Iterable[Batch]) -> DevReport:
    """Measure a network on dev batches, by the kind of its task."""
    logits, kept = collect(network, batches)
    if network.config.embedding:
        voices = np.concatenate([batch.targets.numpy() for batch in kept])
        names = [name for batch in kept for name in batch.sources]
        return report_voices(np.concatenate(logits), voices, names, network.config.decision)
    if network.config.task == "pooled":
        truth = np.concatenate([batch.targets.numpy() for batch in kept])
        sources = [name for batch in kept for name in (batch.sources or ("",) * len(batch.targets))]
        return report_pooled(np.concatenate(logits), truth, sources, network.config.labels, network.config.decision)
    real = [np.arange(batch.targets.shape[1])[None] < batch.n_frames.numpy()[:, None] for batch in kept]
    flat = np.concatenate([values[mask] for values, mask in zip(logits, real, strict=True)])
    truth = np.concatenate([batch.targets.numpy()[mask] for batch, mask in zip(kept, real, strict=True)])
    if network.config.overlapping:
        return report_overlapping(flat, truth > 0.5, network.config.labels, network.config.decision)
    return report_exclusive(flat, truth, network.config.labels, network.config.decision)
