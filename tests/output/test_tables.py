"""What a person sees: words and numbers in their places, on any terminal."""

from __future__ import annotations

import dataclasses
import io
import re

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from framecls.cli.tables import figure_table
from framecls.inference.segments import OverlappingSegmenter, SegmentRules, TilingSegmenter
from framecls.inference.windows import frame_times
from framecls.output.languages import LANGUAGES
from framecls.output.strip import BLOCKS, block_levels, tick_line, tier_lines
from framecls.output.tables import (
    PALETTE,
    Renderable,
    are_languages,
    fold,
    identify_table,
    make_table,
    tag_table,
    tiered_table,
)
from framecls.results import AudioInfo, Candidate, Identification, Outline, Segment, TagResult, TieredResult
from support.results import segment_whole

LABELS = ("speech", "music", "noise")
LONG = "recordings/2019/a folder/an interview with somebody, taken in the kitchen (final version, really).flac"


def make_tag(file: str = "interview.mp3") -> TagResult:
    """Return 42.3 s: music until 6.28 s and from 33 s, speech in three spans, a noise at 17.5 s."""
    times = frame_times(2115, 0.02)
    spans: list[list[tuple[float, float]]] = [
        [(3.1, 9.44), (11.2, 20.6), (25.9, 33.8)],
        [(0, 6.28), (33, 42.3)],
        [(17.5, 19.6)],
    ]
    active = [np.any([(times > a) & (times < b) for a, b in own], axis=0) for own in spans]
    scores = np.where(np.stack(active, axis=1), 0.97, 0.01).astype(np.float32)
    segments = tuple(segment_whole(OverlappingSegmenter(LABELS, (0.5, 0.5, 0.5), SegmentRules(0.02, 42.3)), scores))
    return TagResult(file, "sound", 42.3, 0.02, LABELS, segments, times, scores, True, AudioInfo(44100, 2))


