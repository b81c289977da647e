"""The options of the commands: each declared once, as a field of a frozen dataclass that the command receives."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable
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


def _option(
    declared: str, help: str, *, panel: str | None = None, choices: Iterable[str] | None = None, **more: Any
) -> Any:
    """Return an option as --help shows it.

    Args:
        declared: its names, and behind them what it takes, such as "-m --model NAME".
        help: a sentence.
        panel: of `_PANELS`.
        choices: what completes it.
        more: of `typer.Option`.
    """
    words = declared.split()
    names = [word for word in words if word.startswith("-")]
    if choices is not None:
        more["autocompletion"] = lambda: list(choices)
    return typer.Option(*names, metavar=" ".join(words[len(names) :]) or None, help=help, rich_help_panel=panel, **more)


_labels, _phones, _training, _output, _reading, _machine = (partial(_option, panel=panel) for panel in _PANELS[2:])
_argument = partial(typer.Argument, show_default=False)

FULL, STEM = NAMINGS = ("full", "stem")  # of the results in a folder
PEERS = ("silero", "webrtc")  # of bench
LOCAL, RAY = ENGINES = ("local", "ray")


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
    str, _labels("-m --model NAME|PATH", "A shipped model or a model file.", autocompletion=registry.names)
]
ModelsOption = Annotated[
    list[str],
    _labels(
        "-m --model NAME|PATH",
        "A shipped model or a file, by default sound; repeatable.",
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
    Path | None, _labels("--gallery FILE", "The enrolled voices; by default in your data folder.")
]
AmongOption = Annotated[
    list[str], _labels("--among L1,L2", "Only these can be the answer, or none of them; repeatable.")
]
RecipeOption = Annotated[
    str | None, _training("--recipe NAME|FILE", "All settings, in a TOML file.", autocompletion=_recipes)
]
SetOption = Annotated[
    list[str],
    _training(
        "--set NAME=VALUE", "A setting in place of the recipe's: optim.steps=500; repeatable.", show_default=False
    ),
]
NoiseOption = Annotated[Path | None, _reading("--noise MANIFEST", "Recordings to mix into the others as noise.")]
CacheOption = Annotated[Path | None, _reading("--cache FOLDER", "Keep the decoded recordings there.")]
JsonOption = Annotated[str, _output("-f --format FORMAT", "table or json.", choices=("table", "json"))]


@dataclass(frozen=True, kw_only=True)
class MessageOptions:
    """What goes to stderr."""

    no_progress: Annotated[bool, _output("--no-progress", "Show no progress.")] = False
    quiet: Annotated[bool, _output("-q --quiet", "Only errors and warnings.")] = False
    verbose: Annotated[int, _output("-v --verbose", "Say more.", count=True, show_default=False)] = 0
    debug: Annotated[bool, _output("--debug", "Show the traceback of an error.")] = False

    @property
    def shows_progress(self) -> bool:
        """Whether a run shows how far it is."""
        return not (self.quiet or self.no_progress)


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """What the network runs on."""

    device: Annotated[
        str, _machine("--device NAME", "auto, cpu, cuda, cuda:N or mps.", choices=("auto", "cpu", "cuda", "mps"))
    ] = "auto"
    threads: Annotated[int | None, _machine("--threads N", "CPU threads; by default torch decides.")] = None
    batch_size: Annotated[int | None, _machine("--batch-size N", "Windows that the network reads at once.")] = None

    def loading(self) -> dict[str, Any]:
        """Return these options by the names that `framecls.load` and its twins give them."""
        return {"device": self.device, "threads": self.threads, "batch_size": self.batch_size}


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(MachineOptions):
    """How a network that is not to learn runs."""

    precision: Annotated[
        str, _machine("--precision NAME", "auto, fp32 or bf16: coarser, faster.", choices=PRECISIONS)
    ] = "auto"

    def loading(self) -> dict[str, Any]:
        return {**super().loading(), "precision": self.precision}


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How recordings are read."""

    raw: Annotated[
        str | None, _reading("--raw RATE[,N[,ENC]]", "Samples without a header: 16000, or 48000,2,f32le.")
    ] = None
    track: Annotated[int | None, _reading("--track N", "Audio track, from 1; else the default one, unless silent.")] = (
        None
    )
    channel: Annotated[
        str | None,
        _reading("--channel NAME|N", "left, right, a number, or each; by default all, mixed.", choices=CHANNELS),
    ] = None
    strict: Annotated[bool, _reading("--strict", "A recording that is cut off or damaged is a failure.")] = False
    max_duration: Annotated[float | None, _reading("--max-duration S", "Refuse a recording longer than this.")] = None
    timeout: Annotated[float, _reading("--timeout S", "Give a file up that stalls for this long.")] = DEFAULT_TIMEOUT_S


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where a run computes: in this process, or in others on this machine and on more."""

    engine: Annotated[
        str, _machine("--engine NAME", "local, or ray: several processes or machines.", choices=ENGINES)
    ] = LOCAL
    address: Annotated[str | None, _machine("--address HOST:PORT", "ray: the cluster; auto: the one here.")] = None
    workers: Annotated[int | None, _machine("--workers N", "ray: processes; by default as many as fit.")] = None


@dataclass(frozen=True, kw_only=True)
class RunOptions(MessageOptions, NetworkOptions, ClusterOptions, ReadingOptions):
    """What `tag` and `identify` share."""

    inputs: InputsArgument
    format: Annotated[
        str | None,
        _output("-f --format FORMAT", f"{', '.join(WRITERS)}; else by the suffix of -o, or table.", choices=WRITERS),
    ] = None
    output: Annotated[str | None, _output("-o --output PATH", "A file for all, or a folder: a file an input.")] = None
    naming: Annotated[
        str,
        _output(
            "--naming full|stem",
            "In a folder, of a.wav: a.wav.TextGrid, or a.TextGrid.",
            choices=NAMINGS,
            show_default=False,
        ),
    ] = FULL
    errors: Annotated[Path | None, _output("--errors FILE", "Write each failure there as a JSON line.")] = None
    resume: Annotated[bool, _output("--resume", "Skip what an earlier run to the same -o has done.")] = False
    threshold: Annotated[
        list[str], _labels("--threshold LABEL=P", "Least probability of a label; unknown=P: of an answer.")
    ] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TagOptions(RunOptions):
    """`framecls tag`."""

    model: ModelsOption = field(default_factory=list)  # none: see below
    frames: Annotated[bool, _output("--frames", "Give the probabilities of every frame.")] = False
    string: Annotated[bool, _phones("--string", "The phones that are said, in order (-m phones).")] = False
    among: AmongOption = field(default_factory=list)
    beam: Annotated[int | None, _phones("--beam N", f"--string: width of the search, by default {DEFAULT_BEAM}.")] = (
        None
    )
    min_duration: Annotated[
        list[str], _labels("--min-duration [LABEL=]S", "Drop segments shorter than this; repeatable.")
    ] = field(default_factory=list)
    min_gap: Annotated[list[str], _labels("--min-gap [LABEL=]S", "Join segments less than this apart; repeatable.")] = (
        field(default_factory=list)
    )
    labels: Annotated[list[str], _labels("--labels L1,L2", "Only these, of each model that has some; repeatable.")] = (
        field(default_factory=list)
    )
    exclusive: Annotated[bool, _labels("--exclusive", "One label at a time, the first of --labels that holds.")] = False
    coarse: Annotated[bool, _labels("--coarse", "Blocks of talk and music, as of a programme, no crumbs.")] = False
    totals: Annotated[bool, _output("--totals", "Give the seconds and the share of each label.")] = False
    ipa: Annotated[bool, _phones("--ipa", "Write phones in the International Phonetic Alphabet.")] = False
    align: Annotated[
        str | None,
        _phones("--align TEXT|@FILE|.txt", "When these words are said; .txt, .lab: of the file beside each."),
    ] = None
    stream: Annotated[bool, _output("--stream", "Print each segment as soon as it is final.")] = False
    gallery: GalleryOption = None
    speakers: Annotated[int | None, _labels("--speakers N", "-m speaker: so many voices.")] = None
    min_speakers: Annotated[int | None, _labels("--min-speakers N", "-m speaker: at least so many.")] = None
    max_speakers: Annotated[int | None, _labels("--max-speakers N", "-m speaker: at most so many.")] = None

    def __post_init__(self) -> None:
        if not self.model:
            about_phones = self.string or self.align is not None
            object.__setattr__(self, "model", ["phones" if about_phones else "sound"])


@dataclass(frozen=True, kw_only=True)
class IdentifyOptions(RunOptions):
    """`framecls identify`."""

    model: ModelOption = "language"
    top_k: Annotated[int, _labels("--top-k N", "How many candidates to list.")] = DEFAULT_TOP_K
    among: AmongOption = field(default_factory=list)
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class EnrollOptions(MessageOptions, MachineOptions, ReadingOptions):
    """`framecls enroll`."""

    name: Annotated[str, _argument(metavar="NAME", help="Whose voice it is.", rich_help_panel="Input")]
    inputs: InputsArgument
    found: Annotated[
        Path | None, _labels("--from FILE", 'What tag -m speaker -f jsonl wrote: enroll --from FILE "speaker 2" "Ada".')
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
    output: Annotated[Path | None, _output("-o --output FILE", "Where to; by default to stdout.")] = None
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class SpeakersImportOptions(MessageOptions):
    """`framecls speakers import`."""

    files: Annotated[list[str], _argument(metavar="FILE...", help="What `speakers export` wrote, or - (stdin).")]
    gallery: GalleryOption = None


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How labels are read and split into what is learnt from and what is measured on."""

    tier: Annotated[str | None, _reading("--tier NAME", "Of TextGrids and ELAN files; '*': all of them.")] = None
    annotation: Annotated[
        str | None, _reading("--annotation COLUMN", "Of Raven's tables: the one that is the label.")
    ] = None
    split_by: Annotated[
        str | None,
        _reading("--split-by WHAT", "What stays on one side of a split: source, speaker or file.", choices=SPLIT_BY),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainOptions(MessageOptions, MachineOptions, LabelOptions):
    """`framecls train`."""

    task: Annotated[
        str,
        _argument(
            metavar="tag|identify", help="What the model will be for.", autocompletion=lambda: ["tag", "identify"]
        ),
    ]
    manifest: ManifestArgument
    output: Annotated[Path | None, _output("-o --output MODEL", "The model file to write.")] = None
    check: Annotated[bool, _output("--check", "Read everything, say what is there, train nothing.")] = False
    format: Annotated[str, _output("-f --format FORMAT", "Of --check: table or json.", choices=("table", "json"))] = (
        "table"
    )
    preview: Annotated[
        Path | None, _output("--preview FOLDER", "Write 20 examples as they would be learnt from, train nothing.")
    ] = None
    recipe: RecipeOption = None
    set: SetOption = field(default_factory=list)
    noise: NoiseOption = None
    preset: Annotated[
        str | None, _training("--preset NAME", f"What the sounds need: {', '.join(PRESETS)}.", choices=PRESETS)
    ] = None
    wanted_precision: Annotated[
        float | None, _labels("--precision P", "What each label is to reach where it is given, as 0.95.")
    ] = None
    exclusive: Annotated[bool, _labels("--exclusive", "tag: one label a frame; time without one teaches nothing.")] = (
        False
    )
    init: Annotated[
        str | None,
        _training("--init NAME|PATH", "Begin with the weights of this model that fit.", autocompletion=registry.names),
    ] = None
    encoder: Annotated[
        str | None, _training("--encoder SOURCE", "Pre-trained: framecls:language, microsoft/wavlm-base-plus, a path.")
    ] = None
    teacher: Annotated[
        Path | None, _training("--teacher FILE", "Vectors, or posteriors of frames, of another model: npz.")
    ] = None
    resume: Annotated[bool, _output("--resume", "Go on where an earlier run left off.")] = False
    settings: Annotated[
        bool,
        _training("--settings", "List all settings of --set, with defaults.", callback=_print_settings, is_eager=True),
    ] = False
    save_every: Annotated[float, _output("--save-every S", "Seconds between states that --resume can use.")] = 60.0


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(MessageOptions, NetworkOptions, LabelOptions):
    """`framecls evaluate`."""

    model: ModelArgument
    manifest: ManifestArgument
    split: Annotated[str, _reading("--split NAME", "train, dev or all of the manifest.", choices=SPLITS)] = "dev"
    recipe: Annotated[
        str | None, _reading("--recipe NAME|FILE", "Mix recordings as this recipe does.", autocompletion=_recipes)
    ] = None
    length: Annotated[float | None, _reading("--length S", "identify: join and cut each voice to this length.")] = None
    codec: Annotated[
        str | None, _reading("--codec NAME", f"Send recordings through one first: {', '.join(CODECS)}.", choices=CODECS)
    ] = None
    timeline: Annotated[
        bool, _labels("--timeline", "Models of identify: who, or which language, when (RTTM, TextGrid, …): DER.")
    ] = False
    collar: Annotated[
        float | None, _labels("--collar S", "--timeline: leave out so much on both sides of a start or end.")
    ] = None
    skip_overlap: Annotated[bool, _labels("--skip-overlap", "--timeline: leave out where more than one speaks.")] = (
        False
    )
    cache: CacheOption = None
    output: Annotated[Path | None, _output("-o --output FILE", "Write all figures there as JSON.")] = None
    report: Annotated[Path | None, _output("--report FILE", "Write a page to look at and listen to: .html.")] = None
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class CompareOptions(MessageOptions, MachineOptions, LabelOptions):
    """`framecls compare`."""

    manifest: Annotated[
        Path | None, _argument(metavar="[MANIFEST]", help="Labelled recordings, as for framecls train.")
    ] = None
    saw: Annotated[bool, _reading("--saw", "In place of a manifest: clips in which distant context decides.")] = False
    recipe: RecipeOption = None
    set: SetOption = field(default_factory=list)
    rungs: Annotated[str, _training("--rungs R1,R2", f"Some of {', '.join(RUNGS)}.", show_default=False)] = ",".join(
        LADDER
    )
    seeds: Annotated[int, _training("--seeds N", "Train each N times, and give the mean and the spread.")] = 1
    noise: NoiseOption = None
    cache: CacheOption = None
    save: Annotated[Path | None, _output("--save FOLDER", "Keep the trained models there.")] = None
    output: Annotated[Path | None, _output("-o --output FILE", "Draw learning curves and table: .png or .svg.")] = None
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(MessageOptions, MachineOptions, ReadingOptions):
    """`framecls explain`."""

    recording: Annotated[str, _argument(metavar="RECORDING", help="One audio file.", rich_help_panel="Input")]
    model: ModelOption = "sound"
    at: Annotated[float | None, _labels("--at S", "Explain the frame there, seconds from the start.")] = None
    segment: Annotated[int | None, _labels("--segment N", "Explain the Nth segment that framecls tag lists.")] = None
    output: Annotated[Path | None, _output("-o --output FILE", "A picture of it: .png, .svg or .html.")] = None
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
    against: Annotated[str | None, _option("--against P1,P2", f"Other programs, if installed: {', '.join(PEERS)}.")] = (
        None
    )
    repeats: Annotated[int, _option("--repeats N", "How often each thing is done.")] = 5
    length: Annotated[float, _option("--length S", "Seconds of made-up sound.")] = 300.0
    format: JsonOption = "table"


@dataclass(frozen=True, kw_only=True)
class ExportOptions(MessageOptions):
    """`framecls export`."""

    model: ModelArgument
    output: Annotated[Path, _output("-o --output FILE.onnx", "The file to write.")]
    no_features: Annotated[bool, _output("--no-features", "Take feature vectors, not samples.")] = False


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
        str | None, _argument(metavar="[NAME]", help="Which guide; without a name, list them.", autocompletion=_guides)
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


def _place(name: str, annotation: Any) -> tuple[int, bool, bool]:
    """Return where --help shows an option: by its panel, the model first, and what goes to stderr last."""
    panel = _PANELS.index(annotation.__metadata__[0].rich_help_panel)
    return panel, name != "model", name in MessageOptions.__annotations__


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
