"""Pre-trained speech encoders in place of log-mel: tiny untrained ones of torchaudio's own classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchaudio
from safetensors.torch import load_file, save_file
from torch.nn.functional import layer_norm
from torchaudio.pipelines import Wav2Vec2Bundle

from framecls.checkpoints import frontends as encoder_sources
from framecls.checkpoints.file import read_config
from framecls.checkpoints.frontends import from_hugging_face, look_up
from framecls.checkpoints.network import load_network
from framecls.cli.boundary import run
from framecls.config import FeatureConfig, PretrainedConfig
from framecls.errors import ConfigError, ModelError
from framecls.model import load
from framecls.nn.features import FeatureExtractor
from framecls.nn.frontend import SpeechEncoder
from framecls.training.job import Job, prepare
from framecls.training.loop import train
from framecls.training.recipe import with_encoder
from support.models import noise_tensor
from support.training import ARCHITECTURE, make_recipe, write_corpus

RATE = 16000
FACTORIES = {"Wav2Vec2": torchaudio.models.wav2vec2_model, "WavLM": torchaudio.models.wavlm_model}
only_wav2vec2 = pytest.mark.parametrize("family", ["Wav2Vec2"])


def architecture(family: str) -> dict[str, Any]:
    buckets = {"encoder_num_buckets": 20, "encoder_max_distance": 50}
    return ARCHITECTURE | (buckets if family == "WavLM" else {})


@pytest.fixture(params=["Wav2Vec2", "WavLM"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> Path:
    """Teach torchaudio a tiny encoder called TINY, and return the file in torch's cache that holds its weights."""
    torch.manual_seed(5)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "tiny.pth"
    cached.parent.mkdir(parents=True)
    state = FACTORIES[family](**architecture(family)).state_dict()
    # So that something comes through seven layers of untrained convolutions.
    torch.save({key: 3 * value if value.ndim > 1 else value for key, value in state.items()}, cached)
    bundle = Wav2Vec2Bundle("tiny.pth", architecture(family), RATE, False, family)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    return cached


def features(source: str | Path = "torchaudio:TINY", **settings: Any) -> FeatureConfig:
    return look_up(FeatureConfig(kind="pretrained", pretrained=PretrainedConfig(str(source), **settings)))


def test_vectors_are_those_of_torchaudio(tiny: Path) -> None:
    extractor = FeatureExtractor(features(layer=2)).eval()
    waveform = noise_tensor(50 * 320 + 80)[None]
    model = torchaudio.pipelines.TINY.get_model()  # type: ignore[attr-defined]
    with torch.inference_mode():
        layers = [layer_norm(layer, (16,)) for layer in model.extract_features(waveform)[0]]
        torch.testing.assert_close(extractor(waveform), layers[1])
        mixed = FeatureExtractor(features()).eval()(waveform)
    torch.testing.assert_close(mixed, layer_norm(torch.stack(layers).mean(dim=0), (16,)))


@only_wav2vec2
def test_two_models_share_no_encoder_that_both_only_name(tiny: Path) -> None:
    one, other = (FeatureExtractor(features()).eval() for _ in range(2))
    waveform = noise_tensor(9 * 320 + 80)[None]
    with torch.inference_mode():
        before = one(waveform)
        assert other.encoder is not None
        other.encoder.inner(torch.device("meta"))  # as a batch on another device does
        torch.testing.assert_close(one(waveform), before, rtol=0, atol=0)
    third = FeatureExtractor(features()).eval()
    assert third.encoder is not None
    third.encoder.inner(torch.device("cpu")).double()
    assert one.encoder is not None
    assert {p.dtype for p in one.encoder.inner(torch.device("cpu")).parameters()} == {torch.float32}


def test_every_frame_has_a_vector_that_reads_what_is_around_its_middle(tiny: Path) -> None:
    config = features()
    assert (config.hop_samples, config.window_samples, config.margin_samples, config.dim) == (320, 400, 40, 16)
    extractor = FeatureExtractor(config).eval()
    for n_frames in (1, 2, 7):
        assert extractor(noise_tensor(n_frames * 320 + 80)[None]).shape == (1, n_frames, 16)
    convolutions = encoder_sources.open_bundle("TINY", 3).feature_extractor
    convolutions.conv_layers[0].layer_norm = None  # it is a norm over time, which looks everywhere
    waveform = noise_tensor(9 * 320 + 80)[None].requires_grad_()
    [slope] = torch.autograd.grad(convolutions(waveform, None)[0][0, 4].sum(), waveform)
    read = slope[0].nonzero().flatten() - config.margin_samples  # counted from the first frame's first sample
    assert (int(read.min()), int(read.max())) == (4 * 320 - 40, 5 * 320 + 40 - 1)


