"""`framecls enroll`: remember somebody's voice by name."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from framecls.cli import checks
from framecls.cli.messages import INTERRUPTED, Messages, open_messages
from framecls.cli.options import EnrollOptions
from framecls.cli.progress import InputProgress
from framecls.config import EACH, ReadOptions
from framecls.errors import UsageError
from framecls.output.resume import observe
from framecls.speakers.found import FoundVoice, read_found
from framecls.speakers.gallery import check_name, default_path, open_gallery
from framecls.text import escape, hms

if TYPE_CHECKING:
    from framecls.audio import Input


def enroll_voice(options: EnrollOptions) -> int:
    """Embed the voice of every input, store those that could be read, and return the exit status.

    Raises:
        UsageError: what is wrong with the options.
        FrameclsError: what stops the whole run: the model, or the gallery.
    """
    messages = open_messages(options)
    name, voice = check_name(options.name), None
    if options.found is not None:
        if len(options.inputs) != 1:
            raise UsageError('--from wants whom it found and their name: enroll --from FILE "speaker 2" "Ada"')
        name, voice = check_name(options.inputs[0]), read_found(options.found, options.name)
    checks.check_machine(options)
    reading = ReadOptions(**checks.parse_reading(options))
    if reading.channel == EACH:
        raise UsageError("--channel each is not for enroll, which hears one person: choose one channel")
    checks.find_model(options.model, "voices")

    from framecls.audio import Input, find_inputs

    inputs: list[Input] = []
    for item in find_inputs(options.inputs if voice is None else [str(voice.file)]):
        if isinstance(item, Input):
            inputs.append(item)
        else:
            messages.input_failed(item.name, item.error)
    states = observe(inputs)
    sizes_bytes = [states[item.relative].size_bytes if item.relative in states else 0 for item in inputs]
    bar = InputProgress(sizes_bytes, enabled=options.shows_progress, write_line=messages.note)
    try:
        if inputs:
            _enroll(options, reading, (name, voice), inputs, messages, bar)
    except KeyboardInterrupt:
        bar.hide()
        messages.error("interrupted: nothing was enrolled")
        return INTERRUPTED
    finally:
        bar.hide()
    return messages.status


def _enroll(
    options: EnrollOptions,
    reading: ReadOptions,
    whom: tuple[str, FoundVoice | None],
    inputs: Sequence[Input],
    messages: Messages,
    bar: InputProgress,
) -> None:
    from framecls.inference.engine import load_engine
    from framecls.speakers.recognition import Embedding, embed_found, embed_recording, enroll, identity

    name, found = whom
    engine = load_engine(options.model, **options.loading())
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
            if found is not None:
                voice = embed_found(engine, item.source, found, reading)
            else:
                voice = embed_recording(engine, item.source, options=reading, progress=bar.advance)
        except Exception as error:
            bar.hide()
            messages.input_failed(item.name, error)
            bar.finish_input(0.0)
            continue
        bar.hide()
        messages.report_warnings(item.name, voice.remarks)
        voices.append((item.name, voice))
        bar.finish_input(voice.duration_s)
    bar.hide()
    if not voices:
        return
    done = enroll(engine, name, voices, path)
    heard_s = sum(voice.heard_s for _, voice in voices)
    old = len(voices) - done.n_new
    again = f", {old} of them enrolled before" if old else ""
    messages.note(
        f"{escape(name)}: {_count(len(voices))}, {hms(heard_s)} of speech{again}; {_count(done.n_clips)} in all, "
        f"in {escape(str(path))} ({time.monotonic() - began:.1f} s)"
    )
    for warning in done.warnings:
        messages.note(f"look again: {escape(warning)}")


def _count(number: int) -> str:
    return f"{number} clip{'s' if number != 1 else ''}"
