"""Voices by name, from Python and from the command line, with an untrained model that happens to tell tones apart."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import stat
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import framecls
from framecls.checkpoints.network import save_model
from framecls.config import NOT_ENROLLED, NOT_NAMED, UNKNOWN, ModelConfig, from_dict, to_dict
from framecls.errors import AudioError, ConfigError, GalleryError, UsageError
from framecls.inference.engine import load_engine
from framecls.inference.identify import find_rejection
from framecls.nn.network import Network
from framecls.speakers.gallery import Clip, default_path, open_gallery
from framecls.speakers.recognition import Enrolled, check_enrolment, identity
from support.commands import Cli
from support.models import save_tiny_voice_model, tiny_voice_config
from support.signals import RATE, make_tone, write_wav

PITCHES = {"Ada": 200.0, "Bob": 400.0, "Cleo": 900.0, "Dan": 2500.0}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_voice_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def model(path: Path) -> framecls.Model:
    return framecls.load(path, device="cpu")


@pytest.fixture
def gallery(model: framecls.Model, tmp_path: Path) -> Path:
    """Return a gallery with two clips each of Ada, Bob and Cleo."""
    file = tmp_path / "voices.sqlite"
    for name in ("Ada", "Bob", "Cleo"):
        clips = [make_tone(length, PITCHES[name]) for length in (1.5, 2.6)]
        assert model.enroll(name, clips, sample_rate=RATE, gallery=file) == []
    return file


def test_an_embedding_is_a_unit_vector(model: framecls.Model) -> None:
    vector = model.embed(make_tone(3.3), sample_rate=RATE)
    assert (vector.shape, vector.dtype) == ((8,), np.float32)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    louder = model.embed(0.5 * make_tone(3.3), sample_rate=RATE)
    assert float(vector @ louder) > 0.9


def test_a_long_recording_is_the_mean_of_its_windows(model: framecls.Model) -> None:
    sound = make_tone(2.0)
    once, twice = (model.embed(np.tile(sound, n), sample_rate=RATE) for n in (1, 3))
    assert float(once @ twice) > 0.99


@pytest.mark.parametrize("name", PITCHES)
def test_who_is_speaking(name: str, model: framecls.Model, gallery: Path) -> None:
    result = model.identify(make_tone(2.0, PITCHES[name]), sample_rate=RATE, enrolled=gallery, top_k=2)
    assert result.label == (UNKNOWN if name == "Dan" else name)
    assert result.duration == 2.0
    assert len(result.top) == 2
    assert (result.top[0].score > 0.5) == (name != "Dan")
    expected = (None, NOT_ENROLLED) if name == "Dan" else (result.top[0].score, None)
    assert (result.score, result.reason) == expected


def test_thresholds_and_names_to_choose_among(model: framecls.Model, gallery: Path) -> None:
    def answer(who: framecls.Model, **options: Any) -> str:
        return who.identify(make_tone(2.0, 200), sample_rate=RATE, enrolled=gallery, **options).label

    assert answer(model) == "Ada"
    assert answer(model.with_decision(thresholds={UNKNOWN: 1.0})) == UNKNOWN
    assert answer(model, among=["Bob", "Cleo"]) == UNKNOWN
    assert answer(model.with_decision(thresholds={UNKNOWN: 0.0}), among=["Bob", "Cleo"]) == "Cleo"
    with pytest.raises(UsageError, match="nobody is enrolled as 'Zoe'"):
        answer(model, among=["Zoe"])
    with pytest.raises(ConfigError, match="top_k"):
        answer(model, top_k=0)
    with pytest.raises(ConfigError, match="no label"):
        model.with_decision(thresholds={"Ada": 0.3})


def test_the_users_own_gallery_is_the_default(model: framecls.Model, home: Path) -> None:
    model.enroll("Ada", [make_tone(2.0, 200)], sample_rate=RATE)
    assert default_path().is_file()
    assert model.identify(make_tone(2.0, 200), sample_rate=RATE).label == "Ada"


def test_too_little_sound_is_said(model: framecls.Model, gallery: Path) -> None:
    for call in (model.embed, lambda *a, **k: model.identify(*a, enrolled=gallery, **k)):
        with pytest.raises(AudioError, match=r"0\.9 s is too little to know a voice by: 1 s or more"):
            call(make_tone(0.9), sample_rate=RATE)
    with pytest.raises(AudioError, match="too little"):
        model.enroll("Eve", [make_tone(2.0), make_tone(0.5)], sample_rate=RATE, gallery=gallery)
    with open_gallery(gallery) as opened:
        assert "Eve" not in [person.name for person in opened.people()]


def test_only_speech_counts_where_the_model_wants_speech(tmp_path: Path) -> None:
    """Two seconds of a tone are no voice to the shipped `sound` model."""
    config = from_dict(ModelConfig, {**to_dict(tiny_voice_config()), "gate": "speech"})
    torch.manual_seed(7)
    save_model(Network(config), tmp_path / "gated.safetensors")
    with pytest.raises(AudioError, match=r"s of speech is too little"):
        framecls.embed(make_tone(2.0) * 0, tmp_path / "gated.safetensors", device="cpu", sample_rate=RATE)


def test_another_models_voices_are_refused(model: framecls.Model, gallery: Path, tmp_path: Path) -> None:
    other = framecls.load(save_tiny_voice_model(tmp_path, seed=8), device="cpu")
    with pytest.raises(GalleryError, match=r"enrolled with the model tiny-speaker-.*-m.*--gallery"):
        other.identify(make_tone(2.0), sample_rate=RATE, enrolled=gallery)
    with pytest.raises(GalleryError, match="cannot be compared"):
        other.enroll("Eve", [make_tone(2.0)], sample_rate=RATE, gallery=gallery)


def test_identity_follows_the_weights_and_not_the_card(path: Path, tmp_path: Path) -> None:
    engine = load_engine(path, device="cpu")
    carded = from_dict(ModelConfig, {**to_dict(engine.config), "card": {"date": "2030-01-01"}})
    save_model(engine.network, tmp_path / "carded.safetensors", config=carded)
    assert identity(load_engine(tmp_path / "carded.safetensors", device="cpu")) == identity(engine)
    other = load_engine(save_tiny_voice_model(tmp_path, seed=8), device="cpu")
    assert identity(other) != identity(engine)


def test_other_models_have_no_voices_to_tell() -> None:
    with pytest.raises(UsageError, match="does not tell voices"):
        framecls.embed(make_tone(2.0), "language", device="cpu", sample_rate=RATE)


def random_clips(n_people: int, per_person: int = 1, size: int = 256) -> list[Clip]:
    vectors = np.random.default_rng(0).standard_normal((n_people * per_person, size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [Clip(f"p{i // per_person}", "m-1", "a.wav", 2.0, vector) for i, vector in enumerate(vectors)]


def test_chances_sum_to_one_with_that_of_somebody_unknown() -> None:
    config = tiny_voice_config()
    clips = random_clips(30)
    ranking = Enrolled(clips).rank(clips[4].vector, config, 30)
    everyone = ranking.top
    assert everyone[0].label == "p4"
    assert [c.score for c in everyone] == sorted((c.score for c in everyone), reverse=True)
    slope, offset = config.decision.same_voice
    ratios = np.exp(slope * np.stack([c.vector for c in clips]) @ clips[4].vector + offset)
    assert everyone[0].score == pytest.approx(ratios[4] / 30 / (1 + ratios.sum() / 30), rel=1e-3)
    assert sum(c.score for c in everyone) + ranking.rest == pytest.approx(1)


def test_more_people_want_more_evidence() -> None:
    config = tiny_voice_config()
    clips = random_clips(500)
    few, many = (Enrolled(clips[:n]).rank(clips[0].vector, config, 1).top[0].score for n in (2, 500))
    alone = Enrolled(clips[:1]).rank(clips[0].vector, config, 5)
    assert alone.top[0].score > few > many
    assert alone.top[0].label == "p0"
    assert find_rejection(alone, 2.0, config) is None


def test_those_not_named_keep_their_chance() -> None:
    """With only Bob named, a voice that is more like Ada's than his is not taken for Bob's."""
    config = tiny_voice_config()
    ada, other = (clip.vector for clip in random_clips(2, size=4))
    bob = ada + 0.25 * other
    bob /= np.linalg.norm(bob)
    everyone = Enrolled([Clip("Ada", "m", "a.wav", 2.0, ada), Clip("Bob", "m", "b.wav", 2.0, bob)])
    named = everyone.among(["Bob"])
    ranking = named.rank(ada, config, 5)
    assert [c.label for c in ranking.top] == ["Bob"]
    assert find_rejection(ranking, 2.0, config) == NOT_NAMED
    assert find_rejection(named.rank(bob, config, 5), 2.0, config) is None
    alone = Enrolled([Clip("Bob", "m", "b.wav", 2.0, bob)])
    assert alone.rank(ada, config, 5).top[0].score > ranking.top[0].score


def test_several_clips_are_one_voice() -> None:
    enrolled = Enrolled(random_clips(3, per_person=4))
    assert enrolled.vectors.shape == (3, 256)
    np.testing.assert_allclose(np.linalg.norm(enrolled.vectors, axis=1), 1, rtol=1e-5)


def test_ten_thousand_people_answer_as_fast_as_ten(tmp_path: Path) -> None:
    clips = random_clips(10_000)
    with open_gallery(tmp_path / "many.sqlite", create=True) as gallery:
        gallery.add(clips)
    began = time.process_time()
    with open_gallery(tmp_path / "many.sqlite") as gallery:
        many = Enrolled(gallery.clips())
    loading_s = time.process_time() - began
    took_s = []
    for _ in range(9):
        began = time.process_time()
        top = many.rank(clips[77].vector, tiny_voice_config(), 5).top
        took_s.append(time.process_time() - began)
    assert top[0].label == "p77"
    # Processor time, so that a busy machine does not matter. To hear a recording costs tens of milliseconds: beside it,
    # whom to compare with must not matter either.
    assert min(took_s) < 0.01
    assert loading_s < 2.0


def test_doubts_at_enrolment() -> None:
    config = tiny_voice_config()
    ada, bob, eve = (c.vector for c in random_clips(3))
    before = [Clip("Ada", "m", "ada.wav", 2.0, ada), Clip("Bob", "m", "bob.wav", 2.0, bob)]
    assert check_enrolment("Ada", [Clip("Ada", "m", "a2.wav", 2.0, ada)], before, config) == []
    assert check_enrolment("Eve", [Clip("Eve", "m", "e.wav", 2.0, eve)], before, config) == []
    doubts = check_enrolment("Ada", [Clip("Ada", "m", "b2.wav", 2.0, bob)], before, config)
    assert doubts[0].startswith("b2.wav does not sound like the other clips of Ada")
    assert doubts[1].startswith("b2.wav sounds like Bob, who is enrolled already")


# The command line.


@pytest.fixture
def cli(cli: Cli, path: Path, here: Path) -> Cli:
    """Run a command line in a folder of the test's own; `MODEL` stands for the tiny model."""
    return lambda *words: cli(*(path if word == "MODEL" else word for word in words))