def test_padding_and_neighbours_change_nothing(tiny: Path) -> None:
    extractor = FeatureExtractor(features()).eval()
    lengths = torch.tensor([7, 3, 7, 5])
    rows = [noise_tensor(7 * 320 + 80, seed) for seed in range(4)]
    batch = torch.stack(rows)
    for row, length in zip(batch, lengths.tolist(), strict=True):
        row[length * 320 + 80 :] = 9.0
    with torch.inference_mode():
        together = extractor(batch, lengths)
        for row, length, vectors in zip(rows, lengths.tolist(), together, strict=True):
            alone = extractor(row[None, : length * 320 + 80])[0]
            torch.testing.assert_close(vectors[:length], alone, rtol=1e-4, atol=1e-5)
            assert not vectors[length:].any()


@only_wav2vec2
def test_a_frozen_encoder_is_named_and_not_carried(tiny: Path, tmp_path: Path) -> None:
    recipe = with_encoder(make_recipe(6, 6), "torchaudio:TINY")
    job = Job(write_corpus(tmp_path, labels=("low", "hiss")), tmp_path / "frozen.safetensors", recipe)
    losses: list[float] = []
    train(job, prepare(job), lambda progress: losses.append(progress.loss))
    assert np.isfinite(losses).all()
    stored = load_file(job.output)
    assert [key for key in stored if key.startswith("features.")] == ["features.encoder.mix"]
    assert stored["features.encoder.mix"].abs().max() > 0  # the mix was learnt
    config = read_config(job.output)
    assert config.hop_s == 0.04  # as with the recipe's log-mel
    assert config.features.pretrained.source == "torchaudio:TINY"
    answer = load(job.output, device="cpu").identify(str(tmp_path / "low0.wav"))
    state = torch.load(tiny, weights_only=True)
    torch.save({key: -value if value.ndim == 3 else value for key, value in state.items()}, tiny)
    other = load(job.output, device="cpu").identify(str(tmp_path / "low0.wav"))
    assert answer.top[0].score != pytest.approx(other.top[0].score, abs=1e-6)  # it is the cached weights that hear


@pytest.mark.parametrize("family", ["WavLM"])
def test_a_tuned_encoder_is_carried(tiny: Path, tmp_path: Path) -> None:
    recipe = with_encoder(make_recipe(4, 4, tuned_rate=1.0), "torchaudio:TINY", layer=2, tuned=True)
    job = Job(write_corpus(tmp_path, labels=("low", "hiss")), tmp_path / "tuned.safetensors", recipe)
    train(job, prepare(job))
    before, after, prefix = torch.load(tiny, weights_only=True), load_file(job.output), "features.encoder.carried."
    kept = [key for key in before if prefix + key in after]
    moved = {key for key in kept if not torch.allclose(before[key], after[prefix + key].float(), atol=2e-3)}
    assert "encoder.transformer.layers.1.attention.attention.in_proj_weight" in moved
    assert not any(key.startswith("feature_extractor.") for key in moved)
    assert not any("transformer.layers.2" in key for key in after)  # what is above the second layer is left out
    tiny.unlink()
    assert load(job.output, device="cpu").identify(str(tmp_path / "low0.wav")).label in {"low", "hiss"}


@only_wav2vec2
def test_a_tuned_run_resumes_to_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = with_encoder(make_recipe(6, 2), "torchaudio:TINY", tuned=True)
    whole = Job(write_corpus(tmp_path, labels=("low", "hiss")), tmp_path / "a.safetensors", recipe)
    train(whole, prepare(whole))
    broken = replace(whole, output=tmp_path / "b.safetensors", resume=True, stop_after=3)
    train(broken, prepare(broken))
    rest = replace(broken, stop_after=None)
    train(rest, prepare(rest))
    one, other = (dict(load_network(job.output).named_parameters()) for job in (whole, rest))
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def test_a_checkpoint_of_ones_own(tiny: Path, tmp_path: Path, family: str) -> None:
    save_file(torch.load(tiny, weights_only=True), tmp_path / "own.safetensors")
    (tmp_path / "own.json").write_text(json.dumps({**architecture(family), "family": family}))
    for source in (tmp_path / "own.safetensors", tiny):  # described beside, or found among torchaudio's own
        config = features(source)
        assert config.pretrained.source == source.name
        assert not config.pretrained.named
        encoder = SpeechEncoder(config.pretrained).eval()
        encoder.take(str(source))
        waveform = noise_tensor(20 * 320 + 80)[None]
        with torch.inference_mode():
            torch.testing.assert_close(encoder(waveform), FeatureExtractor(features()).eval()(waveform))
        assert [key for key, p in encoder.named_parameters() if p.requires_grad] == ["mix"]
        assert not encoder.train().carried.training  # what is not tuned drops nothing out


