"""The report of a measurement, which training keeps with the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.config import DecisionConfig
from framecls.report import HeldOut, TrainingReport


@dataclass(frozen=True, eq=False)
class Outputs:
    """The outputs of a network for each frame or recording, and the truth."""

    logits: NDArray[np.float32]  # (item, label)
    truth: NDArray[np.int64] | NDArray[np.bool_]  # (item,) label index, or (item, label) of labels that may overlap


@dataclass(frozen=True)
class DevReport:
    """The figures of a network on dev examples."""

    score: float  # to be maximised
    decision: DecisionConfig  # with thresholds and temperature fitted on these examples
    figures: dict[str, Any] = field(default_factory=dict)  # numbers for tables, JSON and the model card
    outputs: Outputs | None = field(default=None, repr=False, compare=False)
    held_out: tuple[HeldOut, ...] = field(default=(), repr=False, compare=False)  # recordings that were heard whole
    review: TrainingReport | None = field(default=None, repr=False, compare=False)  # for a page