@pytest.fixture
def meeting(tmp_path: Path) -> None:
    for name, pitch in PITCHES.items():
        write_wav(tmp_path / f"{name}1.wav", 1.5, pitch)
        write_wav(tmp_path / f"{name}2.wav", 2.4, pitch)
        write_wav(tmp_path / "meeting" / f"{name}.wav", 2.0, pitch)


def test_enroll_and_identify(cli: Cli, meeting: None) -> None:
    status, out, err = cli("enroll", "Ada", "Ada1.wav", "Ada2.wav", "-m", "MODEL", "--gallery", "g.sqlite")
    assert (status, out) == (0, "")
    assert "Ada: 2 clips, 0:00:04 of speech; 2 clips in all, in g.sqlite" in err
    assert cli("enroll", "Bob", "Bob1.wav", "-m", "MODEL", "--gallery", "g.sqlite", "-q")[1:] == ("", "")
    status, out, err = cli("identify", "-m", "MODEL", "--gallery", "g.sqlite", "-f", "jsonl", "meeting/")
    rows = {Path(row["file"]).stem: row for row in map(json.loads, out.splitlines())}
    assert status == 0
    assert {name: row["label"] for name, row in rows.items()} == {
        "Ada": "Ada", "Bob": "Bob", "Cleo": UNKNOWN, "Dan": UNKNOWN,
    }  # fmt: skip
    assert [c["label"] for c in rows["Ada"]["top"]] == ["Ada", "Bob"]
    arguments = ("identify", "-m", "MODEL", "--gallery", "g.sqlite", "-f", "jsonl", "meeting/Cleo.wav")
    assert json.loads(cli(*arguments, "--threshold", "unknown=0")[1])["label"] in ("Ada", "Bob")
    assert [c["label"] for c in json.loads(cli(*arguments, "--among", "Bob")[1])["top"]] == ["Bob"]


