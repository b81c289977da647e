"""CTC decoding against what defines it: all alignments, one by one, and torch's own loss."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from framecls.inference.ctc import Edits, TokenSpan, _add_up, count_edits, decode_beam, decode_greedy, search

EXACT = {"min_log_prob": -math.inf, "max_behind": math.inf}
ENOUGH = 10**6


def random_log_probs(seed: int, n_frames: int, n_symbols: int, sharpness: float = 2.0) -> np.ndarray:
    logits = sharpness * np.random.default_rng(seed).standard_normal((n_frames, 1 + n_symbols))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def collapse(alignment: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(symbol for symbol, _ in itertools.groupby(alignment) if symbol)


def all_strings(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """Return the probability of every string, by adding up every alignment."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for alignment in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        found[collapse(alignment)] += math.exp(sum(log_probs[frame, s] for frame, s in enumerate(alignment)))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_beam_search_finds_the_likeliest_of_all_strings(seed: int) -> None:
    log_probs = random_log_probs(seed, n_frames=6, n_symbols=3, sharpness=1.0)
    strings = all_strings(log_probs)
    heard = tuple(spoken.symbol for spoken in decode_beam(log_probs, ENOUGH, **EXACT))
    assert heard == max(strings, key=lambda string: strings[string])


@pytest.mark.parametrize("seed", range(6))
def test_a_narrow_beam_comes_near(seed: int) -> None:
    log_probs = random_log_probs(seed, n_frames=6, n_symbols=3, sharpness=1.0)
    strings = all_strings(log_probs)
    heard = tuple(spoken.symbol for spoken in decode_beam(log_probs, 8))
    assert strings[heard] > 0.8 * max(strings.values())


def test_the_beam_can_beat_the_likeliest_alignment() -> None:
    """The textbook case: no frame says it, and yet all alignments of one symbol together outweigh silence."""
    log_probs = np.log(np.array([[0.6, 0.4], [0.6, 0.4]]))
    assert decode_greedy(log_probs) == []
    assert [spoken.symbol for spoken in decode_beam(log_probs, 4)] == [1]


@pytest.mark.parametrize("seed", range(4))
def test_probabilities_are_those_of_torch(seed: int) -> None:
    log_probs = random_log_probs(seed, n_frames=7, n_symbols=3)
    beam = search(log_probs, ENOUGH, **EXACT)
    total = 0.0
    for blank, symbol in beam.values():
        paths = _add_up(blank, symbol)
        string, chain = [], paths.best
        while chain is not None:
            string, chain = [chain.symbol, *string], chain.before
        loss = torch.nn.functional.ctc_loss(
            torch.from_numpy(log_probs)[:, None],
            torch.tensor([string], dtype=torch.long),
            torch.tensor([len(log_probs)]),
            torch.tensor([len(string)]),
            reduction="sum",
        )
        assert paths.log_prob == pytest.approx(-float(loss), abs=1e-6)
        total += math.exp(paths.log_prob)
    assert total == pytest.approx(1)


@pytest.mark.parametrize("seed", range(6))
def test_times_are_those_of_the_best_alignment(seed: int) -> None:
    log_probs = random_log_probs(seed, n_frames=30, n_symbols=5, sharpness=3.0)
    heard = decode_beam(log_probs, 64, max_behind=30.0)
    target = torch.tensor([[spoken.symbol for spoken in heard]], dtype=torch.int32)
    alignment, _ = torchaudio.functional.forced_align(torch.from_numpy(log_probs).float()[None], target)
    said = np.zeros(len(log_probs), int)
    for spoken in heard:
        said[spoken.first : spoken.last] = spoken.symbol
    assert said.tolist() == alignment[0].tolist()


def test_repeats_and_blanks() -> None:
    says = [0, 1, 1, 0, 1, 2, 2, 0, 0, 3]
    log_probs = np.log(np.where(np.arange(4)[None] == np.array(says)[:, None], 0.97, 0.01))
    wanted = [TokenSpan(1, 1, 3), TokenSpan(1, 4, 5), TokenSpan(2, 5, 7), TokenSpan(3, 9, 10)]
    assert decode_greedy(log_probs) == wanted
    assert decode_beam(log_probs, 8) == wanted


def test_nothing_to_decode() -> None:
    nothing = np.zeros((0, 3))
    assert decode_greedy(nothing) == []
    assert decode_beam(nothing, 8) == []
    assert decode_greedy(np.log(np.array([[0.98, 0.01, 0.01]] * 5))) == []


def test_a_long_recording_forgets_what_it_tried() -> None:
    """Strings are followed only as far back as they differ: time and memory grow with the length, not faster."""
    rng = np.random.default_rng(0)
    says = np.where(rng.random(2000) < 0.2, rng.integers(1, 40, 2000), 0)
    log_probs = np.log(np.where(np.arange(40)[None] == says[:, None], 0.98, 0.02 / 39))
    assert decode_beam(log_probs, 8) == decode_greedy(log_probs)


words = st.lists(st.sampled_from("abc"), max_size=6)


@settings(max_examples=60, deadline=None)
@given(words, words)
def test_edits_are_the_fewest(truth: list[str], heard: list[str]) -> None:
    edits = count_edits(truth, heard)
    assert edits.total == torchaudio.functional.edit_distance(truth, heard)
    assert len(truth) - edits.deletions + edits.insertions == len(heard)


def test_edits_by_hand() -> None:
    assert count_edits("abcd", "axcde") == Edits(substitutions=1, insertions=1)
    assert count_edits("abc", "") == Edits(deletions=3)
    assert Edits(1, 2, 3) + Edits(1, 1, 1) == Edits(2, 3, 4)
