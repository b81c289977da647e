"""`framecls bench` and `framecls export`: how fast a model is, and the same model for other programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from framecls.checkpoints import registry
from framecls.checkpoints.file import read_config
from framecls.cli import checks
from framecls.cli.console import DONE, FAILED, open_messages
from framecls.cli.options import BenchOptions, ExportOptions
from framecls.cli.progress import ProgressBar
from framecls.cli.train import check_machine
from framecls.errors import AudioError, ConfigError, UsageError
from framecls.output.text import escape, hms

if TYPE_CHECKING:
    from rich.table import Table

    from framecls.bench import Report, Timing


def export_model(options: ExportOptions) -> int:
    """Write an ONNX file and return the exit status.

    Raises:
        UsageError: no model has that name, or what writes ONNX is not installed.
        ModelError: the model cannot be used, or the file not be written.
    """
    messages = open_messages(options)
    path = registry.locate(options.model)
    read_config(path)
    checks.check_overwrites({"-o": options.output}, {"the model": path})

    from framecls.checkpoints.onnx import export_onnx

    export_onnx(options.model, options.output, features=options.features)
    messages.note(f"{escape(str(options.output))}: written")
    return DONE


def run_bench(options: BenchOptions) -> int:
    """Measure, print what was measured and return the exit status.

    Raises:
        UsageError: what is wrong with the options.
        FrameclsError: the model or the recording cannot be used.
    """
    messages = open_messages(options)
    if options.format not in ("table", "json"):
        raise UsageError(f"-f {options.format}: choose table or json")
    check_machine(options)
    read_config(registry.locate(options.model))

    from framecls import bench

    try:
        job = bench.Job(
            model=options.model,
            file=options.file,
            length_s=options.length,
            runtime=options.runtime,
            repeats=options.repeats,
            against=tuple(dict.fromkeys(name.strip() for name in (options.against or "").split(",") if name.strip())),
            processes=options.processes,
            device=options.device,
            threads=options.threads,
            batch_size=options.batch_size,
        )
    except ConfigError as error:
        raise UsageError(f"--{error}") from error  # it begins with the setting, which the option is called like
    bar = ProgressBar(wanted=not (options.quiet or options.no_progress))
    try:
        report = bench.run(job, bar.show)
    except AudioError as error:
        bar.hide()
        messages.input_failed(str(options.file), error)
        return FAILED
    finally:
        bar.hide()
    for name, fault in report.left_out.items():
        messages.note(f"{escape(name)} is left out: {fault}")
    for name, how in report.missing.items():
        messages.note(f"{name} is not installed: {how}")
    _show(report, options.format)
    return DONE


def _show(report: Report, format: str) -> None:
    if format == "json":
        sys.stdout.write(json.dumps(report.as_dict()) + "\n")
        return
    from framecls.output.tables import make_console

    console = make_console(sys.stdout)
    threads = f"{report.threads} thread{'s' if report.threads != 1 else ''}"
    where = f"{report.runtime}, {report.device}, {threads}"
    several = f", {report.n_files:,} recordings, {hms(report.audio_s)}" if report.n_files > 1 else ""
    console.print(f"{escape(report.model)} on {escape(report.file)}{several} ({where})", markup=False)
    console.print(_speed_table(report))
    console.print(f"the whole takes {report.whole_to_decode:.2f} times as long as decoding alone")
    if report.peak_bytes is not None:
        console.print(f"peak memory of the whole command: {report.peak_bytes / 1e6:.0f} MB")
    if report.start_up:
        console.print(_start_up_table(report))


def _speed_table(report: Report) -> Table:
    table = _table("", "Time", "Spread", "× real time", *(f"× {name}" for name in report.peers))
    titles = {"decode": f"decode, {report.n_decoders} at once"} if report.n_decoders > 1 else {}
    for name, timing in report.stages.items():
        ratios = [f"{report.ratio(peer):.1f}" if name == "whole" else "" for peer in report.peers]
        table.add_row(titles.get(name, name), *_times(timing), f"{report.speed(timing):,.0f}", *ratios)
    for name, timing in report.peers.items():
        table.add_row(name, *_times(timing), f"{report.speed(timing):,.0f}", *[""] * len(report.peers))
    return table


def _start_up_table(report: Report) -> Table:
    table = _table("Start-up", "Time", "Spread")
    for name, timing in report.start_up.items():
        table.add_row(name, *_times(timing))
    return table


def _table(first: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _times(timing: Timing) -> tuple[str, str]:
    return f"{timing.median_s:.3f} s", f"{timing.low_s:.3f}–{timing.high_s:.3f}"
