"""The commands. Each one takes a dataclass of options, calls the library, and returns its exit status."""

from __future__ import annotations

from typing import Annotated

import typer

from framecls._version import __version__
from framecls.cli.help import Command, Group, examples
from framecls.cli.options import (
    BenchOptions,
    CheckOptions,
    CompareOptions,
    EnrollOptions,
    EvaluateOptions,
    ExplainOptions,
    ExportOptions,
    GuideOptions,
    IdentifyOptions,
    ModelsOptions,
    SpeakersExportOptions,
    SpeakersImportOptions,
    SpeakersListOptions,
    SpeakersRemoveOptions,
    SpeakersRenameOptions,
    TagOptions,
    TrainOptions,
    takes,
)

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


@app.command(
    cls=Command,
    epilog=examples(
        "framecls tag recordings/ -f textgrid -o tiers/",
        "framecls tag programme.mp3 --coarse --totals",
        "framecls tag call.wav --threshold speech=0.7 --min-gap speech=0.5 -f csv",
        "framecls tag -m speaker meeting.wav --speakers 3",
        "framecls tag -m phones --string call.wav -f text",
        "framecls tag -m phones recordings/ --align .txt -f textgrid -o recordings/ --naming stem",
    ),
)
@takes(TagOptions)
def tag(options: TagOptions) -> int:
    """Say what is heard when: one label, or several, for every moment of each recording."""
    from framecls.cli.classify import classify
    from framecls.cli.operations import AlignOperation, StringOperation, TagOperation, TiersOperation

    if len(options.model) > 1:
        return classify(TiersOperation(options))
    if options.align is not None:
        return classify(AlignOperation(options))
    return classify(StringOperation(options) if options.string else TagOperation(options))


@app.command(
    cls=Command,
    epilog=examples(
        "framecls identify calls/ --among de,fr,en -o languages.csv",
        "framecls identify -m speaker meeting/ --threshold unknown=0.9",
    ),
)
@takes(IdentifyOptions)
def identify(options: IdentifyOptions) -> int:
    """Say what each recording as a whole is: the language that is spoken in it, or who speaks."""
    from framecls.cli.classify import classify
    from framecls.cli.operations import IdentifyOperation

    return classify(IdentifyOperation(options))


@app.command(
    cls=Command,
    epilog=examples('framecls enroll "Ada" ada1.wav ada2.wav', 'framecls enroll --from monday.jsonl "speaker 2" "Bob"'),
)
@takes(EnrollOptions)
def enroll(options: EnrollOptions) -> int:
    """Remember somebody's voice by name, for `identify -m speaker`."""
    from framecls.cli.enroll import enroll_voice

    return enroll_voice(options)


speakers = typer.Typer(
    cls=Group,
    help="See and change who is enrolled.",
    epilog=examples("framecls speakers list", 'framecls speakers rename "Bob" "Robert"'),
)
app.add_typer(speakers, name="speakers")


@speakers.command(
    "list",
    cls=Command,
    epilog=examples("framecls speakers list", "framecls speakers list --gallery team.sqlite -f json"),
)
@takes(SpeakersListOptions)
def list_speakers(options: SpeakersListOptions) -> int:
    """Show who is enrolled, with how much speech."""
    from framecls.cli.speakers import list_people

    return list_people(options)


@speakers.command(
    "remove",
    cls=Command,
    epilog=examples('framecls speakers remove "Ada"', 'framecls speakers remove "Ada" "Bob" --gallery team.sqlite'),
)
@takes(SpeakersRemoveOptions)
def remove_speakers(options: SpeakersRemoveOptions) -> int:
    """Forget people and all their clips."""
    from framecls.cli.speakers import remove_people

    return remove_people(options)


@speakers.command(
    "rename",
    cls=Command,
    epilog=examples(
        'framecls speakers rename "Bob" "Robert"', 'framecls speakers rename "Bob" "Robert" --gallery team.sqlite'
    ),
)
@takes(SpeakersRenameOptions)
def rename_speaker(options: SpeakersRenameOptions) -> int:
    """Give somebody another name."""
    from framecls.cli.speakers import rename_person

    return rename_person(options)


