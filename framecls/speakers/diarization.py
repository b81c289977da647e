"""Speaker diarization: who speaks when, with nobody enrolled or everybody.

Embeddings of short windows (`listening`) are clustered by agglomerative clustering with average linkage. A hidden
Markov model of the speakers then places the changes: each step is scored by the windows around it, so that a change is
found finer than a window is long.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framecls.config import UNKNOWN, DecisionConfig, DiarizationConfig, ModelConfig
from framecls.errors import ConfigError
from framecls.inference.batching import Request
from framecls.inference.identify import find_rejection
from framecls.inference.segments import OutlineMaker, SegmentRules, clean_runs, find_runs, order_segments
from framecls.inference.timeline import smooth
from framecls.inference.windows import frame_times
from framecls.results import Candidate, Segment, TagResult
from framecls.speakers.listening import Heard, ListeningEngine, collect
from framecls.speakers.recognition import Enrolled

Vectors = NDArray[np.float32]
NOBODY, SOMEBODY = -1, -2  # in place of a speaker: no speech, and speech of nobody knows whom
# Units that are clustered at once: time and memory grow with the square.
_MOST_AT_ONCE = 2000
# Consecutive windows that are one unit where there are more.
_MOST_JOINED = 2
# A window with a smaller share of speech is assigned to a speaker, but makes none.
_CLEAR_SHARE = 0.6
# Nor does one in which several speak in more than this share.
_MOST_OVERLAP = 0.5
# Who speaks so near before or after an overlap is taken for the other voice in it, unless one fits so much better.
_NEAR_S, _NEAR_COSINE = 2.0, 0.3
_N_PASSES = 3
_LEAST_PEAK = 0.6  # probability that a run of speech reaches somewhere: music seems a little like speech at times
_LEAST_RUN_S = 0.2  # of speech, of several who speak, and of one who does


@dataclass(frozen=True)
class Count:
    """How many speakers there may be."""

    least: int = 1
    most: int | None = None

    @classmethod
    def of(cls, speakers: int | tuple[int, int | None] | None) -> Count:
        """Return what a number, or the least and the most, or None stand for."""
        if speakers is None:
            return cls()
        return cls(*(speakers if isinstance(speakers, tuple) else (speakers, speakers)))

    def __post_init__(self) -> None:
        for number in (self.least, self.most):
            if number is not None and number < 1:
                raise ConfigError(f"{number} speakers: at least 1")
        if self.most is not None and self.least > self.most:
            raise ConfigError(f"at least {self.least} and at most {self.most} speakers: the first is the greater")


@dataclass(frozen=True, eq=False)
class Turns:
    """Who speaks when."""

    centroids: Vectors  # (speaker, number) of unit length
    speech: NDArray[np.bool_]  # (frame,)
    frame_s: float  # seconds of a frame
    hop_s: float  # seconds of a step, some frames
    scores: NDArray[np.float32]  # (step, speaker) probabilities that it is they who speak, if anybody does
    best: NDArray[np.int64]  # (frame,) who speaks; NOBODY, or SOMEBODY
    second: NDArray[np.int64]  # (frame,) who speaks too; NOBODY
    overlap: NDArray[np.float32]  # (frame,) probability that several speak


def find_turns(heard: Heard, settings: DiarizationConfig, count: Count) -> Turns:
    """Find who speaks in a recording, and when.

    Args:
        heard: its windows, and where there is speech.
        settings: of the model.
        count: how many speakers there may be; fewer are found where there are not as many.
    """
    speech = find_speech(heard, settings)
    n_per_step = max(1, round(settings.hop_s / heard.hop_s))
    hop_s, n_steps = n_per_step * heard.hop_s, -(-len(speech) // n_per_step)
    if not len(heard.vectors):
        none = np.where(speech, SOMEBODY, NOBODY).astype(np.int64)
        alone = np.full(len(speech), NOBODY, np.int64)
        return Turns(
            heard.vectors, speech, heard.hop_s, hop_s, np.zeros((n_steps, 0), np.float32), none, alone, heard.overlap
        )
    overlap = _find_runs(heard.overlap >= settings.overlap, 0.0, heard.hop_s) & speech
    shares = _share_of(speech, heard)
    clear = np.flatnonzero((shares >= _CLEAR_SHARE) & (_share_of(overlap, heard) < _MOST_OVERLAP))
    clear = clear if len(clear) else np.arange(len(heard.vectors))
    groups = cluster(heard.vectors[clear], settings, count)
    centroids = _means(heard.vectors[clear], groups, settings.least_speaker_s / settings.step_s)
    spoken = np.flatnonzero(np.pad(speech, (0, n_steps * n_per_step - len(speech))).reshape(n_steps, -1).any(axis=1))
    starts, width = heard.starts / n_per_step, heard.width / n_per_step
    scores = np.zeros((n_steps, len(centroids)), np.float32)
    for _ in range(_N_PASSES):
        cosines = average_around(heard.vectors @ centroids.T, shares, starts, width, n_steps)
        evidence = settings.sharpness * hop_s * cosines[spoken].astype(np.float64)
        scores[spoken] = smooth(evidence, min(0.5, settings.changes_per_s * hop_s))
        best = np.full(n_steps, NOBODY, np.int64)
        best[spoken] = scores[spoken].argmax(axis=1)
        centroids = _recompute(
            heard.vectors, shares, best[(starts + width / 2).astype(int).clip(0, n_steps - 1)], centroids
        )
    best[spoken[cosines[spoken].max(axis=1) < settings.unknown]] = SOMEBODY
    second = _find_second(cosines, best, round(_NEAR_S / hop_s))
    best, second = (who.repeat(n_per_step)[: len(speech)] for who in (best, second))
    best = join_short(np.where(speech, best, NOBODY), speech, round(_LEAST_RUN_S / heard.hop_s))
    second = np.where(overlap & (second != best) & (best >= 0), second, NOBODY)
    return Turns(centroids, speech, heard.hop_s, hop_s, scores, best, second, heard.overlap)


def find_speech(heard: Heard, settings: DiarizationConfig) -> NDArray[np.bool_]:
    """Return (frame,) where somebody speaks."""
    likely = (heard.speech >= settings.speech) | (heard.overlap >= settings.overlap)
    speech = _find_runs(likely, settings.pause_s, heard.hop_s)
    surest = np.maximum(heard.speech, heard.overlap)
    for first, last in find_runs(speech):
        speech[first:last] = surest[first:last].max() >= _LEAST_PEAK
    return speech


def _find_runs(likely: NDArray[np.bool_], pause_s: float, hop_s: float) -> NDArray[np.bool_]:
    """Return a (frame,) mask with short pauses closed, and without very short runs."""
    mask = np.zeros(len(likely), bool)
    for first, last in clean_runs(find_runs(likely), round(_LEAST_RUN_S / hop_s), round(pause_s / hop_s)):
        mask[first:last] = True
    return mask


def join_short(best: NDArray[np.int64], speech: NDArray[np.bool_], n_least: int) -> NDArray[np.int64]:
    """Give turns of less than `n_least` frames to the longer of those that they touch; a pause ends a turn.

    Args:
        best: (frame,) who speaks.
        speech: (frame,) whether anybody does.
    """
    joined = best.copy()
    for first, last in find_runs(speech):
        turns = joined[first:last]
        while len(cuts := [0, *(np.flatnonzero(np.diff(turns)) + 1).tolist(), len(turns)]) > 2:
            lengths = np.diff(cuts)
            short = int(lengths.argmin())
            if lengths[short] >= n_least:
                break
            beside = [turn for turn in (short - 1, short + 1) if 0 <= turn < len(lengths)]
            longer = max(beside, key=lambda turn: int(lengths[turn]))
            turns[cuts[short] : cuts[short + 1]] = turns[cuts[longer]]
    return joined


def _share_of(mask: NDArray[np.bool_], heard: Heard) -> NDArray[np.float32]:
    """Return (window,) in which share of each a (frame,) mask holds, a little at least."""
    totals = np.concatenate([[0], np.cumsum(mask)])
    ends = np.minimum(heard.starts + heard.width, len(mask))
    shares = (totals[ends] - totals[np.minimum(heard.starts, ends)]) / heard.width
    return np.asarray(np.maximum(shares, 1e-3), np.float32)


def _find_second(cosines: Vectors, best: NDArray[np.int64], n_near: int) -> NDArray[np.int64]:
    """Return (step,) who speaks if somebody else does, too; NOBODY where it is not known who speaks at all.

    Most overlaps are changes of speaker, so those are preferred who speak in some step of the `n_near` before or after.
    """
    from scipy.ndimage import maximum_filter1d

    n_speakers = cosines.shape[1]
    if n_speakers < 2:
        return np.full(len(best), NOBODY, np.int64)
    is_near = maximum_filter1d(best[:, None] == np.arange(n_speakers), 2 * n_near + 1, axis=0)
    others = cosines + np.float32(_NEAR_COSINE) * is_near
    others[np.arange(len(best)), best.clip(0)] = -np.inf
    return np.where(best >= 0, others.argmax(axis=1), NOBODY)


def cluster(vectors: Vectors, settings: DiarizationConfig, count: Count) -> NDArray[np.int64]:
    """Return (window,) which cluster each window belongs to.

    Args:
        vectors: (window, number) in order of time.
        settings: from which cosine on two clusters are one.
        count: how many of those that last `least_speaker_s` there may be.
    """
    units = np.arange(len(vectors)) // (1 if len(vectors) <= _MOST_AT_ONCE else _MOST_JOINED)
    means, weights = _means(vectors, units), np.bincount(units)
    labels = np.zeros(len(means), np.int64)
    n_found = 0
    for at in range(0, len(means), _MOST_AT_ONCE):
        part = slice(at, at + _MOST_AT_ONCE)
        labels[part] = n_found + _cut(means[part], weights[part], settings, count)
        n_found = int(labels[part].max()) + 1
    if len(means) > _MOST_AT_ONCE:
        labels = _cut(_means(means, labels), np.bincount(labels, weights), settings, count)[labels]
    return labels[units]


def _cut(
    vectors: Vectors, weights: NDArray[np.floating] | NDArray[np.integer], settings: DiarizationConfig, count: Count
) -> NDArray[np.int64]:
    """Cluster (unit, number) vectors that stand for so many windows; return (unit,) clusters, counted from 0."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(vectors) == 1:
        return np.zeros(1, np.int64)
    tree = linkage(vectors, method="average", metric="cosine")
    least = settings.least_speaker_s / settings.step_s

    def cut(distance: float) -> NDArray[np.int64]:
        return np.asarray(fcluster(tree, distance, criterion="distance"), np.int64) - 1

    def n_speakers(distance: float) -> int:
        return max(1, int((np.bincount(cut(distance), weights) >= least).sum()))

    return cut(_choose_distance(n_speakers, tree[:, 2], settings, count))