def test_names_with_commas(cli: Cli, meeting: None) -> None:
    gallery = ("--gallery", "g.sqlite")
    for name, clip in (("Doe, Jane", "Ada1.wav"), ("Jane", "Bob1.wav"), ("Doe", "Cleo1.wav")):
        assert cli("enroll", name, clip, "-m", "MODEL", *gallery)[0] == 0

    def named(*among: str) -> tuple[str, list[str]]:
        options = [word for text in among for word in ("--among", text)]
        status, out, err = cli("identify", "-m", "MODEL", *gallery, "-f", "jsonl", "meeting/Ada.wav", *options)
        if status:
            assert (status, out, len(err.splitlines())) == (2, "", 1)
            return err, []
        record = json.loads(out)
        return record["label"], sorted(candidate["label"] for candidate in record["top"])

    assert named("Doe, Jane") == ("Doe, Jane", ["Doe, Jane"])
    assert named("Jane, Doe, Jane") == ("Doe, Jane", ["Doe, Jane", "Jane"])
    assert named("Doe", "Jane") == (UNKNOWN, ["Doe", "Jane"])
    assert "nobody is enrolled as 'jane': did you mean Jane?" in named("Doe,jane")[0]
    assert "did you mean Doe, Jane?" in named("doe, Jane")[0]
    assert "framecls speakers list shows who is" in named("Zacharias")[0]


