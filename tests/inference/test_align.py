"""Texts placed in recordings: the path by brute force, and times of words by a synthesiser that tells them."""

from __future__ import annotations

import itertools
import math
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import framecls
from framecls.errors import TextError, UsageError
from framecls.inference.align import Graph, find_path, make_graph, place_words
from framecls.inference.windows import frame_times
from framecls.inference.words import Word, find_words
from framecls.results import TagResult
from framecls.shapes import IPA

LABELS = tuple(IPA)


def random_log_probs(seed: int, n_frames: int, n_symbols: int) -> np.ndarray:
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(n_symbols), n_frames))


def best_by_trial(log_probs: np.ndarray, graph: Graph) -> float:
    """Return the log-probability of the likeliest of all paths."""
    best = -math.inf
    for path in itertools.product(range(len(graph.symbols)), repeat=len(log_probs)):
        steps = all(a == b or a in graph.before[b] for a, b in pairwise(path))
        if steps and path[0] in graph.first and path[-1] in graph.last:
            best = max(best, sum(log_probs[frame, graph.symbols[state]] for frame, state in enumerate(path)))
    return best


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    n_states = draw(st.integers(1, 4))
    states = st.integers(0, n_states - 1)
    some = st.lists(states, min_size=1, max_size=3, unique=True)
    before = [[b for b in draw(st.lists(states, max_size=3, unique=True)) if b != s] for s in range(n_states)]
    symbols = draw(st.lists(st.integers(0, 2), min_size=n_states, max_size=n_states))
    return Graph(symbols, before, draw(some), draw(some))


@settings(deadline=None)
@given(graphs(), st.integers(1, 5), st.integers(0, 1000))
def test_the_likeliest_path(graph: Graph, n_frames: int, seed: int) -> None:
    log_probs = random_log_probs(seed, n_frames, 3)
    path, log_prob = find_path(log_probs, graph, math.inf)
    assert log_prob == pytest.approx(best_by_trial(log_probs, graph))
    if log_prob > -math.inf:
        assert sum(log_probs[range(n_frames), np.array(graph.symbols)[path]]) == pytest.approx(log_prob)
        assert path[0] in graph.first
        assert path[-1] in graph.last
        assert all(a == b or a in graph.before[b] for a, b in pairwise(path.tolist()))


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_gives_up_what_is_far_behind_and_nothing_else(seed: int) -> None:
    """A long string whose symbols are said clearly, with noise: the same path, in a part of the states."""
    rng = np.random.default_rng(seed)
    symbols = rng.integers(0, 6, 120).tolist()
    graph = Graph()
    for number, symbol in enumerate(symbols):
        graph.add(symbol, range(max(0, number - 2), number))  # a symbol may be left out
    graph.first, graph.last = [0, 1], [118, 119]
    said = np.repeat(symbols, rng.integers(1, 6, 120))
    scores = rng.dirichlet(np.ones(6), len(said))
    scores[range(len(said)), said] += 2
    log_probs = np.log(scores / scores.sum(axis=1, keepdims=True))
    path, log_prob = find_path(log_probs, graph, beam=40.0)
    whole, best = find_path(log_probs, graph, beam=math.inf)
    assert log_prob == best > -math.inf
    assert path.tolist() == whole.tolist()
    assert find_path(log_probs, graph, beam=0.1)[1] <= best


@pytest.mark.parametrize("seed", range(5))
def test_the_path_of_a_string_with_blanks_is_that_of_torchaudio(seed: int) -> None:
    try:
        import torch
        from torchaudio.functional import forced_align
    except (ImportError, OSError) as error:
        pytest.skip(f"torchaudio does not load here: {error}")
    log_probs = random_log_probs(seed, 30, 6)
    targets = [3, 3, 1, 5, 2]
    graph = Graph()
    blank = graph.add(0, [])
    graph.first, before = [blank], [blank]
    for number, symbol in enumerate(targets):
        state = graph.add(symbol, [s for s in before if graph.symbols[s] != symbol])
        graph.first += [state] if number == 0 else []
        before = [state, graph.add(0, [state])]
    graph.last = before
    path, _ = find_path(log_probs, graph)
    wanted, _ = forced_align(torch.tensor(log_probs[None], dtype=torch.float32), torch.tensor([targets]))
    assert [graph.symbols[state] for state in path] == wanted[0].tolist()