def _choose_distance(
    n_speakers: Callable[[float], int], joins: NDArray[np.float64], settings: DiarizationConfig, count: Count
) -> float:
    """Return the distance to cut a tree at: the usual one, or the nearest that gives as many speakers as asked for."""
    usual, lowest = 1 - settings.same_speaker, 1 - settings.surely_same
    number = n_speakers(usual)
    if count.most is not None and number > count.most:
        higher = [float(d) for d in joins[joins > usual] if n_speakers(d) <= count.most]
        return higher[0] if higher else float(joins[-1])
    if number < count.least:
        lower: list[float] = [d - 1e-9 for d in joins[(joins <= usual) & (joins >= lowest)][::-1].tolist()]
        numbers = [n_speakers(d) for d in lower]
        wanted = min(count.least, max(numbers, default=0))
        if wanted > number:
            return lower[next(index for index, found in enumerate(numbers) if found >= wanted)]
    return usual


def _means(vectors: Vectors, groups: NDArray[np.int64], least: float = 0.0) -> Vectors:
    """Return (group, number) the unit means of the groups of at least so many vectors, or else of the largest one."""
    sums = np.zeros((int(groups.max()) + 1, vectors.shape[1]), np.float32)
    np.add.at(sums, groups, vectors)
    counts = np.bincount(groups)
    return _unit(sums[counts >= min(least, counts.max())])


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12), np.float32)


