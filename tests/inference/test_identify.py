"""From the logits of windows to one answer: pooling, priors, thresholds and rejection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from framecls.config import NOT_NAMED, NOT_TRUSTED, UNSURE, DecisionConfig, ModelConfig
from framecls.errors import AudioError
from framecls.inference.identify import Choice, choose_candidates, find_rejection, find_several, pool_windows, rank
from framecls.inference.windows import Window, WindowOutput
from support.models import tiny_config


def language_config(**decision: Any) -> ModelConfig:
    return replace(tiny_config("pooled"), decision=DecisionConfig(**decision))


def logits_of(**probabilities: float) -> np.ndarray:
    """Return (label,) what a network of the tiny model's three languages says for these probabilities."""
    return np.log([probabilities[label] for label in ("de", "en", "fr")]).astype(np.float32)


@pytest.mark.parametrize(
    ("heard", "among", "answer"),
    [
        ({"de": 0.6, "en": 0.3, "fr": 0.1}, ["de", "fr"], "de"),
        ({"de": 0.3, "en": 0.6, "fr": 0.1}, ["de", "fr"], "de"),  # its relative is likelier, and it was named
        ({"de": 0.01, "en": 0.98, "fr": 0.01}, ["de", "fr"], NOT_NAMED),
        ({"de": 0.01, "en": 0.98, "fr": 0.01}, ["fr"], NOT_NAMED),
        ({"de": 0.5, "en": 0.01, "fr": 0.49}, ["fr"], "fr"),
        ({"de": 0.35, "en": 0.33, "fr": 0.32}, ["de", "en", "fr"], UNSURE),
    ],
)
def test_labels_that_are_not_named_keep_their_share(heard: dict[str, float], among: list[str], answer: str) -> None:
    config = language_config(thresholds={"unknown": 0.4})
    ranking = rank(logits_of(**heard), config, choose_candidates(config, among), 5)
    assert (find_rejection(ranking, 5.0, config) or ranking.top[0].label) == answer
    assert sum(c.score for c in ranking.top) + ranking.rest == pytest.approx(1)


def test_a_label_that_is_not_trusted_can_win_against_those_that_are() -> None:
    logits = logits_of(de=0.6, en=0.2, fr=0.2)
    plain = language_config(candidates=("en", "fr"))
    careful = replace(plain, decision=replace(plain.decision, other_odds=4.0))
    choice = choose_candidates(plain, None)
    assert choice == Choice((1, 2), 1.0, NOT_TRUSTED)
    ranking = rank(logits, plain, choice, 5)
    assert ranking.rest == pytest.approx(0.6)
    assert find_rejection(ranking, 5.0, plain) == NOT_TRUSTED
    assert find_rejection(rank(logits_of(de=0.4, en=0.3, fr=0.3), plain, choice, 5), 5.0, plain) == UNSURE
    assert rank(logits, careful, choice, 5).rest == pytest.approx(2.4 / 2.8)
    assert find_rejection(rank(logits_of(de=0.1, en=0.8, fr=0.1), careful, choice, 5), 5.0, careful) is None


def test_a_threshold_is_that_of_its_label_or_else_of_unknown() -> None:
    config = language_config(thresholds={"unknown": 0.5, "de": 0.9, "fr": 0.1})
    everything = choose_candidates(config, None)

    def doubt(config: ModelConfig, **heard: float) -> str | None:
        return find_rejection(rank(logits_of(**heard), config, everything, 5), 5.0, config)

    assert doubt(config, de=0.8, en=0.1, fr=0.1) == UNSURE
    assert doubt(config, de=0.1, en=0.8, fr=0.1) is None
    assert doubt(config, de=0.3, en=0.3, fr=0.4) is None
    asked = config.with_decision(thresholds={"unknown": 0.7})  # for all labels, whatever the model's own are
    assert doubt(asked, de=0.8, en=0.1, fr=0.1) is None
    assert doubt(asked, de=0.2, en=0.2, fr=0.6) == UNSURE
    assert doubt(config.with_decision(thresholds={"unknown": 0.0, "de": 0.9}), de=0.8, en=0.1, fr=0.1) == UNSURE


def test_windows_count_for_what_is_heard_in_them() -> None:
    near, far = np.array([5.0, 0.0], np.float32), np.array([0.0, 5.0], np.float32)
    outputs = [WindowOutput(Window(0, 10), near, 3.0), WindowOutput(Window(10, 10), far, 1.0)]
    logits, heard_s = pool_windows(outputs)
    np.testing.assert_allclose(logits, [3.75, 1.25])
    assert heard_s == 4.0
    whole = [*outputs, WindowOutput(Window(15, 5), far, 1.5, shared_s=0.5)]
    np.testing.assert_allclose(pool_windows(whole, 1.5)[0], [10 / 3, 5 / 3], rtol=1e-6)
    assert pool_windows(whole, 1.5)[1] == pool_windows(whole)[1] == 5.0
    silent = [WindowOutput(Window(0, 10), near, 0.0), WindowOutput(Window(10, 10), far, 0.0)]
    np.testing.assert_allclose(pool_windows(silent)[0], [2.5, 2.5])
    with pytest.raises(AudioError, match="no audio in it"):
        pool_windows([])


def test_a_recording_in_several_languages_is_said_to_be_one() -> None:
    config = language_config()
    choice = choose_candidates(config, None)

    def note(*windows: tuple[str, float]) -> str | None:
        rest = {label: 0.05 for label in config.labels}
        rows = [logits_of(**{**rest, label: 0.9}) for label, _ in windows]
        outputs = [WindowOutput(Window(0, 10), row, s) for row, (_, s) in zip(rows, windows, strict=True)]
        return find_several(outputs, config, choice)

    assert note(("de", 10.0)) is None
    assert note(("de", 10.0), ("de", 9.0)) is None
    said = note(("de", 10.0), ("en", 8.0), ("de", 10.0), ("fr", 1.0))
    assert said == "more than one label is heard: de for 20 s, en for 8 s; framecls tag -m tiny-language says when"
    assert note(*[("de", 10.0)] * 20, ("en", 10.0)) is None
