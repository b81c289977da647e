"""Speaker recognition: embed a voice, enroll it by name, and compare voices with those who are enrolled."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.audio import Source
from framecls.config import DEFAULT_READING, NOT_ENROLLED, NOT_NAMED, DecisionConfig, ModelConfig, ReadOptions, to_dict
from framecls.errors import WHO_IS, AudioError, GalleryError, UsageError, suggest
from framecls.inference.batching import Request
from framecls.inference.engine import Engine
from framecls.inference.identify import Ranking, find_rejection, pool_windows
from framecls.inference.windows import WindowOutput
from framecls.results import Candidate, Remarks
from framecls.speakers.found import FoundVoice, cut_spans
from framecls.speakers.gallery import Clip, Gallery, default_path, has_own_gallery, open_gallery

_log = logging.getLogger(__name__)

# Less than a second of speech does not tell a voice from others. Where somebody talks, the gate hears speech in about
# half of the frames: the rest is pauses.
MIN_VOICE_S = 1.0
MIN_HEARD_S = 0.5
# A window with less speech than this says more of the background than of the voice.
MIN_WINDOW_SPEECH_S = 0.2
# Settings of a model that decide, with its weights, what its embeddings are.
_EMBEDDING_SETTINGS = ("embedding", "embedding_hidden", "pooling", "features", "encoder", "window")


@dataclass(frozen=True, eq=False)
class Embedding:
    """The embedding of the voice in one recording."""

    vector: NDArray[np.float32]  # (number,) of unit length
    heard_s: float  # seconds of speech
    duration_s: float
    remarks: Remarks = field(default_factory=Remarks)


def identity(engine: Engine) -> str:
    """Return what tells a model's embeddings from those of any other: its name, and a digest of its weights."""
    config = engine.config
    settings = _differences(to_dict(config), to_dict(ModelConfig("usual", "pooled", (), embedding=1)))
    settings = {key: settings[key] for key in _EMBEDDING_SETTINGS if key in settings}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for key, value in sorted(engine.network.named_parameters()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return f"{config.name}-{digest.hexdigest()[:12]}"


def _differences(settings: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are not as usual, so that one which is added later changes the name of no model."""
    return {
        key: _differences(value, usual.get(key) or {}) if isinstance(value, dict) else value
        for key, value in settings.items()
        if value != usual.get(key)
    }


def embed_recording(
    engine: Engine,
    source: Source,
    options: ReadOptions = DEFAULT_READING,
    progress: Callable[[float], None] | None = None,
) -> Embedding:
    """Return the embedding of the voice in one recording.

    Raises:
        UsageError: this model does not answer with an embedding.
        AudioError: the recording cannot be read, or there is too little speech in it.
    """
    if not engine.config.embedding:
        raise UsageError(f"the model {engine.config.name} does not tell voices: use speaker, or train one")
    with closing(engine.run([source], options, progress=progress)) as recordings:
        return pool_embedding(next(recordings), engine.config)


def embed_found(engine: Engine, source: Source, voice: FoundVoice, options: ReadOptions = DEFAULT_READING) -> Embedding:
    """Return the embedding of somebody who was found in a recording, of what they say in it.

    Raises:
        UsageError, AudioError: as of `embed_recording`.
    """
    if options.channel is None and voice.channel is not None:
        options = replace(options, channel=voice.channel)
    rate = engine.config.features.sample_rate
    with engine.open(source, options) as stream:
        sound = cut_spans(stream.blocks(30.0), voice.spans, rate)
    if not len(sound):
        raise AudioError("it ends before the voice that was found in it begins: is it another recording?")
    return embed_recording(engine, sound, ReadOptions(sample_rate=rate))


def pool_vectors(outputs: Iterable[WindowOutput]) -> tuple[NDArray[np.float32], float]:
    """Return (number,) the mean of the embeddings of windows with speech in them, and the seconds of speech.

    Such windows count alike: pauses between words do not make a voice less sure.

    Raises:
        AudioError: there is no window.
    """
    return pool_windows(outputs, MIN_WINDOW_SPEECH_S)


def pool_embedding(recording: Request, config: ModelConfig) -> Embedding:
    """Return the embedding of a recording from those of its windows.

    Raises:
        AudioError: the recording cannot be read, or there is too little speech in it.
    """
    mean, heard_s = pool_vectors(recording)
    duration_s = recording.duration_s
    heard_s = min(heard_s, duration_s)  # the last frame may be partly past the end
    _require_enough(duration_s, heard_s, config.gate)
    vector = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return Embedding(vector, heard_s, duration_s, recording.remarks)


def _require_enough(duration_s: float, heard_s: float, gate: str) -> None:
    if duration_s < MIN_VOICE_S:
        raise AudioError(f"{duration_s:.1f} s is too little to know a voice by: {MIN_VOICE_S:g} s or more is needed")
    if gate and heard_s < MIN_HEARD_S:
        raise AudioError(
            f"{heard_s:.1f} s of {gate} is too little to know a voice by: talk for {MIN_VOICE_S:g} s or more"
        )


class Enrolled:
    """The people of a gallery, as one matrix of embeddings: thousands are compared in one product."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.names = tuple(dict.fromkeys(clip.name for clip in clips))
        index = {name: row for row, name in enumerate(self.names)}
        size = clips[0].vector.size if clips else 0
        sums = np.zeros((len(self.names), size), np.float32)
        if clips:
            np.add.at(sums, [index[clip.name] for clip in clips], np.stack([clip.vector for clip in clips]))
        self.vectors = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)  # (person, number)
        self.named: tuple[int, ...] | None = None  # rows of those who can be the answer; None: all

    def among(self, names: Iterable[str]) -> Enrolled:
        """Restrict the answer to some of the people.

        Raises:
            UsageError: nobody is enrolled by one of the names, or there is none.
        """
        wanted = list(dict.fromkeys(names))
        if not wanted:
            raise UsageError("no name is left to choose among")
        index = {name: row for row, name in enumerate(self.names)}
        for name in wanted:
            if name not in index:
                raise UsageError(f"nobody is enrolled as {name!r}{suggest(name, self.names, WHO_IS)}")
        fewer = copy.copy(self)
        fewer.named = tuple(index[name] for name in wanted)
        return fewer

    def rank(self, vector: NDArray[np.float32], config: ModelConfig, top_k: int) -> Ranking:
        """Rank those who may be speaking.

        Args:
            vector: (number,) an embedding of unit length.
            config: calibration of cosines.
            top_k: how many to return.
        """
        cosines = self.vectors @ vector
        if self.named is None:
            rows, reason = np.arange(len(self.names)), NOT_ENROLLED
        else:
            rows, reason = np.array(self.named), NOT_NAMED
        others = np.delete(cosines, rows) if len(rows) < len(cosines) else cosines[:0]
        scores = speaker_posteriors(cosines[rows], config.decision, others)
        top = np.argpartition(-scores, top_k)[:top_k] if top_k < len(scores) else np.arange(len(scores))
        order = top[np.argsort(-scores[top], kind="stable")]
        candidates = tuple(Candidate(self.names[rows[i]], float(scores[i])) for i in order)
        return Ranking(candidates, max(0.0, 1.0 - float(scores.sum())), reason)


def speaker_posteriors(
    cosines: NDArray[np.floating], decision: DecisionConfig, others: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Return the posterior probability of each enrolled person that it is they who speak.

    The prior of somebody unknown is that of all who are enrolled together, who share theirs alike: the more there are,
    the more evidence one of them needs. Their posteriors and that of somebody unknown sum to one. Where only some of
    them can be the answer, these together have the prior of somebody unknown, and each of the others the one that it
    would have if nobody had been named.

    Args:
        cosines: (..., person) of an embedding to those of each.
        decision: slope and offset from a cosine to the log-likelihood ratio of one voice against two.
        others: (..., person) of it to those who are enrolled and cannot be the answer.

    Returns:
        (..., person).
    """
    slope, offset = decision.same_voice
    n_people = cosines.shape[-1]
    weights = np.full(n_people, -np.log(n_people))
    if others is not None and others.shape[-1]:
        n_others = others.shape[-1]
        cosines = np.concatenate([cosines, others], axis=-1)
        weights = np.concatenate([weights, np.full(n_others, -np.log(n_people + n_others))])
    evidence = slope * cosines.astype(np.float64) + offset + weights
    highest = np.maximum(evidence.max(axis=-1, keepdims=True), 0.0)
    powers = np.exp(evidence - highest)
    found: NDArray[np.float64] = powers / (powers.sum(axis=-1, keepdims=True) + np.exp(-highest))
    return found[..., :n_people]


def load_enrolled(engine: Engine, gallery: Path | None = None, *, anybody: bool = True) -> Enrolled:
    """Read who is enrolled, for a model that is here; see `read_enrolled`."""
    return read_enrolled(identity(engine), engine.config, gallery, anybody=anybody)


def read_enrolled(model: str, config: ModelConfig, gallery: Path | None = None, *, anybody: bool = True) -> Enrolled:
    """Read who is enrolled.

    Args:
        model: what `identity` says of the model that is to recognise them.
        config: its settings.
        gallery: the file; None: the user's own.
        anybody: somebody must be; without, there may be nobody, and no gallery of the user's own, or one whose vectors
            are another model's, which is said in the log.

    Raises:
        GalleryError: there is nobody, the file cannot be used, or its vectors are another model's.
    """
    if gallery is None and not anybody and not has_own_gallery():
        return Enrolled([])
    path = gallery or default_path()
    with open_gallery(path) as opened:
        clips = opened.clips()
        try:
            check_model(opened, clips, model)
        except GalleryError as error:
            if anybody or gallery is not None:
                raise
            _log.warning("%s; until then voices have numbers for names", error)
            return Enrolled([])
    if not clips and not anybody:
        return Enrolled([])
    if not clips:
        raise GalleryError(f"{path}: nobody is enrolled yet: framecls enroll NAME CLIP...")
    if clips[0].vector.size != config.embedding:
        raise GalleryError(f"{path}: this gallery is damaged: import an export of it into a new file")
    return Enrolled(clips)


def check_model(gallery: Gallery, clips: Sequence[Clip], model: str) -> None:
    """Refuse clips that another model embedded.

    Raises:
        GalleryError: there are some.
    """
    for other in {clip.model for clip in clips} - {model}:
        raise gallery.other_model(other, model)


@dataclass(frozen=True)
class Enrolment:
    """The outcome of enrolling clips."""

    n_new: int  # not enrolled before
    n_clips: int  # that this person now has
    warnings: list[str]


def enroll(
    engine: Engine, name: str, voices: Sequence[tuple[str, Embedding]], gallery: Path | None = None
) -> Enrolment:
    """Store embeddings under a person's name, all or none of them.

    Args:
        engine: the model that embedded them.
        name: who it is, as `gallery.check_name` returns it.
        voices: the name of each recording, and its embedding.
        gallery: the file, made if it is not there; None: the user's own.

    Raises:
        GalleryError: the gallery cannot be used with this model.
    """
    model = identity(engine)
    new = [Clip(name, model, file, voice.heard_s, voice.vector) for file, voice in voices]
    with open_gallery(gallery or default_path(), create=True) as opened:
        before = opened.clips()
        check_model(opened, before, model)
        n_new = opened.add(new)
        n_clips = sum(clip.name == name for clip in before) + n_new
    return Enrolment(n_new, n_clips, check_enrolment(name, new, before, engine.config) if n_new else [])


def check_enrolment(name: str, new: Sequence[Clip], before: Sequence[Clip], config: ModelConfig) -> list[str]:
    """Check newly enrolled clips against those of the same person and of others; return warnings, a line each.

    Args:
        name: who is said to speak in them.
        new: the clips.
        before: all that were enrolled until then.
        config: calibration of cosines.
    """
    warnings = []
    slope, offset = config.decision.same_voice
    for clip in new:
        own = [other.vector for other in (*before, *new) if other.name == name and other is not clip]
        if own:
            mean = np.mean(own, axis=0)
            cosine = float(clip.vector @ mean) / max(float(np.linalg.norm(mean)), 1e-12)
            same = 1 / (1 + np.exp(-np.clip(slope * cosine + offset, -60, 60)))
            if same < 0.5:
                warnings.append(f"{clip.file} does not sound like the other clips of {name} ({same:.2f})")
    others = [clip for clip in before if clip.name != name]
    if others:
        enrolled = Enrolled(others)
        for clip in new:
            ranking = enrolled.rank(clip.vector, config, 1)
            if find_rejection(ranking, clip.heard_s, config) is None:
                best = ranking.top[0]
                warnings.append(f"{clip.file} sounds like {best.label}, who is enrolled already ({best.score:.2f})")
    return warnings
