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
from framecls.cli.numbers import parse_seconds, parse_whole
from framecls.config import CHANNELS, DEFAULT_BEAM, DEFAULT_TIMEOUT_S, DEFAULT_TOP_K, PRECISIONS
from framecls.output.formats import WRITERS
from framecls.training.choices import CODECS, LADDER, PRESETS, RUNGS, SPLIT_BY, SPLITS

T = TypeVar("T")

# Panels of --help, from top to bottom; None: what Typer titles "Arguments" or "Options".
OUTPUT = "Output"
_PANELS = ("Input", None, "Labels", "Phones", "Training", OUTPUT, "Reading", "Machine")
_labels, _phones, _training, _output, _reading, _machine = (
    partial(typer.Option, rich_help_panel=panel) for panel in _PANELS[2:]
)
_argument = partial(typer.Argument, show_default=False)

FULL, STEM = NAMINGS = ("full", "stem")  # of the results in a folder
PEERS = ("silero", "webrtc")  # of bench
LOCAL, RAY = ENGINES = ("local", "ray")


def _one_of(*names: str) -> Callable[[], list[str]]:
    """Return what completes one of these names.

    No lambda in the annotations themselves: they are evaluated where a lambda finds no global of this module.
    """
    return lambda: list(names)


def _recipes() -> list[str]:
    from framecls.training.recipe import shipped_recipes

    return shipped_recipes()


def _guides() -> list[str]:
    from framecls.cli.guide import names

    return names()


def _print_settings(wanted: bool) -> None:
    if wanted:
        from framecls.cli.settings import print_settings

        print_settings()
        raise typer.Exit()


InputsArgument = Annotated[
    list[str],
    _argument(
        metavar="INPUT...",
        help="Audio files, folders, - (stdin) or @LIST (a text file of paths).",
        rich_help_panel="Input",
    ),
]
ModelOption = Annotated[
    str,
    _labels(
        "-m",
        "--model",
        metavar="NAME|PATH",
        help="A shipped model or a model file.",
        autocompletion=registry.names,
    ),
]
ModelsOption = Annotated[
    list[str],
    _labels(
        "-m",
        "--model",
        metavar="NAME|PATH",
        help="A shipped model or a file; repeatable.",
        show_default="sound",
        autocompletion=registry.names,
    ),
]
ModelArgument = Annotated[
    str, _argument(metavar="MODEL", help="A model by name or path.", autocompletion=registry.names)
]
ManifestArgument = Annotated[
    Path,
    _argument(metavar="MANIFEST", help="Labelled recordings: a list, a folder or arrays (framecls guide training)."),
]
GalleryOption = Annotated[
    Path | None,
    _labels("--gallery", metavar="FILE", help="The enrolled voices; by default in your data folder."),
]
AmongOption = Annotated[
    list[str],
    _labels(
        "--among",
        metavar="L1,L2",
        help="Only these can be the answer, or none of them; repeatable.",
        show_default=False,
    ),
]
RecipeOption = Annotated[
    str | None,
    _training("--recipe", metavar="NAME|FILE", help="All settings, in a TOML file.", autocompletion=_recipes),
]
SetOption = Annotated[
    list[str],
    _training(
        "--set",
        metavar="NAME=VALUE",
        help="A setting in place of the recipe's: optim.steps=500; repeatable.",
        show_default=False,
    ),
]
NoiseOption = Annotated[
    Path | None, _reading("--noise", metavar="MANIFEST", help="Recordings to mix into the others as noise.")
]
CacheOption = Annotated[Path | None, _reading("--cache", metavar="FOLDER", help="Keep the decoded recordings there.")]
JsonOption = Annotated[
    str,
    _output("-f", "--format", metavar="FORMAT", help="table or json.", autocompletion=_one_of("table", "json")),
]