@speakers.command(
    "export",
    cls=Command,
    epilog=examples("framecls speakers export -o voices.jsonl", 'framecls speakers export "Ada" > ada.jsonl'),
)
@takes(SpeakersExportOptions)
def export_speakers(options: SpeakersExportOptions) -> int:
    """Write people as JSON lines, a clip a line, for `speakers import` elsewhere."""
    from framecls.cli.speakers import export_people

    return export_people(options)


@speakers.command(
    "import",
    cls=Command,
    epilog=examples(
        "framecls speakers import voices.jsonl", "framecls speakers import voices.jsonl --gallery team.sqlite"
    ),
)
@takes(SpeakersImportOptions)
def import_speakers(options: SpeakersImportOptions) -> int:
    """Enroll what `speakers export` wrote, all of it or nothing."""
    from framecls.cli.speakers import import_people

    return import_people(options)


@app.command(
    cls=Command,
    epilog=examples(
        "framecls train identify birds/ --check",
        "framecls train identify birds/ -o birds.safetensors",
    ),
)
@takes(TrainOptions)
def train(options: TrainOptions) -> int:
    """Train a model on your own labelled recordings."""
    from framecls.cli.train import train_model

    return train_model(options)


@app.command(
    cls=Command,
    epilog=examples(
        "framecls evaluate birds.safetensors clips.csv",
        "framecls evaluate sound sound.jsonl --recipe sound -o figures.json",
    ),
)
@takes(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> int:
    """Measure a model on labelled recordings."""
    from framecls.cli.evaluate import evaluate_model

    return evaluate_model(options)


@app.command(
    cls=Command,
    epilog=examples("framecls compare --saw", "framecls compare clips.csv --recipe identify --set optim.steps=500"),
)
@takes(CompareOptions)
def compare(options: CompareOptions) -> int:
    """Train networks that see one frame, its neighbours, or everything, and show what each is worth."""
    from framecls.cli.compare import compare_rungs

    return compare_rungs(options)


@app.command(
    cls=Command,
    epilog=examples(
        "framecls explain call.wav --at 3.2",
        "framecls explain call.wav -m birds.safetensors --segment 2 -o why.html",
    ),
)
@takes(ExplainOptions)
def explain(options: ExplainOptions) -> int:
    """Show what a frame attended to, by layer and head, and what becomes of its label where others are hidden."""
    from framecls.cli.explain import explain_recording

    return explain_recording(options)


@app.command(cls=Command, epilog=examples("framecls models", "framecls models sound"))
@takes(ModelsOptions)
def models(options: ModelsOptions) -> int:
    """List the installed models, or show the card of one."""
    from framecls.cli.models import list_models, show_model

    return list_models(options) if options.model is None else show_model(options)


@app.command(
    cls=Command,
    epilog=examples("framecls export sound -o sound.onnx", "framecls export language -o language.onnx --no-features"),
)
@takes(ExportOptions)
def export(options: ExportOptions) -> int:
    """Write a model as an ONNX file, for programs that have no torch."""
    from framecls.cli.bench import export_model

    return export_model(options)


@app.command(
    cls=Command, epilog=examples("framecls bench", "framecls bench hour.mp3 --against silero,webrtc --threads 2")
)
@takes(BenchOptions)
def bench(options: BenchOptions) -> int:
    """Measure how fast a model is on this machine, alone or beside other programs."""
    from framecls.cli.bench import run_bench

    return run_bench(options)


@app.command(
    cls=Command, epilog=examples("framecls check tiers/.framecls-journal", "framecls check *.safetensors -f json")
)
@takes(CheckOptions)
def check(options: CheckOptions) -> int:
    """Say whether files that framecls wrote are whole: journals, galleries, models, states of training runs."""
    from framecls.cli.check import check_files

    return check_files(options)


@app.command(cls=Command, epilog=examples("framecls guide", "framecls guide training | less"))
@takes(GuideOptions)
def guide(options: GuideOptions) -> int:
    """Show what goes beyond --help: folders, formats, live audio, voices, languages, training and more."""
    from framecls.cli.guide import show_guide

    return show_guide(options)
