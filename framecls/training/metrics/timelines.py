"""Measure who speaks, or which language is spoken, when: error rates by pyannote.metrics (the extra `diarization`).

A diarization error rate is the time that is missed, found where nobody speaks, or given to somebody else, over the time
of speech, where two who speak at once count twice (Bredin 2017, "pyannote.metrics: a toolkit for reproducible
evaluation, diagnostic, and error analysis of speaker diarization systems"). Speakers that are found are matched with
those of the reference as well as can be; languages have their names.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from framecls import packages
from framecls.config import UNKNOWN
from framecls.inference.batching import Request
from framecls.inference.engine import Engine
from framecls.inference.identify import choose_candidates
from framecls.inference.timeline import TimelineEngine, tag_timeline
from framecls.results import TagResult
from framecls.speakers.diarization import Count, tag_speakers
from framecls.speakers.listening import ListeningEngine
from framecls.speakers.recognition import Enrolled
from framecls.training.data.manifest import Recording
from framecls.training.metrics.report import DevReport

_PURPOSE = "--timeline"
_DISTRIBUTION = "pyannote.metrics"


@dataclass(frozen=True)
class TimelineRules:
    """What counts."""

    collar_s: float = 0.0  # on either side of each start and end in the reference nothing counts
    skip_overlap: bool = False  # nor where more than one speaks


def measure_timelines(
    engine: Engine,
    recordings: Sequence[Recording],
    rules: TimelineRules,
    progress: Callable[[int, int], None] | None = None,
) -> DevReport:
    """Tag recordings, and compare with their labels.

    Args:
        engine: a pooled model, of languages or of voices.
        recordings: with the times of their labels.
        rules: what counts.
        progress: called with the number of recordings done, and of all.

    Raises:
        PackageError: pyannote.metrics is not installed.
    """
    running, tag = _make_tagger(engine)
    metrics = _Metrics(engine, rules)
    with closing(running.run(recording.audio for recording in recordings)) as requests:
        for number, (recording, request) in enumerate(zip(recordings, requests, strict=True), start=1):
            metrics.add(recording, tag(request))
            if progress is not None:
                progress(number, len(recordings))
    figures = {"recordings": len(recordings), **metrics.figures()}
    return DevReport(1.0 - figures["error_rate"], engine.config.decision, figures)


def _make_tagger(engine: Engine) -> tuple[Engine, Callable[[Request], TagResult]]:
    """Return what runs over recordings, and what makes a timeline of its outputs."""
    if engine.config.embedding:
        listening = ListeningEngine(engine, engine.config)
        nobody = Enrolled([])
        return listening, partial(tag_speakers, engine=listening, enrolled=nobody, count=Count(), keep_scores=False)
    timeline = TimelineEngine(engine, engine.config)
    choice = choose_candidates(engine.config, None)
    return timeline, partial(tag_timeline, engine=timeline, choice=choice, keep_scores=False)


class _Metrics:
    """The error rates over several recordings."""

    def __init__(self, engine: Engine, rules: TimelineRules) -> None:
        diarization: Any = packages.load(_PURPOSE, "pyannote.metrics.diarization", _DISTRIBUTION)
        identification: Any = packages.load(_PURPOSE, "pyannote.metrics.identification", _DISTRIBUTION)
        self._core: Any = packages.load(_PURPOSE, "pyannote.core", _DISTRIBUTION)
        self._is_named = not engine.config.embedding
        # Its collar is as long as both sides together.
        options = {"collar": 2 * rules.collar_s, "skip_overlap": rules.skip_overlap}
        if self._is_named:
            self._rates = [identification.IdentificationErrorRate(**options)]
        else:
            self._rates = [diarization.DiarizationErrorRate(**options), diarization.JaccardErrorRate(**options)]

    def add(self, recording: Recording, result: TagResult) -> None:
        """Compare a result with its reference."""
        end_s = result.duration
        truth = [(span.start_s, min(span.end_s or end_s, end_s), span.label) for span in recording.spans]
        found = [(segment.start, segment.end, segment.label) for segment in result.segments]
        if self._is_named:  # where it does not know, it names nothing
            found = [row for row in found if row[2] != UNKNOWN]
        whole = self._core.Timeline([self._core.Segment(0.0, end_s)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for rate in self._rates:
                rate(self._annotate(truth), self._annotate(found), uem=whole)

    def _annotate(self, rows: Iterable[tuple[float, float, str]]) -> Any:
        annotation = self._core.Annotation()
        for number, (start, end, label) in enumerate(rows):
            if end > start:
                annotation[self._core.Segment(start, end), number] = label
        return annotation

    def figures(self) -> dict[str, Any]:
        """Return the error rates, and the parts of the first as shares of the time of the reference."""
        parts = self._rates[0][:]
        total_s = max(float(parts["total"]), 1e-9)
        figures: dict[str, Any] = {
            "seconds": round(total_s, 2),
            "error_rate": float(abs(self._rates[0])),
            "missed": parts["missed detection"] / total_s,
            "false_alarm": parts["false alarm"] / total_s,
            "confusion": parts["confusion"] / total_s,
            "right": parts["correct"] / total_s,
        }
        if not self._is_named:
            figures["jaccard_error_rate"] = float(abs(self._rates[1]))
        return figures