def average_around(
    values: Vectors, weights: NDArray[np.float32], starts: NDArray[np.float64], width: float, n_steps: int
) -> Vectors:
    """Average what windows say over the steps that they cover.

    Args:
        values: (window, column).
        weights: (window,) of each; near its middle it counts for more.
        starts: (window,) the step at which each begins, perhaps in part.
        width: steps of a window.
        n_steps: of the recording; those that no window covers get the values of the nearest one that is covered.

    Returns:
        (step, column).
    """
    sums, totals = np.zeros((n_steps, values.shape[1]), np.float32), np.zeros(n_steps, np.float32)
    firsts = np.round(starts).astype(int)
    for offset in range(round(width)):
        steps = firsts + offset
        inside = steps < n_steps
        taper = np.sin(np.pi * np.clip((steps + 0.5 - starts) / width, 0, 1)) ** 2
        weight = (weights * taper)[inside].astype(np.float32)
        np.add.at(sums, steps[inside], weight[:, None] * values[inside])
        np.add.at(totals, steps[inside], weight)
    covered = np.flatnonzero(totals > 0)
    nearest = np.interp(np.arange(n_steps), covered, np.arange(len(covered))).round().astype(int)
    means: Vectors = sums[covered[nearest]] / totals[covered[nearest], None]
    return means


