"""Bytes changed at random: every audio file, model and manifest ends in a result or in one clear line.

The examples are the same in every run. A longer hunt: FUZZ_EXAMPLES=5000 pytest tests/test_fuzz.py
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framecls.audio import open_audio
from framecls.audio.readers import opening
from framecls.checkpoints.file import read_config
from framecls.checkpoints.network import load_network
from framecls.errors import AudioError, ManifestError, ModelError
from framecls.inference.engine import Engine
from framecls.model import Model
from framecls.training.data.manifest import read_manifest
from support.hostile import encoded, save, wav
from support.signals import make_tone

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
# A quarter of a second of audio does not become an hour: what a header claims must not be believed.
MOST_SAMPLES = 16000 * 600

bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SHORT = make_tone(0.25)
SEEDS = {
    "wav": wav(),
    "flac": encoded("FLAC", samples=SHORT),
    "ogg": encoded("OGG", "VORBIS", samples=SHORT),
    "opus": encoded("OGG", "OPUS", samples=SHORT),
    "mp3": encoded("MP3", samples=SHORT),
    "aiff": encoded("AIFF", samples=SHORT),
    "w64": encoded("W64", samples=SHORT),
    "caf": encoded("CAF", samples=SHORT),
}


@st.composite
def mutations(draw: st.DrawFn, content: bytes) -> bytes:
    """Change, cut out, repeat or add some bytes, most often near the beginning, where the header is."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        head = draw(st.booleans())
        at = draw(st.integers(0, max(0, min(len(data), 64) - 1 if head else len(data) - 1)))
        kind = draw(st.sampled_from(["set", "number", "cut", "repeat", "add", "end"]))
        n_bytes = draw(st.integers(1, 64))
        if kind == "set":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "number":
            number = draw(st.sampled_from([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]))
            data[at : at + 4] = struct.pack(draw(st.sampled_from(["<I", ">I"])), number)
        elif kind == "cut":
            del data[at : at + n_bytes]
        elif kind == "repeat":
            data[at:at] = data[at : at + n_bytes]
        elif kind == "add":
            data[at:at] = draw(st.binary(max_size=64))
        else:
            del data[at:]
    return bytes(data)


def check_message(text: str, most: int = 2000) -> None:
    """A message is a line of words, and not a page of them."""
    assert text
    assert "\n" not in text
    assert len(text) < most


def refuse_container(*_: object) -> None:
    raise AudioError("not audio that can be read")


