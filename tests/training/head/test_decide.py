"""Decisions that are learnt, and the verdict on them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score

from framecls.report import CurvePoint, Figure, LabelFigures
from framecls.training.head.decide import choose_threshold, decide_clips, decide_frames, match_segments
from framecls.training.head.verdict import judge_label, judge_run
from support.models import tiny_config


def test_the_threshold_of_best_f1_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.random(60) < 0.3
        scores = np.clip(0.3 * truth + 0.7 * rng.random(60), 0, 1).astype(np.float32).round(2)
        chosen = choose_threshold(scores, truth)
        best = max(f1_score(truth, scores >= cut) for cut in np.unique(scores))
        assert f1_score(truth, scores >= chosen) >= best - 0.01


def test_of_thresholds_that_are_as_good_the_middle_one_is_taken() -> None:
    scores = np.array([0.02, 0.03, 0.04, 0.9, 0.95], np.float32)
    assert choose_threshold(scores, scores > 0.5) == pytest.approx((0.04 + 0.9) / 2)
    many = np.concatenate([np.full(500, 0.9), [0.03], np.full(500, 0.001)]).astype(np.float32)
    assert choose_threshold(many, many > 0.02) > 0.4  # one of 501 more is no reason to go down to 0.03


def test_a_precision_is_reached_with_the_most_found() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(200) < 0.4
    scores = (0.4 * truth + 0.6 * rng.random(200)).astype(np.float32)
    chosen = choose_threshold(scores, truth, precision=0.95)
    assert precision_score(truth, scores >= chosen) >= 0.95
    most = max((truth & (scores >= cut)).sum() for cut in scores if precision_score(truth, scores >= cut) >= 0.95)
    assert (truth & (scores >= chosen)).sum() == most
    assert choose_threshold(scores[~truth], truth[~truth], precision=0.5) == 1.0


def test_clips_that_are_unsure_are_left_unknown() -> None:
    logits = np.array([[4, 0], [3, 0], [0.2, 0], [0, 4], [0, 3]], np.float32)
    decision = decide_clips(logits, np.array([0, 0, 1, 1, 1]), ("a", "b"), precision=0.9)
    sure = 1 / (1 + np.exp(-3 / decision.temperature))
    assert 1 / (1 + np.exp(-0.2 / decision.temperature)) < decision.thresholds["a"] < sure


def test_lengths_and_gaps_are_those_of_the_label() -> None:
    """A label of whole seconds, whose scores break off for a frame now and then, with clicks between."""
    truth = np.zeros((400, 2), bool)
    scores = np.full((400, 2), 0.1, np.float32)
    for first in (50, 200, 320):
        truth[first : first + 40, 0] = True
        scores[first : first + 40, 0] = 0.9
        scores[first + 10 : first + 12, 0] = 0.05
    scores[[20, 120, 280], 0] = 0.9
    truth[::7, 1], scores[::7, 1] = True, 0.9
    decision = decide_frames([scores], [truth], ("song", "click"), 0.04)
    assert decision.min_gaps_s["song"] > 0.08
    assert 0.04 <= decision.min_durations_s["song"] < 1.6
    assert decision.min_durations_s["click"] <= 0.04
    assert decision.min_gaps_s["click"] <= 0.04


def test_segments_match_once() -> None:
    assert match_segments([(0, 10), (2, 9)], [(1, 10)]) == [0.9]
    assert match_segments([(0, 10)], [(0, 4), (5, 10)]) == [0.4]
    assert match_segments([(0, 2)], [(5, 9)]) == []


def figures(f1: float, clips: int, groups: int = 9, precision: float = 0.8) -> LabelFigures:
    return LabelFigures(clips, groups, 9.0, Figure(precision), Figure(f1), Figure(f1), 0.5)


def test_the_verdict_says_what_to_do() -> None:
    rows = {"frog": figures(0.41, 9), "owl": figures(0.95, 60), "wren": figures(0.7, 50, groups=2)}
    rows = {label: judge_label(label, row, None) for label, row in rows.items()}
    assert rows["frog"].verdict == "frog: 9 clips, F1 0.41: not to be trusted; record 18 more, from new places"
    confusion = np.array([[4, 0, 5], [0, 60, 0], [1, 0, 49]])
    config = tiny_config("pooled")
    object.__setattr__(config, "labels", ("frog", "owl", "wren"))
    curve = (CurvePoint(0.5, 40, Figure(0.5)), CurvePoint(1.0, 80, Figure(0.7)))
    lines = judge_run(config, rows, confusion, curve)
    assert lines[0] == "can be trusted: owl"
    assert lines[1] == rows["frog"].verdict
    assert "all of it is of 2 speakers, sources or recordings" in lines[2]
    assert lines[3] == "frog is taken for wren in 56 %"
    assert lines[4].endswith("more clips would help")
