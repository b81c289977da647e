"""What an answer drew on: attention, its rollout and occlusion; the command, its record and its pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import framecls
from framecls.checkpoints.network import save_model
from framecls.config import EncoderConfig
from framecls.nn.network import Network
from framecls.nn.pooling import AttentiveStatisticsPooling
from framecls.nn.precision import is_lowered
from framecls.results import Attention
from support.commands import Cli
from support.models import save_tiny_voice_model, tiny_config
from support.signals import write_wav


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 5 s of noise."""
    return write_wav(tmp_path_factory.mktemp("explain") / "noise.wav", 5.0)


def save(folder: Path, task: str, **encoder: object) -> framecls.Model:
    torch.manual_seed(7)
    config = tiny_config(task)  # type: ignore[arg-type]
    config = replace(config, encoder=replace(config.encoder, **encoder))  # type: ignore[arg-type]
    save_model(Network(config), folder / "model.safetensors")
    return framecls.load(folder / "model.safetensors", device="cpu")


@pytest.mark.parametrize("score", ["dot", "additive"])
def test_attention_of_the_window_around(score: str, recording: Path, tmp_path: Path) -> None:
    model = save(tmp_path, "frame", score=score, n_layers=2)
    hop_s, n_frames = model.config.hop_s, model.config.window_frames
    found = model.attention(recording, at=2.6)
    assert found.weights.shape == (2, 2, n_frames, n_frames)
    np.testing.assert_allclose(found.weights.sum(axis=3), 1, rtol=1e-5)
    assert found.start <= 2.6 < found.start + n_frames * hop_s
    # Windows of 2 s that overlap by half a second: 2.6 s is nearer to the middle of the second.
    assert found.start == pytest.approx(1.5)
    assert model.attention(recording).start == 0
    # What it says of the frames is what `tag` says where no other window has a share.
    first = round((2.6 - found.start) / hop_s)
    whole = model.tag(recording)
    np.testing.assert_allclose(found.scores[first], whole.scores[round(2.6 / hop_s)], atol=1e-5)


def test_rollout_is_that_of_the_paper() -> None:
    weights = np.random.default_rng(0).random((3, 2, 4, 4)).astype(np.float32)
    weights /= weights.sum(axis=3, keepdims=True)
    nothing = np.zeros(0, np.float32)
    found = Attention("", "", 0.0, 0.02, (), weights, None, np.zeros(0), 4, nothing, 16000).rollout()
    # Every path from a frame after the last layer to one before the first, through heads and residual connections.
    expected = np.zeros((4, 4))
    for i, j, k, m in np.ndindex(4, 4, 4, 4):
        steps = [(2, i, j), (1, j, k), (0, k, m)]
        expected[i, m] += np.prod([(weights[n, :, a, b].mean() + (a == b)) / 2 for n, a, b in steps])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


def test_a_pooled_model_is_explained_through_its_pooling(recording: Path, tmp_path: Path) -> None:
    model = save(tmp_path, "pooled")
    found = model.explain(recording)
    assert found.attention.pooling is not None
    np.testing.assert_allclose(found.attention.pooling.sum(axis=1), 1, rtol=1e-5)
    assert found.relevance.sum() == pytest.approx(1)
    assert (found.first, found.last) == (0, model.config.window_frames)
    assert found.label == model.labels[int(found.attention.scores.argmax())]
    assert found.score == pytest.approx(found.attention.scores.max())
    assert len(found.occlusion) == model.config.window_frames
    assert model.explain(recording, label="fr").label == "fr"


def test_a_segment(recording: Path, tmp_path: Path) -> None:
    model = save(tmp_path, "frame")
    [segment, *_] = model.tag(recording).segments
    found = model.explain(recording, segment=1)
    assert found.label == segment.label
    assert found.first < found.last <= model.config.window_frames
    with pytest.raises(framecls.UsageError, match="segment 99"):
        model.explain(recording, segment=99)


