"""A verdict in words: which labels can be trusted, which are confused, and what more clips would bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from framecls.config import ModelConfig, listed
from framecls.report import CurvePoint, LabelFigures

_GOOD, _FAIR = 0.85, 0.65  # F1 from which a label can be trusted, or is of use
_FEW_CLIPS, _ENOUGH_CLIPS = 20, 40
_FEW_GROUPS = 4  # speakers, sources or recordings
_CONFUSED = 0.15  # share of a label's clips or frames that goes to another one
_GAIN = 0.03  # of the score from half to all of the clips, from which more would help


def judge_label(label: str, row: LabelFigures, precision: float | None) -> LabelFigures:
    """Return the figures of a label with a sentence on what they mean."""
    return replace(row, verdict=f"{label}: {row.clips} clips, F1 {row.f1.mean:.2f}: {_advice(row, precision)}")


def _advice(row: LabelFigures, precision: float | None) -> str:
    if precision is not None and row.threshold == 1.0:
        return f"nowhere as precise as {precision:g}, so it is never given"
    if row.f1.mean >= _GOOD:
        return "good, but measured on little" if _is_thin(row) else "can be trusted"
    state = "usable with care" if row.f1.mean >= _FAIR else "not to be trusted"
    if row.groups < min(_FEW_GROUPS, row.clips):
        return f"{state}; all of it is of {row.groups} speakers, sources or recordings: record others"
    if row.clips < _ENOUGH_CLIPS:
        return f"{state}; record {max(10, min(30, 2 * row.clips))} more, from new places"
    if row.recall.mean < row.precision.mean - 0.1:
        return f"{state}; what is missed is unlike the rest: add clips of that kind"
    return f"{state}; listen to what was held out: some clips may be labelled wrongly"


def _is_thin(row: LabelFigures) -> bool:
    """Return whether a label has so little that its figures could be luck."""
    return row.clips < _FEW_CLIPS or row.groups < _FEW_GROUPS


def judge_run(
    config: ModelConfig,
    figures: Mapping[str, LabelFigures],
    confusion: NDArray[np.int64],
    curve: Sequence[CurvePoint],
) -> tuple[str, ...]:
    """Return sentences on a run: its labels from the worst on, what is confused, and whether more clips would help."""
    good = {label: row for label, row in figures.items() if row.f1.mean >= _GOOD}
    sure = [label for label, row in good.items() if not _is_thin(row)]
    thin = [label for label in good if label not in sure]
    lines = [f"can be trusted: {listed(sure)}"] if sure else []
    lines += [f"good so far, but measured on too little to be trusted: {listed(thin)}"] if thin else []
    lines = lines or ["no label can be trusted yet"]
    worst = sorted((row for row in figures.values() if row.f1.mean < _GOOD), key=lambda row: row.f1.mean)
    lines += [row.verdict for row in worst]
    lines += _confusions(config.labels, confusion)
    if len(curve) > 1:
        gain = curve[-1].score.mean - curve[0].score.mean
        things = "clips" if config.task == "pooled" else "recordings"
        what = f"from {curve[0].clips} to {curve[-1].clips} {things} the score went from "
        what += f"{curve[0].score.mean:.2f} to {curve[-1].score.mean:.2f}: "
        lines.append(
            what + (f"more {things} would help" if gain >= _GAIN else f"more {things} of this kind would help little")
        )
    return tuple(lines)


def _confusions(labels: Sequence[str], confusion: NDArray[np.int64]) -> list[str]:
    """Return a line for each label of which much goes to another, the worst first."""
    counts = confusion[: len(labels), : len(labels)]
    totals = confusion[: len(labels)].sum(axis=1)
    pairs = [
        (counts[i, j] / totals[i], i, j)
        for i in range(len(labels))
        for j in range(len(labels))
        if i != j and totals[i] and counts[i, j] >= 2 and counts[i, j] / totals[i] >= _CONFUSED
    ]
    return [
        f"{labels[i]} is taken for {labels[j]} in {100 * share:.0f} %" for share, i, j in sorted(pairs, reverse=True)
    ]
