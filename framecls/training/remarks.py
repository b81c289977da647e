"""What is odd about a corpus that can be used: labels that one side lacks, rows that overlap, time without a label."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from framecls.training.data.manifest import Recording, Span, find_labels
from framecls.training.recipe import Recipe

_MOST_NAMED = 10
_SLACK_S = 0.02  # rows that overlap by less do so by rounding
_UNLABELLED_SHARE = 0.02  # less than this is the edges of recordings


def remark(
    recipe: Recipe,
    labels: Sequence[str],
    train: Sequence[Recording],
    dev: Sequence[Recording],
    length_s: Callable[[Recording], float],
) -> list[str]:
    """Return a sentence for each thing that the user may not have meant.

    Args:
        recipe: what is to be learnt.
        labels: that the model will have; none for a model of voices, which have no need to be on both sides.
        train: recordings to learn from.
        dev: recordings to measure on.
        length_s: gives the length of a recording in seconds.
    """
    remarks = _remark_on_gaps(labels, train, dev)
    if recipe.task == "frame" and not recipe.overlapping and not recipe.mix.enabled:
        remarks += _remark_on_overlaps([*train, *dev]) + _remark_on_unlabelled([*train, *dev], length_s)
    return remarks


def _remark_on_gaps(labels: Sequence[str], train: Sequence[Recording], dev: Sequence[Recording]) -> list[str]:
    remarks = []
    learnt, measured = set(find_labels(train)), set(find_labels(dev))
    if missing := [label for label in labels if label not in learnt]:
        which, it = _name(missing)
        remarks.append(f"nothing to train on has {which}: the model will not know {it}")
    if missing := [label for label in labels if label in learnt and label not in measured]:
        which, it = _name(missing)
        remarks.append(f"nothing to measure on has {which}: the dev figures say nothing of {it}")
    return remarks


def _remark_on_overlaps(recordings: Sequence[Recording]) -> list[str]:
    found = [(recording, span) for recording in recordings for span in _find_overlaps(recording.spans)]
    if not found:
        return []
    recording, span = found[0]
    rows = "1 row overlaps one" if len(found) == 1 else f"{len(found)} rows overlap others"
    return [
        f"{rows} of another label ({span.where}: {recording.audio.name}, {span.label}): "
        "only one of them is learnt there; --set overlapping=true learns both"
    ]


def _find_overlaps(spans: Sequence[Span]) -> list[Span]:
    """Return the spans that begin before one of another label has ended, one that is open having no end."""
    overlaps: list[Span] = []
    ends_s: dict[str, float] = {}
    for span in sorted(spans, key=lambda span: span.start_s):
        if any(end_s > span.start_s + _SLACK_S for label, end_s in ends_s.items() if label != span.label):
            overlaps.append(span)
        end_s = float("inf") if span.end_s is None else span.end_s
        ends_s[span.label] = max(end_s, ends_s.get(span.label, 0.0))
    return overlaps


def _remark_on_unlabelled(recordings: Sequence[Recording], length_s: Callable[[Recording], float]) -> list[str]:
    whole_s = sum(map(length_s, recordings))
    unlabelled_s = sum(length_s(recording) - _labelled_s(recording, length_s(recording)) for recording in recordings)
    if unlabelled_s <= _UNLABELLED_SHARE * whole_s:
        return []
    return [
        f"{100 * unlabelled_s / whole_s:.0f} % of the sound has no label: nothing is learnt there, and the model will "
        "give the like of it one of its labels; give it one of its own if that is no answer"
    ]


def _labelled_s(recording: Recording, length_s: float) -> float:
    """Return how many seconds of a recording have a label, whatever it is."""
    labelled_s = at_s = 0.0
    for span in sorted(recording.spans, key=lambda span: span.start_s):
        end_s = length_s if span.end_s is None else min(span.end_s, length_s)
        labelled_s += max(0.0, end_s - max(at_s, span.start_s))
        at_s = max(at_s, end_s)
    return labelled_s


def _name(labels: Sequence[str]) -> tuple[str, str]:
    """Return labels for a sentence, and the pronoun for them."""
    if len(labels) == 1:
        return f"the label {labels[0]}", "it"
    left = len(labels) - _MOST_NAMED
    return f"any of the labels {', '.join(labels[:_MOST_NAMED])}" + (f" and {left} more" if left > 0 else ""), "them"