def save_as_hugging_face(folder: Path, state: dict[str, torch.Tensor], family: str) -> Path:
    """Write a checkpoint under the names that transformers gives."""
    model_type = family.lower()
    renamed = {"lm_head.weight": torch.zeros(3), f"{model_type}.masked_spec_embed": torch.zeros(16)}
    for key, tensor in state.items():
        name = key.replace("encoder.transformer.", "encoder.")
        name = name.replace("encoder.feature_projection", "feature_projection")
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        if ".attention.attention.in_proj_" in name:
            for which, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{model_type}.{name.replace('attention.in_proj_', f'{which}_proj.')}"] = part.clone()
        else:
            renamed[f"{model_type}.{name.replace('.attention.attention.', '.attention.')}"] = tensor
    folder.mkdir()
    save_file(renamed, folder / "model.safetensors")
    settings = {theirs: ARCHITECTURE[own] for theirs, own in encoder_sources._HUGGING_FACE.items()}
    settings |= {"num_buckets": 20, "max_bucket_distance": 50, "model_type": model_type, "feat_extract_norm": "group"}
    dims, kernels, strides = zip(*ARCHITECTURE["extractor_conv_layer_config"], strict=True)
    settings |= {"conv_dim": dims, "conv_kernel": kernels, "conv_stride": strides}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_a_checkpoint_in_the_form_of_hugging_face(tiny: Path, tmp_path: Path, family: str) -> None:
    state = torch.load(tiny, weights_only=True)
    folder = save_as_hugging_face(tmp_path / "theirs", state, family)
    back = from_hugging_face(load_file(folder / "model.safetensors"), family.lower())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    encoder = SpeechEncoder(features(folder).pretrained).eval()
    encoder.take(str(folder))
    waveform = noise_tensor(20 * 320 + 80)[None]
    with torch.inference_mode():
        torch.testing.assert_close(encoder(waveform), FeatureExtractor(features()).eval()(waveform))


def test_every_encoder_of_torchaudio_has_frames_of_20_ms() -> None:
    for name, bundle in encoder_sources._bundles().items():
        found = encoder_sources._of_bundle(bundle)
        plain = json.loads(json.dumps(found.architecture))
        config = PretrainedConfig(f"torchaudio:{name}", family=found.family, architecture=plain)
        assert (config.kernel_samples, config.hop_samples, bundle.sample_rate) == (400, 320, RATE), name
        assert config.dim >= 768


@only_wav2vec2
def test_without_weights_there_is_one_clear_line(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise URLError("no route to host")

    monkeypatch.setattr("torchaudio.pipelines._wav2vec2.utils.load_state_dict_from_url", unreachable)
    manifest = str(write_corpus(tmp_path, labels=("low", "hiss")))
    arguments = ["train", "identify", manifest, "-o", str(tmp_path / "x"), "--device", "cpu", "--encoder"]
    assert run([*arguments, "torchaudio:TINY"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("framecls: error: the speech encoder TINY is not in ")
    assert "no route to host" in said
    assert len(said.splitlines()) == 1
    assert run([*arguments, "torchaudio:HUGE"]) == 1
    assert "torchaudio has no such speech encoder: choose HUBERT_" in capsys.readouterr().err
    assert (
        run(["train", "identify", manifest, "-o", str(tmp_path / "x"), "--set", "features.pretrained.tuned=true"]) == 2
    )
    assert "goes with --encoder" in capsys.readouterr().err


@only_wav2vec2
def test_what_is_no_speech_encoder_is_refused(tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    with pytest.raises(ConfigError, match="no such file"):
        features(tmp_path / "gone.pt")
    with pytest.raises(ConfigError, match="layers 1 to 3, and there is no 4"):
        features(layer=4)
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"junk\.pt"):
        features(tmp_path / "junk.pt")
    save_file({"x": torch.zeros(2)}, other)
    with pytest.raises(ModelError, match=r"describe it in other\.json"):
        features(other)
    (tmp_path / "other.json").write_text(json.dumps(ARCHITECTURE))
    with pytest.raises(ModelError, match="weights are missing"):
        SpeechEncoder(features(other).pretrained).take(str(other))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ModelError, match="does not describe"):
        features(other)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        features(tmp_path / "folder")
    own = features(tiny).pretrained
    with pytest.raises(ModelError, match="no speech encoder can be built"):
        SpeechEncoder(replace(own, architecture={**own.architecture, "odd": 1}))
    with pytest.raises(ConfigError, match=r"wants pretrained\.source"):
        FeatureConfig(kind="pretrained")
