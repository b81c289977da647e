"""Check a manifest before training: decode every recording, count labels, list problems and warnings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from framecls.checkpoints.frontends import look_up
from framecls.errors import ManifestError
from framecls.training.data.band import describe_lost
from framecls.training.data.clips import check_kind, late_spans, measure_lengths
from framecls.training.data.manifest import Recording, Span, find_labels, find_unknown_labels, load_manifest
from framecls.training.data.splits import Parts
from framecls.training.examples.voices import find_dev_fault
from framecls.training.head.plan import plan_folds
from framecls.training.job import Job, choose_features, find_label_fault, reading, split
from framecls.training.recipe import Recipe

_MAX_NAMED = 10  # labels in one message
_SLACK_S = 0.02  # rows that overlap by less do so by rounding
UNLABELLED_SHARE = 0.02  # less than this is the edges of recordings


@dataclass(frozen=True)
class Survey:
    """What a manifest holds."""

    figures: dict[str, Any]  # plain numbers and words, for tables and JSON
    problems: list[str]  # rows that cannot be used, a line each


def survey(job: Job, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Read every row and every recording of a job's manifest, and split them as training would.

    Args:
        job: manifest and recipe.
        progress: called with the number of files read, and of all.

    Raises:
        ManifestError: the manifest cannot be read at all.
    """
    manifest = load_manifest(job.manifest, reading(job))
    recordings, problems = manifest.recordings, list(manifest.problems)
    check_kind(recordings)
    # Only whether there are arrays matters here; decoding checks the length of their vectors.
    features = choose_features(job.recipe, int(any(recording.is_array for recording in recordings)))
    lengths_s, unreadable = measure_lengths(recordings, features.sample_rate, progress)
    problems += unreadable
    whole = [recording for recording in recordings if recording.audio in lengths_s]
    problems += late_spans(whole, lengths_s)
    if job.recipe.labels:
        problems += [
            f"{line}: none of {', '.join(job.recipe.labels)}" for line in find_unknown_labels(whole, job.recipe.labels)
        ]
    if not (problems or manifest.recordings):
        manifest.require()
    if not whole:
        raise ManifestError(f"{job.manifest}: no row of it can be used", problems)
    parts = split(job, whole)
    labels = job.recipe.answers(find_labels(whole))
    length_s = partial(_length_s, lengths_s=lengths_s)
    how, faults = parts.how, [parts.find_fault(), find_label_fault(job.recipe, labels)]
    if job.recipe.head.enabled:
        how, faults[0] = _plan(job, whole)
    elif job.recipe.mix.enabled:
        lost = [label for label in labels if label not in find_labels(parts.train)]
        faults += [f"{label}: no clip of it is left to mix: give it a speaker more, or a split" for label in lost]
    if job.recipe.embedding and parts.dev:
        faults.append(find_dev_fault(parts.dev, length_s, job.recipe.voices.dev_length_s))
    problems += [fault for fault in faults if fault]
    notes = list(manifest.notes)
    if not job.recipe.head.enabled:
        notes += find_warnings(job.recipe, labels, parts.train, parts.dev, length_s)
    if lost_band := describe_lost(whole, features if job.recipe.features.kind != "pretrained" else look_up(features)):
        notes.append(lost_band)
    return Survey(
        {
            "read as": manifest.kind,
            "rows": manifest.n_rows,
            "files": len({recording.audio for recording in whole}),
            "seconds": round(sum(lengths_s.values()), 1),
            "speakers": _describe_speakers(whole, parts),
            "split": how,
            "splits": {name: _count(side, lengths_s) for name, side in (("train", parts.train), ("dev", parts.dev))},
            "labels": _by_label(parts, lengths_s),
            **({"sources": _by_source(parts, lengths_s)} if any(recording.source for recording in whole) else {}),
            **({"notes": notes} if notes else {}),
        },
        problems,
    )


def _plan(job: Job, recordings: list[Recording]) -> tuple[str, str | None]:
    """Return how clips are held out from a head, in words, and why they cannot be, if so."""
    try:
        return plan_folds(job, recordings).how, None
    except ManifestError as error:
        return "in no way", str(error)


def _describe_speakers(recordings: Iterable[Recording], parts: Parts) -> str:
    named = {name for recording in recordings if recording.is_named for name in (recording.speaker, *recording.others)}
    if not named:
        return "none are named"
    both = f", {len(parts.shared)} of them on both sides of the split" if parts.shared else ""
    return f"{len(named)}{both}"


def _length_s(recording: Recording, lengths_s: Mapping[Path, float]) -> float:
    if recording.section is None:
        return lengths_s[recording.audio]
    length_s, end_s = lengths_s[recording.audio], recording.section.end_s
    return max(0.0, (length_s if end_s is None else min(end_s, length_s)) - recording.section.start_s)


def _count(recordings: Iterable[Recording], lengths_s: Mapping[Path, float]) -> dict[str, Any]:
    kept = list(recordings)
    seconds = sum(_length_s(recording, lengths_s) for recording in kept)
    return {"recordings": len(kept), "seconds": round(seconds, 1)}


