"""Checks of options that need neither torch nor the network."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from framecls.checkpoints import registry
from framecls.checkpoints.file import read_config
from framecls.cli.numbers import parse_seconds
from framecls.cli.options import ENGINES, LOCAL, NAMINGS, RAY, STEM, NetworkOptions, ReadingOptions
from framecls.config import (
    PRECISIONS,
    UNKNOWN,
    DecisionConfig,
    DecisionKeywords,
    ModelConfig,
    RawAudio,
    ReadKeywords,
    ReadOptions,
    listed,
)
from framecls.errors import WHO_IS, ConfigError, UsageError, suggest
from framecls.output.files import is_device
from framecls.output.formats import WRITERS
from framecls.output.languages import LANGUAGES, find_languages

if TYPE_CHECKING:
    from framecls.audio import Input
    from framecls.cli.options import MachineOptions, RunOptions, TagOptions

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?|mps")
# The task of the models that a command trains.
TASKS: dict[str, Literal["frame", "pooled"]] = {"tag": "frame", "identify": "pooled"}


def choose_format(name: str | None, output: str | None, *, frames: bool = False, totals: bool = False) -> str:
    """Return the format that -f names, or else the one that the suffix of -o stands for.

    Raises:
        UsageError: there is no such format, none can be told from -o, or it does not go with the other options.
    """
    chosen = _pick_format(name, output)
    if WRITERS[chosen].binary and output is None:
        raise UsageError(f"-f {chosen} is not for a terminal or a pipe: name a file or a folder with -o")
    for option, given, takes in (("--frames", frames, "takes_frames"), ("--totals", totals, "takes_totals")):
        if given and not getattr(WRITERS[chosen], takes):
            able = [name for name, writer in WRITERS.items() if getattr(writer, takes)]
            raise UsageError(f"{option} does not go with -f {chosen}: choose {', '.join(able)}")
    if frames and totals and not WRITERS[chosen].takes_both:
        raise UsageError(f"--frames and --totals do not fit into one table of -f {chosen}: leave one of them out")
    return chosen


def _pick_format(name: str | None, output: str | None) -> str:
    if name is not None:
        if name not in WRITERS:
            raise UsageError(f"-f {name}: there is no such format, choose {', '.join(WRITERS)}")
        return name
    if output is None:
        return "table"
    fitting = [name for name, writer in WRITERS.items() if output.casefold().endswith(writer.suffix.casefold())]
    if not fitting:
        raise UsageError(f"-o {output}: name the format with -f: {', '.join(WRITERS)}")
    # The most that fits; .txt: audacity, the last of them.
    return max(reversed(fitting), key=lambda name: len(WRITERS[name].suffix))


def check_report_format(format: str) -> None:
    """Refuse a format that a command does not print its figures in."""
    if format not in ("table", "json"):
        raise UsageError(f"-f {format}: choose table or json")


def check_device(name: str) -> None:
    """Refuse a device that no machine has; whether this one has it is for torch to say."""
    if not _DEVICE.fullmatch(name):
        raise UsageError(f"--device {name}: there is no such device, choose auto, cpu, cuda, cuda:N or mps")


def check_count(option: str, value: int | None) -> None:
    """Refuse a number of things below one."""
    if value is not None and value < 1:
        raise UsageError(f"{option} {value}: at least 1")


def choose_speakers(number: int | None, least: int | None, most: int | None) -> tuple[int, int | None] | None:
    """Return the least and the most speakers that are asked for; None: any number.

    Raises:
        UsageError: a number is below one, or they do not go together.
    """
    for option, value in (("--speakers", number), ("--min-speakers", least), ("--max-speakers", most)):
        check_count(option, value)
    if number is not None and (least, most) != (None, None):
        raise UsageError("--speakers says how many there are: leave --min-speakers and --max-speakers out")
    if least is not None and most is not None and least > most:
        raise UsageError(f"--min-speakers {least} is more than --max-speakers {most}")
    if number is not None:
        return number, number
    return None if (least, most) == (None, None) else (least or 1, most)


def check_machine(options: MachineOptions) -> None:
    """Refuse numbers, devices and precisions that no machine has."""
    check_device(options.device)
    check_count("--threads", options.threads)
    check_count("--batch-size", options.batch_size)
    if isinstance(options, NetworkOptions) and options.precision not in PRECISIONS:
        raise UsageError(f"--precision {options.precision}: choose {', '.join(PRECISIONS)}")


def check_engine(options: RunOptions) -> None:
    """Refuse what does not go with where the run computes.

    Raises:
        UsageError: there is no such engine, it is not installed, or it cannot do that.
    """
    if options.engine not in ENGINES:
        raise UsageError(f"--engine {options.engine}: there is no such engine, choose {' or '.join(ENGINES)}")
    if options.engine == LOCAL:
        for option, value in (("--address", options.address), ("--workers", options.workers)):
            if value is not None:
                raise UsageError(f"{option} goes with --engine {RAY}: add that, or leave it out")
        return
    from framecls.cluster import CLUSTER_DEVICES, require_ray  # it takes time to import

    check_count("--workers", options.workers)
    if options.device not in CLUSTER_DEVICES:
        choices = ", ".join(CLUSTER_DEVICES)
        raise UsageError(f"--device {options.device}: with --engine {RAY} choose {choices}; Ray picks the GPU")
    if "-" in options.inputs:
        raise UsageError(f"- is what is piped in here, which --engine {RAY} does not pass on: leave that out")
    require_ray()


def parse_lengths(option: str, texts: Sequence[str]) -> tuple[float | None, dict[str, float]]:
    """Read the `S` and `LABEL=S` of an option; return the length in seconds for all labels, and those of some.

    Raises:
        UsageError: one is no length of time.
    """
    for_all: float | None = None
    of_label: dict[str, float] = {}
    for text in texts:
        label, equals, value = text.rpartition("=")
        if equals and not label:
            raise UsageError(f"{option} {text}: [LABEL=]S is expected, such as speech=0.5, or 0.5 for all labels")
        length_s = parse_seconds(option)(value)
        check_seconds(option, length_s)
        if label:
            of_label[label] = length_s
        else:
            for_all = length_s
    return for_all, of_label


def check_ipa(options: TagOptions, model: str, labels: Sequence[str]) -> None:
    """Refuse to write labels in the International Phonetic Alphabet that are no phones."""
    if options.ipa:
        from framecls.shapes import IPA  # numpy: only where it is asked for

        if not labels or not {*labels} <= {*IPA}:
            raise UsageError(f"--ipa is for phones, and {model} has other labels: use -m phones, or leave it out")


def check_naming(options: RunOptions) -> None:
    """Refuse a naming of results that there is not, or where nothing is named."""
    if options.naming not in NAMINGS:
        raise UsageError(f"--naming {options.naming}: choose {' or '.join(NAMINGS)}")
    if options.naming == STEM and options.output is None:
        raise UsageError("--naming stem names files in a folder: name it with -o, such as the one of the recordings")


def check_seconds(option: str, value: float | None) -> None:
    """Refuse what is no length of time."""
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{option} {value}: a length of time in seconds, 0 or more")


def parse_thresholds(texts: Sequence[str]) -> dict[str, float]:
    """Read `LABEL=P` options.

    Raises:
        UsageError: one is not of that form, or its probability is not in 0..1.
    """
    thresholds: dict[str, float] = {}
    for text in texts:
        label, _, value = text.rpartition("=")
        try:
            thresholds[label] = float(value)
        except ValueError:
            raise UsageError(f"--threshold {text}: LABEL=P is expected, such as speech=0.5") from None
        if not label:
            raise UsageError(f"--threshold {text}: LABEL=P is expected, such as speech=0.5")
        if not 0 <= thresholds[label] <= 1:
            raise UsageError(f"--threshold {text}: the probability must be in 0..1")
    return thresholds


def parse_reading(options: ReadingOptions) -> ReadKeywords:
    """Return how recordings are read, as the methods of a model take it.

    Raises:
        UsageError: an option says what cannot be.
    """
    check_count("--track", options.track)
    check_seconds("--max-duration", options.max_duration)
    check_seconds("--timeout", options.timeout)
    reading: ReadKeywords = {
        "raw": parse_raw(options.raw),
        "track": options.track,
        "channel": options.channel,
        "timeout_s": options.timeout,
        "max_duration_s": options.max_duration,
        "strict": options.strict,
    }
    try:
        ReadOptions(**reading)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    return reading


def parse_raw(text: str | None) -> RawAudio | None:
    """Read the `RATE[,CHANNELS[,ENCODING]]` of --raw.

    Raises:
        UsageError: it is not of that form, or says what cannot be.
    """
    if text is None:
        return None
    rate, channels, encoding, *rest = [*(part.strip() for part in text.split(",")), "", ""]
    if any(rest) or not rate.isdecimal() or not (channels or "1").isdecimal():
        raise UsageError(f"--raw {text}: RATE[,CHANNELS[,ENCODING]] is expected, such as 16000 or 44100,2,f32le")
    try:
        raw = RawAudio(int(rate), int(channels or 1))
        return dataclasses.replace(raw, encoding=encoding) if encoding else raw
    except ConfigError as error:
        raise UsageError(f"--raw {text}: {error}") from error


def find_model(name: str, wants: Literal["pooled", "phones", "voices"] | None = None) -> tuple[Path, ModelConfig]:
    """Return the file and the settings of a model that reads recordings.

    Args:
        name: or path.
        wants: what it must do: answer for a recording, hear phones, or tell voices; None: any model will do.

    Raises:
        UsageError: no model has that name, or it does something else.
        ModelError: the file is missing or no model.
    """
    path = registry.locate(name)
    config = read_config(path)
    if wants == "pooled" and config.task != "pooled":
        raise UsageError(f"-m {name}: this model is for framecls tag, not for framecls identify")
    if wants == "phones" and not config.phones:
        raise UsageError(f"-m {name}: --string wants a model that hears phones: use -m phones, or train one")
    if wants == "voices" and not config.embedding:
        raise UsageError(f"-m {name}: this model does not tell voices: use -m speaker, or train one")
    if config.features.kind == "precomputed":
        raise UsageError(
            f"-m {name}: this model takes vectors of {config.features.precomputed_dim} numbers that were computed "
            "elsewhere, not audio: measure it with framecls evaluate"
        )
    return path, config


def change_decision(config: ModelConfig, rules: Mapping[str, DecisionKeywords]) -> DecisionConfig:
    """Return a model's rules of decision with those of the options, by which they are given, in place of its own.

    Raises:
        UsageError: the model has no such rule, or it would decide nothing.
    """
    for option, rule in rules.items():
        try:
            config = config.with_decision(**rule)
        except ConfigError as error:
            raise UsageError(f"{option}: {error}") from error
    return config.decision


def check_overwrites(written: Mapping[str, Path | None], read: Mapping[str, Path | None]) -> None:
    """Refuse to write over what is to be read, and two things into one file; a pipe or a device is nobody's loss.

    Args:
        written: files by the options that name them.
        read: files by what they are.

    Raises:
        UsageError: two of them are one file, by whatever spelling or link.
    """
    files = [(option, path) for option, path in written.items() if path is not None and not is_device(path)]
    for number, (option, path) in enumerate(files):
        for other, other_path in files[:number]:
            if _is_same(path, other_path):
                raise UsageError(f"{other} and {option} {path}: these are one file, name two")
        for what, source in read.items():
            if source is not None and _is_same(path, source):
                raise UsageError(f"{option} {path}: this is {what}, and would be overwritten")


def _is_same(first: Path, second: Path) -> bool:
    """Whether two paths lead to one file, which need not be there yet."""
    try:
        return os.path.samefile(first, second)
    except OSError:
        return os.path.normcase(os.path.realpath(first)) == os.path.normcase(os.path.realpath(second))


def check_not_an_input(option: str, path: Path | None, inputs: Sequence[Input]) -> None:
    """Refuse to write over a recording that is to be read, by whatever name or link.

    Raises:
        UsageError: the path is one of the inputs.
    """
    if path is None or not os.path.isfile(path):
        return
    status = os.stat(path)
    for item in inputs:
        if item.path is not None:
            with contextlib.suppress(OSError):  # it will fail when it is its turn
                if os.path.samestat(status, os.stat(item.path)):
                    raise UsageError(f"{option} {path}: this is one of the inputs, and would be overwritten")


def parse_labels(option: str, texts: Sequence[str], labels: Sequence[str]) -> tuple[str, ...] | None:
    """Read the comma-separated labels of an option; a code of a language may be written as in pt_BR, zh-CN or DE.

    Raises:
        UsageError: the model does not have one of them, or there is none.
    """
    if not texts:
        return None
    words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(f"{option}: name at least one label, such as {','.join(labels[:2])}")
    return tuple(dict.fromkeys(_find_label(option, word, labels) for word in words))


def _find_label(option: str, word: str, labels: Sequence[str]) -> str:
    code = re.split("[-_@]", word)[0].casefold()
    if word in labels:
        return word
    if word.casefold() in labels:
        return word.casefold()
    if code in labels and code in LANGUAGES:
        return code
    meant = [label for label in find_languages(word) if label in labels]
    hint = f": did you mean {' or '.join(meant)}?" if meant else suggest(word, labels, f"; it has {listed(labels)}")
    raise UsageError(f"{option}: {word!r} is no label of this model{hint}")


def parse_names(option: str, texts: Sequence[str], names: Sequence[str]) -> tuple[str, ...] | None:
    """Read the names of an option, for a model of voices: each text is one name, or several with commas between.

    Where a name has commas itself, as many words as make the name of somebody are taken for one.

    Raises:
        UsageError: nobody is enrolled by one of them, or there is none.
    """
    if not texts:
        return None
    found: list[str] = []
    for text in texts:
        words = unicodedata.normalize("NFC", text).split(",")
        while words:
            n_words = next((n for n in range(len(words), 0, -1) if ",".join(words[:n]).strip() in names), 1)
            name = ",".join(words[:n_words]).strip()
            if name and name not in names:
                near = suggest(",".join(words).strip(), names) or suggest(name, names, WHO_IS)
                raise UsageError(f"{option} {text}: nobody is enrolled as {name!r}{near}")
            found += [name] if name else []
            del words[:n_words]
    if not found:
        raise UsageError(f"{option}: name at least one person, such as Ada,Bob")
    return tuple(dict.fromkeys(found))


def parse_found(option: str, texts: Sequence[str], names: Sequence[str]) -> tuple[str, ...] | None:
    """Read whom a model of voices may find: names as of `parse_names`, `unknown`, or `speaker N`."""
    words = (word.strip() for text in texts for word in text.split(","))
    numbered = [word for word in words if re.fullmatch(r"speaker [1-9]\d*", word)]
    return parse_names(option, texts, [*names, UNKNOWN, *numbered])