def test_resume_looks_at_who_is_enrolled(cli: Cli, meeting: None, tmp_path: Path) -> None:
    """Somebody new may be whom a recording is of that was done before: it is done again, and only then."""
    again = ("identify", "-m", "MODEL", "--gallery", "g.sqlite", "meeting/", "-o", "who.jsonl", "--resume")

    def run_again() -> tuple[str, str]:
        status, _, err = cli(*again)
        assert status == 0
        rows = map(json.loads, (tmp_path / "who.jsonl").read_text().splitlines())
        return {Path(row["file"]).stem: row["label"] for row in rows}["Bob"], err.splitlines()[-1]

    cli("enroll", "Ada", "Ada1.wav", "-m", "MODEL", "--gallery", "g.sqlite")
    assert run_again()[0] == UNKNOWN
    assert run_again() == (UNKNOWN, "framecls: 0 done, 4 skipped")
    cli("enroll", "Bob", "Bob1.wav", "-m", "MODEL", "--gallery", "g.sqlite")
    label, summary = run_again()
    assert label == "Bob"
    assert "4 done" in summary
    assert "skipped" not in summary
    assert run_again() == ("Bob", "framecls: 0 done, 4 skipped")
    cli("speakers", "rename", "Bob", "Robert", "--gallery", "g.sqlite")
    assert run_again()[0] == "Robert"