def make_phones(n_segments: int) -> TagResult:
    labels = tuple(f"P{i}" for i in range(40))
    scores = np.zeros((5 * n_segments, 40), np.float32)
    scores[np.arange(len(scores)), np.arange(len(scores)) // 5 % 40] = 0.9
    duration_s = len(scores) * 0.02
    segments = tuple(segment_whole(TilingSegmenter(labels, SegmentRules(0.02, duration_s)), scores))
    return TagResult("p.wav", "phones", duration_s, 0.02, labels, segments, frame_times(len(scores), 0.02), scores)


def make_identification(file: str, *top: tuple[str, float], duration: float = 12.3) -> Identification:
    candidates = tuple(Candidate(*pair) for pair in top)
    return Identification(file, "language", duration, candidates[0].label, candidates[0].score, candidates)


IDENTIFICATIONS = [
    make_identification("samples/german.ogg", ("de", 0.934), ("nl", 0.04), ("da", 0.011)),
    make_identification(LONG, ("pt", 0.61), ("es", 0.3), ("gl", 0.05), duration=3723.9),
    make_identification("samples/kurd.wav", ("ckb", 0.41), ("fa", 0.3), ("ar", 0.05)),
]


def show(
    renderable: Renderable, width: int = 80, *, terminal: bool = True, encoding: str = "utf-8", color: bool = False
) -> list[str]:
    """Return the lines that a console prints; encoding errors raise."""
    raw = io.BytesIO()
    console = Console(
        file=io.TextIOWrapper(raw, encoding=encoding, errors="strict", newline=""),
        width=width,
        force_terminal=terminal,
        color_system="truecolor" if color else None,
        legacy_windows=False,
        _environ={},
    )
    console.print(renderable)
    console.file.flush()
    return raw.getvalue().decode(encoding).splitlines()


def words(line: str) -> list[str]:
    return line.split()


def test_a_terminal_shows_header_strip_axis_and_table() -> None:
    header, speech, music, noise, axis, titles, *rows = show(tag_table(make_tag()))
    assert words(header) == ["interview.mp3", "0:42.3", "44.1", "kHz", "stereo", "sound"]
    assert len(header) == 80
    assert [words(line)[0] for line in (speech, music, noise)] == list(LABELS)
    strips = [line[10:] for line in (speech, music, noise)]
    assert {len(strip) for strip in strips} == {68}
    assert [strips[1][0], strips[1][20], strips[1][-1]] == ["█", "▁", "█"]
    assert "█" in strips[2]
    assert words(axis) == ["0:00", "0:10", "0:20", "0:30", "0:40"]
    assert axis.index("0:20") == 10 + round(20 / 42.3 * 68)
    assert words(titles) == ["Start", "End", "Length", "Label", "Score"]
    assert [words(row) for row in rows] == [
        ["0:00.00", "0:06.28", "6.28", "s", "music", "0.97"],
        ["0:03.10", "0:09.44", "6.34", "s", "speech", "0.97"],
        ["0:11.20", "0:20.60", "9.40", "s", "speech", "0.97"],
        ["0:17.50", "0:19.60", "2.10", "s", "noise", "0.97"],
        ["0:25.90", "0:33.80", "7.90", "s", "speech", "0.97"],
        ["0:33.00", "0:42.30", "9.30", "s", "music", "0.97"],
    ]
    assert all(row.endswith("0.97") and row.index("0.97") == titles.index("Score") + 1 for row in rows)


def test_a_pipe_and_a_narrow_terminal_get_no_strip() -> None:
    for lines in (show(tag_table(make_tag()), terminal=False), show(tag_table(make_tag()), 59)):
        assert not set("".join(lines)) & set(BLOCKS)
        assert len(lines) == 8
    assert len(show(tag_table(make_tag()), 60)) == 12


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [20, 40, 59, 60, 80, 120, 250])
def test_no_line_is_longer_than_the_terminal(width: int, terminal: bool, encoding: str) -> None:
    results = [
        make_tag(),
        make_tag(LONG),
        make_tag("音楽" * 40),
        make_tag("a\nb\x1b[31m[bold]\udcff ü"),
        make_phones(12),
    ]
    odd = dataclasses.replace(make_phones(3), labels=tuple("label " * 9 + str(i) for i in range(40)), overlapping=True)
    tables = [tag_table(r) for r in (*results, odd)] + [identify_table(IDENTIFICATIONS)]
    many = make_identification("ü.wav", *[(f"Somebody With A Long Name {i}", 0.1) for i in range(9)])
    for table in (*tables, identify_table([many])):
        for line in show(table, width, terminal=terminal, encoding=encoding):
            assert cell_len(line) <= width
            assert "\x1b" not in line


def test_plain_ascii_where_the_encoding_has_no_blocks() -> None:
    lines = show(tag_table(make_tag()), encoding="ascii")
    assert lines[2].startswith("  music   #######")
    assert "|P0" in "".join(show(tag_table(make_phones(10)), encoding="ascii"))


def test_names_are_shown_as_they_are_and_disarmed() -> None:
    assert words(show(tag_table(make_tag("[red]x[/red] :smile:.wav")))[0])[:2] == ["[red]x[/red]", ":smile:.wav"]
    assert show(tag_table(make_tag("a\x1b[2Jb\nc.wav")))[0].startswith(r"a\x1b[2Jb\nc.wav ")


def test_no_names_or_numbers_are_lost_when_narrow() -> None:
    text = "".join(show(tag_table(make_tag(LONG)), 40)).replace(" ", "")
    assert text.startswith(LONG.replace(" ", ""))
    assert "0:25.900:33.80speech0.97" in text
    assert LONG.replace(" ", "") in "".join(
        line[:23].rstrip() for line in show(identify_table(IDENTIFICATIONS[1:2]), 40)[1:]
    ).replace(" ", "")


