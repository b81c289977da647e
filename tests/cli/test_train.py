"""`framecls train` and `framecls evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from support.commands import Cli
from support.signals import write_wav


def test_measuring_refuses_what_makes_no_difference(cli: Cli, tag_model: str, here: Path) -> None:
    answer = cli("evaluate", tag_model, str(here / "m.jsonl"), "--length", "3")
    assert (answer.status, answer.out, len(answer.errors)) == (2, "", 1)
    assert "--length is for models of framecls identify" in answer.err


def test_which_part_is_measured_is_said(cli: Cli, identify_model: str, here: Path) -> None:
    rows: list[dict[str, str]] = [{"file": f"{n}.wav", "label": "de"} for n in range(8)]
    for row in rows:
        write_wav(here / row["file"])
    manifest = here / "m.jsonl"
    evaluate = ("evaluate", identify_model, str(manifest), "--device", "cpu")
    manifest.write_text("\n".join(map(json.dumps, rows)))
    part, whole = cli(*evaluate), cli(*evaluate, "--split", "all")
    assert (part.status, whole.status) == (0, 0)
    assert "1 of 8 recordings are measured, dev of a split by file" in part.err
    assert part.err.rstrip().endswith("; --split all measures all")
    assert "are measured" not in whole.err
    manifest.write_text("\n".join(json.dumps({**row, "split": "dev"}) for row in rows[:2]))
    assert "are measured" not in cli(*evaluate).err  # as the manifest says
    manifest.write_text(json.dumps(rows[0]))
    alone = cli(*evaluate)
    assert alone.status == 1
    assert "in the split 'dev'; --split all measures all" in alone.err


RECIPE = """
name = "pitch"
task = "pooled"
[features]
n_mels = 16
[encoder]
kind = "fc"
dim = 16
n_layers = 1
n_heads = 2
ff_dim = 16
subsampling = 2
[window]
length_s = 2.0
overlap_s = 0.0
[sample]
length_s = [1.0, 2.0]
[augment]
speed_chance = 0.0
[optim]
steps = 4
batch_s = 8.0
warmup_steps = 1
dev_every = 2
workers = 0
"""


@pytest.fixture
def corpus(here: Path) -> Path:
    """Write a recipe and a manifest of low and high voices."""
    rows = []
    for label, frequency_hz in (("low", 200), ("high", 2000)):
        for voice in range(3):
            name = f"{label}{voice}.wav"
            write_wav(here / name, 2.0, frequency_hz + 10 * voice)
            split = "dev" if voice == 2 else "train"
            rows.append({"file": name, "label": label, "speaker": name, "source": "made", "split": split})
    (here / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (here / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return here


def test_train_then_use(cli: Cli, corpus: Path) -> None:
    command = ("train", "identify", "manifest.jsonl", "-o", "pitch.safetensors", "--recipe", "recipe.toml")
    answer = cli(*command, "--device", "cpu")
    assert (answer.status, answer.out) == (0, "")
    assert "4 recordings to train on, 2 to measure on" in answer.err
    lines = answer.err.splitlines()
    [tried] = [row for row, line in enumerate(lines) if "by a trial of one step" in line]
    [timed] = [row for row, line in enumerate(lines) if "as the first steps went" in line]
    [last] = [row for row, line in enumerate(lines) if "step 4 of 4" in line]
    assert tried < timed < last
    assert lines[tried].startswith("framecls: about ")
    page = Path("pitch.report.html").read_text(encoding="utf-8")
    assert "pitch.report.html" in answer.err
    for words in ("the recipe ", "Loss in training", ">step</text>", "the dev part of manifest.jsonl: 2 recordings"):
        assert words in page
    assert cli(*command, "--device", "cpu", "--set", "optim.steps=3", "-q").err == ""
    [record] = cli("identify", "low0.wav", "-m", "pitch.safetensors", "-f", "jsonl", "--device", "cpu").records
    assert {candidate["label"] for candidate in record["top"]} == {"low", "high"}
    measured = cli("evaluate", "pitch.safetensors", "manifest.jsonl", "-f", "json", "--device", "cpu", "--split", "all")
    assert (measured.status, measured.err) == (0, "")
    figures = json.loads(measured.out)
    assert (figures["model"], figures["items"]) == ("pitch", 6)
    assert figures["confusion"].keys() == figures["labels"].keys() == {"low", "high"}
    assert {"eer", "calibration_error", "balanced_accuracy"} <= figures.keys()
    assert {"precision", "recall", "f1", "roc_auc", "eer"} <= figures["labels"]["low"].keys()
    coded = cli(
        "evaluate", "pitch.safetensors", "manifest.jsonl", "-f", "json", "--device", "cpu", "--split", "all",
        "--codec", "mulaw",
    )  # fmt: skip
    assert coded.status == 0
    assert json.loads(coded.out)["calibration_error"] != figures["calibration_error"]
    table = cli("evaluate", "pitch.safetensors", "manifest.jsonl", "--device", "cpu", "--split", "all", "-o", "f.json")
    assert json.loads(Path("f.json").read_text(encoding="utf-8")) == figures
    assert f"{figures['accuracy']:.4f}" in table.out


def test_the_step_that_is_tried_has_the_precision_of_the_others(cli: Cli, corpus: Path) -> None:
    command = ("train", "identify", "manifest.jsonl", "--recipe", "recipe.toml", "--device", "cpu", "-o")
    assert cli(*command, "pitch.safetensors").status == 0
    lower = ("--encoder", "framecls:pitch.safetensors", "--set", "optim.precision=bfloat16")
    answer = cli(*command, "tuned.safetensors", *lower)
    assert answer.status == 0, answer.err
    assert "by a trial of one step" in answer.err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["train", "sing", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml"], 2, "choose tag or identify"),
        (["train", "tag", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml"], 2, "not for framecls tag"),
        (["train", "identify", "manifest.jsonl", "--recipe", "recipe.toml"], 2, "--output"),
        (["train", "identify", "manifest.jsonl", "-o", "m", "--recipe", "nope"], 2, "nope"),
        (
            ["train", "identify", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml", "--set", "optim.steps=0"],
            2,
            "steps",
        ),
        (["train", "identify", "gone.jsonl", "-o", "m", "--recipe", "recipe.toml"], 1, "gone.jsonl"),
        (["train", "identify", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml", "--set", "x.y=1"], 2, "--set"),
        (["train", "identify", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml", "--split-by", "me"], 2, "file"),
        (["train", "identify", "manifest.jsonl", "--check", "--preview", "p", "--recipe", "recipe.toml"], 2, "--check"),
        (
            ["train", "identify", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml", "--save-every", "-1"],
            2,
            "0 or",
        ),
        (["train", "identify", "manifest.jsonl", "-o", ".", "--recipe", "recipe.toml"], 2, "this is a folder"),
        (["train", "identify", "manifest.jsonl", "-o", "low0.wav/m", "--recipe", "recipe.toml"], 2, "is no folder"),
        (["train", "identify", "manifest.jsonl", "-o", "low0.wav", "--recipe", "recipe.toml"], 2, "is no model"),
        (["train", "identify", "manifest.jsonl", "-o", "manifest.jsonl", "--recipe", "recipe.toml"], 2, "is no model"),
        (["train", "identify", "manifest.jsonl", "-o", "m", "--init", "nope"], 2, "no model is called 'nope'"),
        (["train", "identify", "manifest.jsonl", "-o", "m", "--init", "no.safetensors"], 1, "no such model file"),
        (["train", "identify", "recipe.toml", "-o", "m", "--recipe", "recipe.toml"], 1, "not a manifest"),
        (["train", "identify", "low0.wav", "-o", "m", "--recipe", "recipe.toml"], 1, "a folder for each label"),
        (["evaluate", "nope", "manifest.jsonl"], 2, "nope"),
        (["evaluate", "gone.safetensors", "manifest.jsonl"], 1, "gone.safetensors"),
        (["evaluate", "nope", "manifest.jsonl", "--split", "test"], 2, "train, dev, all"),
        (["evaluate", "nope", "manifest.jsonl", "-f", "csv"], 2, "table or json"),
        (["evaluate", "nope", "manifest.jsonl", "--codec", "aac"], 2, "mulaw"),
    ],
)
def test_wrong_usage_of_training(arguments: list[str], status: int, said: str, cli: Cli, corpus: Path) -> None:
    answer = cli(*arguments)
    assert (answer.status, answer.out, len(answer.errors)) == (status, "", 1)
    assert answer.err.startswith("framecls: error: ")
    assert said in answer.err


def test_check_says_what_is_there_and_trains_nothing(cli: Cli, corpus: Path) -> None:
    command = ("train", "identify", "manifest.jsonl", "--check", "--recipe", "recipe.toml", "--device", "cpu")
    before = sorted(corpus.iterdir())
    answer = cli(*command)
    assert (answer.status, answer.err) == (0, "")
    assert "as given" in answer.out
    figures = json.loads(cli(*command, "-f", "json").out)
    assert (figures["rows"], figures["files"], figures["problems"]) == (6, 6, [])
    assert figures["labels"]["low"] == {"train rows": 2, "train seconds": 4.0, "dev rows": 1, "dev seconds": 2.0}
    assert sorted(corpus.iterdir()) == before


def test_rows_that_cannot_be_used_are_a_line_each(cli: Cli, corpus: Path) -> None:
    rows = [{"file": f"gone{n}.wav", "label": "low"} for n in range(12)]
    with (corpus / "manifest.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    command = ("train", "identify", "manifest.jsonl", "-o", "m.safetensors", "--recipe", "recipe.toml")
    answer = cli(*command, "--device", "cpu")
    lines = answer.err.splitlines()
    assert (answer.status, answer.out, len(lines)) == (1, "", 12)
    assert lines[0] == "framecls: error: manifest.jsonl: 12 of 18 rows cannot be used"
    assert lines[1] == "  line 7: gone0.wav: there is no such file"
    assert lines[-1] == "  and 2 more"
    checked = cli(*command, "--check", "--device", "cpu")
    assert checked.status == 1
    assert "rows" in checked.out
    assert checked.err.splitlines()[1:] == lines[1:]


def test_folders_are_learnt_from_and_previewed(cli: Cli, corpus: Path) -> None:
    for label, frequency_hz in (("low", 200), ("high", 2000)):
        for voice in range(12):
            write_wav(corpus / "clips" / label / f"{voice}.wav", 1.0, frequency_hz + voice)
    command = ("train", "identify", "clips", "--recipe", "recipe.toml", "--device", "cpu")
    heard = cli(*command, "--preview", "heard", "--set", "augment.codec_chance=1")
    assert (heard.status, heard.out) == (0, "")
    assert heard.err.splitlines()[-1] == "framecls: heard: 20 examples; what was done to each: heard/preview.jsonl"
    lines = [json.loads(line) for line in (corpus / "heard" / "preview.jsonl").read_text().splitlines()]
    assert all("codec" in line and (corpus / "heard" / line["file"]).exists() for line in lines)
    assert len(lines) == 20
    answer = cli(*command, "-o", "m.safetensors", "--set", "optim.seed=3")
    assert answer.status == 0
    assert "split by file, since no speakers are named" in answer.err
    measured = cli("evaluate", "m.safetensors", "clips", "-f", "json", "--device", "cpu", "-q")
    n_dev = int(answer.err.split(" to measure on")[0].split()[-1])
    assert json.loads(measured.out)["items"] == n_dev  # the same ones: the model file knows the seed of the split


def test_a_model_of_features_refuses_sound(cli: Cli, corpus: Path) -> None:
    for label, mean in (("low", -1), ("high", 1)):
        (corpus / "arrays" / label).mkdir(parents=True)
        for number in range(12):
            np.save(corpus / "arrays" / label / f"{number}.npy", np.full((150, 4), mean, np.float32))
    train = cli("train", "identify", "arrays", "-o", "m.safetensors", "--recipe", "recipe.toml", "--device", "cpu")
    assert train.status == 0
    measured = cli("evaluate", "m.safetensors", "arrays", "-f", "json", "--device", "cpu", "--split", "all")
    assert json.loads(measured.out)["items"] == 24
    answer = cli("identify", "low0.wav", "high0.wav", "-m", "m.safetensors", "--device", "cpu")
    assert (answer.status, answer.out, len(answer.errors)) == (2, "", 1)
    assert "takes vectors of 4 numbers that were computed elsewhere" in answer.err
    assert "features computed elsewhere" in cli("models", "m.safetensors").out


def test_a_misspelt_setting_gets_the_nearest(cli: Cli, corpus: Path) -> None:
    command = ("train", "identify", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml", "--set")
    assert "optim.stepz: there is no such setting: did you mean steps?" in cli(*command, "optim.stepz=1").err
    assert "there is no such setting: did you mean optim?" in cli(*command, "optm.steps=1").err
    quick = cli("train", "identify", "manifest.jsonl", "-o", "m", "--set", "optim.steps=3")
    assert (quick.status, "--recipe identify" in quick.err) == (2, True)
    preset = cli("train", "identify", "manifest.jsonl", "-o", "m", "--preset", "wildlive")
    assert (preset.status, "did you mean wildlife?" in preset.err) == (2, True)
    assert cli(*command[:-1], "--precision", "0.9").status == 2


def test_all_settings_are_listed_with_a_meaning_and_a_default(cli: Cli) -> None:
    from framecls.cli.settings import describe, list_settings
    from framecls.config import to_dict
    from framecls.training.recipe import Recipe

    answer = cli("train", "--settings")
    assert (answer.status, answer.err) == (0, "")
    listed = {line.split()[0] for line in answer.out.splitlines()}
    tables = to_dict(Recipe("any", "frame"))
    wanted = {f"{table}.{key}" for table in ("optim", "augment", "mix", "sample", "head") for key in tables[table]}
    assert wanted <= listed
    assert [name for name, _, meaning in list_settings() if len(describe(name, meaning)) < 8] == []
    [line] = [line for line in answer.out.splitlines() if line.startswith("optim.patience ")]
    assert line.split(maxsplit=2)[1:] == ["0", "dev measurements without gain after which to stop; 0: never"]


def test_clips_become_a_model_without_any_setting(cli: Cli, here: Path) -> None:
    """The whole of it, with the encoder that ships."""
    rows = []
    for label, frequency_hz in (("low", 200), ("high", 2000)):
        for voice in range(4):
            write_wav(here / f"{label}{voice}.wav", 1.0, frequency_hz + 10 * voice)
            rows.append({"file": f"{label}{voice}.wav", "label": label})
    (here / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    small = ("--set", "head.folds=2", "--set", "head.epochs=1", "--set", "head.curve=false")
    answer = cli("train", "identify", "clips.jsonl", "-o", "pitch.safetensors", "--device", "cpu", *small)
    assert (answer.status, answer.out) == (0, "")
    lines = answer.err.splitlines()
    assert "8 recordings" in lines[0]
    assert "on this machine" in lines[0]
    assert any(line.startswith("framecls: balanced accuracy on clips held out: ") for line in lines)
    assert any("trusted" in line for line in lines)
    [record] = cli("identify", "low0.wav", "-m", "pitch.safetensors", "-f", "jsonl", "--device", "cpu").records
    assert (record["top"][0]["label"], record["model"]) == ("low", "pitch")
    measured = cli("evaluate", "pitch.safetensors", "clips.jsonl", "-f", "json", "--device", "cpu", "--split", "all")
    assert "learnt from all of its clips" in measured.err
    assert json.loads(measured.out)["accuracy"] == 1.0
