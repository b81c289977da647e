"""`framecls models`: the list, and the card of a model."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from framecls.checkpoints.file import read_config
from support.commands import Cli


def test_models_shows_a_card(cli: Cli, tag_model: str) -> None:
    answer = cli("models", tag_model)
    assert (answer.status, answer.err) == (0, "")
    for shown in ("tiny-sound", "speech, music, noise", "none, it is untrained", "2020-02-02", "framecls tag"):
        assert shown in answer.out


def test_a_card_says_what_the_model_does_before_how_it_was_made(
    cli: Cli, tag_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(Path(tag_model))
    card = {"command": "framecls train tag all.csv", "description": "Hears pitches.", "size": "small"}
    monkeypatch.setattr("framecls.cli.models.read_config", lambda path: dataclasses.replace(config, card=card))
    lines = [line.split(None, 1) for line in map(str.rstrip, cli("models", tag_model).out.splitlines())]
    assert lines[1:3] == [["description", "Hears pitches."], ["command", "framecls tag"]]
    assert ["trained", "with  framecls train tag all.csv"] in lines
    assert [key for key, *_ in lines].count("size") == 2


def test_what_answers_for_a_recording_can_be_asked_about_parts_of_it(cli: Cli, identify_model: str) -> None:
    assert re.search(r"command +framecls identify, framecls tag +\n", cli("models", identify_model).out)


def test_models_lists_what_is_shipped(
    cli: Cli, tag_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = {"tiny-sound": Path(tag_model), "broken": tmp_path / "broken.safetensors"}
    shipped["broken"].write_bytes(b"")
    monkeypatch.setattr("framecls.checkpoints.registry.names", lambda: sorted(shipped))
    monkeypatch.setattr("framecls.checkpoints.registry.locate", lambda name: shipped[str(name)])
    answer = cli("models")
    assert answer.status == 1
    assert re.search(r"tiny-sound +tag +speech, music, noise +\d+ kB +2020-02-02", answer.out)
    assert len(answer.errors) == 1
    assert answer.err.startswith("framecls: error: broken: ")
