"""`framecls identify`: usage and answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.commands import Cli
from support.models import LANGUAGES
from support.signals import write_wav


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--among", "de,xx", "de, en, fr"),
        ("--among", " , ", "--among"),
        ("--top-k", "0", "--top-k"),
        ("--threshold", "xx=0.5", "'xx', which is no label of this model; it has de, en, fr, or unknown for all"),
        ("--among", "German", "'German' is no label of this model: did you mean de?"),
        ("--among", "fr,deu", "'deu' is no label of this model: did you mean de?"),
        ("--among", "Deutsch", "did you mean de?"),
        ("--among", "fre", "did you mean fr?"),
        ("--among", "Swahili", "it has de, en, fr"),
        ("-f", "npz", "-o"),
    ],
)
def test_wrong_usage_of_identify(option: str, value: str, said: str, identify: Cli, here: Path) -> None:
    answer = identify(write_wav(here / "a.wav"), option, value)
    assert (answer.status, answer.out, len(answer.errors)) == (2, "", 1)
    assert said in answer.err


def test_identify_has_no_frames_to_write(identify: Cli, here: Path) -> None:
    answer = identify(write_wav(here / "a.wav"), "-o", "a.npz")
    assert (answer.status, len(answer.errors)) == (2, 1)
    assert not (here / "a.npz").exists()


def test_identify_jsonl_contract(identify: Cli, here: Path) -> None:
    write_wav(here / "a.wav", 4.33)
    answer = identify("a.wav", "-f", "jsonl")
    assert (answer.status, answer.err) == (0, "")
    [record] = answer.records
    assert list(record) == ["file", "model", "duration", "label", "score", "top"]
    assert (record["file"], record["model"]) == ("a.wav", "tiny-language")
    assert {candidate["label"] for candidate in record["top"]} == set(LANGUAGES)
    scores = [candidate["score"] for candidate in record["top"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-3)
    assert record["top"][0] == {"label": record["label"], "score": record["score"]}


def test_top_k_and_among(identify: Cli, here: Path) -> None:
    write_wav(here / "a.wav")
    assert len(identify("a.wav", "-f", "jsonl", "--top-k", "2").records[0]["top"]) == 2
    for language in LANGUAGES:
        [record] = identify("a.wav", "-f", "jsonl", "--among", language).records
        assert record["label"] == language
        assert [candidate["label"] for candidate in record["top"]] == [language]
    [record] = identify("a.wav", "-f", "jsonl", "--among", "fr, de").records
    assert {candidate["label"] for candidate in record["top"]} == {"de", "fr"}


@pytest.mark.parametrize("written", ["DE", "de_AT", "de-DE", "De@formal"])
def test_a_language_code_may_carry_a_region(written: str, identify: Cli, here: Path) -> None:
    [record] = identify(write_wav(here / "a.wav"), "-f", "jsonl", "--among", written).records
    assert [candidate["label"] for candidate in record["top"]] == ["de"]


def test_among_may_be_repeated(identify: Cli, here: Path) -> None:
    [record] = identify(write_wav(here / "a.wav"), "-f", "jsonl", "--among", "fr", "--among", "de,fr").records
    assert {candidate["label"] for candidate in record["top"]} == {"de", "fr"}


def test_thresholds_of_one_label_and_of_all(identify: Cli, here: Path) -> None:
    write_wav(here / "a.wav")
    [sure] = identify("a.wav", "-f", "jsonl").records
    assert "reason" not in sure
    for threshold in (f"{sure['label']}=1", "unknown=1"):
        [record] = identify("a.wav", "-f", "jsonl", "--threshold", threshold).records
        assert (record["label"], record["score"], record["reason"]) == ("unknown", None, "unsure")
        assert record["top"] == sure["top"]
    other = next(label for label in LANGUAGES if label != sure["label"])
    assert identify("a.wav", "-f", "jsonl", "--threshold", f"{other}=1").records == [sure]
    table = identify("a.wav", "--threshold", "unknown=1").out
    assert "unknown: unsure" in table
    assert "█" not in table