def test_labels_are_whole_at_thirty_columns() -> None:
    lines = show(tag_table(make_tag()), 30)
    assert "  0:03.10 0:09.44 speech  0.97" in lines
    assert sum(line.endswith(" 0.97") for line in lines) == len(make_tag().segments)


def test_labels_keep_their_colours() -> None:
    lines = show(tag_table(make_tag()), color=True)
    colors = dict(zip(LABELS, PALETTE, strict=False))
    for label, color in colors.items():
        r, g, b = (int(color[i : i + 2], 16) for i in (1, 3, 5))
        rows = [line for line in lines if label in line]
        assert len(rows) >= 2
        assert all(f"38;2;{r};{g};{b}" in line for line in rows)


def test_colours_stand_out_from_black_and_from_white() -> None:
    for color in PALETTE:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminance = float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
        assert (luminance + 0.05) / 0.05 >= 3  # contrast as WCAG 2 defines it, its minimum for large text
        assert 1.05 / (luminance + 0.05) >= 3


def test_nothing_found() -> None:
    quiet = dataclasses.replace(make_tag(), segments=(), audio=None)
    assert show(tag_table(quiet), terminal=False)[-1].strip() == "no speech, music or noise found"
    assert show(tag_table(dataclasses.replace(make_phones(3), segments=())))[-1].strip() == "nothing found"


def test_a_clip_without_frames() -> None:
    empty = TagResult("e.wav", "sound", 0.0, 0.02, LABELS, (), np.zeros(0), np.zeros((0, 3), np.float32), True)
    assert words(show(tag_table(empty))[0]) == ["e.wav", "0:00.0", "sound"]


def test_many_labels_are_written_along_the_time() -> None:
    lines = show(tag_table(make_phones(25)))
    assert words(lines[2])[:2] == ["0:00.0", "0:00.2"]
    tier = "".join(lines[1 : lines.index(next(line for line in lines if "Start" in line)) : 2])
    assert [f"P{i}" for i in range(25)] == re.findall(r"P\d+", tier)


def test_a_long_recording_of_many_labels_has_no_tier_but_every_segment() -> None:
    lines = show(tag_table(make_phones(3000)))
    assert words(lines[1])[0] == "Start"
    assert len(lines) == 2 + 3000
    assert words(lines[-1])[:2] == ["4:59.90", "5:00.00"]


def test_identify_at_80_columns() -> None:
    titles, first, *rest = show(identify_table(IDENTIFICATIONS))
    assert words(titles) == ["File", "Language", "Score", "Runners-up", "Length"]
    assert words(first) == ["samples/german.ogg", "de", "German", "0.93", "nl", "0.04,", "da", "0.01", "0:12.3"]
    assert "ckb Central Kurdish" in rest[-1]
    assert "1:02:03.9" in rest[0]
    assert LONG.replace(" ", "") == "".join(line[: titles.index("Language")] for line in rest[:-1]).replace(" ", "")


def test_identify_draws_the_score_where_there_is_room() -> None:
    _, first, _, last = show(identify_table([IDENTIFICATIONS[0], *IDENTIFICATIONS[::2]]), 120)
    assert "0.93   █████▋" in first
    assert "0.41   ██▌" in last
    assert "0.93   ######" in show(identify_table(IDENTIFICATIONS[:1]), 120, encoding="ascii")[1]


def test_identify_names_languages_only() -> None:
    assert are_languages(IDENTIFICATIONS)
    voices = [dataclasses.replace(make_identification("a.wav", ("de", 0.9)), model="speaker")]
    assert words(show(identify_table(voices))[0])[1] == "Speaker"
    assert "German" not in "".join(show(identify_table(voices)))
    kinds = [make_identification("a.wav", ("dog", 0.9), ("no", 0.1))]
    assert words(show(identify_table(kinds))[0])[1] == "Label"
    assert "Norwegian" not in "".join(show(identify_table(kinds)))