def make_result(phones: str, duration_s: float | None = None) -> TagResult:
    """Return what a sure model says of phones, each of which lasts a frame."""
    said = phones.split()
    scores = np.full((len(said), len(LABELS)), 0.1 / (len(LABELS) - 1), np.float32)
    scores[range(len(said)), [LABELS.index(phone) for phone in said]] = 0.9
    duration_s = len(said) * 0.02 if duration_s is None else duration_s
    return TagResult("a.wav", "phones", duration_s, 0.02, LABELS, (), frame_times(len(said), 0.02), scores)


def test_words_and_phones_are_where_they_are_said() -> None:
    result = make_result("sil sil r r iy d sil sil dh iy iy iy iy sil", 0.27)
    aligned = place_words(result, find_words("Read: the"))
    assert [(w.label, w.start, w.end) for w in aligned.words] == [("Read", 0.04, 0.12), ("the", 0.16, 0.26)]
    said = [(p.label, p.start, p.end) for p in aligned.segments]
    assert said == [("r", 0.04, 0.08), ("iy", 0.08, 0.1), ("d", 0.1, 0.12), ("dh", 0.16, 0.18), ("iy", 0.18, 0.26)]
    assert all(segment.score == pytest.approx(0.9) for segment in (*aligned.words, *aligned.segments))
    assert aligned.string == "r iy d dh iy"
    assert aligned.warnings == ()


def test_no_pause_is_needed_anywhere() -> None:
    words = [Word("a", (("ey",), ("ah",))), Word("a", (("ey",), ("ah",))), Word("no", (("n", "ow"),))]
    aligned = place_words(make_result("ah ah n ow"), words)
    assert [(w.label, w.start, w.end) for w in aligned.words] == [
        ("a", 0.0, 0.02),
        ("a", 0.02, 0.04),
        ("no", 0.04, 0.08),
    ]
    graph, places = make_graph(words, LABELS)
    assert len(graph.symbols) == len(places) == 10


def test_a_text_that_does_not_fit() -> None:
    with pytest.raises(
        TextError, match=r"too long for the recording: 2 words need at least 0\.10 s, and it has 0\.08 s"
    ):
        place_words(make_result("r iy d sil"), find_words("read the"))
    with pytest.raises(TextError, match="too long"):
        place_words(make_result(""), find_words("read"))
    doubtful = place_words(make_result("sil sil s s m m sil"), find_words("read"))
    assert "the text may not be what is said" in doubtful.warnings[-1]
    other = TagResult("a.wav", "sound", 1.0, 0.02, ("speech",), (), np.zeros(0), np.zeros((0, 1), np.float32))
    with pytest.raises(UsageError, match="sound does not hear the phones of English"):
        place_words(other, find_words("read"))


def test_words_of_a_text() -> None:
    words = find_words("“Don’t read,” said Zyx[Z IH K S] – twenty-one times… y'all!")
    assert [word.text for word in words] == ["Don't", "read", "said", "Zyx", "twenty", "one", "times", "y'all"]
    assert set(words[1].pronunciations) == {("r", "iy", "d"), ("r", "eh", "d")}
    assert words[3].pronunciations == (("z", "ih", "k", "s"),)
    assert all(phone in IPA for word in words for way in word.pronunciations for phone in way)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the qwxz and 12 qwxz", "not in the dictionary: qwxz, 12: write how it is said behind the word, as in Ada"),
        (" , -- ", "there are no words"),
        ("the[dh q]", "'q' is none of the phones"),
        ("the[]", "no phones"),
        ("the[sil]", "'sil' is none of the phones"),
    ],
)
def test_words_that_nobody_can_place(text: str, said: str) -> None:
    with pytest.raises(TextError, match=said):
        find_words(text)


@pytest.mark.skipif(not shutil.which("flite"), reason="flite is not installed")
def test_words_of_a_voice_that_tells_its_times(tmp_path: Path) -> None:
    """flite prints when each phone ends; here each word ends in a phone, or pause, that tells it from the next."""
    text = "the bakery on the corner opens at seven"
    n_phones = [2, 5, 2, 2, 5, 5, 2, 5]
    command = ["flite", "-voice", "slt", "-psdur", "-o", str(tmp_path / "a.wav"), "-t", text]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    phones = [(phone, float(end)) for phone, _, end in (pair.rpartition(":") for pair in printed.split())]
    ends = [end for phone, end in phones if phone != "pau"]
    assert len(ends) == sum(n_phones)
    wanted = [ends[n - 1] for n in itertools.accumulate(n_phones)]
    aligned = framecls.load("phones", device="cpu").align(tmp_path / "a.wav", text)
    distances = np.abs([word.end - end for word, end in zip(aligned.words, wanted, strict=True)])
    assert np.median(distances) < 0.02
    assert distances.max() < 0.06
