"""`framecls enroll`: remember somebody's voice by name."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from framecls.cli import checks
from framecls.cli.console import INTERRUPTED, Console, escape, set_up_logging
from framecls.cli.options import EnrollOptions
from framecls.cli.progress import InputBar, clock
from framecls.config import EACH, ReadOptions
from framecls.errors import UsageError
from framecls.output.resume import observe
from framecls.speakers.gallery import check_name, default_path, open_gallery

if TYPE_CHECKING:
    from framecls.audio import Input


def enroll_voice(options: EnrollOptions) -> int:
    """Hear every input, store the voices of those that could be heard, and return the exit status.

    Raises:
        UsageError: what is wrong with the options.
        FrameclsError: what stops the whole run: the model, or the gallery.
    """
    set_up_logging(options.verbose, options.debug)
    name = check_name(options.name)
    checks.check_device(options.device)
    checks.check_count("--threads", options.threads)
    checks.check_count("--batch-size", options.batch_size)
    reading = ReadOptions(**checks.parse_reading(options))
    if reading.channel == EACH:
        raise UsageError("--channel each is not for enroll, which hears one person: choose one channel")
    checks.find_voice_model(options.model)
    console = Console(quiet=options.quiet, debug=options.debug)

    from framecls.audio import Input, find_inputs

    inputs: list[Input] = []
    for item in find_inputs(options.inputs):
        if isinstance(item, Input):
            inputs.append(item)
        else:
            console.failure(item.name, item.error)
    states = observe(inputs)
    sizes_bytes = [states[item.relative].size_bytes if item.relative in states else 0 for item in inputs]
    bar = InputBar(sizes_bytes, wanted=not (options.quiet or options.no_progress), write_line=console.note)
    try:
        if inputs:
            _enroll(options, reading, name, inputs, console, bar)
    except KeyboardInterrupt:
        bar.hide()
        console.error("interrupted: nothing was enrolled")
        return INTERRUPTED
    finally:
        bar.hide()
    return console.status


def _enroll(
    options: EnrollOptions,
    reading: ReadOptions,
    name: str,
    inputs: Sequence[Input],
    console: Console,
    bar: InputBar,
) -> None:
    from framecls.inference.engine import load_engine
    from framecls.speakers.recognition import Embedding, embed_recording, enroll, identity

    engine = load_engine(options.model, device=options.device, threads=options.threads, batch_size=options.batch_size)
    path = options.gallery or default_path()
    if os.path.lexists(path):  # that it does not fit is said before hours of recordings are heard
        model = identity(engine)
        with open_gallery(path) as gallery:
            for other in set(gallery.models()) - {model}:
                raise gallery.other_model(other, model)
    voices: list[tuple[str, Embedding]] = []
    began = time.monotonic()
    for item in inputs:
        try:
            voice = embed_recording(engine, item.source, options=reading, progress=bar.advance)
        except Exception as error:
            bar.hide()
            console.failure(item.name, error)
            bar.finish_input(0.0)
            continue
        bar.hide()
        console.remark(item.name, voice.remarks)
        voices.append((item.name, voice))
        bar.finish_input(voice.duration_s)
    bar.hide()
    if not voices:
        return
    done = enroll(engine, name, voices, path)
    heard_s = sum(voice.heard_s for _, voice in voices)
    old = len(voices) - done.n_new
    again = f", {old} of them enrolled before" if old else ""
    console.note(
        f"{escape(name)}: {_count(len(voices))}, {clock(heard_s)} of speech{again}; {_count(done.n_clips)} in all, "
        f"in {escape(str(path))} ({time.monotonic() - began:.1f} s)"
    )
    for warning in done.warnings:
        console.note(f"look again: {escape(warning)}")


def _count(number: int) -> str:
    return f"{number} clip{'s' if number != 1 else ''}"
