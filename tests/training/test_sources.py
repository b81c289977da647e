"""Labels as people have them: every kind of source gives the same recordings, and says what it cannot use."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from framecls.checkpoints.file import read_config
from framecls.config import FeatureConfig
from framecls.errors import ConfigError, ManifestError, UsageError
from framecls.inference.engine import load_engine
from framecls.output.formats import AudacityWriter, RttmWriter, TextGridWriter
from framecls.results import Segment, TagResult
from framecls.training.data.clips import open_clips
from framecls.training.data.labels import LabelSettings, read_rows
from framecls.training.data.labels.arrays import frame_label_rows, load_array
from framecls.training.data.labels.labelfiles import parse_audacity, parse_phn, parse_raven, parse_rttm
from framecls.training.data.labels.rows import Row
from framecls.training.data.labels.textgrid import read_textgrid
from framecls.training.data.labels.walk import list_files
from framecls.training.data.manifest import Recording, read_manifest
from framecls.training.data.splits import split_recordings
from framecls.training.data.survey import survey
from framecls.training.job import Job, prepare
from framecls.training.loop import train
from framecls.training.metrics.evaluate import Test as Measurement
from framecls.training.metrics.evaluate import evaluate
from framecls.training.recipe import OptimConfig, Recipe, SampleConfig
from support.training import POOLED_RECIPE, SMALL

RATE = 16000
# What all label files of these tests say of a.wav.
SPANS = [("aa", 0.0, 0.5), ("b c", 0.5, 1.25)]


def write_wav(path: Path, duration_s: float = 2.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(len(str(path))).standard_normal(round(duration_s * RATE))
    soundfile.write(path, noise, RATE)
    return path


def spans_of(recording: Recording) -> list[tuple[str, float, float | None]]:
    return [(span.label, span.start_s, span.end_s) for span in recording.spans]


# --- label files beside recordings


def write_textgrid(path: Path, form: str = "long_textgrid", tiers: tuple[str, ...] = ("words",)) -> None:
    textgrid = pytest.importorskip("praatio.textgrid", reason="praatio writes the TextGrids")
    grid = textgrid.Textgrid()
    for name in tiers:
        intervals = [(start, end, f"{label}{'' if name == 'words' else name}") for label, start, end in SPANS]
        grid.addTier(textgrid.IntervalTier(name, intervals, 0, 2.0))
    grid.addTier(textgrid.PointTier("clicks", [(0.3, 'a "click"')], 0, 2.0))
    grid.save(str(path), format=form, includeBlankSpaces=True)


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_textgrids(tmp_path: Path, form: str, encoding: str) -> None:
    write_wav(tmp_path / "a.wav")
    path = tmp_path / "a.TextGrid"
    write_textgrid(path, form)
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    [recording] = read_manifest(tmp_path)
    assert spans_of(recording) == SPANS
    assert recording.file == tmp_path / "a.wav"


HEAD = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<exists>\n1\n"IntervalTier"\n"words"\n0\n1\n'


def test_quotes_in_a_textgrid_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.TextGrid"
    path.write_text(HEAD + '2\n0\n0.5\n"12 ""x"" = 3"\n0.5\n1\n"  "\n')
    assert read_textgrid(path) == {"words": [(0.0, 0.5, '12 "x" = 3')]}


def test_a_textgrid_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.TextGrid"
    whole = HEAD + '2\n0\n0.5\n"one"\n0.5\n1\n"two"\n'
    for end in range(40, len(whole) - 1):
        path.write_text(whole[:end])
        with pytest.raises(ManifestError, match="not a TextGrid"):
            read_textgrid(path)
    path.write_text(HEAD + "0\n")
    assert read_textgrid(path) == {"words": []}


def test_a_binary_textgrid_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.TextGrid"
    path.write_bytes(b"ooBinaryFile\x08TextGrid" + bytes(40))
    with pytest.raises(ManifestError, match="save it as UTF-8"):
        read_textgrid(path)


def test_a_tier_is_chosen(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav")
    write_textgrid(tmp_path / "a.TextGrid", tiers=("words", "phones"))
    with pytest.raises(ManifestError, match=r"choose one with --tier: words, phones"):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match="no interval tier 'tones'; it has words, phones"):
        read_manifest(tmp_path, LabelSettings(tier="tones"))
    [recording] = read_manifest(tmp_path, LabelSettings(tier="phones"))
    assert [span.label for span in recording.spans] == ["aaphones", "b cphones"]
    [recording] = read_manifest(tmp_path, LabelSettings(tier="*"))
    assert len(recording.spans) == 4


@given(st.text(max_size=80))
def test_a_textgrid_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.TextGrid"
    for whole in (text, HEAD + text, HEAD + f'1\n0\n1\n"{text}"\n'):
        path.write_text(whole, encoding="utf-8", errors="replace")
        with contextlib.suppress(ManifestError):
            assert isinstance(read_textgrid(path), dict)


@pytest.mark.parametrize("writer", [TextGridWriter, RttmWriter, AudacityWriter])
def test_what_tag_writes_can_be_learnt_from(tmp_path: Path, writer: type) -> None:
    """Correct what a model says in an editor, then train on it."""
    write_wav(tmp_path / "a.wav")
    segments = tuple(Segment(start, end, label.replace(" ", "_"), 0.9) for label, start, end in SPANS)
    times, scores = np.arange(100) * 0.02 + 0.01, np.zeros((100, 2), np.float32)
    result = TagResult("a.wav", "m", 2.0, 0.02, ("aa", "b_c"), segments, times, scores)
    path = tmp_path / f"a.wav{writer.suffix}"
    with path.open("w") as stream:
        kind = writer()
        kind.begin(stream)
        kind.write(result, stream)
        kind.end(stream)
    [recording] = read_manifest(tmp_path)
    assert [span.label for span in recording.spans] == ["aa", "b_c"]
    np.testing.assert_allclose([(s.start_s, s.end_s) for s in recording.spans], [(0, 0.5), (0.5, 1.25)], atol=1e-6)


def test_audacity_labels() -> None:
    text = "0.0\t0.5\taa\n\\\t100\t200\n0,5\t1,25\tb c\n1.5\t1.5\tpoint\n1.6\t1.8\t\n"
    assert parse_audacity(text) == [(0.0, 0.5, "aa", 100.0, 200.0), (0.5, 1.25, "b c"), (1.5, 1.5, "point")]
    with pytest.raises(ManifestError, match="line 1: 'nonsense' is not a time"):
        parse_audacity("nonsense")


def test_labels_of_no_length_are_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_wav(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text("0.5\t0.5\tclick\n0.6\t0.9\tsong\n1\t1\tclick\n")
    [recording] = read_manifest(tmp_path)
    assert [span.label for span in recording.spans] == ["song"]
    assert "a.txt: labels of no length are left out: 2, such as click at 0.50 s" in caplog.text


RAVEN = """Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\t{column}\tNotes
1\tWaveform 1\t1\t0.000\t0.500\t500.0\t4000.0\taa\t
1\tSpectrogram 1\t1\t0.000\t0.500\t500.0\t4000.0\taa\tloud
2\tSpectrogram 1\t1\t0.500\t1.250\t0.0\t900.5\tb c\t
3\tSpectrogram 1\t1\t1.300\t1.350\t0.0\t900.5\t\tno label
"""


@pytest.mark.parametrize("column", ["Species", "Annotation", "My own"])
@pytest.mark.parametrize("name", ["a.Table.1.selections.txt", "a.selections.txt", "a.wav.selections.txt", "a.txt"])
def test_raven_tables(tmp_path: Path, column: str, name: str) -> None:
    write_wav(tmp_path / "a.wav")
    (tmp_path / name).write_text(RAVEN.format(column=column))
    [recording] = read_manifest(tmp_path)
    assert spans_of(recording) == SPANS
    assert [span.band_hz for span in recording.spans] == [(500.0, 4000.0), (0.0, 900.5)]


def test_columns_of_raven_tables_that_could_be_the_label() -> None:
    text = RAVEN.format(column="Bird").replace("Notes", "Mood")
    with pytest.raises(ManifestError, match="name it with --annotation: there are Bird, Mood"):
        parse_raven(text)
    assert [row[2] for row in parse_raven(text, "bird")] == ["aa", "b c"]
    assert [row[2] for row in parse_raven(text, "Mood")] == ["loud", "no label"]
    with pytest.raises(ManifestError, match="no column 'Frog': there are Bird, Mood"):
        parse_raven(text, "Frog")
    with pytest.raises(ManifestError, match="line 4: 'x' is not a time"):
        parse_raven(text.replace("1.250", "x"), "bird")


@pytest.mark.parametrize(
    "text", ["1.5\t0.5\taa\n", RAVEN.format(column="Species").replace("0.500\t1.250", "1.25\t0.5")]
)
def test_a_label_that_ends_before_it_begins_is_said(tmp_path: Path, text: str) -> None:
    write_wav(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ManifestError, match="is not after start") as caught:
        read_manifest(tmp_path)
    assert "a.txt, label" in str(caught.value)


def test_elan_files(tmp_path: Path) -> None:
    elan = pytest.importorskip("pympi", reason="pympi writes and reads ELAN files").Elan
    write_wav(tmp_path / "a.wav")
    document = elan.Eaf()
    for label, start_s, end_s in SPANS:
        document.add_annotation("default", int(1000 * start_s), int(1000 * end_s), label)
    document.to_file(str(tmp_path / "a.eaf"))
    [recording] = read_manifest(tmp_path)
    assert spans_of(recording) == SPANS
    (tmp_path / "a.eaf").write_text("<nothing")
    with pytest.raises(ManifestError, match="not an ELAN file"):
        read_manifest(tmp_path)


def test_a_label_file_without_labels_says_that_there_is_nothing(tmp_path: Path) -> None:
    for name, text in (("a", "0\t1\taa\n"), ("b", "Selection\tBegin Time (s)\tEnd Time (s)\tSpecies\n")):
        write_wav(tmp_path / f"{name}.wav")
        (tmp_path / f"{name}.txt").write_text(text)
    first, second = read_manifest(tmp_path)
    assert (spans_of(first), spans_of(second), second.label) == ([("aa", 0.0, 1.0)], [], "")
    assert [r.file.name for r in read_manifest(tmp_path, LabelSettings(by_row=True))] == ["a.wav#t=0,1"]


def test_other_texts_beside_recordings_are_left_alone(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text("what is said in it\n")
    with pytest.raises(ManifestError, match="lie in no folder"):
        read_manifest(tmp_path)


def test_timit(tmp_path: Path) -> None:
    for part, speaker in (("TRAIN", "FCJF0"), ("TRAIN", "MABC0"), ("TEST", "FELC0")):
        folder = tmp_path / part / "DR1" / speaker
        write_wav(folder / "SA1.WAV")
        (folder / "SA1.PHN").write_text("0 8000 h#\n8000 20000 sh\n")
        (folder / "SA1.TXT").write_text("0 20000 She had\n")
    recordings = read_manifest(tmp_path)
    assert spans_of(recordings[0]) == [("h#", 0.0, 0.5), ("sh", 0.5, 1.25)]
    assert [(r.speaker, r.split) for r in recordings] == [("FELC0", "dev"), ("FCJF0", "train"), ("MABC0", "train")]
    assert parse_phn("8 16 a", 8) == [(1.0, 2.0, "a")]


def test_rttm(tmp_path: Path) -> None:
    write_wav(tmp_path / "audio" / "a.wav")
    write_wav(tmp_path / "audio" / "b.wav")
    write_wav(tmp_path / "audio" / "c.wav")
    text = "SPKR-INFO a 1 <NA> <NA> <NA> unknown ann <NA>\n" + "".join(
        f"SPEAKER {name} 1 {start} {length} <NA> <NA> {who} <NA> <NA>\n"
        for name, start, length, who in (("a", 0.25, 0.5, "ann"), ("b", 0, 1, "bob"), ("a", 0.5, 1, "bob"))
    )
    (tmp_path / "all.rttm").write_text(text)
    recordings = read_manifest(tmp_path)
    assert [spans_of(r) for r in recordings] == [[("ann", 0.25, 0.75), ("bob", 0.5, 1.5)], [("bob", 0.0, 1.0)]]
    assert read_rows(tmp_path, LabelSettings()).notes == ["1 of 3 recordings are left out: no label file is about them"]
    (tmp_path / "all.rttm").write_text(text + "SPEAKER d 1 0 1 <NA> <NA> dan <NA> <NA>\n")
    with pytest.raises(ManifestError, match=r"all.rttm: file d: there is no recording of this name"):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match="line 1: SPEAKER wants"):
        parse_rttm("SPEAKER a 1 0 1")


def test_rttm_of_names_with_spaces(tmp_path: Path) -> None:
    write_wav(tmp_path / "größe 1.wav")
    segments = (Segment(0.5, 1.0, "ann", 1.0),)
    result = TagResult("größe 1.wav", "m", 2.0, 0.5, ("ann",), segments, np.zeros(4), np.ones((4, 1), np.float32))
    with (tmp_path / "all.rttm").open("w") as stream:
        writer = RttmWriter()
        writer.begin(stream)
        writer.write(result, stream)
    assert "größe_1" in (tmp_path / "all.rttm").read_text()
    [recording] = read_manifest(tmp_path)
    assert spans_of(recording) == [("ann", 0.5, 1.0)]
    write_wav(tmp_path / "größe_1.wav")
    with pytest.raises(ManifestError, match="2 recordings have this name"):
        read_manifest(tmp_path)


# --- folders, Kaldi


def test_a_folder_for_each_label(tmp_path: Path) -> None:
    for place in ("dog/1.wav", "dog/ann/2.wav", "cat/3.wav"):
        write_wav(tmp_path / place)
    recordings = read_manifest(tmp_path)
    assert [(r.label, r.speaker, r.is_named) for r in recordings] == [
        ("cat", "cat/3.wav", False),
        ("dog", "dog/1.wav", False),
        ("dog", "ann", True),
    ]


def test_folders_that_are_splits(tmp_path: Path) -> None:
    for place in ("train/dog/1.wav", "valid/dog/2.wav", "test/dog/3.wav"):
        write_wav(tmp_path / place)
    found = read_rows(tmp_path, LabelSettings())
    assert [(row.label, row.split) for row in found.rows] == [("dog", "train"), ("dog", "dev")]
    assert found.notes == ["left out: test, since there is a dev folder too"]
    shutil.rmtree(tmp_path / "valid")
    assert sorted(row.split or "" for row in read_rows(tmp_path, LabelSettings()).rows) == ["dev", "train"]


def write_kaldi(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("r1", "r2"):
        write_wav(folder / "wav" / f"{name}.wav")
    (folder / "wav.scp").write_text(f"r1 wav/r1.wav\nr2 {(folder / 'wav' / 'r2.wav').resolve()}\n")
    (folder / "segments").write_text("u1 r1 0.0 0.8\nu2 r1 0.8 2.0\nu3 r2 0.5 -1\n")
    (folder / "utt2spk").write_text("u1 ann\nu2 bob\nu3 ann\n")
    (folder / "utt2lang").write_text("u1 de\nu2 en\nu3 de\n")


def test_kaldi(tmp_path: Path) -> None:
    write_kaldi(tmp_path)
    recordings = read_manifest(tmp_path)
    assert [spans_of(r) for r in recordings] == [[("de", 0.0, 0.8), ("en", 0.8, 2.0)], [("de", 0.5, None)]]
    assert [(r.speaker, r.others) for r in recordings] == [("ann", ("bob",)), ("ann", ())]
    by_row = read_manifest(tmp_path, LabelSettings(by_row=True))
    assert [(r.label, r.speaker, r.file.name) for r in by_row] == [
        ("de", "ann", "r1.wav#t=0,0.8"),
        ("en", "bob", "r1.wav#t=0.8,2"),
        ("de", "ann", "r2.wav#t=0.5"),
    ]
    (tmp_path / "utt2lang").unlink()
    assert [r.label for r in read_manifest(tmp_path / "wav.scp", LabelSettings(by_row=True))] == ["ann", "bob", "ann"]


def test_sections_are_cut_from_their_files(tmp_path: Path) -> None:
    write_kaldi(tmp_path)
    recordings = read_manifest(tmp_path, LabelSettings(by_row=True))
    store = open_clips(recordings, RATE, tmp_path / "cache")
    whole, _ = soundfile.read(tmp_path / "wav" / "r1.wav", dtype="float32")
    np.testing.assert_allclose(store.read(recordings[1].file), whole[round(0.8 * RATE) :], atol=1e-4)
    assert store.n_samples(recordings[2].file) == 1.5 * RATE
    (tmp_path / "segments").write_text("u1 r1 0.0 0.8\nu2 r1 0.8 3.0\n")
    with pytest.raises(ManifestError, match=r"u2: r1.wav: en ends at 3.00 s, the file at 2.00 s"):
        open_clips(read_manifest(tmp_path, LabelSettings(by_row=True)), RATE, tmp_path / "cache")


def test_kaldi_pipes_are_refused(tmp_path: Path) -> None:
    write_kaldi(tmp_path)
    marker = tmp_path / "ran"
    (tmp_path / "wav.scp").write_text(f"r1 touch {marker} && cat wav/r1.wav |\nr2 wav/r2.wav\n")
    with pytest.raises(ManifestError, match=r"r1: a pipe command, which is not run") as caught:
        read_manifest(tmp_path)
    assert len(caught.value.rows) == 1, "what is cut from it is not listed too"
    assert not marker.exists()


def test_kaldi_splits(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        write_kaldi(tmp_path / name)
    assert {r.split for r in read_manifest(tmp_path)} == {"train", "dev"}
    (tmp_path / "dev" / "utt2lang").write_text("u1 de\nu2\nu3 de\n")
    with pytest.raises(
        ManifestError, match=rf"^{re.escape(str(tmp_path))}: dev: utt2lang: line 2: nothing stands behind"
    ):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match=rf"^{re.escape(str(tmp_path / 'dev'))}: utt2lang: line 2: nothing"):
        read_manifest(tmp_path / "dev")


# --- what is no manifest, and what in it is wrong


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("notes.txt", "one\ntwo\nthree", "line 1: 'one' is not a time"),
        ("notes.md", "one\ntwo\nthree", "not a manifest: 3 of 3 lines are no JSON object"),
        ("rows.csv", "path,label\na.wav,x\n", "first line must name the columns, such as .*: it has path, label$"),
        ("rows.csv", "file;label\na.wav;x\n", "it has file;label; between columns there must be a comma"),
        (
            "rows.json",
            '[\n{"file": "a.wav", "label": "x"},\n{"file": "b.wav", "label": "x"}\n]',
            "it is one JSON array",
        ),
        ("a.wav", "", "a recording by itself has no labels: give its label file, or a manifest"),
        ("rows.jsonl", "\0\0", "not UTF-8 text: save it as UTF-8"),
    ],
)
def test_what_is_no_manifest_is_one_short_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    write_wav(tmp_path / "notes.wav")
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(tmp_path / name)
    assert len(str(caught.value)) < 500


def test_an_empty_folder_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no recordings with labels in this folder: give a manifest"):
        read_manifest(tmp_path)


def test_fields_that_are_not_read_are_named(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav")
    row = {"file": "a.wav", "begin": 0.5, "stop": 1, "label": 0, "speaker": 0}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    found = read_rows(tmp_path / "rows.jsonl", LabelSettings())
    assert [(row.label, row.speaker) for row in found.rows] == [("0", "0")]
    [note] = found.notes
    assert note.startswith("not read: begin, stop (fields that are read: file, start, end,")


def test_bad_rows_are_listed_and_counted(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav")
    rows = [{"file": "a.wav", "label": "x"}, *({"file": f"gone{i}.wav", "label": "x"} for i in range(25))]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path / "m.jsonl")
    assert caught.value.headline.endswith("25 of 26 rows cannot be used")
    assert len(caught.value.rows) == 11
    assert caught.value.rows[0].startswith("line 2: ")
    assert caught.value.rows[-1] == "and 15 more"


def test_recordings_that_cannot_be_decoded_are_listed(tmp_path: Path) -> None:
    for name in "abc":
        write_wav(tmp_path / f"{name}.wav")
    for name in "bc":
        (tmp_path / f"{name}.wav").write_bytes(b"RIFF")
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps({"file": f"{name}.wav", "label": "x"}) for name in "abc"))
    with pytest.raises(ManifestError, match="2 of 3 files cannot be read") as caught:
        open_clips(read_manifest(tmp_path / "m.jsonl"), RATE, tmp_path / "cache")
    assert len(caught.value.rows) == 2
    assert list((tmp_path / "cache").iterdir()) == []


# --- splits


def record(number: int, speaker: str, source: str = "", label: str = "x") -> Recording:
    from framecls.training.data.manifest import Span

    file = Path(f"{number}.wav")
    return Recording(file, (Span(label),), speaker or file.name, source, is_named=bool(speaker), name=file.name)


def test_speakers_who_are_heard_together_stay_together() -> None:
    from dataclasses import replace

    recordings = [replace(record(i, f"s{i}"), others=(f"s{i + 1}",) if i % 4 != 3 else ()) for i in range(200)]
    parts = split_recordings(recordings)
    heard = [{name for r in side for name in (r.speaker, *r.others)} for side in (parts.train, parts.dev)]
    assert heard[0].isdisjoint(heard[1])
    assert parts.shared == ()
    assert parts.dev


def test_sources_stay_together_where_they_are_given() -> None:
    recordings = [record(i, f"s{i % 60}", f"mic{i % 30}", "xy"[i % 2]) for i in range(600)]
    parts = split_recordings(recordings)
    assert parts.how == "by speaker and source"
    assert {r.source for r in parts.train}.isdisjoint({r.source for r in parts.dev})
    assert {r.speaker for r in parts.train}.isdisjoint({r.speaker for r in parts.dev})
    assert 0 < len(parts.dev) < 0.4 * 600


def test_sources_are_split_where_too_few_are_given() -> None:
    recordings = [record(i, f"s{i % 60}", f"mic{i % 2}") for i in range(600)]
    parts = split_recordings(recordings)
    assert parts.how.startswith("by speaker (whole sources would leave too little")
    assert {r.speaker for r in parts.train}.isdisjoint({r.speaker for r in parts.dev})
    assert {r.source for r in parts.dev} == {"mic0", "mic1"}


@pytest.mark.parametrize("seed", range(8))
def test_few_speakers_leave_neither_side_empty(seed: int) -> None:
    for n in (2, 3, 5):
        parts = split_recordings([record(i, f"s{i}") for i in range(n)], seed)
        assert parts.train
        assert parts.dev
    assert split_recordings([record(0, "s0")]).find_fault() == (
        "the dev split is empty: name more speakers, or give each row a split, train or dev"
    )


def test_splits_that_are_given_or_asked_for() -> None:
    from dataclasses import replace

    recordings = [record(i, f"s{i % 5}") for i in range(100)]
    given = [replace(r, split="dev" if i < 10 else "train") for i, r in enumerate(recordings)]
    parts = split_recordings(given)
    assert (parts.how, len(parts.dev)) == ("as given", 10)
    assert parts.shared == ("s0", "s1", "s2", "s3", "s4")
    by_file = split_recordings(recordings, by="file")
    assert 3 < len(by_file.dev) < 40
    assert split_recordings([replace(r, spans=record(0, "", label=r.speaker).spans) for r in recordings]).how == (
        "by file, since the labels are the speakers"
    )


# --- features computed elsewhere


def write_features(folder: Path, n_utterances: int = 30, suffix: str = ".pt") -> Path:
    """Write a phone homework in small: the label of a vector is the sign of its first number."""
    rng = np.random.default_rng(0)
    lines, names = [], []
    (folder / "feat" / "train").mkdir(parents=True)
    for number in range(n_utterances):
        states = np.repeat(rng.integers(0, 2, 12), 10)
        vectors = rng.standard_normal((len(states), 5)).astype(np.float32)
        vectors[:, 0] = 2.0 * states - 1
        name = f"{number}-1"
        save(folder / "feat" / "train" / f"{name}{suffix}", vectors)
        lines.append(" ".join([name, *map(str, states)]))
        names.append(name)
    (folder / "train_labels.txt").write_text("\n".join(lines) + "\n")
    (folder / "train_split.txt").write_text("\n".join(names) + "\n")
    return folder


def save(file: Path, vectors: np.ndarray) -> None:
    if file.suffix == ".npy":
        np.save(file, vectors)
    else:
        torch.save(torch.from_numpy(vectors), file)


FEATURES_RECIPE = Recipe(
    "toy",
    "frame",
    **{**SMALL, "encoder": POOLED_RECIPE.encoder},  # type: ignore[arg-type]
    sample=SampleConfig(bucketed=True, balance_chance=0.5),
    optim=OptimConfig(
        steps=40, batch_s=8.0, learning_rate=5e-3, warmup_steps=5, dev_every=20, ema_decay=0.9, workers=0
    ),
)


@pytest.mark.parametrize("suffix", [".pt", ".npy"])
def test_features_with_a_list_of_labels(tmp_path: Path, suffix: str) -> None:
    write_features(tmp_path / "homework", suffix=suffix)
    torch.set_num_threads(1)
    job = Job(tmp_path / "homework", tmp_path / "m.safetensors", FEATURES_RECIPE)
    data = prepare(job)
    assert data.config.labels == ("0", "1")
    assert data.config.features.dim == 5
    train(job, data)
    config = read_config(job.output)
    assert config.features == FeatureConfig("precomputed", 100, window_samples=1, hop_samples=1, precomputed_dim=5)
    assert config.hop_s == 0.02
    engine = load_engine(job.output)
    measured = evaluate(engine, Measurement(tmp_path / "homework", tmp_path / "cache"))
    assert measured.score > 0.9
    with pytest.raises(UsageError, match="takes vectors of 5 numbers that were computed elsewhere"):
        engine.open(write_wav(tmp_path / "a.wav"))


def test_a_model_of_features_measures_no_sound(tmp_path: Path) -> None:
    write_features(tmp_path / "homework", 12)
    torch.set_num_threads(1)
    from dataclasses import replace

    recipe = replace(FEATURES_RECIPE, optim=replace(FEATURES_RECIPE.optim, steps=1))
    job = Job(tmp_path / "homework", tmp_path / "m.safetensors", recipe)
    train(job, prepare(job))
    for label in "01":
        write_wav(tmp_path / "sounds" / label / "a.wav")
    with pytest.raises(ManifestError, match="takes vectors of 5 numbers, and here is sound"):
        evaluate(load_engine(job.output), Measurement(tmp_path / "sounds", tmp_path / "cache", split="all"))


def test_features_for_whole_utterances(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, mean in (("low", -1), ("high", 1)):
        (tmp_path / "f" / label).mkdir(parents=True)
        for number in range(20):
            vectors = rng.normal(mean, 1, (rng.integers(60, 140), 4))
            np.save(tmp_path / "f" / label / f"{number}.npy", vectors)
    from dataclasses import replace

    torch.set_num_threads(1)
    recipe = replace(FEATURES_RECIPE, task="pooled", sample=SampleConfig(length_s=(0.4, 1.0)))
    job = Job(tmp_path / "f", tmp_path / "m.safetensors", recipe)
    train(job, prepare(job))
    assert evaluate(load_engine(job.output), Measurement(tmp_path / "f", tmp_path / "cache")).score > 0.9


def test_features_with_labels_beside_them(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    np.save(tmp_path / "a.labels.npy", np.array([7, 7, 2, 2]))
    np.save(tmp_path / "b.npy", np.zeros((3, 3)))
    (tmp_path / "b.txt").write_text("aa aa b\n")
    recordings = read_manifest(tmp_path)
    assert [spans_of(r) for r in recordings] == [
        [("7", 0.0, 0.02), ("2", 0.02, 0.04)],
        [("aa", 0, 0.02), ("b", 0.02, 0.03)],
    ]
    rows = [{"file": "a.npy", "frame_labels": "a.labels.npy", "speaker": "ann"}, {"file": "b.npy", "label": "z"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    listed = read_manifest(tmp_path / "m.jsonl")
    assert [spans_of(r) for r in listed] == [spans_of(recordings[0]), [("z", 0.0, None)]]
    assert listed[0].speaker == "ann"


@given(st.lists(st.sampled_from("ab"), max_size=30))
def test_runs_of_labels_give_back_every_label(labels: list[str]) -> None:
    rows = list(frame_label_rows(Row(Path("a"), "", "a"), labels, 100.0))
    assert "".join(row.label * round(((row.end_s or 0) - row.start_s) * 100) for row in rows) == "".join(labels)


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (exec, ("raise SystemExit('it ran')",))


def test_nothing_in_an_array_file_is_run(tmp_path: Path) -> None:
    torch.save({"x": Evil()}, tmp_path / "a.pt")
    np.save(tmp_path / "b.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    torch.save({"x": torch.zeros(2)}, tmp_path / "c.pt")
    (tmp_path / "d.npy").write_bytes(b"junk")
    (tmp_path / "e.pt").write_bytes(b"")
    for name in ("a.pt", "b.npy", "c.pt", "d.npy", "e.pt"):
        with pytest.raises(ManifestError, match=r"no plain array|not one tensor"):
            load_array(tmp_path / name)


def test_arrays_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    for name, array in (
        ("a", np.zeros((4, 3))),
        ("b", np.zeros((4, 2))),
        ("c", np.full((4, 3), np.nan)),
        ("d", np.ones(3)),
    ):
        (tmp_path / "x").mkdir(exist_ok=True)
        np.save(tmp_path / "x" / f"{name}.npy", array)
    with pytest.raises(ManifestError, match="3 of 4 files cannot be read") as caught:
        open_clips(read_manifest(tmp_path), 100, tmp_path / "cache")
    assert "vectors of 2 numbers, those before have 3" in caught.value.rows[0]


def test_mixing_features_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    from framecls.training.recipe import MixConfig

    write_features(tmp_path / "homework", 4)
    recipe = replace(FEATURES_RECIPE, mix=MixConfig(enabled=True))
    with pytest.raises(ConfigError, match="go with no mix"):
        prepare(Job(tmp_path / "homework", tmp_path / "m", recipe))


# --- survey


def test_a_survey_counts_everything_and_lists_every_problem(tmp_path: Path) -> None:
    rows = []
    for number in range(8):
        write_wav(tmp_path / f"{number}.wav")
        split = "dev" if number < 2 else "train"
        rows.append({"file": f"{number}.wav", "label": "ab"[number % 2], "speaker": f"s{number}", "split": split})
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    from dataclasses import replace

    job = Job(manifest, tmp_path / "m.safetensors", replace(POOLED_RECIPE, labels=("a", "b")))
    found = survey(job)
    assert found.problems == []
    assert (found.figures["rows"], found.figures["seconds"], found.figures["speakers"]) == (8, 16.0, "8")
    assert found.figures["splits"] == {
        "train": {"recordings": 6, "seconds": 12.0},
        "dev": {"recordings": 2, "seconds": 4.0},
    }
    assert found.figures["labels"]["a"] == {"train rows": 3, "train seconds": 6.0, "dev rows": 1, "dev seconds": 2.0}
    (tmp_path / "3.wav").write_bytes(b"RIFF")
    (tmp_path / "4.wav").unlink()
    rows[5]["label"], rows[6]["end"] = "c", 5.0
    manifest.write_text("\n".join(map(json.dumps, rows)))
    problems = survey(job).problems
    assert [any(word in line for line in problems) for word in ("3.wav", "line 5: ", "label 'c'", "ends at 5.00")] == [
        True
    ] * 4
    assert len(problems) == 4
    assert not job.folder.exists()


@pytest.mark.parametrize("damage", ['1\n0\n1e999\n"a"\n', "1e999\n", '1\nnow\n1\n"a"\n', '1\n0\n"a"\n'])
def test_a_textgrid_with_absurd_numbers_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.TextGrid"
    path.write_text(HEAD + damage)
    with pytest.raises(ManifestError, match="not a TextGrid"):
        read_textgrid(path)


# --- which files a folder holds


def test_the_whole_disk_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framecls.training.data.labels.walk.os.walk", lambda *_: pytest.fail("walked"))
    with pytest.raises(ManifestError, match=r"^/: this is the whole disk: give the folder"):
        read_manifest(Path("/"))


def test_a_folder_of_other_things_is_left_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framecls.training.data.labels.walk._MAX_OTHERS", 20)
    for folder in range(10):
        (tmp_path / f"{folder}").mkdir()
        for number in range(10):
            (tmp_path / f"{folder}" / f"{number}.txt").touch()
    with pytest.raises(
        ManifestError, match="none of the first 30 files in this folder is a recording: give the folder"
    ):
        read_manifest(tmp_path)
    (tmp_path / "0" / "a.wav").touch()  # so many more are looked at
    assert len(list_files(tmp_path, {".wav"})) == 101


def test_hidden_files_and_folders_are_not_listed(tmp_path: Path) -> None:
    for name in ("b/2.wav", "b/10.txt", ".git/1.wav", "b/.x.wav", "a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dead.wav").symlink_to("nowhere")
    assert [str(path.relative_to(tmp_path)) for path in list_files(tmp_path, {".wav"})] == [
        "a.wav",
        "b/10.txt",
        "b/2.wav",
    ]