def test_a_clip_that_fails_does_not_stop_the_others(cli: Cli, meeting: None, tmp_path: Path) -> None:
    write_wav(tmp_path / "short.wav", 0.6)
    status, _, err = cli("enroll", "Ada", "short.wav", "gone.wav", "Ada1.wav", "-m", "MODEL")
    assert status == 1
    errors = [line for line in err.splitlines() if "error" in line]
    assert len(errors) == 2
    assert any("short.wav: 0.6 s is too little" in line for line in errors)
    assert "Ada: 1 clip," in err
    status, out, err = cli("identify", "-m", "MODEL", "short.wav", "Ada2.wav", "-f", "jsonl")
    assert status == 1
    assert [json.loads(line)["label"] for line in out.splitlines()] == ["Ada"]
    assert "error: short.wav: 0.6 s is too little" in err


def test_doubts_are_told(cli: Cli, meeting: None) -> None:
    cli("enroll", "Ada", "Ada1.wav", "-m", "MODEL")
    assert "look again: Bob1.wav does not sound like" in cli("enroll", "Ada", "Bob1.wav", "-m", "MODEL")[2]
    assert "1 of them enrolled before" in cli("enroll", "Ada", "Ada1.wav", "-m", "MODEL")[2]


def test_the_life_of_a_gallery(cli: Cli, meeting: None, tmp_path: Path) -> None:
    assert cli("speakers", "list") == (
        0,
        "",
        f"framecls: nobody is enrolled in {default_path()}: framecls enroll NAME CLIP...\n",
    )
    for name in ("Ada", "Bob"):
        cli("enroll", name, f"{name}1.wav", f"{name}2.wav", "-m", "MODEL")
    status, out, _ = cli("speakers", "list")
    assert status == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["Ada", "2"], ["Bob", "2"]]
    people = json.loads(cli("speakers", "list", "-f", "json")[1])
    assert [(p["name"], p["clips"]) for p in people] == [("Ada", 2), ("Bob", 2)]
    assert cli("speakers", "rename", "Bob", "Robert")[0] == 0
    status, out, _ = cli("speakers", "export")
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["Ada", "Ada", "Robert", "Robert"]
    assert cli("speakers", "export", "Robert", "-o", "robert.jsonl")[1] == ""
    assert cli("speakers", "remove", "Robert")[0] == 0
    assert "2 clips of 1 people imported, 0 known" in cli("speakers", "import", "robert.jsonl")[2]
    assert "0 clips of 1 people imported, 2 known" in cli("speakers", "import", "robert.jsonl")[2]
    (tmp_path / "all.jsonl").write_text(out)
    cli("speakers", "import", "all.jsonl", "--gallery", "copy.sqlite")
    found = cli("identify", "-m", "MODEL", "meeting/Bob.wav", "--gallery", "copy.sqlite", "-f", "jsonl")[1]
    assert json.loads(found)["label"] == "Robert"


@pytest.mark.parametrize(
    "line",
    ["no json", "[]", "{}", '{"name": "A", "model": "m", "file": "f", "heard": 1, "added": "", "vector": "AAAA"}'],
)
def test_imports_that_are_none(line: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(line + "\n")
    status, _, err = cli("speakers", "import", "bad.jsonl", "--gallery", "g.sqlite")
    assert status == 1
    assert err.startswith("framecls: error: bad.jsonl: line 1 is not one that speakers export writes")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "g.sqlite").exists()


