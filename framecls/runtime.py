"""A model that is loaded and ready: paths, files or arrays in, results out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from framecls.audio import Source
from framecls.config import ModelConfig
from framecls.engine import Engine, load_engine
from framecls.errors import AudioError, ConfigError, UsageError
from framecls.identification import choose_candidates, decide, pool_windows, rank
from framecls.results import Identification, StringResult, TagResult
from framecls.strings import DEFAULT_BEAM, make_string, phone_engine, stitch_phones
from framecls.tagging import make_result, stitch

DEFAULT_TOP_K = 5


class Model:
    """One model on one device. Make it with `framecls.load`."""

    def __init__(self, engine: Engine, config: ModelConfig | None = None) -> None:
        self._engine = engine
        self.config = config or engine.config

    @property
    def name(self) -> str:
        """The model's name, as results carry it."""
        return self.config.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that the model knows, in the order of score columns."""
        return self.config.labels

    @property
    def card(self) -> dict[str, Any]:
        """Data, licences, figures and date, as the model file states them."""
        return self.config.card

    @property
    def device(self) -> str:
        """Where the network runs."""
        return str(self._engine.device)

    def with_decision(
        self,
        *,
        thresholds: Mapping[str, float] | None = None,
        min_duration_s: float | None = None,
        min_gap_s: float | None = None,
    ) -> Model:
        """Return the same model with other rules from probabilities to labels; the weights are shared.

        Args:
            thresholds: label to probability, 0..1, over the model's own; "unknown" for `identify`.
            min_duration_s: shorter segments are dropped, or join a neighbour where labels tile the file.
            min_gap_s: segments of one label closer than this are joined.

        Raises:
            ConfigError: a label that the model does not have, or a number out of range.
        """
        old = self.config.decision
        decision = replace(
            old,
            thresholds={**old.thresholds, **(thresholds or {})},
            min_duration_s=old.min_duration_s if min_duration_s is None else min_duration_s,
            min_gap_s=old.min_gap_s if min_gap_s is None else min_gap_s,
        )
        return Model(self._engine, replace(self.config, decision=decision))

    def tag(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> TagResult:
        """Say what is heard when in one recording.

        Args:
            source: a path, a binary file object, or (sample,) or (channel, sample) floats, -1..1.
            sample_rate: Hz, of an array.
            progress: told the seconds of audio that are done.

        Raises:
            UsageError: this model gives one label a recording, not one a frame.
            AudioError: the recording cannot be read, or there is nothing in it.
        """
        if self.config.task != "frame":
            raise UsageError(f"the model {self.name} gives one label a recording: use identify")
        with self._engine.open(source, sample_rate) as stream:
            running = self._engine.run(stream, progress)
            logits = stitch(running, self.config.overlap_frames)
            duration_s = self._duration(running.n_samples)
            return make_result(logits, self.config, _name(source), duration_s, stream.info)

    def tag_string(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        beam: int = DEFAULT_BEAM,
        progress: Callable[[float], None] | None = None,
    ) -> StringResult:
        """Say which phones are heard in one recording, in order: as many as there are.

        Args:
            source: as for `tag`.
            sample_rate: Hz, of an array.
            beam: strings that the search keeps from frame to frame; 1 takes the best phone of each frame.
            progress: told the seconds of audio that are done.

        Raises:
            UsageError: this model hears no phones.
            ConfigError: `beam` is not positive.
            AudioError: the recording cannot be read, or there is nothing in it.
        """
        engine = phone_engine(self._engine)
        if beam < 1:
            raise ConfigError(f"beam {beam}: at least 1")
        with engine.open(source, sample_rate) as stream:
            running = engine.run(stream, progress)
            log_probs = stitch_phones(running, engine.config.overlap_frames)
            duration_s = self._duration(running.n_samples)
            return make_string(log_probs, self.config, beam, _name(source), duration_s, stream.info)

    def identify(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        top_k: int = DEFAULT_TOP_K,
        among: Sequence[str] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Identification:
        """Give one recording one label.

        Args:
            source: as for `tag`.
            sample_rate: Hz, of an array.
            top_k: how many labels to rank.
            among: only these labels can be the answer; None: those that the model trusts itself with.
            progress: told the seconds of audio that are done.

        Raises:
            UsageError: this model gives one label a frame.
            ConfigError: `among` names a label that the model does not have, or top_k is not positive.
            AudioError: the recording cannot be read, or there is nothing in it.
        """
        if self.config.task != "pooled":
            raise UsageError(f"the model {self.name} gives one label a frame: use tag")
        if top_k < 1:
            raise ConfigError(f"top_k {top_k}: at least 1")
        candidates = choose_candidates(self.config, among)
        with self._engine.open(source, sample_rate) as stream:
            running = self._engine.run(stream, progress)
            logits, heard_s = pool_windows(running)
            top = rank(logits, self.config, candidates, top_k)
            return Identification(
                file=_name(source),
                model=self.name,
                duration=self._duration(running.n_samples),
                label=decide(top, heard_s, self.config),
                score=top[0].score,
                top=top,
                audio=stream.info,
            )

    def _duration(self, n_samples: int) -> float:
        if not n_samples:
            raise AudioError("there is no audio in it")
        return round(n_samples / self.config.features.sample_rate, 6)


def load(
    model: str | Path = "sound", *, device: str = "auto", threads: int | None = None, batch_size: int | None = None
) -> Model:
    """Load a model by name or path; the arguments are those of `engine.load_engine`."""
    return Model(load_engine(model, device=device, threads=threads, batch_size=batch_size))


def _name(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "-")) if hasattr(source, "read") else "array"
