"""`framecls bench` and `framecls export`: how fast a model is, and the same model for other programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from framecls.checkpoints import registry
from framecls.checkpoints.file import read_config
from framecls.cli import checks
from framecls.cli.messages import DONE, FAILED, open_messages
from framecls.cli.options import PEERS, BenchOptions, ExportOptions
from framecls.cli.progress import ProgressBar
from framecls.errors import AudioError, UsageError
from framecls.text import escape, hms

if TYPE_CHECKING:
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

    export_onnx(options.model, options.output, features=not options.no_features)
    messages.note(f"{escape(str(options.output))}: written")
    return DONE


def run_bench(options: BenchOptions) -> int:
    """Measure, print what was measured and return the exit status.

    Raises:
        UsageError: what is wrong with the options.
        FrameclsError: the model or the recording cannot be used.
    """
    messages = open_messages(options)
    checks.check_report_format(options.format)
    checks.check_machine(options)
    checks.check_count("--repeats", options.repeats)
    if not 1 <= options.length <= 36000:
        raise UsageError(f"--length {options.length} s: 1 to 36000 s")
    against = tuple(dict.fromkeys(name.strip() for name in (options.against or "").split(",") if name.strip()))
    for name in against:
        if name not in PEERS:
            raise UsageError(f"--against {name!r}: there is no such peer, choose {', '.join(PEERS)}")
    read_config(registry.locate(options.model))

    from framecls import bench

    benchmark = bench.Benchmark(
        model=options.model,
        file=options.file,
        length_s=options.length,
        repeats=options.repeats,
        against=against,
        **options.loading(),
    )
    bar = ProgressBar(enabled=options.shows_progress)
    left_out: list[str] = []
    try:
        with bar.hidden_at_end():
            report = bench.run(benchmark, bar.show, left_out.append)
    except AudioError as error:
        messages.input_failed(str(options.file), error)
        return FAILED
    for line in left_out:
        messages.note(escape(line))
    for name, how in report.not_installed.items():
        messages.note(f"{name} is not installed: {how}")
    if options.format == "json":
        sys.stdout.write(json.dumps(dataclasses.asdict(report)) + "\n")
    else:
        _print_tables(report)
    return DONE


def _print_tables(report: Report) -> None:
    from framecls.output.tables import make_console, make_table

    console = make_console(sys.stdout)
    threads = f"{report.threads} thread{'s' if report.threads != 1 else ''}"
    several = f", {report.files:,} recordings, {hms(report.duration)}" if report.files > 1 else ""
    where = f"{report.runtime}, {report.device}, {report.precision}, {threads}"
    console.print(f"{escape(report.model)} on {escape(report.file)}{several} ({where})", markup=False)
    peers = report.against
    titles = ("Time", "Spread", "× real time", *(f"× {name}" for name in peers))
    table = make_table(("", "left"), *((title, "right") for title in titles))
    renamed = {"decode": f"decode, {report.decoders} at once"} if report.decoders > 1 else {}
    for name, speed in {**report.stages, **peers}.items():
        ratios = [f"{peer.ratio:.1f}" if name == "whole" else "" for peer in peers.values()]
        table.add_row(renamed.get(name, name), *_times(speed), f"{speed.times_real_time:,.0f}", *ratios)
    console.print(table)
    console.print(f"the whole takes {report.whole_to_decode:.2f} times as long as decoding alone")
    if report.peak_memory_bytes is not None:
        console.print(f"peak memory of the whole command: {report.peak_memory_bytes / 1e6:.0f} MB")
    if report.start_up:
        table = make_table(("Start-up", "left"), ("Time", "right"), ("Spread", "right"))
        for name, timing in report.start_up.items():
            table.add_row(name, *_times(timing))
        console.print(table)


def _times(timing: Timing) -> tuple[str, str]:
    return f"{timing.median_s:.3f} s", f"{timing.low_s:.3f}–{timing.high_s:.3f}"
