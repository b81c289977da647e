"""Losses: of labels, of phones, and of voices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.config import ModelConfig
from framecls.nn.network import Output
from framecls.training.examples.batch import IGNORED, Batch
from framecls.training.recipe import Recipe, VoiceConfig

# Of each term of the loss, the share of the batch's items that are in a shard, times the number of shards: the mean of
# the shards' means, weighted so, is the mean of the whole batch. None: the batch is whole.
Weights = Mapping[str, float] | None


@dataclass(frozen=True)
class Shard:
    """The examples of a batch that one process learns from."""

    batch: Batch
    rows: list[int]  # of the whole batch
    n_rows: int  # of the whole batch
    weights: Weights = None


def take_shard(batch: Batch, rank: int, n_shards: int) -> Shard:
    """Return the examples of one process of several."""
    n_rows = len(batch.n_frames)
    rows = list(range(rank, n_rows, n_shards))
    if n_shards == 1:
        return Shard(batch, rows, n_rows)
    # A process without any example runs the first one, at weight 0: it takes part in the exchange of gradients.
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    own = replace(batch, **{name: v[rows or [0]] for name, v in values.items() if isinstance(v, Tensor)}, sources=())
    n_own, n_all = _count_items(own), _count_items(batch)
    weights = {name: n_shards * n_own[name] / max(1, n) if rows else 0.0 for name, n in n_all.items()}
    return Shard(own, rows or [0], n_rows, weights)


def _count_items(batch: Batch) -> dict[str, int]:
    """Return how many items the mean of each loss is over."""
    timed = batch.phone_frames.ne(IGNORED)
    strings = batch.phones.ne(0).any(dim=1) & ~timed.any(dim=1)
    real = batch.targets.ge(0) if batch.targets.is_floating_point() else batch.targets.ne(IGNORED)
    return {"labels": int(real.sum()), "timed phones": int(timed.sum()), "phone strings": int(strings.sum())}


def _weigh(loss: Tensor, weights: Weights, name: str) -> Tensor:
    return loss if weights is None else loss * weights[name]


def batch_loss(output: Output, batch: Batch, config: ModelConfig, recipe: Recipe, weights: Weights = None) -> Tensor:
    """Return the loss of a batch, or of a shard of one: of its labels, and of its phones where they are known."""
    loss = _weigh(label_loss(output.logits.float(), batch, config, recipe), weights, "labels")
    if output.phone_logits is None:
        return loss
    return loss + recipe.optim.phone_weight * phone_loss(output.phone_logits.float(), batch, weights)


def label_loss(logits: Tensor, batch: Batch, config: ModelConfig, recipe: Recipe) -> Tensor:
    """Return the mean cross-entropy of labels: binary for labels that overlap, with soft targets where there are any.

    Args:
        logits: (batch, frame, label), or (batch, label).
        batch: with the targets.
        config: whether labels overlap.
        recipe: smoothing, and the weight of soft targets.
    """
    targets = batch.targets.to(logits.device)
    if config.overlapping:
        if batch.targets.lt(0).any():  # padding
            logits, targets = logits[targets >= 0], targets[targets >= 0]
        return functional.binary_cross_entropy_with_logits(logits, targets)
    if not batch.targets.ne(IGNORED).any():
        return 0 * logits.sum()
    flat = logits.flatten(0, -2)
    smoothing = recipe.optim.label_smoothing
    if batch.soft_targets is None or not batch.soft_targets.any():
        return functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)
    soft, weight = batch.soft_targets.to(logits.device), recipe.optim.soft_weight
    hard = functional.one_hot(targets, flat.shape[1]).float()
    blended = torch.where(soft.any(dim=1, keepdim=True), (1 - weight) * hard + weight * soft, hard)
    return functional.cross_entropy(flat, blended, label_smoothing=smoothing)


def phone_loss(logits: Tensor, batch: Batch, weights: Weights = None) -> Tensor:
    """Return the loss of phones: cross-entropy of frames whose phones are timed, else CTC where the string is known.

    Args:
        logits: (batch, frame, 1 + phone).
        batch: with the phones.
        weights: of a shard.
    """
    device, loss = logits.device, logits.new_zeros(())
    timed = batch.phone_frames.ne(IGNORED)
    if timed.any():
        by_frame = functional.cross_entropy(logits[timed.to(device)], batch.phone_frames[timed].to(device))
        loss = loss + _weigh(by_frame, weights, "timed phones")
    known = batch.phones.ne(0).any(dim=1) & ~timed.any(dim=1)
    if known.any():
        phones, n_frames = batch.phones[known].to(device), batch.n_frames[known].to(device)
        log_probs = logits[known.to(device)].log_softmax(dim=2).transpose(0, 1)
        lengths = phones.ne(0).sum(dim=1)
        by_string = functional.ctc_loss(log_probs, phones, n_frames, lengths, zero_infinity=True)
        loss = loss + _weigh(by_string, weights, "phone strings")
    return loss


class VoiceLoss(nn.Module):
    """Separate voices by a margin, and match a teacher's embeddings.

    Args:
        centres: (voice, number) where the learnt vector of each voice begins.
        anchors: (group, number) the teacher's embeddings, or None.
        config: the weights of the terms.
    """

    def __init__(self, centres: Tensor, anchors: Tensor | None, config: VoiceConfig) -> None:
        super().__init__()
        self.config = config
        self.centres = nn.Parameter(functional.normalize(centres, dim=1)) if config.margin_weight else None
        self.register_buffer("anchors", None if anchors is None else torch.unique(anchors, dim=0), persistent=False)

    def forward(self, vectors: Tensor, batch: Batch) -> Tensor:
        """Return the loss of (example, number) unit vectors."""
        config = self.config
        loss = vectors.new_zeros(())
        if self.centres is not None:
            loss = loss + config.margin_weight * self._margin_loss(vectors, batch.targets.to(vectors.device))
        if batch.teacher_vectors is None:
            return loss
        teacher = batch.teacher_vectors.to(vectors.device)
        loss = loss + config.teacher_weight * (1 - (vectors * teacher).sum(dim=1)).mean()
        if config.anchor_weight:
            loss = loss + config.anchor_weight * self._anchor_loss(vectors, teacher)
        return loss

    def _margin_loss(self, vectors: Tensor, voices: Tensor) -> Tensor:
        """Return the additive-margin softmax loss of the voices that are known."""
        assert self.centres is not None
        known = voices != IGNORED
        if not known.any():
            return vectors.new_zeros(())
        cosines = vectors[known] @ functional.normalize(self.centres, dim=1).T
        margins = self.config.margin * functional.one_hot(voices[known], len(self.centres))
        return functional.cross_entropy(self.config.scale * (cosines - margins), voices[known])

    def _anchor_loss(self, vectors: Tensor, teacher: Tensor) -> Tensor:
        """Return the divergence of the similarities to the anchors from those of the teacher."""
        anchors = self.get_buffer("anchors")
        sharpness = 1 / self.config.anchor_temperature
        wanted = (sharpness * teacher @ anchors.T).softmax(dim=1)
        found = (sharpness * vectors @ anchors.T).log_softmax(dim=1)
        return functional.kl_div(found, wanted, reduction="batchmean")
