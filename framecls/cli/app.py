"""The commands. Each one takes a dataclass of options, calls the library, and returns its exit status."""

from __future__ import annotations

from typing import Annotated

import typer

from framecls._version import __version__
from framecls.cli.help import Command, Group
from framecls.cli.options import (
    BenchOptions,
    CheckOptions,
    CompareOptions,
    EnrollOptions,
    EvaluateOptions,
    ExportOptions,
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

app = typer.Typer(
    cls=Group,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Say what is heard when in audio recordings, which language is spoken, and who speaks. Works offline.",
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


@app.command(cls=Command)
@takes(TagOptions)
def tag(options: TagOptions) -> int:
    """Say what is heard when: one label, or several, for every moment of each recording."""
    from framecls.cli.classify import classify
    from framecls.cli.operations import StringOperation, TagOperation

    return classify(options, StringOperation(options) if options.string else TagOperation(options))


@app.command(cls=Command)
@takes(IdentifyOptions)
def identify(options: IdentifyOptions) -> int:
    """Say what each recording as a whole is: the language that is spoken in it, or who speaks."""
    from framecls.cli.classify import classify
    from framecls.cli.operations import IdentifyOperation

    return classify(options, IdentifyOperation(options))


@app.command(cls=Command)
@takes(EnrollOptions)
def enroll(options: EnrollOptions) -> int:
    """Remember somebody's voice by name, for `identify -m speaker`."""
    from framecls.cli.enroll import enroll_voice

    return enroll_voice(options)


speakers = typer.Typer(cls=Group, help="See and change who is enrolled.")
app.add_typer(speakers, name="speakers")


@speakers.command("list", cls=Command)
@takes(SpeakersListOptions)
def list_speakers(options: SpeakersListOptions) -> int:
    """Show who is enrolled, with how much speech."""
    from framecls.cli.speakers import list_people

    return list_people(options)


@speakers.command("remove", cls=Command)
@takes(SpeakersRemoveOptions)
def remove_speakers(options: SpeakersRemoveOptions) -> int:
    """Forget people and all their clips."""
    from framecls.cli.speakers import remove_people

    return remove_people(options)


@speakers.command("rename", cls=Command)
@takes(SpeakersRenameOptions)
def rename_speaker(options: SpeakersRenameOptions) -> int:
    """Give somebody another name."""
    from framecls.cli.speakers import rename_person

    return rename_person(options)


@speakers.command("export", cls=Command)
@takes(SpeakersExportOptions)
def export_speakers(options: SpeakersExportOptions) -> int:
    """Write people as JSON lines, a clip a line, for `speakers import` elsewhere."""
    from framecls.cli.speakers import export_people

    return export_people(options)


@speakers.command("import", cls=Command)
@takes(SpeakersImportOptions)
def import_speakers(options: SpeakersImportOptions) -> int:
    """Enroll what `speakers export` wrote, all of it or nothing."""
    from framecls.cli.speakers import import_people

    return import_people(options)


@app.command(cls=Command)
@takes(TrainOptions)
def train(options: TrainOptions) -> int:
    """Train a model on one's own labelled recordings."""
    from framecls.cli.train import train_model

    return train_model(options)


@app.command(cls=Command)
@takes(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> int:
    """Measure a model on labelled recordings."""
    from framecls.cli.train import evaluate_model

    return evaluate_model(options)


@app.command(cls=Command)
@takes(CompareOptions)
def compare(options: CompareOptions) -> int:
    """Train networks that see one frame, its neighbours, or everything, and show what each is worth."""
    from framecls.cli.compare import compare_rungs

    return compare_rungs(options)


@app.command(cls=Command)
@takes(ModelsOptions)
def models(options: ModelsOptions) -> int:
    """List the installed models, or show the card of one."""
    from framecls.cli.models import list_models, show_model

    return list_models(options) if options.model is None else show_model(options)


@app.command(cls=Command)
@takes(ExportOptions)
def export(options: ExportOptions) -> int:
    """Write a model as an ONNX file, for programs that have no torch."""
    from framecls.cli.bench import export_model

    return export_model(options)


@app.command(cls=Command)
@takes(BenchOptions)
def bench(options: BenchOptions) -> int:
    """Measure how fast a model is on this machine, alone or beside other programs."""
    from framecls.cli.bench import run_bench

    return run_bench(options)


@app.command(cls=Command)
@takes(CheckOptions)
def check(options: CheckOptions) -> int:
    """Say whether files that framecls wrote are whole: journals, galleries, models, states of training runs."""
    from framecls.cli.check import check_files

    return check_files(options)
