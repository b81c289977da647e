"""The commands: each a line of a table, which says what it takes, what it calls, and what its --help tells."""

from __future__ import annotations

import importlib
from typing import Annotated, Any, NamedTuple

import typer

from framecls._version import __version__
from framecls.cli import options
from framecls.cli.help import Command, Group, examples


class Spec(NamedTuple):
    """What there is to say of a command."""

    takes: type[Any]  # the dataclass of its options
    calls: str  # module:function of framecls.cli, which gets them and returns the exit status; imported when called
    help: str
    examples: tuple[str, ...]


COMMANDS = {
    "tag": Spec(
        options.TagOptions,
        "operations:tag",
        "Say what is heard when: one label, or several, for every moment of each recording.",
        (
            "framecls tag recordings/ -f textgrid -o tiers/",
            "framecls tag programme.mp3 --coarse --totals",
            "framecls tag call.wav --threshold speech=0.7 --min-gap speech=0.5 -f csv",
            "framecls tag -m speaker meeting.wav --speakers 3",
            "framecls tag -m phones --string call.wav -f text",
            "framecls tag -m phones recordings/ --align .txt -f textgrid -o recordings/ --naming stem",
        ),
    ),
    "identify": Spec(
        options.IdentifyOptions,
        "operations:identify",
        "Say what each recording as a whole is: the language that is spoken in it, or who speaks.",
        (
            "framecls identify calls/ --among de,fr,en -o languages.csv",
            "framecls identify -m speaker meeting/ --threshold unknown=0.9",
        ),
    ),
    "enroll": Spec(
        options.EnrollOptions,
        "enroll:enroll_voice",
        "Remember somebody's voice by name, for `identify -m speaker`.",
        ('framecls enroll "Ada" ada1.wav ada2.wav', 'framecls enroll --from monday.jsonl "speaker 2" "Bob"'),
    ),
    "speakers list": Spec(
        options.SpeakersListOptions,
        "speakers:list_people",
        "Show who is enrolled, with how much speech.",
        ("framecls speakers list", "framecls speakers list --gallery team.sqlite -f json"),
    ),
    "speakers remove": Spec(
        options.SpeakersRemoveOptions,
        "speakers:remove_people",
        "Forget people and all their clips.",
        ('framecls speakers remove "Ada"', 'framecls speakers remove "Ada" "Bob" --gallery team.sqlite'),
    ),
    "speakers rename": Spec(
        options.SpeakersRenameOptions,
        "speakers:rename_person",
        "Give somebody another name.",
        ('framecls speakers rename "Bob" "Robert"', 'framecls speakers rename "Bob" "Robert" --gallery team.sqlite'),
    ),
    "speakers export": Spec(
        options.SpeakersExportOptions,
        "speakers:export_people",
        "Write people as JSON lines, a clip a line, for `speakers import` elsewhere.",
        ("framecls speakers export -o voices.jsonl", 'framecls speakers export "Ada" > ada.jsonl'),
    ),
    "speakers import": Spec(
        options.SpeakersImportOptions,
        "speakers:import_people",
        "Enroll what `speakers export` wrote, all of it or nothing.",
        ("framecls speakers import voices.jsonl", "framecls speakers import voices.jsonl --gallery team.sqlite"),
    ),
    "train": Spec(
        options.TrainOptions,
        "train:train_model",
        "Train a model on your own labelled recordings.",
        ("framecls train identify birds/ --check", "framecls train identify birds/ -o birds.safetensors"),
    ),
    "evaluate": Spec(
        options.EvaluateOptions,
        "evaluate:evaluate_model",
        "Measure a model on labelled recordings.",
        (
            "framecls evaluate birds.safetensors clips.csv",
            "framecls evaluate sound sound.jsonl --recipe sound -o figures.json",
        ),
    ),
    "compare": Spec(
        options.CompareOptions,
        "compare:compare_rungs",
        "Train networks that see one frame, its neighbours, or everything, and show what each is worth.",
        ("framecls compare --saw", "framecls compare clips.csv --recipe identify --set optim.steps=500"),
    ),
    "explain": Spec(
        options.ExplainOptions,
        "explain:explain_recording",
        "Show what a frame attended to, by layer and head, and what becomes of its label where others are hidden.",
        (
            "framecls explain call.wav --at 3.2",
            "framecls explain call.wav -m birds.safetensors --segment 2 -o why.html",
        ),
    ),
    "models": Spec(
        options.ModelsOptions,
        "models:show_models",
        "List the installed models, or show the card of one.",
        ("framecls models", "framecls models sound"),
    ),
    "export": Spec(
        options.ExportOptions,
        "bench:export_model",
        "Write a model as an ONNX file, for programs that have no torch.",
        ("framecls export sound -o sound.onnx", "framecls export language -o language.onnx --no-features"),
    ),
    "bench": Spec(
        options.BenchOptions,
        "bench:run_bench",
        "Measure how fast a model is on this machine, alone or beside other programs.",
        ("framecls bench", "framecls bench hour.mp3 --against silero,webrtc --threads 2"),
    ),
    "check": Spec(
        options.CheckOptions,
        "check:check_files",
        "Say whether files that framecls wrote are whole: journals, galleries, models, states of training runs.",
        ("framecls check tiers/.framecls-journal", "framecls check *.safetensors -f json"),
    ),
    "guide": Spec(
        options.GuideOptions,
        "guide:show_guide",
        "Show what goes beyond --help: folders, formats, live audio, voices, languages, training and more.",
        ("framecls guide", "framecls guide training | less"),
    ),
}

_EXIT_STATUS = """

Exit status:
    0  every input is done
    1  some inputs failed, or the whole run did; the others are done
    2  wrong usage, nothing was read
    3  every input is done, but a result lacks something, as a warning says
  130  interrupted by Ctrl-C
  141  the reader of stdout has gone
  143  ended by SIGTERM"""

app = typer.Typer(
    cls=Group,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Say what is heard when in audio recordings, which language is spoken, and who speaks. Works offline.",
    epilog=examples(
        "framecls tag interview.mp3",
        "framecls identify calls/ -o languages.csv",
        "framecls guide training",
    )
    + _EXIT_STATUS,
)
_speakers = typer.Typer(
    cls=Group,
    help="See and change who is enrolled.",
    epilog=examples("framecls speakers list", 'framecls speakers rename "Bob" "Robert"'),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"framecls {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Read the options that come before the command; the text of --help is the app's."""


def _register(words: str, spec: Spec) -> None:
    def call(given: Any) -> int:
        module, function = spec.calls.split(":")
        status: int = getattr(importlib.import_module(f"framecls.cli.{module}"), function)(given)
        return status

    *group, name = words.split()
    register = (_speakers if group else app).command(name, cls=Command, help=spec.help, epilog=examples(*spec.examples))
    register(options.taking(spec.takes, call))


for _words, _spec in COMMANDS.items():
    _register(_words, _spec)
app.add_typer(_speakers, name="speakers")