@dataclass(frozen=True, kw_only=True)
class MessageOptions:
    """What goes to stderr."""

    no_progress: Annotated[bool, _output("--no-progress", help="Show no progress.")] = False
    quiet: Annotated[bool, _output("-q", "--quiet", help="Only errors and warnings.")] = False
    verbose: Annotated[int, _output("-v", "--verbose", count=True, show_default=False, help="Say more.")] = 0
    debug: Annotated[bool, _output("--debug", help="Show the traceback of an error.")] = False


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """What the network runs on."""

    device: Annotated[
        str,
        _machine(
            "--device",
            metavar="NAME",
            help="auto, cpu, cuda, cuda:N or mps.",
            autocompletion=_one_of("auto", "cpu", "cuda", "mps"),
        ),
    ] = "auto"
    threads: Annotated[
        int | None, _machine("--threads", metavar="N", help="CPU threads; by default torch decides.")
    ] = None
    batch_size: Annotated[
        int | None, _machine("--batch-size", metavar="N", help="Windows that the network reads at once.")
    ] = None

    def loading(self) -> dict[str, Any]:
        """Return these options by the names that `framecls.load` and its twins give them."""
        return {"device": self.device, "threads": self.threads, "batch_size": self.batch_size}


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(MachineOptions):
    """How a network that is not to learn runs."""

    precision: Annotated[
        str,
        _machine(
            "--precision",
            metavar="NAME",
            help="auto, fp32 or bf16: coarser, faster.",
            autocompletion=_one_of(*PRECISIONS),
        ),
    ] = "auto"

    def loading(self) -> dict[str, Any]:
        return {**super().loading(), "precision": self.precision}


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How recordings are read."""

    raw: Annotated[
        str | None,
        _reading("--raw", metavar="RATE[,N[,ENC]]", help="Samples without a header: 16000, or 48000,2,f32le."),
    ] = None
    track: Annotated[
        int | None,
        _reading("--track", metavar="N", help="Audio track, from 1; else the default one, unless silent."),
    ] = None
    channel: Annotated[
        str | None,
        _reading(
            "--channel",
            metavar="NAME|N",
            help="left, right, a number, or each; by default all, mixed.",
            autocompletion=_one_of(*CHANNELS),
        ),
    ] = None
    strict: Annotated[bool, _reading("--strict", help="A recording that is cut off or damaged is a failure.")] = False
    max_duration: Annotated[
        float | None, _reading("--max-duration", metavar="S", help="Refuse a recording longer than this.")
    ] = None
    timeout: Annotated[float, _reading("--timeout", metavar="S", help="Give a file up that stalls for this long.")] = (
        DEFAULT_TIMEOUT_S
    )


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where a run computes: in this process, or in others on this machine and on more."""

    engine: Annotated[
        str,
        _machine(
            "--engine",
            metavar="NAME",
            help="local, or ray: several processes or machines.",
            autocompletion=_one_of(*ENGINES),
        ),
    ] = LOCAL
    address: Annotated[
        str | None, _machine("--address", metavar="HOST:PORT", help="ray: the cluster; auto: the one here.")
    ] = None
    workers: Annotated[
        int | None, _machine("--workers", metavar="N", help="ray: processes; by default as many as fit.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class RunOptions(MessageOptions, NetworkOptions, ClusterOptions, ReadingOptions):
    """What `tag` and `identify` share."""

    inputs: InputsArgument
    format: Annotated[
        str | None,
        _output(
            "-f",
            "--format",
            metavar="FORMAT",
            help=f"{', '.join(WRITERS)}; else by the suffix of -o, or table.",
            autocompletion=_one_of(*WRITERS),
        ),
    ] = None
    output: Annotated[
        str | None, _output("-o", "--output", metavar="PATH", help="A file for all, or a folder: a file an input.")
    ] = None
    naming: Annotated[
        str,
        _output(
            "--naming",
            metavar="full|stem",
            help="In a folder, of a.wav: a.wav.TextGrid, or a.TextGrid.",
            show_default=False,
            autocompletion=_one_of(*NAMINGS),
        ),
    ] = FULL
    errors: Annotated[
        Path | None, _output("--errors", metavar="FILE", help="Write each failure there as a JSON line.")
    ] = None
    resume: Annotated[bool, _output("--resume", help="Skip what an earlier run to the same -o has done.")] = False
    threshold: Annotated[
        list[str],
        _labels(
            "--threshold",
            metavar="LABEL=P",
            help="Least probability of a label; unknown=P: of an answer.",
            show_default=False,
        ),
    ] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TagOptions(RunOptions):
    """`framecls tag`."""

    model: ModelsOption = field(default_factory=list)  # none: see below
    frames: Annotated[bool, _output("--frames", help="Give the probabilities of every frame.")] = False
    string: Annotated[bool, _phones("--string", help="The phones that are said, in order (-m phones).")] = False
    among: AmongOption = field(default_factory=list)
    beam: Annotated[
        int | None,
        _phones("--beam", metavar="N", help=f"--string: width of the search, by default {DEFAULT_BEAM}."),
    ] = None
    min_duration: Annotated[
        list[str],
        _labels(
            "--min-duration",
            metavar="[LABEL=]S",
            help="Drop segments shorter than this; repeatable.",
            show_default=False,
        ),
    ] = field(default_factory=list)
    min_gap: Annotated[
        list[str],
        _labels(
            "--min-gap", metavar="[LABEL=]S", help="Join segments less than this apart; repeatable.", show_default=False
        ),
    ] = field(default_factory=list)
    labels: Annotated[
        list[str],
        _labels(
            "--labels", metavar="L1,L2", help="Only these, of each model that has some; repeatable.", show_default=False
        ),
    ] = field(default_factory=list)
    exclusive: Annotated[
        bool, _labels("--exclusive", help="One label at a time, the first of --labels that holds.")
    ] = False
    coarse: Annotated[bool, _labels("--coarse", help="Blocks of talk and music, as of a programme, no crumbs.")] = False
    totals: Annotated[bool, _output("--totals", help="Give the seconds and the share of each label.")] = False
    ipa: Annotated[bool, _phones("--ipa", help="Write phones in the International Phonetic Alphabet.")] = False
    align: Annotated[
        str | None,
        _phones(
            "--align",
            metavar="TEXT|@FILE|.txt",
            help="When these words are said; .txt, .lab: of the file beside each.",
        ),
    ] = None
    stream: Annotated[bool, _output("--stream", help="Print each segment as soon as it is final.")] = False
    gallery: GalleryOption = None
    speakers: Annotated[int | None, _labels("--speakers", metavar="N", help="-m speaker: so many voices.")] = None
    min_speakers: Annotated[
        int | None, _labels("--min-speakers", metavar="N", help="-m speaker: at least so many.")
    ] = None
    max_speakers: Annotated[int | None, _labels("--max-speakers", metavar="N", help="-m speaker: at most so many.")] = (
        None
    )

    def __post_init__(self) -> None:
        if not self.model:
            about_phones = self.string or self.align is not None
            object.__setattr__(self, "model", ["phones" if about_phones else "sound"])


@dataclass(frozen=True, kw_only=True)
class IdentifyOptions(RunOptions):
    """`framecls identify`."""

    model: ModelOption = "language"
    top_k: Annotated[int, _labels("--top-k", metavar="N", help="How many candidates to list.")] = DEFAULT_TOP_K
    among: AmongOption = field(default_factory=list)
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class EnrollOptions(MessageOptions, MachineOptions, ReadingOptions):
    """`framecls enroll`."""

    name: Annotated[str, _argument(metavar="NAME", help="Whose voice it is.", rich_help_panel="Input")]
    inputs: InputsArgument
    found: Annotated[
        Path | None,
        _labels(
            "--from", metavar="FILE", help='What tag -m speaker -f jsonl wrote: enroll --from FILE "speaker 2" "Ada".'
        ),
    ] = None
    model: ModelOption = "speaker"
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class SpeakersListOptions(MessageOptions):
    """`framecls speakers list`."""

    gallery: GalleryOption = None
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class SpeakersRemoveOptions(MessageOptions):
    """`framecls speakers remove`."""

    names: Annotated[list[str], _argument(metavar="NAME...", help="Whom to forget.")]
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class SpeakersRenameOptions(MessageOptions):
    """`framecls speakers rename`."""

    old: Annotated[str, _argument(metavar="OLD", help="The name until now.")]
    new: Annotated[str, _argument(metavar="NEW", help="The name from now on.")]
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class SpeakersExportOptions(MessageOptions):
    """`framecls speakers export`."""

    names: Annotated[list[str] | None, _argument(metavar="[NAME...]", help="Only these people.")] = None
    output: Annotated[
        Path | None, _output("-o", "--output", metavar="FILE", help="Where to; by default to stdout.")
    ] = None
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class SpeakersImportOptions(MessageOptions):
    """`framecls speakers import`."""

    files: Annotated[list[str], _argument(metavar="FILE...", help="What `speakers export` wrote, or - (stdin).")]
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How labels are read and split into what is learnt from and what is measured on."""

    tier: Annotated[
        str | None, _reading("--tier", metavar="NAME", help="Of TextGrids and ELAN files; '*': all of them.")
    ] = None
    annotation: Annotated[
        str | None, _reading("--annotation", metavar="COLUMN", help="Of Raven's tables: the one that is the label.")
    ] = None
    split_by: Annotated[
        str | None,
        _reading(
            "--split-by",
            metavar="WHAT",
            help="What stays on one side of a split: source, speaker or file.",
            autocompletion=_one_of(*SPLIT_BY),
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainOptions(MessageOptions, MachineOptions, LabelOptions):
    """`framecls train`."""

    task: Annotated[
        str,
        _argument(
            metavar="tag|identify", help="What the model will be for.", autocompletion=_one_of("tag", "identify")
        ),
    ]
    manifest: ManifestArgument
    output: Annotated[
        Path | None, _output("-o", "--output", metavar="MODEL", help="The model file to write.", show_default=False)
    ] = None
    check: Annotated[bool, _output("--check", help="Read everything, say what is there, train nothing.")] = False
    format: Annotated[
        str,
        _output(
            "-f",
            "--format",
            metavar="FORMAT",
            help="Of --check: table or json.",
            autocompletion=_one_of("table", "json"),
        ),
    ] = "table"
    preview: Annotated[
        Path | None,
        _output("--preview", metavar="FOLDER", help="Write 20 examples as they would be learnt from, train nothing."),
    ] = None
    recipe: RecipeOption = None
    set: SetOption = field(default_factory=list)
    noise: NoiseOption = None
    preset: Annotated[
        str | None,
        _training(
            "--preset",
            metavar="NAME",
            help=f"What the sounds need: {', '.join(PRESETS)}.",
            autocompletion=_one_of(*PRESETS),
        ),
    ] = None
    wanted_precision: Annotated[
        float | None,
        _labels("--precision", metavar="P", help="What each label is to reach where it is given, as 0.95."),
    ] = None
    exclusive: Annotated[
        bool, _labels("--exclusive", help="tag: one label a frame; time without one teaches nothing.")
    ] = False
    init: Annotated[
        str | None,
        _training(
            "--init",
            metavar="NAME|PATH",
            help="Begin with the weights of this model that fit.",
            autocompletion=registry.names,
        ),
    ] = None
    encoder: Annotated[
        str | None,
        _training(
            "--encoder",
            metavar="SOURCE",
            help="Pre-trained: framecls:language, microsoft/wavlm-base-plus, a path.",
        ),
    ] = None
    teacher: Annotated[
        Path | None,
        _training("--teacher", metavar="FILE", help="Vectors, or posteriors of frames, of another model: npz."),
    ] = None
    resume: Annotated[bool, _output("--resume", help="Go on where an earlier run left off.")] = False
    settings: Annotated[
        bool,
        _training(
            "--settings", callback=_print_settings, is_eager=True, help="List all settings of --set, with defaults."
        ),
    ] = False
    save_every: Annotated[
        float, _output("--save-every", metavar="S", help="Seconds between states that --resume can use.")
    ] = 60.0


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(MessageOptions, NetworkOptions, LabelOptions):
    """`framecls evaluate`."""

    model: ModelArgument
    manifest: ManifestArgument
    split: Annotated[
        str,
        _reading("--split", metavar="NAME", help="train, dev or all of the manifest.", autocompletion=_one_of(*SPLITS)),
    ] = "dev"
    recipe: Annotated[
        str | None,
        _reading("--recipe", metavar="NAME|FILE", help="Mix recordings as this recipe does.", autocompletion=_recipes),
    ] = None
    length: Annotated[
        float | None, _reading("--length", metavar="S", help="identify: join and cut each voice to this length.")
    ] = None
    codec: Annotated[
        str | None,
        _reading(
            "--codec",
            metavar="NAME",
            help=f"Send recordings through one first: {', '.join(CODECS)}.",
            autocompletion=_one_of(*CODECS),
        ),
    ] = None
    timeline: Annotated[
        bool,
        _labels("--timeline", help="Models of identify: who, or which language, when (RTTM, TextGrid, …): DER."),
    ] = False
    collar: Annotated[
        float | None,
        _labels("--collar", metavar="S", help="--timeline: leave out so much on both sides of a start or end."),
    ] = None
    skip_overlap: Annotated[
        bool, _labels("--skip-overlap", help="--timeline: leave out where more than one speaks.")
    ] = False
    cache: CacheOption = None
    output: Annotated[
        Path | None,
        _output("-o", "--output", metavar="FILE", help="Write all figures there as JSON.", show_default=False),
    ] = None
    report: Annotated[
        Path | None,
        _output("--report", metavar="FILE", help="Write a page to look at and listen to: .html.", show_default=False),
    ] = None
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class CompareOptions(MessageOptions, MachineOptions, LabelOptions):
    """`framecls compare`."""

    manifest: Annotated[
        Path | None, _argument(metavar="[MANIFEST]", help="Labelled recordings, as for framecls train.")
    ] = None
    saw: Annotated[bool, _reading("--saw", help="In place of a manifest: clips in which distant context decides.")] = (
        False
    )
    recipe: RecipeOption = None
    set: SetOption = field(default_factory=list)
    rungs: Annotated[
        str, _training("--rungs", metavar="R1,R2", help=f"Some of {', '.join(RUNGS)}.", show_default=False)
    ] = ",".join(LADDER)
    seeds: Annotated[
        int, _training("--seeds", metavar="N", help="Train each N times, and give the mean and the spread.")
    ] = 1
    noise: NoiseOption = None
    cache: CacheOption = None
    save: Annotated[
        Path | None, _output("--save", metavar="FOLDER", help="Keep the trained models there.", show_default=False)
    ] = None
    output: Annotated[
        Path | None,
        _output(
            "-o",
            "--output",
            metavar="FILE",
            help="Draw learning curves and table: .png or .svg.",
            show_default=False,
        ),
    ] = None
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(MessageOptions, MachineOptions, ReadingOptions):
    """`framecls explain`."""

    recording: Annotated[str, _argument(metavar="RECORDING", help="One audio file.", rich_help_panel="Input")]
    model: ModelOption = "sound"
    at: Annotated[
        float | None, _labels("--at", metavar="S", help="Explain the frame there, seconds from the start.")
    ] = None
    segment: Annotated[
        int | None, _labels("--segment", metavar="N", help="Explain the Nth segment that framecls tag lists.")
    ] = None
    output: Annotated[
        Path | None,
        _output("-o", "--output", metavar="FILE", help="A picture of it: .png, .svg or .html.", show_default=False),
    ] = None
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class BenchOptions(MessageOptions, NetworkOptions):
    """`framecls bench`."""

    file: Annotated[
        Path | None,
        _argument(
            metavar="[INPUT]", help="A recording or a folder; by default made-up sound.", rich_help_panel="Input"
        ),
    ] = None
    model: ModelOption = "sound"
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="P1,P2", help=f"Other programs, if installed: {', '.join(PEERS)}."),
    ] = None
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", help="How often each thing is done.")] = 5
    length: Annotated[float, typer.Option("--length", metavar="S", help="Seconds of made-up sound.")] = 300.0
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class ExportOptions(MessageOptions):
    """`framecls export`."""

    model: ModelArgument
    output: Annotated[
        Path, _output("-o", "--output", metavar="FILE.onnx", help="The file to write.", show_default=False)
    ]
    no_features: Annotated[bool, _output("--no-features", help="Take feature vectors, not samples.")] = False


@dataclass(frozen=True, kw_only=True)
class ModelsOptions(MessageOptions):
    """`framecls models`."""

    model: Annotated[
        str | None, _argument(metavar="[NAME|PATH]", help="Show this model's card.", autocompletion=registry.names)
    ] = None


@dataclass(frozen=True, kw_only=True)
class CheckOptions(MessageOptions):
    """`framecls check`."""

    files: Annotated[
        list[Path],
        _argument(metavar="FILE...", help="Journals of results, galleries of voices, models, states of training runs."),
    ]
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class GuideOptions:
    """`framecls guide`."""

    name: Annotated[
        str | None,
        _argument(metavar="[NAME]", help="Which guide; without a name, list them.", autocompletion=_guides),
    ] = None


def taking(options: type[T], function: Callable[[T], int]) -> Callable[..., Callable[[], int]]:
    """Return a command with the parameters that the fields of a dataclass declare, for a function of one instance.

    Typer reads a command's parameters from its signature, so the signature is made from the fields. What Typer gets
    back is the call that is still to be made: outside of it, where it does not turn interrupts and broken pipes into
    its own exceptions.
    """

    def command(**values: Any) -> Callable[[], int]:
        return partial(function, options(**values))

    hints = typing.get_type_hints(options, include_extras=True)
    fields = dataclasses.fields(options)  # type: ignore[arg-type]
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=_default(f), annotation=_parsed(hints[f.name])
            )
            for f in sorted(fields, key=lambda f: _place(f.name, hints[f.name]))
        ]
    )
    return command


def _place(name: str, annotation: Any) -> tuple[int, bool]:
    """Return where --help shows an option: by its panel, and what goes to stderr after the rest of it."""
    return _PANELS.index(annotation.__metadata__[0].rich_help_panel), name in MessageOptions.__annotations__


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
