"""What a network is to make small: the loss of its labels, and that of the phones it hears."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from framecls.config import ModelConfig
from framecls.nn.network import Output
from framecls.training.examples.mixtures import IGNORED
from framecls.training.recipe import Recipe
from framecls.training.team import Part


def loss_of(output: Output, part: Part, config: ModelConfig, recipe: Recipe) -> Tensor:
    """Return the loss of a batch, or of a part of one: the label's, and the phones' where they are known."""
    device, batch = output.logits.device, part.batch
    targets = batch.targets.to(device)
    logits = output.logits.float()
    if config.overlapping:
        if batch.targets.lt(0).any():  # padding
            logits, targets = logits[targets >= 0], targets[targets >= 0]
        loss = functional.binary_cross_entropy_with_logits(logits, targets)
    elif not part.own.labels:
        loss = 0 * logits.sum()  # nothing here has a label
    else:
        flat = logits.flatten(0, -2)
        smoothing = recipe.optim.label_smoothing
        if batch.soft is not None and batch.soft.any():
            soft, weight = batch.soft.to(device), recipe.optim.soft_weight
            hard = functional.one_hot(targets, flat.shape[1]).float()
            hard = torch.where(soft.any(dim=1, keepdim=True), (1 - weight) * hard + weight * soft, hard)
            loss = functional.cross_entropy(flat, hard, label_smoothing=smoothing)
        else:
            loss = functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)
    loss = loss * part.weigh("labels")
    if output.phone_logits is None:
        return loss
    return loss + recipe.optim.phone_weight * phone_loss(output.phone_logits.float(), part)


def phone_loss(logits: Tensor, part: Part) -> Tensor:
    """Return the loss of the phones: frame by frame where their times are known, else by CTC where they are.

    Args:
        logits: (batch, frame, 1 + phone).
        part: what they are of.
    """
    batch, device, loss = part.batch, logits.device, logits.new_zeros(())
    timed = batch.phone_frames.ne(IGNORED)
    if timed.any():
        by_frame = functional.cross_entropy(logits[timed.to(device)], batch.phone_frames[timed].to(device))
        loss = loss + by_frame * part.weigh("timed_phones")
    known = batch.phones.ne(0).any(dim=1) & ~timed.any(dim=1)
    if known.any():
        phones, n_frames = batch.phones[known].to(device), batch.n_frames[known].to(device)
        log_probs = logits[known.to(device)].log_softmax(dim=2).transpose(0, 1)
        lengths = phones.ne(0).sum(dim=1)
        by_string = functional.ctc_loss(log_probs, phones, n_frames, lengths, zero_infinity=True)
        loss = loss + by_string * part.weigh("strings")
    return loss
