"""The phones of a recording, and of a part of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from framecls.training.data.manifest import Recording, find_phones


def with_phones(recordings: Sequence[Recording], phones: Collection[str]) -> list[Recording]:
    """Return the recordings with their phones: those of the manifest, or else the labels in order of time.

    Args:
        recordings: of a manifest.
        phones: labels that are phones; others, such as that of silence, are left out.
    """
    if find_phones(recordings):
        return list(recordings)
    return [_phones_of_labels(recording, phones) for recording in recordings]


def _phones_of_labels(recording: Recording, phones: Collection[str]) -> Recording:
    spans = sorted((span for span in recording.spans if span.label in phones), key=lambda span: span.start_s)
    # A span without an end lasts to the end of the file: the times of what follows are not known.
    if not spans or any(span.end_s is None for span in spans):
        return replace(recording, phones=tuple(span.label for span in spans))
    alignment: list[tuple[str, float]] = []
    for span in spans:
        if span.start_s > (alignment[-1][1] if alignment else 0.0):
            alignment.append(("", span.start_s))
        alignment.append((span.label, span.end_s or 0.0))
    return replace(recording, phones=tuple(span.label for span in spans), alignment=tuple(alignment))


def phones_within(recording: Recording, start_s: float, end_s: float, length_s: float) -> tuple[str, ...]:
    """Return the phones whose middle is in `[start_s, end_s)` of a recording, none where that is not known.

    Args:
        recording: with its phones, and with their times unless the part is all of it.
        start_s: start of the part.
        end_s: end of the part.
        length_s: of the whole recording.
    """
    if recording.alignment:
        ends = pairwise([("", 0.0), *recording.alignment])
        return tuple(phone for (_, begin), (phone, end) in ends if phone and start_s <= (begin + end) / 2 < end_s)
    return recording.phones if start_s <= 0 and end_s >= length_s else ()


def index_phones(rows: Sequence[Sequence[str]], symbols: Sequence[str]) -> Tensor:
    """Return (row, phone) indices from 1, padded with 0; a row with an unknown phone is empty."""
    index = {symbol: number for number, symbol in enumerate(symbols, start=1)}
    known = [[index[phone] for phone in row] if all(phone in index for phone in row) else [] for row in rows]
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.long) for row in known], batch_first=True)
