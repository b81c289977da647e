"""A framecls model on the lower layers of another one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import layer_norm

from framecls.checkpoints import registry
from framecls.checkpoints.file import read_config
from framecls.checkpoints.frontends import look_up
from framecls.checkpoints.network import load_network, new_network, save_model
from framecls.config import DecisionConfig, EncoderConfig, FeatureConfig, ModelConfig, PretrainedConfig
from framecls.errors import ConfigError, ModelError
from framecls.model import load
from framecls.nn.network import Network
from framecls.training import loop
from framecls.training.examples.pooled import PooledExamples
from framecls.training.job import Job, prepare
from framecls.training.loop import train
from framecls.training.metrics.report import DevReport
from framecls.training.recipe import with_encoder
from support.models import noise_tensor
from support.training import make_recipe, write_corpus

BASE = ModelConfig(
    "base",
    "frame",
    ("a", "b"),
    features=FeatureConfig(n_mels=20, normalize="mean"),
    encoder=EncoderConfig(dim=16, n_layers=3, n_heads=2, ff_dim=32, subsampling=2, kernel=3, dropout=0.1),
)


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ship a tiny model called base."""
    folder = tmp_path / "shipped"
    monkeypatch.setattr(registry, "_FOLDER", folder)
    torch.manual_seed(3)
    save_model(Network(BASE), folder / "base.safetensors", precision="int8")
    return folder / "base.safetensors"


def features(source: str = "framecls:base", **settings: int) -> FeatureConfig:
    return look_up(FeatureConfig(kind="pretrained", pretrained=PretrainedConfig(source, **settings)))  # type: ignore[arg-type]


def model_of(config: FeatureConfig) -> Network:
    encoder = EncoderConfig(dim=8, n_layers=1, n_heads=2, ff_dim=16, kernel=3)
    whole = ModelConfig("upper", "frame", ("x", "y"), features=config, encoder=encoder)
    return new_network(whole, config.pretrained.source).eval()


@torch.inference_mode()
def test_vectors_are_those_of_the_layers_of_the_other_model(base: Path) -> None:
    config = features(layer=2)
    assert (config.hop_samples, config.dim, config.sample_rate) == (320, 16, 16000)
    assert config.margin_samples == BASE.features.margin_samples
    waveform = noise_tensor(9 * 320 + 2 * config.margin_samples)[None]
    other, n_frames = load_network(base), torch.tensor([9])
    other.phone_layer = 2  # the last that is run
    wanted, _ = other.encode(other.extract(waveform, n_frames), n_frames)
    torch.testing.assert_close(model_of(config).features(waveform, n_frames), layer_norm(wanted, (16,)))
    torch.testing.assert_close(model_of(config).features(waveform), layer_norm(wanted, (16,)))


@torch.inference_mode()
def test_padding_and_neighbours_change_nothing() -> None:
    config = features()
    network, lengths, margin = model_of(config), torch.tensor([7, 3, 5]), 2 * config.margin_samples
    batch = torch.stack([noise_tensor(7 * 320 + margin, seed) for seed in range(3)])
    together = network.features(batch, lengths)
    for row, length, vectors in zip(batch, lengths.tolist(), together, strict=True):
        alone = network.features(row[None, : length * 320 + margin], torch.tensor([length]))[0]
        torch.testing.assert_close(vectors[:length], alone, rtol=1e-4, atol=1e-5)
        assert not vectors[length:].any()


def test_a_convolution_stem_gives_a_vector_every_20_ms(base: Path) -> None:
    encoder = replace(BASE.encoder, stem="convolution", position="sinusoidal", subsampling=4)
    save_model(Network(replace(BASE, encoder=encoder)), base)
    config = features(layer=1)
    assert (config.hop_samples, config.pretrained.own_encoder.subsampling) == (320, 2)
    with torch.inference_mode():
        assert model_of(config).features(noise_tensor(5 * 320 + 2 * config.margin_samples)[None]).shape == (1, 5, 16)