def rows(*sizes: int, model: str = "m") -> str:
    """Return an export of clips whose vectors have so many numbers."""
    vectors = [base64.b64encode(np.eye(1, size, n, np.float32).tobytes()).decode() for n, size in enumerate(sizes)]
    common = {"name": "Ada", "model": model, "file": "a.wav", "heard": 1, "added": ""}
    return "".join(json.dumps({**common, "vector": vector}) + "\n" for vector in vectors)


def test_an_import_of_vectors_of_two_lengths_names_the_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mixed.jsonl").write_text(rows(8, 8, 16))
    status, _, err = cli("speakers", "import", "mixed.jsonl", "--gallery", "g.sqlite")
    assert status == 1
    assert err == (
        "framecls: error: mixed.jsonl: line 3: its vector has 16 numbers, those before it 8: they cannot be compared\n"
    )
    assert not (tmp_path / "g.sqlite").exists()
    (tmp_path / "8.jsonl").write_text(rows(8))
    (tmp_path / "16.jsonl").write_text(rows(16))
    assert cli("speakers", "import", "8.jsonl", "--gallery", "g.sqlite")[0] == 0
    status, _, err = cli("speakers", "import", "16.jsonl", "--gallery", "g.sqlite")
    assert (status, len(err.splitlines())) == (1, 1)
    assert "a vector of 16 numbers cannot be compared with those of 8" in err
    (tmp_path / "other.jsonl").write_text(rows(8, model="m") + rows(8, model="n"))
    assert "line 2: its voice was heard by the model n" in cli("speakers", "import", "other.jsonl")[2]


