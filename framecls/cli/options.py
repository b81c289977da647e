"""The options of the commands: each declared once, as a field of a frozen dataclass that the command receives."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from framecls.checkpoints import registry
from framecls.cli.formats import STREAMED, SUFFIXES
from framecls.cli.numbers import parse_seconds, parse_whole
from framecls.config import CHANNELS, DEFAULT_BEAM, DEFAULT_TIMEOUT_S, DEFAULT_TOP_K
from framecls.training.recipe import CODECS, LADDER, RUNGS, SPLIT_BY, SPLITS

T = TypeVar("T")

# Panels of --help, from top to bottom; what has none comes first.
_READING = "Reading"
_OUTPUT = "Output"
_DECISION = "Decision"
_MACHINE = "Machine"
_MESSAGES = "Messages"
_PANELS = (None, _READING, _OUTPUT, _DECISION, _MACHINE, _MESSAGES)

LOCAL, RAY = ENGINES = ("local", "ray")


def _one_of(*names: str) -> Callable[[], list[str]]:
    """Return what completes one of these names.

    No lambda in the annotations themselves: they are evaluated where a lambda finds no global of this module.
    """
    return lambda: list(names)


def _recipes() -> list[str]:
    from framecls.training.recipe import shipped_recipes

    return shipped_recipes()


_TABLE_OR_JSON = _one_of("table", "json")
_TASKS = _one_of("tag", "identify")

InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Audio files, folders (every audio file in them), - (stdin) or @LIST (a text file of paths).",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "-m",
        "--model",
        metavar="NAME|PATH",
        help="A shipped model or a model file.",
        autocompletion=registry.names,
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A model by name or path.", show_default=False, autocompletion=registry.names),
]
VoiceModelOption = Annotated[
    str,
    typer.Option("-m", "--model", metavar="NAME|PATH", help="A model of voices.", autocompletion=registry.names),
]
GalleryOption = Annotated[
    Path | None,
    typer.Option("--gallery", metavar="FILE", help="The file of enrolled voices; by default one in your data folder."),
]
JsonOption = Annotated[
    str,
    typer.Option("-f", "--format", metavar="FORMAT", help="table or json.", autocompletion=_TABLE_OR_JSON),
]


@dataclass(frozen=True, kw_only=True)
class MessageOptions:
    """What goes to stderr."""

    no_progress: Annotated[bool, typer.Option("--no-progress", help="Show no progress.", rich_help_panel=_MESSAGES)] = (
        False
    )
    quiet: Annotated[
        bool,
        typer.Option("-q", "--quiet", help="No progress and no summary, only errors.", rich_help_panel=_MESSAGES),
    ] = False
    verbose: Annotated[
        int,
        typer.Option("-v", "--verbose", count=True, show_default=False, help="Say more.", rich_help_panel=_MESSAGES),
    ] = 0
    debug: Annotated[bool, typer.Option("--debug", help="Show where errors come from.", rich_help_panel=_MESSAGES)] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """What the network runs on."""

    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="NAME",
            help="auto, cpu, cuda, cuda:N or mps.",
            autocompletion=_one_of("auto", "cpu", "cuda", "mps"),
            rich_help_panel=_MACHINE,
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", help="CPU threads; by default torch decides.", rich_help_panel=_MACHINE),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", metavar="N", help="Windows that the network reads at once.", rich_help_panel=_MACHINE
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How recordings are read."""

    raw: Annotated[
        str | None,
        typer.Option(
            "--raw",
            metavar="RATE[,CHANNELS[,ENCODING]]",
            help="The inputs have no header: 16000 is 16-bit mono at 16 kHz, 48000,2,f32le stereo floats.",
            rich_help_panel=_READING,
        ),
    ] = None
    track: Annotated[
        int | None,
        typer.Option(
            "--track",
            metavar="N",
            help="Which audio track, from 1; else the default one, or the first that is not silent.",
            rich_help_panel=_READING,
        ),
    ] = None
    channel: Annotated[
        str | None,
        typer.Option(
            "--channel",
            metavar="NAME|N",
            help="left, right, a number from 1, or each, with results of its own; by default all are mixed by their "
            "mean, and where they cancel each other the loudest is heard.",
            autocompletion=_one_of(*CHANNELS),
            rich_help_panel=_READING,
        ),
    ] = None
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="A recording that is cut off, or damaged in a place, is a failure, not a warning.",
            rich_help_panel=_READING,
        ),
    ] = False
    max_duration: Annotated[
        float | None,
        typer.Option(
            "--max-duration", metavar="S", help="Refuse a recording longer than this.", rich_help_panel=_READING
        ),
    ] = None
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="S",
            help="Give a file up whose decoder gives nothing for so many seconds.",
            rich_help_panel=_READING,
        ),
    ] = DEFAULT_TIMEOUT_S


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where a run computes: in this process, or in others on this machine and on more."""

    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="local, or ray: processes that share the recordings out, on this machine or a cluster.",
            autocompletion=_one_of(*ENGINES),
            rich_help_panel=_MACHINE,
        ),
    ] = LOCAL
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="--engine ray: the cluster, auto for one on this machine; by default Ray is started here.",
            rich_help_panel=_MACHINE,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            help="--engine ray: processes, each with a model; by default as many as there is room for.",
            rich_help_panel=_MACHINE,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RunOptions(MessageOptions, MachineOptions, ClusterOptions, ReadingOptions):
    """What `tag` and `identify` share."""

    inputs: InputsArgument
    model: ModelOption
    format: Annotated[
        str | None,
        typer.Option(
            "-f",
            "--format",
            metavar="FORMAT",
            help=f"{', '.join(SUFFIXES)}; by default what the suffix of -o says, or table.",
            autocompletion=_one_of(*SUFFIXES),
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="A file for all results, or a folder that gets one file an input.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    errors: Annotated[
        Path | None,
        typer.Option(
            "--errors", metavar="FILE", help="Write each failure there as a JSON line.", rich_help_panel=_OUTPUT
        ),
    ] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Skip what an earlier run to the same -o has done: same options, recording unchanged.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False
    threshold: Annotated[
        list[str],
        typer.Option(
            "--threshold",
            metavar="LABEL=P",
            help="Probability (0..1) from which a label counts; repeatable.",
            show_default=False,
            rich_help_panel=_DECISION,
        ),
    ] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TagOptions(RunOptions):
    """`framecls tag`."""

    model: ModelOption = "sound"
    frames: Annotated[
        bool, typer.Option("--frames", help="Give the probabilities of every frame.", rich_help_panel=_OUTPUT)
    ] = False
    string: Annotated[
        bool,
        typer.Option(
            "--string", help="Give the phones that are said, in order; wants a model that hears phones: -m phones."
        ),
    ] = False
    times: Annotated[
        bool,
        typer.Option("--times", help="--string: list each phone with its start and end.", rich_help_panel=_OUTPUT),
    ] = False
    beam: Annotated[
        int | None,
        typer.Option(
            "--beam",
            metavar="N",
            help=f"--string: strings the search keeps, by default {DEFAULT_BEAM}; 1 takes each frame's best phone.",
            rich_help_panel=_DECISION,
        ),
    ] = None
    min_duration: Annotated[
        float | None,
        typer.Option(
            "--min-duration",
            metavar="S",
            help="Drop segments shorter than this many seconds.",
            rich_help_panel=_DECISION,
        ),
    ] = None
    min_gap: Annotated[
        float | None,
        typer.Option(
            "--min-gap", metavar="S", help="Join segments less than this many seconds apart.", rich_help_panel=_DECISION
        ),
    ] = None
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help=f"Print each segment as soon as it is final, also of a pipe that never ends: {', '.join(STREAMED)}.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class IdentifyOptions(RunOptions):
    """`framecls identify`."""

    model: ModelOption = "language"
    threshold: Annotated[
        list[str],
        typer.Option(
            "--threshold",
            metavar="unknown=P",
            help="Probability (0..1) below which the answer is unknown; LABEL=P: that of one label; repeatable.",
            show_default=False,
            rich_help_panel=_DECISION,
        ),
    ] = field(default_factory=list)
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="N", help="How many candidates to list.", rich_help_panel=_DECISION)
    ] = DEFAULT_TOP_K
    among: Annotated[
        list[str],
        typer.Option(
            "--among",
            metavar="L1,L2",
            help="Only these can be the answer, or none of them: de,fr,en; repeatable.",
            show_default=False,
            rich_help_panel=_DECISION,
        ),
    ] = field(default_factory=list)
    gallery: Annotated[
        Path | None,
        typer.Option(
            "--gallery",
            metavar="FILE",
            help="-m speaker: the file of enrolled voices; by default one in your data folder.",
            rich_help_panel=_DECISION,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EnrollOptions(MessageOptions, MachineOptions, ReadingOptions):
    """`framecls enroll`."""

    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose voice it is.", show_default=False)]
    inputs: InputsArgument
    model: VoiceModelOption = "speaker"
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class SpeakersListOptions(MessageOptions):
    """`framecls speakers list`."""

    gallery: GalleryOption = None
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class SpeakersRemoveOptions(MessageOptions):
    """`framecls speakers remove`."""

    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Whom to forget.", show_default=False)]
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class SpeakersRenameOptions(MessageOptions):
    """`framecls speakers rename`."""

    old: Annotated[str, typer.Argument(metavar="OLD", help="The name until now.", show_default=False)]
    new: Annotated[str, typer.Argument(metavar="NEW", help="The name from now on.", show_default=False)]
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class SpeakersExportOptions(MessageOptions):
    """`framecls speakers export`."""

    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Only these people.", show_default=False)
    ] = None
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to; by default to stdout.")
    ] = None
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class SpeakersImportOptions(MessageOptions):
    """`framecls speakers import`."""

    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="What `speakers export` wrote, or - (stdin).", show_default=False),
    ]
    gallery: GalleryOption = None


_MANIFEST_HELP = (
    "JSON lines or CSV (file, start, end, label, speaker, …), a folder for each label, recordings with label files "
    "beside them (TextGrid, RTTM, Audacity, .phn), a Kaldi data directory, or feature arrays (.npy, .pt)."
)


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How labels are read and told apart into what is learnt from and what is measured on."""

    tier: Annotated[
        str | None, typer.Option("--tier", metavar="NAME", help="Of TextGrids that have several; '*': all of them.")
    ] = None
    split_by: Annotated[
        str | None,
        typer.Option(
            "--split-by",
            metavar="WHAT",
            help="What stays on one side where no split is given: source, speaker or file; by default as can be.",
            autocompletion=_one_of(*SPLIT_BY),
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainOptions(MessageOptions, MachineOptions, LabelOptions):
    """`framecls train`."""

    task: Annotated[
        str,
        typer.Argument(
            metavar="tag|identify", help="What the model will be for.", show_default=False, autocompletion=_TASKS
        ),
    ]
    manifest: Annotated[
        Path,
        typer.Argument(metavar="MANIFEST", help=_MANIFEST_HELP, show_default=False),
    ]
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="MODEL", help="The model file to write.", show_default=False),
    ] = None
    check: Annotated[bool, typer.Option("--check", help="Read everything, say what is there, and train nothing.")] = (
        False
    )
    format: Annotated[
        str,
        typer.Option(
            "-f",
            "--format",
            metavar="FORMAT",
            help="Of what --check says: table or json.",
            autocompletion=_TABLE_OR_JSON,
        ),
    ] = "table"
    preview: Annotated[
        Path | None,
        typer.Option(
            "--preview", metavar="FOLDER", help="Write examples as they would be learnt from, and train nothing."
        ),
    ] = None
    count: Annotated[int, typer.Option("--count", metavar="N", help="How many examples --preview writes.")] = 20
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            help="Network, mixing, augmentation, steps: a TOML file.",
            autocompletion=_recipes,
        ),
    ] = None
    noise: Annotated[
        Path | None, typer.Option("--noise", metavar="MANIFEST", help="Recordings to hide the others in.")
    ] = None
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="NAME|PATH",
            help="Begin with the weights of this model that fit.",
            autocompletion=registry.names,
        ),
    ] = None
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="SOURCE",
            help="Hear through a pre-trained encoder: framecls:language, torchaudio:WAVLM_BASE_PLUS, or a path.",
        ),
    ] = None
    encoder_layer: Annotated[
        int, typer.Option("--encoder-layer", metavar="N", help="Which of its layers; 0 learns a mix of all.")
    ] = 0
    tune_encoder: Annotated[bool, typer.Option("--tune-encoder", help="Let its self-attention learn too.")] = False
    teacher: Annotated[
        Path | None,
        typer.Option(
            "--teacher",
            metavar="FILE",
            help="What other models hear, to learn from: npz of vectors, or of frames.",
        ),
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run left off.")] = False
    save_every: Annotated[
        float,
        typer.Option("--save-every", metavar="S", help="Seconds after which a run that is killed can be resumed."),
    ] = 60.0
    set: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting in place of the recipe's, such as optim.patience=3; repeatable.",
            show_default=False,
        ),
    ] = field(default_factory=list)
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="In place of the recipe's.")] = None
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="In place of the recipe's.")] = None


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(MessageOptions, MachineOptions, LabelOptions):
    """`framecls evaluate`."""

    model: ModelArgument
    manifest: Annotated[
        Path,
        typer.Argument(metavar="MANIFEST", help=_MANIFEST_HELP, show_default=False),
    ]
    split: Annotated[
        str,
        typer.Option(
            "--split",
            metavar="NAME",
            help="train, dev or all of the manifest.",
            autocompletion=_one_of(*SPLITS),
        ),
    ] = "dev"
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            help="Mix recordings as this recipe does; else as they are.",
            autocompletion=_recipes,
        ),
    ] = None
    length: Annotated[
        float | None,
        typer.Option("--length", metavar="S", help="identify: join and cut what each voice says to this length."),
    ] = None
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            metavar="NAME",
            help=f"Measure what is left of the recordings after one: {', '.join(CODECS)}.",
            autocompletion=_one_of(*CODECS),
        ),
    ] = None
    only_candidates: Annotated[
        bool,
        typer.Option("--only-candidates", help="identify: only recordings whose label the model answers by itself."),
    ] = False
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="FOLDER", help="Keep the decoded recordings there.")
    ] = None
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write all figures there as JSON.", show_default=False),
    ] = None
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class CompareOptions(MessageOptions, MachineOptions, LabelOptions):
    """`framecls compare`."""

    manifest: Annotated[
        Path | None,
        typer.Argument(metavar="[MANIFEST]", help=_MANIFEST_HELP, show_default=False),
    ] = None
    saw: Annotated[
        bool,
        typer.Option("--saw", help="In place of a manifest: made-up clips in which what is far away decides."),
    ] = False
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="tag|identify", help="What the networks are for.", autocompletion=_TASKS),
    ] = None
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            help="A TOML file; its network sets the size of all.",
            autocompletion=_recipes,
        ),
    ] = None
    rungs: Annotated[
        str, typer.Option("--rungs", metavar="R1,R2", help=f"Some of {', '.join(RUNGS)}.", show_default=False)
    ] = ",".join(LADDER)
    noise: Annotated[
        Path | None, typer.Option("--noise", metavar="MANIFEST", help="Recordings to hide the others in.")
    ] = None
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="In place of the recipe's.")] = None
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="In place of the recipe's.")] = None
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="FOLDER", help="Keep the decoded recordings, and the clips of --saw, there."),
    ] = None
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class BenchOptions(MessageOptions, MachineOptions):
    """`framecls bench`."""

    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[INPUT]",
            help="A recording, or a folder of them; without one, made-up sound is measured.",
            show_default=False,
        ),
    ] = None
    model: ModelOption = "sound"
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="P1,P2", help="Other programs, if installed: silero, webrtc."),
    ] = None
    runtime: Annotated[
        str,
        typer.Option("--runtime", metavar="NAME", help="torch or onnx.", autocompletion=_one_of("torch", "onnx")),
    ] = "torch"
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", help="How often each thing is done.")] = 5
    length: Annotated[float, typer.Option("--length", metavar="S", help="Seconds of made-up sound.")] = 300.0
    processes: Annotated[
        bool,
        typer.Option("--processes/--no-processes", help="Also measure the command from its start, and its memory."),
    ] = True
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class ExportOptions(MessageOptions):
    """`framecls export`."""

    model: ModelArgument
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.onnx", help="The file to write.", show_default=False)
    ]
    features: Annotated[
        bool, typer.Option("--features/--no-features", help="Take samples, or feature vectors that are made elsewhere.")
    ] = True