def test_a_shipped_model_is_named_and_not_carried(base: Path, tmp_path: Path) -> None:
    job = Job(
        write_corpus(tmp_path, labels=("low", "hiss")),
        tmp_path / "upper.safetensors",
        with_encoder(make_recipe(6, 6), "framecls:base"),
    )
    train(job, prepare(job))
    stored = load_file(job.output)
    assert [key for key in stored if key.startswith("features.")] == ["features.mix"]
    assert stored["features.mix"].abs().max() > 0  # the mix was learnt
    assert read_config(job.output).features.pretrained.source == "framecls:base"
    assert load(job.output, device="cpu").identify(str(tmp_path / "low0.wav")).label in {"low", "hiss"}
    torch.manual_seed(4)
    save_model(Network(BASE), base, precision="int8")
    with pytest.raises(ModelError, match="another version of framecls:base"):
        load(job.output, device="cpu")


def test_batches_that_are_kept_are_heard_once(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = with_encoder(make_recipe(7, 100), "framecls:base", layer=2)
    manifest, numbers, heard = write_corpus(tmp_path, labels=("low", "hiss")), [], []
    make_batch, extract = PooledExamples.make_batch, Network.extract
    monkeypatch.setattr(
        PooledExamples, "make_batch", lambda self, number: (numbers.append(number), make_batch(self, number))[1]
    )
    monkeypatch.setattr(Network, "extract", lambda self, *args: (heard.append(1), extract(self, *args))[1])

    def run(name: str, n_kept: int, *stops: int | None) -> dict[str, torch.Tensor]:
        kept = replace(recipe, optim=replace(recipe.optim, kept_batches=n_kept))
        for stop in stops:
            job = Job(manifest, tmp_path / f"{name}.safetensors", kept, resume=True, stop_after=stop, save_every_s=0)
            data = prepare(job)
            numbers.clear(), heard.clear()
            with monkeypatch.context() as patch:
                patch.setattr(loop, "measure_dev", lambda *_: (DevReport(0.0, DecisionConfig(), {}), {}))
                train(job, data)
        return load_file(job.output)

    run("kept", 3, None)
    assert numbers == [0, 1, 2]
    assert len(heard) == 3
    run("fewer", 7, None)
    assert numbers == [*range(7)]
    whole, parts = run("whole", 3, None), run("parts", 3, 4, None)
    assert numbers == [1, 2, 0]  # steps 4, 5 and 6
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    with pytest.raises(ConfigError, match="kept_batches"):
        replace(recipe, features=FeatureConfig(), optim=replace(recipe.optim, kept_batches=3))


@pytest.mark.parametrize("tuned", [False, True])
def test_a_model_of_ones_own_is_carried(base: Path, tmp_path: Path, tuned: bool) -> None:
    own = base.rename(tmp_path / "own.safetensors")
    recipe = with_encoder(make_recipe(4, 4, tuned_rate=1.0), f"framecls:{own}", layer=2, tuned=tuned)
    job = Job(write_corpus(tmp_path, labels=("low", "hiss")), tmp_path / "upper.safetensors", recipe)
    train(job, prepare(job))
    before, after, prefix = load_network(own).state_dict(), load_file(job.output), "features.encoder."
    kept = [key for key in before if prefix + key in after]
    moved = {key for key in kept if not torch.allclose(before[key], after[prefix + key].float(), atol=2e-3)}
    assert ("encoder.layers.1.feed_forward.layers.0.weight" in moved) == tuned
    assert not any("encoder.layers.2" in key for key in after)  # what is above the second layer is left out
    own.unlink()
    assert load(job.output, device="cpu").identify(str(tmp_path / "low0.wav")).label in {"low", "hiss"}


def test_two_models_share_no_encoder_that_both_only_name() -> None:
    config = features()
    one, other, third = (model_of(config).features for _ in range(3))
    waveform = noise_tensor(9 * 320 + 2 * config.margin_samples)[None]
    with torch.inference_mode():
        before = one(waveform)
        other._unregistered[0].to("meta")  # as a batch on another device does
        for parameter in third._unregistered[0].double().parameters():
            parameter.zero_()
        torch.testing.assert_close(one(waveform), before, rtol=0, atol=0)


def test_what_cannot_be_built_on_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layers 1 to 3, and there is no 4"):
        features(layer=4)
    config = replace(BASE, name="on", features=features())
    save_model(new_network(config, "framecls:base"), base.with_name("on.safetensors"))
    with pytest.raises(ConfigError, match="has a pre-trained encoder itself"):
        features("framecls:on")
    hostile = json.loads(json.dumps(features().pretrained.architecture))
    hostile["features"]["kind"] = "precomputed"
    with pytest.raises(ConfigError, match="precomputed_dim"):
        replace(features().pretrained, architecture=hostile)