def test_unknown_has_all_candidates_as_runners_up() -> None:
    result = dataclasses.replace(IDENTIFICATIONS[0], label="unknown", score=None, reason="none of those named")
    shown = show(identify_table([result]), 120)[1]
    assert "unknown: none of those named" in shown
    assert words(shown)[6:12] == ["de", "0.93,", "nl", "0.04,", "da", "0.01"]  # neither a score nor a bar before them
    for width in (80, 40):
        assert {"none", "of", "those", "named"} <= set(" ".join(show(identify_table([result]), width)).split())


def test_identify_nothing() -> None:
    assert "".join(show(identify_table([]))).strip() == ""


def test_language_names() -> None:
    assert {LANGUAGES[code] for code in ("de", "pt", "ckb", "yue")} == {
        "German",
        "Portuguese",
        "Central Kurdish",
        "Cantonese",
    }
    assert {len(code) for code in LANGUAGES} == {2, 3}
    assert len({code for code in LANGUAGES if len(code) == 2}) == 183


def test_blocks_show_means_and_hide_nothing_that_was_found() -> None:
    scores = np.zeros((1000, 2), np.float32)
    scores[:500, 0] = 1
    scores[700, 1] = 0.9
    levels = block_levels(Outline(frame_times(1000, 0.01), scores, scores), 10.0, 10)
    assert levels[:, 0].tolist() == [7] * 5 + [0] * 5
    assert levels[:, 1].tolist() == [0] * 7 + [1] + [0] * 2


def test_blocks_narrower_than_a_frame() -> None:
    scores = np.array([[1], [0]], np.float32)
    assert block_levels(Outline(frame_times(2, 0.5), scores, scores), 1.0, 8)[:, 0].tolist() == [7] * 4 + [0] * 4


@pytest.mark.parametrize("duration_s", [0.03, 0.7, 3.0, 42.3, 60.0, 599.0, 3600.0, 9 * 3600.0])
@pytest.mark.parametrize("n_columns", [40, 68, 200])
def test_ticks_fit_and_do_not_touch(duration_s: float, n_columns: int) -> None:
    line = tick_line(0, duration_s, n_columns)
    assert line.startswith("0:00")
    assert len(line) <= n_columns
    assert all(re.fullmatch(r"(\d+:)?\d+:\d\d(\.\d)?", tick) for tick in line.split())
    if duration_s >= 0.7:
        assert len(line.split()) >= 2


def test_tier_lines_cover_the_recording() -> None:
    segments = make_phones(100).segments
    lines = tier_lines(segments, 10.0, 76)
    assert [line.start_s for line in lines[1:]] == [line.end_s for line in lines[:-1]]
    assert (lines[0].start_s, lines[-1].end_s) == (0, 10.0)
    for line in lines:
        assert [cell.first for cell in line.cells] == [0, *(cell.last for cell in line.cells[:-1])]
        assert line.cells[-1].last == line.n_columns <= 76


def test_tier_marks_silence_between_segments() -> None:
    (line,) = tier_lines([Segment(1.0, 2.0, "a", 1.0)], 4.0, 40)
    assert [(c.first, c.last, c.segment is None) for c in line.cells] == [
        (0, 10, True),
        (10, 20, False),
        (20, 40, True),
    ]


@pytest.mark.parametrize("width", [1, 5, 22, 200])
def test_fold_loses_nothing(width: int) -> None:
    for name in (LONG, "x" * 50, "音楽" * 20, "", "a/b"):
        lines = fold(name, width)
        assert "".join(lines).replace(" ", "") == name.replace(" ", "")
        assert all(cell_len(line) <= max(width, 2) for line in lines)


FIGURES = {
    "model": "a",
    "balanced_accuracy": 0.25,
    "sources": {
        name: {"candidate_items": 12, "candidate_accuracy": 0.5, "items": 3, "accuracy": None, "balanced_accuracy": 1.0}
        for name in ("librivox-far-field-recordings-of-a-long-name", "asterisk-prompt-it", "short")
    },
    "confusion": {f"label_{row}": {f"label_{column}": row * 10 + column for column in range(10)} for row in range(10)},
    "given": {"threshold": 0.5, "nested": {"a": {"x": 1.0}}},
}