@dataclass(frozen=True, kw_only=True)
class ModelsOptions(MessageOptions):
    """`framecls models`."""

    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|PATH]", help="Show this model's card.", show_default=False, autocompletion=registry.names
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CheckOptions(MessageOptions):
    """`framecls check`."""

    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Journals of results, galleries of voices, models, states of training runs.",
            show_default=False,
        ),
    ]
    format: JsonOption = "table"


def takes(options: type[T]) -> Callable[[Callable[[T], int]], Callable[..., Callable[[], int]]]:
    """Give a command the parameters that the fields of a dataclass declare; it is called with one instance.

    Typer reads a command's parameters from its signature, so the signature is made from the fields. What Typer gets
    back is the call that is still to be made: outside of it, where it does not turn interrupts and broken pipes into
    its own exceptions.
    """
    hints = typing.get_type_hints(options, include_extras=True)
    fields = dataclasses.fields(options)  # type: ignore[arg-type]
    parameters = [
        inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=_default(f), annotation=_parsed(hints[f.name])
        )
        for f in sorted(fields, key=lambda f: _PANELS.index(hints[f.name].__metadata__[0].rich_help_panel))
    ]

    def decorate(function: Callable[[T], int]) -> Callable[..., Callable[[], int]]:
        def command(**values: Any) -> Callable[[], int]:
            return partial(function, options(**values))

        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _parsed(annotation: Any) -> Any:
    """Return how an option is declared, with what reads its text where that is ours: numbers, and names of formats."""
    kind, declared = typing.get_args(annotation)[:2]
    kinds = {*typing.get_args(kind), kind}
    # What stands first is an option's default to Typer, which knows better as soon as it sees the annotation.
    names = (declared.default, *(declared.param_decls or ()))
    parser: Any = None
    if getattr(declared, "count", False):
        return annotation
    if "--format" in names:
        parser = str.casefold
    elif int in kinds:
        parser = parse_whole(names[-1])
    elif float in kinds:
        parser = parse_seconds(names[-1])
    if parser is None:
        return annotation
    declared = copy.copy(declared)
    declared.parser = parser
    return Annotated[kind, declared]


def _default(declared: dataclasses.Field[Any]) -> Any:
    if declared.default is not dataclasses.MISSING:
        return declared.default
    if declared.default_factory is not dataclasses.MISSING:
        return declared.default_factory()
    return inspect.Parameter.empty