def test_layers_that_add_nothing_are_not_said_to_attend(recording: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    network = Network(tiny_config("frame"))
    network.encoder.init_identity(0)
    save_model(network, tmp_path / "model.safetensors")
    found = framecls.load(tmp_path / "model.safetensors", device="cpu").explain(recording, 1.0)
    assert found.attention.weights.shape[0] == 0
    assert (found.pointed, found.score_without) == ((), None)


@pytest.mark.parametrize("task", ["frame", "pooled"])
@pytest.mark.parametrize("n_identities", [0, 1, 2])  # the attention of the first layer is never lowered
def test_layers_that_multiply_bfloat16_are_explained_as_others_are(
    n_identities: int, task: str, recording: Path, tmp_path: Path
) -> None:
    torch.manual_seed(7)
    config = tiny_config(task)  # type: ignore[arg-type]
    large = EncoderConfig(dim=256, n_layers=2, n_heads=4, ff_dim=512, subsampling=2, dropout=0.0)
    network = Network(replace(config, encoder=large))
    for layer in network.encoder.layers[:n_identities]:
        layer.init_identity()
    save_model(network, tmp_path / "model.safetensors")
    exact, near = (framecls.load(tmp_path / "model.safetensors", device="cpu", precision=p) for p in ("fp32", "bf16"))
    assert [is_lowered(model._engine.network) for model in (exact, near)] == [False, True]
    at_s = 1.0 if task == "frame" else None
    wanted, found = exact.explain(recording, at_s), near.explain(recording, at_s)
    assert found.attention.weights.shape[:2] == ((0, 0) if n_identities == 2 else (2, 4))
    assert (found.label, found.score_without is None) == (wanted.label, wanted.score_without is None)
    assert found.score == pytest.approx(wanted.score, abs=0.005)
    assert found.score != wanted.score
    # Untrained heads attend to all of 100 frames nearly alike: apart by 0.0005.
    np.testing.assert_allclose(found.attention.weights, wanted.attention.weights, atol=0.0002)
    np.testing.assert_allclose(found.occlusion, wanted.occlusion, atol=0.005)


def test_a_pooling_that_weighs_all_frames_alike_points_at_none(recording: Path, tmp_path: Path) -> None:
    network = Network(replace(tiny_config("pooled"), pooling="attentive"))
    network.encoder.init_identity(0)
    assert isinstance(network.pooling, AttentiveStatisticsPooling)
    nn.init.zeros_(network.pooling.attention[2].weight)
    nn.init.zeros_(network.pooling.attention[2].bias)
    save_model(network, tmp_path / "model.safetensors")
    found = framecls.load(tmp_path / "model.safetensors", device="cpu").explain(recording)
    assert (found.pointed, found.score_without) == ((), None)


@pytest.mark.parametrize("kind", ["fc", "lstm"])
def test_without_attention_occlusion_is_left(kind: str, recording: Path, tmp_path: Path) -> None:
    model = save(tmp_path, "frame", kind=kind)
    found = model.explain(recording, 1.0)
    assert found.attention.weights.shape[0] == 0
    assert (found.pointed, found.score_without) == ((), None)
    assert found.occlusion.any()
    if kind == "fc":  # which sees the frame itself, and, through the spectrum's window, no other part
        here = np.flatnonzero(np.abs(found.occlusion) > 1e-6)
        assert found.first in here
        assert np.ptp(here) <= 10  # two parts of five frames, a tenth of a second each


def test_a_voice(recording: Path, tmp_path: Path) -> None:
    model = framecls.load(save_tiny_voice_model(tmp_path), device="cpu")
    found = model.explain(recording)
    assert (found.label, round(found.score, 5)) == ("", 1.0)
    assert (found.occlusion >= -1e-6).all()  # of all vectors the whole one is nearest to itself


def test_what_cannot_be_explained(recording: Path, tmp_path: Path) -> None:
    model = save(tmp_path, "frame")
    with pytest.raises(framecls.UsageError, match=r"nothing at 5\.5 s, it ends at 5\.00 s"):
        model.explain(recording, 5.5)
    with pytest.raises(framecls.UsageError, match="one of the two"):
        model.explain(recording)
    with pytest.raises(framecls.UsageError, match="one of the two"):
        model.explain(recording, 1.0, segment=1)
    with pytest.raises(framecls.UsageError, match="0 or more"):
        model.attention(recording, -1.0)
    with pytest.raises(framecls.ConfigError, match="'x' is no label"):
        model.explain(recording, 1.0, label="x")


def test_command(recording: Path, tag_model: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(recording.parent)
    answer = cli("explain", recording.name, "-m", tag_model, "--at", "2.6", "--device", "cpu")
    assert answer.status == 0, answer.err
    lines = answer.out.splitlines()
    assert "noise.wav at 0:02.6" in lines[0]
    assert [line.split("  ")[1] for line in lines[1:5]] == [
        "layer 1 head 1", "layer 1 head 2", "rolled out    ".rstrip(), "hidden: falls",
    ]  # fmt: skip
    assert all(len(line) <= 80 for line in lines)
    assert lines[5].strip() == "^"
    assert "hidden that it attended to most, the score is" in answer.out
    answer = cli("explain", recording, "-m", tag_model, "--segment", "1", "--device", "cpu", "-f", "json")
    record = answer.records[0]
    assert len(record["layers"]) == 1
    assert len(record["layers"][0]) == 2
    n_frames = len(record["rollout"])
    assert n_frames == len(record["occlusion"]) == len(record["layers"][0][1])
    assert sum(record["rollout"]) == pytest.approx(1, abs=1e-3)
    assert record["label"] in framecls.load(tag_model).labels


@pytest.mark.parametrize("kind", ["png", "svg", "html"])
@pytest.mark.parametrize("task", ["tag", "identify"])
def test_pictures(
    kind: str, task: str, recording: Path, tag_model: str, identify_model: str, cli: Cli, tmp_path: Path
) -> None:
    if kind != "html":
        pytest.importorskip("matplotlib")
    path = tmp_path / f"why.{kind}"
    arguments = ["-m", tag_model, "--at", "1"] if task == "tag" else ["-m", identify_model]
    assert cli("explain", recording, *arguments, "--device", "cpu", "-o", path, "-q").status == 0
    data = path.read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "html": b"<!doctype html>"}[kind])
    if kind == "html":
        assert "http" not in data.decode().replace("http-equiv", "")


