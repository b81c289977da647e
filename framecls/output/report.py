"""The page of a report: figures, curves, confusion, and the worst mistakes to listen to."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framecls.errors import FrameclsError
from framecls.output import page
from framecls.output.chart import Axis, Line, chart
from framecls.output.files import atomic_write
from framecls.output.images import data_uri, heat_uri, mel_levels
from framecls.output.notebook import track
from framecls.report import Figure, HeldOut, TrainingReport
from framecls.results import Segment
from framecls.text import about, clock, length

_MOST_MISTAKES = 12
_SNIPPET_S = 6.0
_AROUND_S = 1.0  # of a wrong span that is heard before and after it
_LEAST_FRAMES = 3  # a shorter run of wrong frames is where a label begins or ends
_MOST_CELLS = 40  # labels of a matrix that can be read
_MOST_RATE_HZ = 24000  # of the sound in the page
_N_BINS = 10
_N_POINTS = 100  # of a curve
_THRESHOLD = 0.5

# Moves the line over the spectrogram while the sound plays; a click there plays from that moment.
_SCRIPT = """
for (const card of document.querySelectorAll('.mistake')) {
  const audio = card.querySelector('audio'), head = card.querySelector('.head'), line = card.querySelector('.timeline');
  if (!audio) continue;
  const move = () => { head.style.display = 'block';
    head.style.left = 100 * audio.currentTime / (audio.duration || 1) + '%';
    if (!audio.paused) requestAnimationFrame(move); };
  audio.addEventListener('play', () => { for (const other of document.querySelectorAll('audio'))
    if (other !== audio) other.pause(); move(); });
  audio.addEventListener('seeked', move);
  line.addEventListener('click', event => { const box = line.getBoundingClientRect();
    audio.currentTime = (event.clientX - box.left) / box.width * (audio.duration || 0); audio.play(); });
}
"""


@dataclass(frozen=True)
class Mistake:
    """A span of a clip where what was said is not the truth."""

    clip: HeldOut
    start_s: float  # in the clip
    end_s: float
    true: str  # empty: nothing that was said
    said: str  # empty: the label was missed
    weight: float  # how bad it is


def write_report(report: TrainingReport, path: Path) -> None:
    """Write a report as a page of its own.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_write(path, binary=False) as stream:
        stream.write(report_page(report))


def report_page(report: TrainingReport) -> str:
    """Return a report as a page that needs no other file and no network."""
    title = f"{report.model}: how good it is"
    body = [page.heading(title, 1)]
    spread = f" ± {report.score.spread:.3f}" if report.score.spread else ""
    body.append(f'<p><b style="font-size:2rem">{report.score.mean:.3f}</b>{spread} {escape(report.score_name)}</p>')
    of_labels = {row.verdict for row in report.label_figures.values()}  # which stand in the table
    body += [page.paragraph(line) for line in report.verdict if line not in of_labels]
    facts = [report.way, report.split, f"learnt in {about(report.seconds)}" if report.seconds else ""]
    body += [page.paragraph(fact, "quiet") for fact in facts if fact]
    if report.label_figures:
        body += [page.heading("Label by label"), _label_table(report)]
    if report.confusion.any():
        body += [page.heading("What is taken for what"), _confusion_table(report)]
    if curves := _curves(report):
        body += [page.heading("Curves"), page.grid(curves)]
    mistakes = find_mistakes(report)
    if mistakes:
        body.append(page.heading("The worst mistakes"))
        body.append(page.paragraph("A click into a picture plays the sound from there.", "quiet"))
        body.append(page.grid(_mistake_card(report, mistake) for mistake in mistakes))
    elif report.held_out:
        body += [page.heading("The worst mistakes"), page.paragraph("There are none.")]
    return page.make_page(title, body, _SCRIPT)


def _show(figure: Figure) -> str:
    return f"{figure.mean:.3f}" + (f" ± {figure.spread:.3f}" if figure.spread else "")


def _label_table(report: TrainingReport) -> str:
    has_lengths = any(row.seconds for row in report.label_figures.values())
    has_verdicts = any(row.verdict for row in report.label_figures.values())
    titles = ["Label", *["What it is worth"] * has_verdicts, "Clips", "Origins", *["Length"] * has_lengths]
    titles += ["Precision", "Recall", "F1"]
    rows = []
    for label, row in report.label_figures.items():
        known = [f"{row.clips:,}", f"{row.groups:,}", *[length(row.seconds)] * has_lengths]
        verdict = [row.verdict.removeprefix(f"{label}: ")] * has_verdicts
        rows.append([label, *verdict, *known, *map(_show, (row.precision, row.recall, row.f1))])
    note = (
        "Precision: how much of what is said to be it is. Recall: how much of it is found. F1: both in one; 1 is best. "
        "Origins: the speakers or sources, or where neither is named the recordings, that it comes from."
    )
    return page.paragraph(note, "quiet") + page.table(titles, rows, prose=has_verdicts)


