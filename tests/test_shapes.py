"""Shapes of results, against what their documentation says of each moment."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framecls.errors import ConfigError
from framecls.results import Outline, Segment, TagResult, add_up
from framecls.shapes import IPA, keep_labels, make_coarse, make_exclusive, rename, to_ipa
from support.results import LABELS, make_alignment, make_tag

DURATION_S = 60


def make_result(spans: list[tuple[float, float, str]], duration_s: float = DURATION_S) -> TagResult:
    segments = tuple(Segment(start, end, label, 0.5) for start, end, label in sorted(spans))
    empty = np.zeros((0, 3), np.float32)
    return TagResult("a.wav", "sound", duration_s, 0.02, LABELS, segments, empty[:, 0], empty, overlapping=True)


@st.composite
def results(draw: st.DrawFn) -> TagResult:
    """Whole seconds, in which the segments of one label do not touch."""
    spans = []
    for label in LABELS:
        edges = sorted(draw(st.sets(st.integers(0, DURATION_S), max_size=16)))
        spans += [(float(a), float(b), label) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    return make_result(spans)


def label_at(result: TagResult, time_s: float, order: tuple[str, ...] = LABELS) -> str:
    holds = {s.label for s in result.segments if s.start <= time_s < s.end}
    return next((label for label in order if label in holds), "none")


def assert_tiles(result: TagResult) -> None:
    assert result.segments[0].start == 0
    assert result.segments[-1].end == result.duration
    for before, after in pairwise(result.segments):
        assert before.end == after.start
        assert before.label != after.label
    assert not result.overlapping


@settings(deadline=None)
@given(results())
def test_one_label_at_a_time(result: TagResult) -> None:
    alone = make_exclusive(result)
    assert_tiles(alone)
    for second in range(DURATION_S):
        assert label_at(alone, second + 0.5, (*LABELS, "none")) == label_at(result, second + 0.5)


@settings(deadline=None)
@given(results())
def test_the_order_of_labels_decides(result: TagResult) -> None:
    order = ("noise", "speech")
    alone = make_exclusive(keep_labels(result, order))
    assert_tiles(alone)
    for second in range(DURATION_S):
        assert label_at(alone, second + 0.5, (*LABELS, "none")) == label_at(result, second + 0.5, order)


@settings(deadline=None)
@given(results(), st.integers(1, 20), st.dictionaries(st.sampled_from(LABELS), st.integers(1, 20)))
def test_no_piece_is_too_short(result: TagResult, least: int, of_label: dict[str, float]) -> None:
    alone = make_exclusive(result, least, of_label)
    assert_tiles(alone)
    if len(alone.segments) > 1:
        assert all(s.end - s.start >= of_label.get(s.label, least) for s in alone.segments)
    before = make_exclusive(result)
    assert {s.end for s in alone.segments} <= {s.end for s in before.segments}
    # What was long enough, and is not taken into something longer of its own kind, keeps its label.
    for s in before.segments:
        if s.end - s.start >= of_label.get(s.label, least):
            assert label_at(alone, (s.start + s.end) / 2, (*LABELS, "none")) == s.label


def test_what_is_too_short_goes_to_the_longer_neighbour() -> None:
    result = make_result([(0, 20, "speech"), (20, 21, "noise"), (21, 31, "music"), (32, 60, "music")])
    spans = [(s.start, s.end, s.label) for s in make_exclusive(result, 2).segments]
    assert spans == [(0, 21, "speech"), (21, 60, "music")]


def test_scores_are_means_of_the_pieces() -> None:
    result = make_result([(0, 10, "speech"), (12, 32, "speech")])
    first, last = result.segments
    result = replace(result, segments=(replace(first, score=0.9), replace(last, score=0.6)))
    scores = [s.score for s in make_exclusive(result, 3).segments]
    assert scores == pytest.approx([0.7, 0.0])


def test_nothing_found_is_one_piece_of_nothing() -> None:
    [piece] = make_exclusive(make_result([])).segments
    assert piece == Segment(0.0, DURATION_S, "none", 0.0)
    assert make_exclusive(make_result([], 0.0)).segments == ()


def test_a_programme_is_blocks() -> None:
    """Talk with pauses and crumbs between two pieces of music, over one of which somebody begins to speak."""
    rng = np.random.default_rng(0)
    spans = [(0.0, 31.0, "music"), (300.0, 330.0, "music")]
    at = 28.0
    while at < 298:
        end = min(at + rng.uniform(1, 8), 300)
        spans += [(at, end, "speech"), (at + 0.2, at + rng.uniform(0.3, 2), "noise")]
        at = end + rng.uniform(0.3, 6)
    spans += [(t, t + 1.5, "music") for t in (90.0, 150.0, 220.0)]
    result = make_result(spans, 330.0)
    assert len(result.segments) > 60
    blocks = make_coarse(result)
    assert_tiles(blocks)
    assert [s.label for s in blocks.segments] == ["music", "speech", "music"]
    assert [s.end for s in blocks.segments] == pytest.approx([28, 300, 330], abs=6)
    assert blocks.labels == ("speech", "music")
    assert len(make_coarse(result, min_duration_s=40).segments) == 1


def test_silence_of_a_programme_is_a_block_if_it_is_long() -> None:
    result = make_result([(0, 20, "speech"), (40, 60, "speech")])
    assert [s.label for s in make_coarse(result).segments] == ["speech", "none", "speech"]
    assert [s.label for s in make_coarse(result, min_gap_s=21).segments] == ["speech"]


def test_labels_that_are_kept() -> None:
    result = make_tag()
    outline = Outline(result.times[:2], result.scores[:2], result.scores[2:4])
    kept = keep_labels(replace(result, outline=outline), ["noise", "speech"])
    assert kept.labels == ("noise", "speech")
    assert [s.label for s in kept.segments] == ["speech", "speech"]
    np.testing.assert_array_equal(kept.scores, result.scores[:, [2, 0]])
    assert kept.outline is not None
    np.testing.assert_array_equal(kept.outline.means, outline.means[:, [2, 0]])
    np.testing.assert_array_equal(kept.outline.peaks, outline.peaks[:, [2, 0]])
    with pytest.raises(ConfigError, match="'song' is no label of sound; it has speech, music, noise"):
        keep_labels(result, ["song"])
    assert keep_labels(result, []).segments == ()


def test_other_names() -> None:
    named = rename(make_tag(), str.upper)
    assert named.labels == ("SPEECH", "MUSIC", "NOISE")
    assert [s.label for s in named.segments] == ["SPEECH", "MUSIC", "SPEECH"]


def test_phones_in_the_international_alphabet() -> None:
    aligned = to_ipa(make_alignment())
    assert aligned.labels == ("sil", "h", "aɪ", "j", "u")
    assert aligned.string == "h aɪ j u"
    assert [word.label for word in aligned.words] == ["Hi", "you"]
    with pytest.raises(ConfigError, match="'speech', a label of sound, is no phone"):
        to_ipa(make_tag())
    assert len(IPA) == len({*IPA.values()}) == 40


def test_the_alphabet_is_that_of_espeak_ng() -> None:
    """Words that have each phone once, read by another program, whose marks of stress and length are left out."""
    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is not installed")
    words = {
        "ae": "cat", "eh": "bed", "iy": "see", "ih": "sit", "uw": "blue", "uh": "put", "ay": "my", "aw": "now",
        "oy": "boy", "ey": "say", "ow": "go", "ch": "cheese", "dh": "this", "g": "give", "hh": "hat", "jh": "jam",
        "ng": "sing", "r": "red", "sh": "she", "th": "thin", "y": "yes", "zh": "measure", "z": "zoo", "ah": "cup",
    }  # fmt: skip
    for phone, word in words.items():
        command = ["espeak-ng", "-q", "--ipa", "-v", "en-us", word]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert IPA[phone] in said, (phone, word, said)


@settings(deadline=None)
@given(results())
def test_totals(result: TagResult) -> None:
    totals = add_up(result)
    for label in LABELS:
        holds = [
            any(s.start <= t + 0.5 < s.end for s in result.segments if s.label == label) for t in range(DURATION_S)
        ]
        assert totals[label] == pytest.approx(sum(holds))
    assert sum(add_up(make_exclusive(result)).values()) == pytest.approx(DURATION_S)