def test_a_gallery_with_a_damaged_clip_goes_on_without_it(cli: Cli, meeting: None, tmp_path: Path) -> None:
    """As one that was imported by an earlier version, with a vector of another length."""
    for name in ("Ada", "Bob"):
        cli("enroll", name, f"{name}1.wav", f"{name}2.wav", "-m", "MODEL", "--gallery", "g.sqlite")
    with sqlite3.connect(tmp_path / "g.sqlite") as connection:
        connection.execute("UPDATE clip SET vector = ? WHERE id = 4", (np.eye(1, 16, dtype=np.float32).tobytes(),))
    gallery = ("--gallery", "g.sqlite")
    status, out, err = cli("identify", "-m", "MODEL", "meeting/Bob.wav", *gallery, "-f", "jsonl")
    assert json.loads(out)["label"] == "Bob"
    assert "g.sqlite: 1 of its clips are damaged and left out (clip 4 of Bob)" in err
    assert cli("enroll", "Cleo", "Cleo1.wav", "-m", "MODEL", *gallery)[0] == 0
    status, out, err = cli("speakers", "export", *gallery)
    assert status == 3
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["Ada", "Ada", "Bob", "Cleo"]
    assert "clip 4 of Bob" in err
    assert cli("check", "g.sqlite")[0] == 1
    (tmp_path / "whole.jsonl").write_text(out)
    assert cli("speakers", "import", "whole.jsonl", "--gallery", "mended.sqlite")[0] == 0
    assert cli("check", "mended.sqlite")[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_an_export_is_for_its_owner_and_whole_or_not_at_all(
    cli: Cli, meeting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("enroll", "Ada", "Ada1.wav", "-m", "MODEL")
    for _ in range(2):
        assert cli("speakers", "export", "-o", "voices.jsonl")[0] == 0
        assert stat.S_IMODE((tmp_path / "voices.jsonl").stat().st_mode) == 0o600
        (tmp_path / "voices.jsonl").chmod(0o644)  # and it is so again where it was not
    whole = (tmp_path / "voices.jsonl").read_bytes()
    names = sorted(os.listdir(tmp_path))
    monkeypatch.setattr("framecls.cli.speakers.write_clip", lambda clip: 1 / 0)
    assert cli("speakers", "export", "-o", "voices.jsonl")[0] == 1
    assert (tmp_path / "voices.jsonl").read_bytes() == whole
    assert sorted(os.listdir(tmp_path)) == names


def test_export_to_a_dash_is_stdout(cli: Cli, meeting: None, tmp_path: Path) -> None:
    cli("enroll", "Ada", "Ada1.wav", "-m", "MODEL")
    out = cli("speakers", "export")[1]
    assert out
    assert cli("speakers", "export", "-o", "-") == (0, out, "")
    assert not (tmp_path / "-").exists()


def test_another_models_gallery_is_refused_before_anything_is_heard(
    cli: Cli, meeting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save_tiny_voice_model(tmp_path, seed=8)
    assert cli("enroll", "Ada", "Ada1.wav", "-m", str(other), "--gallery", "g.sqlite")[0] == 0
    monkeypatch.setattr("framecls.speakers.recognition.embed_recording", lambda *_, **__: pytest.fail("it was heard"))
    status, _, err = cli("enroll", "Bob", "Bob1.wav", "-m", "MODEL", "--gallery", "g.sqlite")
    assert (status, len(err.splitlines())) == (1, 1)
    assert "its voices were enrolled with the model tiny-speaker-" in err


@pytest.mark.skipif(sys.platform == "win32", reason="there a user has a home folder")
def test_without_a_home_only_the_gallery_must_be_named(
    cli: Cli, meeting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    for command in (["speakers", "list"], ["enroll", "Ada", "Ada1.wav", "-m", "MODEL"]):
        status, _, err = cli(*command)
        assert status == 1
        assert err == (
            "framecls: error: there is no home folder to keep the enrolled voices in: name a file with --gallery\n"
        )
    assert cli("enroll", "Ada", "Ada1.wav", "-m", "MODEL", "--gallery", "g.sqlite")[0] == 0
    assert cli("identify", "Ada1.wav", "-m", "language", "--device", "cpu", "-f", "jsonl")[0] == 0


@pytest.mark.parametrize("group", [[], ["speakers"]])
def test_a_group_alone_shows_its_help(group: list[str], cli: Cli) -> None:
    status, out, err = cli(*group)
    assert (status, out) == (2, "")
    assert "Usage: framecls" in err
    assert "error" not in err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["identify", "-m", "MODEL", "Ada1.wav"], 1, "nobody is enrolled yet"),
        (["identify", "-m", "MODEL", "Ada1.wav", "--gallery", "Ada1.wav"], 1, "not a gallery"),
        (
            ["identify", "-m", "language", "Ada1.wav", "--gallery", "g.sqlite"],
            2,
            "--gallery goes with a model of voices",
        ),
        (["identify", "-m", "MODEL", "Ada1.wav", "--threshold", "Ada=0.5"], 2, "it has unknown, for voices that"),
        (["enroll", "Ada", "Ada1.wav", "-m", "language"], 2, "does not tell voices"),
        (["enroll", "unknown", "Ada1.wav", "-m", "MODEL"], 2, "nobody can be enrolled as 'unknown'"),
        (["enroll", "Ada", "-m", "MODEL"], 2, "missing argument"),
        (["speakers", "remove", "Ada"], 1, "nobody is enrolled yet"),
        (["speakers", "list", "-f", "xml"], 2, "choose table or json"),
        (["speakers", "list", "--gallery", "Ada1.wav"], 1, "not a gallery"),
        (["speakers", "list", "--gallery", "meeting"], 1, "a folder, not a gallery"),
        (["speakers", "import", "gone.jsonl"], 1, "cannot be read"),
        (["speakers", "import", "Ada1.wav"], 1, "no text"),
    ],
)
def test_what_goes_wrong_is_one_line(arguments: list[str], status: int, said: str, cli: Cli, meeting: None) -> None:
    found, out, err = cli(*arguments)
    assert (found, out, len(err.splitlines())) == (status, "", 1), err
    assert said in err


def test_the_card_of_a_model_of_voices(cli: Cli) -> None:
    status, out, _ = cli("models", "MODEL")
    assert status == 0
    assert "people who are enrolled" in out