def _recompute(vectors: Vectors, shares: NDArray[np.float32], who: NDArray[np.int64], centroids: Vectors) -> Vectors:
    """Return (speaker, number) the means of the windows of each; one who has none keeps the centroid."""
    new = centroids.copy()
    for speaker in range(len(centroids)):
        own = vectors[(who == speaker) & (shares >= _CLEAR_SHARE)]
        if len(own):
            new[speaker] = _unit(own.sum(axis=0))
    return new


@dataclass(frozen=True)
class Speaker:
    """One or several clusters under one name."""

    name: str
    clusters: tuple[int, ...]


def name_speakers(turns: Turns, enrolled: Enrolled, config: ModelConfig) -> list[Speaker]:
    """Name those who speak, in order of appearance: whom `identify` would name, and the others by number.

    Args:
        turns: who speaks when.
        enrolled: who can be named, perhaps nobody.
        config: rules of decision.
    """
    found: dict[str, tuple[int, ...]] = {}
    numbered = (name for name in map("speaker {}".format, itertools.count(1)) if name not in enrolled.names)
    clusters, first = np.unique(turns.best, return_index=True)
    known = {cluster: _recognise(turns, cluster, enrolled, config) for cluster in clusters[clusters >= 0].tolist()}
    # Clusters are voices that differ: of several that sound like one person, the likeliest is.
    likeliest = {best.label: cluster for cluster, best in sorted(known.items(), key=_score) if best is not None}
    for cluster in clusters[np.argsort(first)].tolist():
        if cluster == NOBODY:
            continue
        best = known.get(cluster)
        is_known = best is not None and likeliest[best.label] == cluster
        name = UNKNOWN if cluster == SOMEBODY else best.label if best is not None and is_known else next(numbered)
        found[name] = (*found.get(name, ()), cluster)
    return [Speaker(name, clusters) for name, clusters in found.items()]


def _score(known: tuple[int, Candidate | None]) -> float:
    return known[1].score if known[1] is not None else 0.0


def _recognise(turns: Turns, cluster: int, enrolled: Enrolled, config: ModelConfig) -> Candidate | None:
    """Return who of those enrolled a cluster is, by the rules of `identify`; None: none of them."""
    if not enrolled.names:
        return None
    ranking = enrolled.rank(turns.centroids[cluster], config, 1)
    heard_s = float((turns.best == cluster).sum()) * turns.frame_s
    return ranking.top[0] if find_rejection(ranking, heard_s, config) is None else None