def _confusion_table(report: TrainingReport) -> str:
    names = [*report.labels, "none of these"][: len(report.confusion)]
    used = np.flatnonzero(report.confusion.sum(axis=0) + report.confusion.sum(axis=1))
    if len(used) > _MOST_CELLS:  # those that are confused most
        wrong = report.confusion - np.diag(np.diag(report.confusion))
        used = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:_MOST_CELLS])
    share = report.confusion / np.maximum(report.confusion.sum(axis=1, keepdims=True), 1)
    head = "".join(f"<th>{escape(names[i])}</th>" for i in used)
    rows = []
    for true in used:
        cells = "".join(
            f'<td style="background:rgba(var(--cell),{0.85 * share[true, said]:.2f})" '
            f'title="{escape(names[true])} taken for {escape(names[said])}: {share[true, said]:.0%}">'
            f"{int(report.confusion[true, said]) or ''}</td>"
            for said in used
        )
        rows.append(f"<tr><td>{escape(names[true])}</td>{cells}</tr>")
    what = "clips" if report.task == "pooled" else "frames"
    note = page.paragraph(f"A row is what it is, a column what was said of it, in {what}.", "quiet")
    table = f'<table class="matrix"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'{note}<div class="scroll">{table}</div>'


def _curves(report: TrainingReport) -> list[str]:
    """Return the charts that there are numbers for."""
    charts = []
    folds = sorted({epoch.fold for epoch in report.epochs})
    for title, key in (("Loss in training", "loss"), (report.epoch_score_name or report.score_name, "score")):
        lines = []
        for fold in folds:
            points = [
                (e.epoch, getattr(e, key)) for e in report.epochs if e.fold == fold and getattr(e, key) is not None
            ]
            name = "" if not report.folds else f"fold {fold}" if fold else "final model"
            lines += [Line(points, name, fold, marked=len(points) == 1)] if points else []
        if lines:
            top = 1.0 if key == "score" else None
            across = Axis("epoch" if report.folds else "step", whole=True)
            charts.append(chart(title, lines, across, Axis("", 0.0, top)))
    if len(report.curve) > 1:
        points = [(point.clips, point.score.mean) for point in report.curve]
        wide = [[(p.clips, p.score.mean + sign * p.score.spread) for p in report.curve] for sign in (-1, 1)]
        lines = [Line(points, marked=True), *(Line(side, dotted=True) for side in wide)]
        across = Axis("clips" if report.task == "pooled" else "recordings", 0.0, whole=True)
        charts.append(chart("Score by how much was learnt from", lines, across, Axis("", 0.0, 1.0)))
    scores, truth = _gather(report)
    if len(scores):
        charts.append(_precision_recall(report, scores, truth))
        charts.append(_calibration(report, scores, truth))
    return charts