@pytest.mark.parametrize("kind", SEEDS)
def test_audio(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its faults are bounded by a process of its own, which takes too long to start a thousand times.
    monkeypatch.setattr(opening, "DecoderReader", refuse_container)

    @bounded
    @given(mutations(SEEDS[kind]))
    def check(content: bytes) -> None:
        n_samples = 0
        try:
            with open_audio(save(tmp_path / "a", content)) as stream:
                for block in stream.blocks():
                    assert np.isfinite(block).all()
                    n_samples += len(block)
                    assert n_samples < MOST_SAMPLES
        except AudioError as error:
            check_message(str(error))
        else:
            assert n_samples > 0

    check()


def try_model(path: Path) -> None:
    """Load a model and use it; a ModelError is as good."""
    try:
        network = load_network(path)
    except ModelError as error:
        check_message(str(error))
        return
    import torch

    result = Model(Engine(network, torch.device("cpu"))).tag(SHORT, sample_rate=16000)
    assert np.isfinite(result.scores).all()
    assert len(result.times) == len(result.scores)


def test_model_bytes(tag_model: str, tmp_path: Path) -> None:
    content = Path(tag_model).read_bytes()
    header_bytes = 8 + struct.unpack("<Q", content[:8])[0]

    @bounded
    @given(
        st.one_of(mutations(content), mutations(content[:header_bytes]).map(lambda head: head + content[header_bytes:]))
    )
    def check(changed: bytes) -> None:
        try_model(save(tmp_path / "m.safetensors", changed))

    check()


NUMBERS = st.one_of(
    st.integers(-3, 20),
    st.sampled_from([2**16, 2**31, 2**63, 10**400, -1]),
    st.floats(allow_nan=True, allow_infinity=True),
)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), NUMBERS, st.text(max_size=5), st.sampled_from(["none", "mfcc", "window", "fc"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=6,
)


def paths(value: Any, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the way to every setting, tables included."""
    found = [before] if before else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += paths(inner, (*before, key))
    return found


def test_model_settings(tag_model: str, tmp_path: Path) -> None:
    content = Path(tag_model).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    config = json.loads(header["__metadata__"]["config"])

    @bounded
    @given(st.lists(st.tuples(st.sampled_from(paths(config)), JSON), min_size=1, max_size=3))
    def check(changes: list[tuple[tuple[str, ...], Any]]) -> None:
        changed = json.loads(json.dumps(config))
        for path, value in changes:
            table = changed
            for key in path[:-1]:
                table = table[key] if isinstance(table.get(key), dict) else {}
            table[path[-1]] = value
        text = json.dumps(
            {**header, "__metadata__": {**header["__metadata__"], "config": json.dumps(changed)}}
        ).encode()
        path = save(tmp_path / "m.safetensors", struct.pack("<Q", len(text)) + text + content[8 + length :])
        try:
            read_config(path)
        except ModelError as error:
            check_message(str(error))
        try_model(path)

    check()


ROW_FIELDS = ("file", "start", "end", "label", "speaker", "source", "split", "phones", "alignment", "soft", "other")
ROWS = st.lists(st.dictionaries(st.sampled_from(ROW_FIELDS), st.one_of(JSON, st.just("a.wav"))), max_size=4)


def try_manifest(path: Path) -> None:
    """Read a manifest; a ManifestError is as good."""
    try:
        recordings = read_manifest(path)
    except ManifestError as error:
        check_message(str(error), 5000)
        return
    assert recordings
    for recording in recordings:
        assert all(0 <= span.start_s < (span.end_s or np.inf) for span in recording.spans)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_manifest_bytes(suffix: str, tmp_path: Path) -> None:
    save(tmp_path / "a.wav", wav())
    good = {
        ".jsonl": b'{"file": "a.wav", "label": "x", "start": 0, "end": 0.25}\n' * 3,
        ".csv": b'file,label,start,end\na.wav,x,0,0.25\n"a.wav",y,,\n',
        ".tsv": b"file\tlabel\tstart\tend\na.wav\tx\t0\t0.25\n",
    }[suffix]

    @bounded
    @given(st.one_of(mutations(good), st.binary(max_size=200)))
    def check(content: bytes) -> None:
        try_manifest(save(tmp_path / f"m{suffix}", content))

    check()


def test_manifest_rows(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", wav())

    @bounded
    @given(ROWS)
    def check(rows: list[dict[str, Any]]) -> None:
        text = "\n".join(json.dumps({"file": "a.wav", "label": "x", **row}) for row in rows)
        try_manifest(save(tmp_path / "m.jsonl", text.encode()))

    check()


HOSTILE_MANIFESTS = {
    "0 bytes": b"",
    "blank lines": b"\n \n\n",
    "not UTF-8": b'{"file": "\xff.wav", "label": "x"}\n',
    "UTF-16": '{"file": "a.wav", "label": "x"}\n'.encode("utf-16"),
    "a zip": b"PK\x03\x04" + bytes(500),
    "deep": b"[" * 100_000,
    "a number without end": b'{"file": "a.wav", "label": "x", "start": ' + b"9" * 10_000 + b"}",
    "a name without end": json.dumps({"file": "a" * 100_000, "label": "x"}).encode(),
    "a name with NUL": b'{"file": "a\\u0000.wav", "label": "x"}',
    "half a character": b'{"file": "\\ud800.wav", "label": "x"}',
    "a name of two lines": b'{"file": "a\\nb.wav", "label": "x"}',
    "many bad rows": b'{"label": "x"}\n' * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE_MANIFESTS)
def test_hostile_manifests(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / "m.jsonl", HOSTILE_MANIFESTS[name])
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert len(str(caught.value)) < 5000


def test_a_field_without_end_in_a_table(tmp_path: Path) -> None:
    path = save(tmp_path / "m.csv", b'file,label\n"' + b"a" * 200_000)
    with pytest.raises(ManifestError, match="not a table"):
        read_manifest(path)


def test_a_manifest_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="text file"):
        read_manifest(Path("/dev/zero"))
    with pytest.raises(ManifestError, match="no recordings with labels in this folder"):
        read_manifest(tmp_path)