def test_a_figure_without_matplotlib(
    recording: Path, tag_model: str, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("framecls.packages.is_installed", lambda module: False)
    answer = cli("explain", recording, "-m", tag_model, "--at", "1", "-o", tmp_path / "x.png")
    assert (answer.status, len(answer.errors)) == (2, 1)
    assert answer.err.endswith("needs matplotlib, not installed: pip install matplotlib\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--at S or --segment N, one of the two"),
        (["--at", "1", "--segment", "1"], "one of the two"),
        (["--at", "-1"], "--at"),
        (["--segment", "0"], "--segment 0"),
        (["--at", "1", "-o", "x.pdf"], ".png, .svg, .html"),
        (["--at", "1", "-f", "csv"], "table or json"),
        (["--at", "1", "--channel", "each"], "--channel each"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, tag_model: str, cli: Cli) -> None:
    answer = cli("explain", "x.wav", "-m", tag_model, *arguments)
    assert (answer.status, answer.out, len(answer.errors)) == (2, "", 1)
    assert said in answer.err


def test_a_recording_that_cannot_be_read_is_named(tag_model: str, cli: Cli, here: Path) -> None:
    (here / "empty.wav").touch()
    answer = cli("explain", "empty.wav", "-m", tag_model, "--at", "1")
    assert (answer.status, answer.err) == (1, "framecls: error: empty.wav: the file is empty (0 bytes)\n")
    answer = cli("explain", "-", "-m", tag_model, "--at", "1")
    assert (answer.status, "give a file" in answer.err) == (2, True)


def test_a_pooled_model_has_no_segments(identify_model: str, cli: Cli) -> None:
    answer = cli("explain", "x.wav", "-m", identify_model, "--segment", "1")
    assert (answer.status, "--at chooses the window" in answer.err) == (2, True)


def test_the_file_to_explain_is_not_written_over(tag_model: str, cli: Cli, tmp_path: Path) -> None:
    answer = cli("explain", tmp_path / "x.png", "-m", tag_model, "--at", "1", "-o", tmp_path / "x.png")
    assert (answer.status, "would be overwritten" in answer.err) == (2, True)