def _by_label(parts: Parts, lengths_s: Mapping[Path, float]) -> dict[str, dict[str, Any]]:
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    for side, recordings in (("train", parts.train), ("dev", parts.dev)):
        for recording in recordings:
            length_s = _length_s(recording, lengths_s)
            for span in recording.spans:
                end_s = length_s if span.end_s is None else min(span.end_s, length_s)
                counts[side, span.label] += 1
                seconds[side, span.label] += max(0.0, end_s - span.start_s)
    return {
        label: {
            "train rows": counts["train", label],
            "train seconds": round(seconds["train", label], 1),
            "dev rows": counts["dev", label],
            "dev seconds": round(seconds["dev", label], 1),
        }
        for label in sorted({label for _, label in counts})
    }


def _by_source(parts: Parts, lengths_s: Mapping[Path, float]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for side, recordings in (("train", parts.train), ("dev", parts.dev)):
        for source in sorted({recording.source for recording in recordings}):
            counted = _count((r for r in recordings if r.source == source), lengths_s)
            rows.setdefault(source, {}).update({f"{side} {key}": value for key, value in counted.items()})
    empty = {f"{side} {key}": 0 for side in ("train", "dev") for key in ("recordings", "seconds")}
    return {source or "(none)": empty | row for source, row in sorted(rows.items())}


def find_warnings(
    recipe: Recipe,
    labels: Sequence[str],
    train: Sequence[Recording],
    dev: Sequence[Recording],
    length_s: Callable[[Recording], float],
) -> list[str]:
    """Return a sentence for each property of the data that may be a mistake.

    Args:
        recipe: of the run.
        labels: of the model; none for a model of voices.
        train: recordings of the train split.
        dev: recordings of the dev split.
        length_s: returns the length of a recording in seconds.
    """
    warnings = _find_missing_labels(labels, train, dev)
    if recipe.task == "frame" and not recipe.overlapping and not recipe.mix.enabled:
        warnings += _find_overlapping_rows([*train, *dev]) + _find_unlabelled_time([*train, *dev], length_s)
    return warnings


def _find_missing_labels(labels: Sequence[str], train: Sequence[Recording], dev: Sequence[Recording]) -> list[str]:
    warnings = []
    trained, measured = set(find_labels(train)), set(find_labels(dev))
    if missing := [label for label in labels if label not in trained]:
        which, it = _in_words(missing)
        warnings.append(f"nothing to train on has {which}: the model will not know {it}")
    if missing := [label for label in labels if label in trained and label not in measured]:
        which, it = _in_words(missing)
        warnings.append(f"nothing to measure on has {which}: the dev figures say nothing of {it}")
    return warnings


def _find_overlapping_rows(recordings: Sequence[Recording]) -> list[str]:
    found = [(recording, span) for recording in recordings for span in find_overlaps(recording.spans)]
    if not found:
        return []
    recording, span = found[0]
    rows = "1 row overlaps one" if len(found) == 1 else f"{len(found)} rows overlap others"
    return [
        f"{rows} of another label ({span.where}: {recording.audio.name}, {span.label}): "
        "only one of them is learnt there; --set overlapping=true learns both"
    ]


def find_overlaps(spans: Sequence[Span]) -> list[Span]:
    """Return the spans that begin before the end of one of another label."""
    overlaps: list[Span] = []
    ends_s: dict[str, float] = {}
    for span in sorted(spans, key=lambda span: span.start_s):
        if any(end_s > span.start_s + _SLACK_S for label, end_s in ends_s.items() if label != span.label):
            overlaps.append(span)
        end_s = float("inf") if span.end_s is None else span.end_s
        ends_s[span.label] = max(end_s, ends_s.get(span.label, 0.0))
    return overlaps


def _find_unlabelled_time(recordings: Sequence[Recording], length_s: Callable[[Recording], float]) -> list[str]:
    whole_s = sum(map(length_s, recordings))
    unlabelled_s = sum(length_s(recording) - labelled_s(recording, length_s(recording)) for recording in recordings)
    if unlabelled_s <= UNLABELLED_SHARE * whole_s:
        return []
    return [
        f"{100 * unlabelled_s / whole_s:.0f} % of the sound has no label: nothing is learnt there, and the model will "
        "give the like of it one of its labels; give it one of its own if that is no answer"
    ]


def labelled_s(recording: Recording, length_s: float) -> float:
    """Return how many seconds of a recording have any label."""
    labelled_s = at_s = 0.0
    for span in sorted(recording.spans, key=lambda span: span.start_s):
        end_s = length_s if span.end_s is None else min(span.end_s, length_s)
        labelled_s += max(0.0, end_s - max(at_s, span.start_s))
        at_s = max(at_s, end_s)
    return labelled_s


def _in_words(labels: Sequence[str]) -> tuple[str, str]:
    """Return labels in words, and the pronoun for them."""
    if len(labels) == 1:
        return f"the label {labels[0]}", "it"
    left = len(labels) - _MAX_NAMED
    return f"any of the labels {', '.join(labels[:_MAX_NAMED])}" + (f" and {left} more" if left > 0 else ""), "them"
