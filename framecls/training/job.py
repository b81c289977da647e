"""A training job, and its data: recordings that are read, split, decoded and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from framecls.checkpoints.frontends import look_up
from framecls.config import FeatureConfig, ModelConfig
from framecls.errors import ConfigError, ManifestError
from framecls.training.choices import SplitBy
from framecls.training.data.clips import ClipStore, array_size, open_clips
from framecls.training.data.labels import LabelSettings
from framecls.training.data.manifest import Recording, check_labels, find_labels, find_phones, read_manifest
from framecls.training.data.phones import with_phones
from framecls.training.data.splits import Parts, choose_split_by, split_recordings
from framecls.training.examples.teachers import FrameTeacher, VoiceTeacher, read_frame_teacher, read_voice_teacher
from framecls.training.examples.voices import find_dev_fault
from framecls.training.recipe import Recipe
from framecls.training.team import ALONE, Team


@dataclass(frozen=True)
class Job:
    """What to train on, and where to write the model."""

    manifest: Path
    output: Path
    recipe: Recipe
    noise: Path | None = None  # a manifest of noise to add
    teacher: Path | None = None  # an npz of the embeddings or posteriors of other models
    init: Path | None = None  # a model to initialise from, where name and shape of a weight agree
    resume: bool = False
    device: str = "cpu"
    cache: Path | None = None  # folder for decoded recordings; None: that of the run
    team: Team = ALONE  # the processes that train together
    stop_after: int | None = None  # steps after which to stop; the schedule stays that of the whole run
    tier: str | None = None  # of TextGrids that have several
    annotation: str | None = None  # the column of Raven's tables that is the label
    split_by: SplitBy | None = None  # what stays together where the manifest gives no split; None: by what it names
    save_every_s: float = 60.0  # between two saves of the state; it is also saved after each dev measurement

    @property
    def folder(self) -> Path:
        """The folder of the run's state, and of decoded recordings unless there is a cache."""
        return self.output.with_name(f"{self.output.name}.training")


@dataclass(frozen=True)
class Data:
    """Recordings that are split, decoded and checked."""

    train: list[Recording]
    dev: list[Recording]
    noise: list[Recording]
    store: ClipStore
    config: ModelConfig
    split: str  # how recordings were divided into train and dev
    shared_speakers: tuple[str, ...] = ()  # on both sides all the same
    teacher: VoiceTeacher | None = None
    frame_teacher: FrameTeacher | None = None

    def length_s(self, recording: Recording) -> float:
        """Return the length of a recording in seconds."""
        return self.store.n_samples(recording.file) / self.store.sample_rate


def prepare(job: Job, decoded: Callable[[int, int], None] | None = None) -> Data:
    """Read, split, decode and check all that a run needs.

    Raises:
        ManifestError: something in the manifest cannot be used, or one of the splits would be empty.
    """
    recordings = read_manifest(job.manifest, reading(job))
    if job.recipe.hear_phones and job.recipe.task == "frame":
        recordings = with_phones(recordings, set(find_labels(recordings)) - set(job.recipe.silent))
    noise = read_manifest(job.noise) if job.noise else []
    config = job.recipe.model_config(find_labels(recordings), find_phones(recordings))
    features = choose_features(job.recipe, array_size(recordings))
    config = replace(config, features=job.team.first_alone(lambda: look_up(features)))
    _check_task(job, config, recordings)
    teacher = read_voice_teacher(job.teacher) if job.teacher and config.embedding else None
    frames = read_frame_teacher(job.teacher, config.labels) if job.teacher and not config.embedding else None
    if frames and not any(recording.file in frames.rows for recording in recordings):
        raise ManifestError(f"{job.teacher}: the teacher has posteriors of none of the recordings of {job.manifest}")
    parts = split(job, recordings)
    if fault := parts.find_fault():
        raise ManifestError(f"{job.manifest}: {fault}")
    cache = job.cache or job.folder
    store = job.team.first_alone(lambda: open_clips([*recordings, *noise], config.features.sample_rate, cache, decoded))
    data = Data(parts.train, parts.dev, noise, store, config, parts.how, parts.shared, teacher, frames)
    if config.embedding and (fault := find_dev_fault(data.dev, data.length_s, job.recipe.voices.dev_length_s)):
        raise ManifestError(f"{job.manifest}: {fault}")
    return data


def _check_task(job: Job, config: ModelConfig, recordings: list[Recording]) -> None:
    """Refuse labels and options that do not fit the recipe's task."""
    if config.embedding:
        if job.team.size > 1:
            raise ConfigError(f"{job.recipe.name}: a model of voices is trained by one process: leave torchrun out")
        return
    if job.teacher and not config.overlapping:
        raise ConfigError(f"{job.recipe.name}: --teacher is for a recipe with an embedding, or with overlapping labels")
    check_labels(recordings, config.labels)
    if fault := find_label_fault(job.recipe, config.labels):
        raise ManifestError(f"{job.manifest}: {fault}")


def find_label_fault(recipe: Recipe, labels: Sequence[str]) -> str | None:
    """Return why a model with these labels would be of no use; None if it is."""
    if recipe.embedding or recipe.overlapping or len(labels) > 1:
        return None
    way_out = "; with --set overlapping=true the model learns where it holds" if recipe.task == "frame" else ""
    return f"all rows have the label {labels[0]!r}: at least two are needed{way_out}"


def reading(job: Job) -> LabelSettings:
    """Return how to read the labels of a job."""
    return LabelSettings(job.tier, job.annotation, job.recipe.task == "pooled", job.recipe.features.vectors_per_s)


def split(job: Job, recordings: list[Recording]) -> Parts:
    """Split the recordings of a job into train and dev."""
    by = choose_split_by(job.split_by, voices=bool(job.recipe.embedding))
    return split_recordings(recordings, job.recipe.optim.seed, by)


def choose_features(recipe: Recipe, n_given: int) -> FeatureConfig:
    """Return the recipe's features, or precomputed ones at the same rate.

    Args:
        recipe: of the job.
        n_given: numbers in a precomputed vector; 0: recordings are sound.

    Raises:
        ConfigError: the recipe needs sound.
    """
    if not n_given:
        return recipe.features
    rate = recipe.features.vectors_per_s
    needs_sound = recipe.mix.enabled or recipe.gate or recipe.embedding
    if needs_sound or recipe.features.kind == "pretrained" or rate != round(rate):
        raise ConfigError(
            f"{recipe.name}: features computed elsewhere go with no mix, gate, embedding or speech encoder, "
            "and with a whole number of vectors a second (features.sample_rate / features.hop_samples)"
        )
    how = recipe.features.normalize
    return FeatureConfig(
        "precomputed", round(rate), window_samples=1, hop_samples=1, normalize=how, precomputed_dim=n_given
    )
