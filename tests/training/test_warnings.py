"""A corpus that can be used may still not be what was meant: what is odd about it is said, once and in words."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from framecls.cli.tables import survey_table
from framecls.errors import ManifestError
from framecls.output.tables import make_console
from framecls.training.data.manifest import Recording, Span
from framecls.training.data.survey import find_warnings, survey
from framecls.training.job import Job, prepare
from framecls.training.recipe import MixConfig
from support.training import FRAME_RECIPE, POOLED_RECIPE

EXCLUSIVE = replace(FRAME_RECIPE, overlapping=False, mix=MixConfig())


def record(name: str, *spans: tuple[str, float, float | None]) -> Recording:
    return Recording(Path(name), tuple(Span(*span, where=f"line {n}") for n, span in enumerate(spans, 1)), name)


def ten_seconds(_: Recording) -> float:
    return 10.0


def test_labels_that_a_side_lacks() -> None:
    train, dev = [record("a", ("x", 0, None)), record("b", ("y", 0, None))], [record("c", ("x", 0, None))]
    assert find_warnings(POOLED_RECIPE, ("x", "y"), train, dev, ten_seconds) == [
        "nothing to measure on has the label y: the dev figures say nothing of it"
    ]
    assert find_warnings(POOLED_RECIPE, ("x", "y"), dev, train, ten_seconds) == [
        "nothing to train on has the label y: the model will not know it"
    ]
    assert find_warnings(POOLED_RECIPE, ("x", "y"), train, train, ten_seconds) == []
    assert find_warnings(replace(POOLED_RECIPE, embedding=8), (), train, dev, ten_seconds) == []


def test_rows_that_overlap_where_one_label_holds_at_a_time() -> None:
    clean = [record("a", ("x", 0, 5), ("y", 4.99, 10))]
    double = [record("a", ("x", 0, 5), ("y", 3, 10)), record("b", ("x", 0, 6), ("x", 2, 10), ("y", 9, 9.5))]
    assert find_warnings(EXCLUSIVE, ("x", "y"), clean, clean, ten_seconds) == []
    [said] = find_warnings(EXCLUSIVE, ("x", "y"), double, clean, ten_seconds)
    assert said.startswith("2 rows overlap others of another label (line 2: a, y): only one of them is learnt there")
    assert find_warnings(replace(EXCLUSIVE, overlapping=True), ("x", "y"), double, clean, ten_seconds) == []


def test_time_without_a_label() -> None:
    half = [record("a", ("x", 0, 2), ("x", 1, 3), ("y", 8, None))]
    [said] = find_warnings(EXCLUSIVE, ("x", "y"), half, half, ten_seconds)
    assert said.startswith("50 % of the sound has no label")


def write_rows(folder: Path, *splits: str, **changes: object) -> Path:
    rows = []
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", np.full(16000, 0.1), 16000)
        rows += [{"file": f"{number}.wav", "label": "xy"[number % 2], "split": split, **changes} for split in splits]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "m.jsonl"


def test_recordings_in_two_splits_are_counted_and_a_table_shows_each_note_on_a_line(tmp_path: Path) -> None:
    job = Job(write_rows(tmp_path, "train", "dev"), tmp_path / "m", POOLED_RECIPE)
    found = survey(job)
    assert found.figures["notes"] == [
        "line 2: 0.wav is in two splits, and so are 5 more; the first counts",
        "nothing to measure on has any of the labels x, y: the dev figures say nothing of them",
    ]
    shown = StringIO()
    make_console(shown).print(survey_table({"notes": ["one", "two"]}))
    assert [line.split() for line in shown.getvalue().splitlines()] == [["notes", "one"], ["two"]]


@pytest.mark.parametrize("recipe", [EXCLUSIVE, POOLED_RECIPE], ids=["frame", "pooled"])
def test_one_label_is_too_few_to_choose_from(tmp_path: Path, recipe: object) -> None:
    write_rows(tmp_path, "train", label="x")
    rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    rows[0]["split"] = "dev"
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job = Job(tmp_path / "m.jsonl", tmp_path / "m", recipe)  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match="all rows have the label 'x': at least two are needed"):
        prepare(job)
    [problem] = survey(job).problems
    assert problem.startswith("all rows have the label 'x'")
    either = replace(job, recipe=replace(EXCLUSIVE, overlapping=True))
    assert prepare(either).config.labels == ("x",)


def test_an_empty_manifest_says_so(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,label\n")
    with pytest.raises(ManifestError, match="there is no row in it"):
        survey(Job(tmp_path / "m.csv", tmp_path / "m", POOLED_RECIPE))


def test_a_label_without_a_clip_to_mix(corpus: Path, tmp_path: Path) -> None:
    """Mixing crashed where a label had no dev clip (`high <= 0`); what is not there is left out, or refused."""
    from dataclasses import replace

    from framecls.training.data.survey import survey
    from framecls.training.examples.loader import dev_batches
    from framecls.training.job import Job, prepare
    from support.training import FRAME_RECIPE

    lines = corpus.read_text().splitlines()
    manifest = corpus.with_name("lost.jsonl")
    manifest.write_text("\n".join(line for line in lines if "high" not in line or '"train"' in line))
    job = Job(manifest, tmp_path / "m.safetensors", FRAME_RECIPE)
    assert survey(job).problems == []
    recipe = replace(FRAME_RECIPE, mix=replace(FRAME_RECIPE.mix, alone=0.5))
    assert len(list(dev_batches(prepare(job), recipe))) == 24
    manifest.write_text("\n".join(line for line in lines if "high" not in line or '"dev"' in line))
    assert survey(job).problems == ["high: no clip of it is left to mix: give it a speaker more, or a split"]


def test_a_clip_with_two_labels_is_refused_where_a_clip_has_one(corpus: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    first = {key: rows[0][key] for key in ("file", "label")}
    another = next(row["label"] for row in rows if row["label"] != first["label"])
    both = corpus.with_name("both.jsonl")
    for second, start_s, is_fine in ((first["label"], 0, True), (another, 0.1, True), (another, 0, False)):
        row = first | {"label": second} | ({"start": start_s} if start_s else {})
        both.write_text("\n".join(map(json.dumps, [*rows, row])))
        job = Job(both, tmp_path / "m.safetensors", POOLED_RECIPE)
        problems = survey(job).problems
        if is_fine:
            assert problems == []
            continue
        [problem] = problems
        said = f"line {len(rows) + 1}: {first['file']}: {another!r} here, {first['label']!r} in line 1: a clip has one"
        assert problem.startswith(said)
        with pytest.raises(ManifestError, match="1 of 17 rows cannot be used") as refused:
            prepare(job)
        assert list(refused.value.rows) == [problem]
        assert survey(replace(job, recipe=FRAME_RECIPE)).problems == []