def test_figures_of_what_has_no_name() -> None:
    stream = io.StringIO()
    row = {"items": 24}
    Console(file=stream, width=80, highlight=False).print(
        figure_table({"score": 0.5, "sources": {"": row}, "others": {"": row, "fleurs": row}})
    )
    text = stream.getvalue()
    assert "sources" not in text
    assert "none named     24" in text


def show_figures(width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(figure_table(FIGURES))
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_name_and_no_figure_is_cut(width: int) -> None:
    text = show_figures(width)
    assert "…" not in text
    assert max(map(cell_len, text.splitlines())) <= width
    joined = re.sub(r"\s", "", text)
    assert "short" in joined
    for number in range(10):
        assert f"label_{number}" in joined
    # Every row has every column, in the order of the columns, over however many blocks.
    first = [line.split()[1:] for line in text.splitlines() if line.split()[:1] == ["short"]]
    assert [cell for cells in first for cell in cells] == ["12", "0.5000", "3", "–", "1.0000"]
    rows = [line.split("label_7", 1)[1].split() for line in text.splitlines() if re.search(r"label_7 +7\d", line)]
    assert [int(cell) for row in rows for cell in row] == list(range(70, 80))


def test_long_names_are_broken_and_whole() -> None:
    lines = show_figures(80).splitlines()
    begin = next(n for n, line in enumerate(lines) if line.strip().startswith("librivox"))
    assert lines[begin].split()[0] + lines[begin + 1].split()[0] == "librivox-far-field-recordings-of-a-long-name"


def test_a_table_stands_below_its_name() -> None:
    lines = show_figures(200).splitlines()
    assert lines[lines.index("sources") + 1].startswith("  ")
    assert any(line.split()[:3] == ["given", "threshold", "0.5000"] for line in lines)


@pytest.mark.parametrize("width", [40, 50, 70, 100])
def test_several_models_fit_any_width(width: int) -> None:
    names = ("Ada Lovelace", "speaker 1")
    voices = (Segment(0.0, 3.5, "speaker 1", 0.91), Segment(3.5, 40.0, "Ada Lovelace", 0.83))
    empty = np.zeros((0, 2), np.float32)
    speakers = TagResult("interview.mp3", "speaker", 42.3, 0.24, names, voices, np.zeros(0), empty, True)
    language = dataclasses.replace(
        make_tag(), model="language", labels=("en",), segments=(Segment(0, 42.3, "en", 1.0),)
    )
    stream = io.StringIO()
    result = TieredResult("interview.mp3", 42.3, (make_tag(), language, speakers))
    Console(file=stream, width=width, highlight=False).print(tiered_table(result))
    lines = stream.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    text = "".join(stream.getvalue().split())
    assert "speaker1" in text
    assert {"0.91", "0.83", "1.00"} <= set(stream.getvalue().split())
    assert ("Model" in stream.getvalue()) == (width < 60)
    assert width < 50 or "Ada Lovelace" in stream.getvalue()


@pytest.mark.parametrize("width", [24, 33, 40, 48, 80])
def test_no_cell_is_cut(width: int) -> None:
    table = make_table(("Name", "fold"), ("Kind", "left"), ("Last added", "right"), ("Speech", "right"))
    rows = [
        ("Ada Lovelace", "gallery", "2026-11-30 12:00", "0:01:07"),
        ("Bob", "state of a run", "2026-01-02", "9.1 s"),
    ]
    for row in rows:
        table.add_row(*row)
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(table)
    assert max(map(cell_len, stream.getvalue().splitlines())) <= width
    shown = sorted("".join(stream.getvalue().split()))
    assert shown == sorted("NameKindLastaddedSpeech" + "".join("".join(row) for row in rows).replace(" ", ""))