def _gather(report: TrainingReport) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return (item, label) scores and truth of all that was held out: of clips, or of frames that count."""
    scores, truth = [], []
    for clip in report.held_out:
        holds = _truth_of(report, clip)
        rows = np.atleast_2d(clip.scores)
        counted = np.ones(len(rows), bool) if report.overlapping else holds.any(axis=1)
        scores.append(rows[counted])
        truth.append(holds[counted])
    if not scores:
        return np.zeros((0, len(report.labels)), np.float32), np.zeros((0, len(report.labels)), bool)
    return np.concatenate(scores), np.concatenate(truth)


def _truth_of(report: TrainingReport, clip: HeldOut) -> NDArray[np.bool_]:
    """Return (frame, label) what holds, of a pooled task for one frame, which is all of the clip."""
    if report.task == "pooled":
        return np.array([[label == clip.label for label in report.labels]])
    times = (np.arange(len(clip.scores)) + 0.5) * report.hop_s
    holds = np.zeros((len(times), len(report.labels)), bool)
    for label, start_s, end_s in clip.spans:
        if label in report.labels:
            holds[(times >= start_s) & (times < end_s), report.labels.index(label)] = True
    return holds


def _precision_recall(report: TrainingReport, scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> str:
    from sklearn.metrics import precision_recall_curve

    lines = []
    for index, label in enumerate(report.labels):
        if not truth[:, index].any():
            continue
        precision, recall, _ = precision_recall_curve(truth[:, index], scores[:, index])
        kept = np.unique(np.linspace(0, len(recall) - 1, _N_POINTS).astype(int))
        lines.append(Line(list(zip(recall[kept].tolist(), precision[kept].tolist(), strict=True)), label, index))
    return chart("Precision by recall", lines, Axis("recall", 0.0, 1.0), Axis("precision", 0.0, 1.0))


def _calibration(report: TrainingReport, scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> str:
    if report.overlapping:
        said, right = scores.ravel(), truth.ravel()
    else:
        said, right = scores.max(axis=1), truth[np.arange(len(truth)), scores.argmax(axis=1)]
    bins = np.minimum((said * _N_BINS).astype(int), _N_BINS - 1)
    points = [(float(said[bins == b].mean()), float(right[bins == b].mean())) for b in np.unique(bins)]
    lines = [Line([(0.0, 0.0), (1.0, 1.0)], dotted=True, colour=5), Line(points, marked=True)]
    title = "How often it is right, by how sure it is (dashed: as often as that)"
    return chart(title, lines, Axis("score", 0.0, 1.0), Axis("right", 0.0, 1.0))


def find_mistakes(report: TrainingReport) -> list[Mistake]:
    """Return the worst mistakes, the worst first, one a clip as long as there are clips."""
    found = [mistake for clip in report.held_out for mistake in _mistakes_in(report, clip)]
    found.sort(key=lambda mistake: -mistake.weight)
    first: dict[tuple[str, float], Mistake] = {}
    for mistake in found:
        first.setdefault((mistake.clip.file, mistake.clip.start_s), mistake)
    best = list(first.values())
    return [*best, *(mistake for mistake in found if mistake not in best)][:_MOST_MISTAKES]


def _mistakes_in(report: TrainingReport, clip: HeldOut) -> list[Mistake]:
    scores, holds = np.atleast_2d(clip.scores), _truth_of(report, clip)
    if not report.overlapping:
        said = scores.argmax(axis=1)
        index = np.arange(len(scores))
        wrong = holds.any(axis=1) & ~holds[index, said]
        true = holds.argmax(axis=1)
        weights = (scores[index, said] - scores[index, true]) * wrong
        return [
            _mistake(report, clip, run, report.labels[true[run[0]]], report.labels[said[run[0]]], weights)
            for run in _runs(np.where(wrong, said + len(report.labels) * true, -1), report)
        ]
    found = []
    for column, label in enumerate(report.labels):
        missed = holds[:, column] & (scores[:, column] < _threshold(report, label))
        false = ~holds[:, column] & (scores[:, column] >= _threshold(report, label))
        weights = np.abs(holds[:, column] - scores[:, column])
        for run in _runs(np.where(missed, 0, np.where(false, 1, -1)), report):
            names = (label, "") if missed[run[0]] else ("", label)
            found.append(_mistake(report, clip, run, *names, weights))
    return found


def _threshold(report: TrainingReport, label: str) -> float:
    row = report.label_figures.get(label)
    return row.threshold if row is not None and row.threshold is not None else _THRESHOLD


def _runs(kinds: NDArray[np.int64], report: TrainingReport) -> list[tuple[int, int]]:
    """Return [first, last) of each run of one kind that is not negative, and that is not short."""
    edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
    least = 1 if report.task == "pooled" else _LEAST_FRAMES
    return [(first, last) for first, last in pairwise(edges) if last - first >= least and kinds[first] >= 0]


def _mistake(
    report: TrainingReport, clip: HeldOut, run: tuple[int, int], true: str, said: str, weights: NDArray[np.floating]
) -> Mistake:
    first, last = run
    start_s, end_s = (0.0, clip.duration_s) if report.task == "pooled" else (first * report.hop_s, last * report.hop_s)
    return Mistake(clip, start_s, min(end_s, clip.duration_s or end_s), true, said, float(weights[first:last].sum()))


def _mistake_card(report: TrainingReport, mistake: Mistake) -> str:
    """Return a card with the sound of a mistake, its spectrogram, and the true and the predicted tracks."""
    clip = mistake.clip
    end_s = clip.duration_s or mistake.end_s or _SNIPPET_S
    first_s = max(0.0, mistake.start_s - _AROUND_S) if report.task == "frame" else 0.0
    last_s = min(end_s, first_s + _SNIPPET_S)
    if report.task == "frame":
        last_s = min(last_s, mistake.end_s + _AROUND_S)
    what = f"{mistake.true}, taken for {mistake.said}"
    if not (mistake.true and mistake.said):
        what = f"{mistake.true}, missed" if mistake.true else f"{mistake.said}, where there is none"
    title = f"<h3>{escape(what)}</h3>"
    where = f"{Path(clip.file).name} {clock(clip.start_s + mistake.start_s)}"
    title += f'<p class="quiet" title="{escape(clip.file)}">{escape(where)}</p>'
    sound = read_snippet(clip.file, clip.start_s + first_s, clip.start_s + last_s)
    true, said = _tracks(report, clip, end_s)
    tracks = []
    for name, spans in (("true", true), ("said" + ", frame by frame" * (report.task == "frame"), said)):
        tracks.append(f'<p class="quiet" style="margin:.3rem 0 0">{name}</p>')
        for level in _levels([span for span in spans if span.start < last_s and span.end > first_s]):
            tracks.append(track(level, first_s, last_s, report.labels))
    if sound is None:
        return f'<div class="card mistake">{title}{"".join(tracks)}<p class="quiet">The sound cannot be read.</p></div>'
    samples, rate = sound
    picture = f'<img class="sound" alt="spectrogram" src="{heat_uri(mel_levels(samples, rate, 400))}">'
    timeline = f'<div class="timeline">{picture}{"".join(tracks)}<div class="head"></div></div>'
    player = f'<audio controls preload="metadata" src="{_flac_uri(samples, rate)}"></audio>'
    return f'<div class="card mistake">{title}{timeline}{player}</div>'


def _tracks(report: TrainingReport, clip: HeldOut, end_s: float) -> tuple[list[Segment], list[Segment]]:
    """Return the true and the predicted segments of a clip."""
    if report.task == "pooled":
        best = int(clip.scores.argmax())
        said = Segment(0.0, end_s, report.labels[best], float(clip.scores[best]))
        return [Segment(0.0, end_s, clip.label, 1.0)], [said]
    true = [Segment(start_s, stop_s, label, 1.0) for label, start_s, stop_s in clip.spans]
    if report.overlapping:
        limits = np.array([_threshold(report, label) for label in report.labels])
        holds = clip.scores >= limits
    else:
        holds = clip.scores.argmax(axis=1)[:, None] == np.arange(len(report.labels))
    predicted = []
    for column, label in enumerate(report.labels):
        edges = np.flatnonzero(np.diff(holds[:, column].astype(int), prepend=0, append=0)).reshape(-1, 2)
        for first, last in edges.tolist():
            score = float(clip.scores[first:last, column].mean())
            predicted.append(Segment(first * report.hop_s, last * report.hop_s, label, score))
    return true, predicted


def _levels(spans: Sequence[Segment]) -> list[list[Segment]]:
    """Spread segments over as few tracks as keep them from covering each other, at least one."""
    levels: list[list[Segment]] = [[]]
    for span in sorted(spans, key=lambda span: span.start):
        free = next((level for level in levels if not level or level[-1].end <= span.start + 1e-6), None)
        if free is None:
            levels.append(free := [])
        free.append(span)
    return levels


def read_snippet(file: str, start_s: float, end_s: float) -> tuple[NDArray[np.float32], int] | None:
    """Return (sample,) a part of a recording and its rate in Hz, or None where it cannot be read."""
    from framecls.audio import open_audio

    with contextlib.suppress(FrameclsError, OSError), open_audio(file, _MOST_RATE_HZ) as stream:
        rate = min(stream.info.sample_rate, _MOST_RATE_HZ)
    with contextlib.suppress(FrameclsError, OSError, UnboundLocalError), open_audio(file, rate) as stream:
        first, last = round(start_s * rate), round(end_s * rate)
        kept, done = [], 0
        for block in stream.blocks():
            kept.append(block[max(0, first - done) : max(0, last - done)])
            done += len(block)
            if done >= last:
                break
        samples = np.concatenate(kept)
        return (samples, rate) if len(samples) else None
    return None


def _flac_uri(samples: NDArray[np.float32], rate: int) -> str:
    """Return sound in a URI, as FLAC, which every browser plays."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="FLAC", subtype="PCM_16")
    return data_uri("audio/flac", stream.getvalue())