def tag_speakers(
    request: Request,
    engine: ListeningEngine,
    enrolled: Enrolled,
    count: Count,
    *,
    keep_scores: bool,
) -> TagResult:
    """Say who speaks when in a recording.

    Args:
        request: its windows are read here.
        engine: that it runs on.
        enrolled: who can be named, perhaps nobody.
        count: how many speakers there may be.
        keep_scores: keep the probabilities of all steps.
    """
    config = engine.config
    turns = find_turns(collect(request, engine), config.diarization, count)
    facts = request.facts()
    speakers = name_speakers(turns, enrolled, config)
    labels = tuple(speaker.name for speaker in speakers)
    scores = _scores(turns, speakers)
    segments = [
        segment
        for speaker, column in zip(speakers, scores.T, strict=True)
        for segment in _segments(turns, speaker, column, config.decision, facts["duration"])
    ]
    outline = OutlineMaker(len(labels), turns.hop_s)
    outline.push(scores)
    kept = scores if keep_scores else scores[:0]
    facts["notes"] += tuple(_remark(turns, count, config))
    return TagResult(
        **facts,
        model=config.name,
        hop=turns.hop_s,
        labels=labels,
        segments=tuple(order_segments(segments, labels)),
        times=frame_times(len(kept), turns.hop_s),
        scores=kept,
        overlapping=True,
        outline=None if keep_scores else outline.finish(),
    )


def _scores(turns: Turns, speakers: Sequence[Speaker]) -> NDArray[np.float32]:
    """Return (step, speaker) probabilities that each speaks."""
    n_steps = len(turns.scores)
    n_frames = round(turns.hop_s / turns.frame_s)

    def by_step(frames: NDArray[np.bool_] | NDArray[np.float32]) -> NDArray[np.float32]:
        padded = np.pad(frames, (0, n_steps * n_frames - len(frames))).reshape(n_steps, n_frames)
        return np.asarray(padded.mean(axis=1), np.float32)

    unknown, spoken = by_step(turns.best == SOMEBODY), by_step(turns.best != NOBODY)
    together = np.where(turns.second != NOBODY, turns.overlap, 0)
    columns = []
    for speaker in speakers:
        if SOMEBODY in speaker.clusters:
            columns.append(unknown)
            continue
        alone = turns.scores[:, speaker.clusters].sum(axis=1) * (spoken - unknown)
        is_one = np.isin(turns.best, speaker.clusters) | np.isin(turns.second, speaker.clusters)
        columns.append(np.maximum(alone, by_step(is_one * together)))
    return np.stack(columns, axis=1) if columns else np.zeros((n_steps, 0), np.float32)


def runs_of(turns: Turns, speaker: Speaker) -> list[tuple[int, int]]:
    """Return the runs of frames in which one speaks, alone or not, without very short ones."""
    runs = find_runs(np.isin(turns.best, speaker.clusters) | np.isin(turns.second, speaker.clusters))
    return clean_runs(runs, round(_LEAST_RUN_S / turns.frame_s), 1)


def _segments(
    turns: Turns, speaker: Speaker, scores: NDArray[np.float32], decision: DecisionConfig, duration_s: float
) -> Iterator[Segment]:
    """Yield what one speaker says, a segment a turn."""
    frame_s, n_frames = turns.frame_s, round(turns.hop_s / turns.frame_s)
    rules = SegmentRules(frame_s, duration_s)
    runs = runs_of(turns, speaker)
    least_s = decision.min_durations_s.get(speaker.name, decision.min_duration_s)
    gap_s = decision.min_gaps_s.get(speaker.name, decision.min_gap_s)
    for first, last in clean_runs(runs, round(least_s / frame_s), round(gap_s / frame_s)):
        here = scores[first // n_frames : (last - 1) // n_frames + 1]
        yield rules.segment((first, last), speaker.name, float(here.mean()))


def _remark(turns: Turns, count: Count, config: ModelConfig) -> Iterator[str]:
    """Yield what is to be said of a timeline that is not as asked for, or that is empty."""
    if not turns.speech.any():
        yield f"no {config.gate or 'sound'} is heard in it"
    elif not len(turns.centroids):
        yield f"too little {config.gate or 'sound'} is heard in it to tell voices apart"
    elif len(turns.centroids) < count.least:
        heard = "1 speaker is" if len(turns.centroids) == 1 else f"{len(turns.centroids)} speakers are"
        yield f"{heard} heard in it, not {count.least}"
