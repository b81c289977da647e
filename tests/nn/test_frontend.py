"""Pre-trained encoders in place of log-mel: tiny untrained ones of the very classes of transformers."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import layer_norm

from framecls.checkpoints.file import read_config
from framecls.checkpoints.frontends import look_up, open_frontend
from framecls.checkpoints.network import load_network
from framecls.cli.boundary import run
from framecls.config import FeatureConfig, PretrainedConfig
from framecls.errors import ConfigError, ModelError
from framecls.model import load
from framecls.nn.frontend import PretrainedFrontend
from framecls.training.job import Job, prepare
from framecls.training.loop import train
from framecls.training.recipe import with_encoder
from support.models import noise_tensor
from support.training import make_recipe, write_corpus

transformers: Any = pytest.importorskip("transformers")

RATE = 16000
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
CONVOLVED = {**SIZES, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
WHISPER = {
    **{"d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 32},
    **{"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 20},
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
    "max_source_positions": 60,  # 1.2 s
}
# Kind -> its model's class, its settings, and what makes its input.
KINDS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2", CONVOLVED, "Wav2Vec2FeatureExtractor", {"do_normalize": False}),
    "wav2vec2-stable": (
        "Wav2Vec2",
        {**CONVOLVED, "do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True},
        "Wav2Vec2FeatureExtractor",
        {"do_normalize": True},
    ),
    "hubert": ("Hubert", CONVOLVED, "Wav2Vec2FeatureExtractor", {"do_normalize": True}),
    "wavlm": ("WavLM", CONVOLVED, "Wav2Vec2FeatureExtractor", {"do_normalize": False}),
    "unispeech": ("UniSpeech", CONVOLVED, "Wav2Vec2FeatureExtractor", {"do_normalize": False}),
    "unispeech-sat": ("UniSpeechSat", CONVOLVED, "Wav2Vec2FeatureExtractor", {"do_normalize": False}),
    "data2vec-audio": ("Data2VecAudio", CONVOLVED, "Wav2Vec2FeatureExtractor", {"do_normalize": True}),
    "w2v-bert": ("Wav2Vec2Bert", {**SIZES, "conv_depthwise_kernel_size": 3}, "SeamlessM4TFeatureExtractor", {}),
    "whisper": ("Whisper", WHISPER, "WhisperFeatureExtractor", {"chunk_length": 1}),
    "ast": ("AST", {**SIZES, "max_length": 128}, "ASTFeatureExtractor", {"max_length": 128, "mean": -3.0, "std": 2.0}),
}
of_each_sort = pytest.mark.parametrize("kind", ["wav2vec2-stable", "wavlm", "w2v-bert", "whisper", "ast"])
only_wav2vec2 = pytest.mark.parametrize("kind", ["wav2vec2"])


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tiny(tmp_path: Path, kind: str) -> Path:
    """Save a tiny encoder, as transformers does, in a folder called tiny."""
    name, settings, extractor, prepared = KINDS[kind]
    torch.manual_seed(5)
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**settings))
    with torch.no_grad():  # so that something comes through the untrained layers
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    model.save_pretrained(tmp_path / "tiny")
    getattr(transformers, extractor)(**prepared).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def named(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the encoder one that has a name: it is found by transformers, and is no path."""
    own = transformers.AutoConfig.from_pretrained(tiny)
    model_class, config_class = transformers.AutoModel, transformers.AutoConfig
    extractor_class = transformers.SequenceFeatureExtractor
    load_model, load_table = model_class.from_pretrained, extractor_class.get_feature_extractor_dict

    def only(source: str) -> Path:
        assert source == "lab/tiny"
        return tiny

    monkeypatch.setattr(config_class, "from_pretrained", lambda source: only(source) and type(own)(**own.to_dict()))
    monkeypatch.setattr(model_class, "from_pretrained", lambda source, **kwargs: load_model(only(source), **kwargs))
    monkeypatch.setattr(extractor_class, "get_feature_extractor_dict", lambda source: load_table(only(source)))
    return "lab/tiny"


def features(source: str | Path, **settings: Any) -> FeatureConfig:
    return look_up(FeatureConfig(kind="pretrained", pretrained=PretrainedConfig(str(source), **settings)))


def frontend(source: str | Path, **settings: Any) -> PretrainedFrontend:
    return open_frontend(features(source, **settings).pretrained, str(source)).eval()


def window(config: FeatureConfig, n_vectors: int, seed: int = 0) -> torch.Tensor:
    return noise_tensor(n_vectors * config.hop_samples + 2 * config.margin_samples, seed)


def reference(folder: Path, waveform: torch.Tensor, n_vectors: int) -> list[torch.Tensor]:
    """Return the vectors of all layers, got with transformers alone, each normalised."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    if model.config.model_type == "whisper":
        inputs = extractor(waveform.numpy(), sampling_rate=RATE, max_length=60 * 320, return_tensors="pt")
        states = [state[:, 1 : 1 + n_vectors] for state in model.encoder(**inputs, output_hidden_states=True)[1]]
    else:
        states = model(
            **extractor(waveform.numpy(), sampling_rate=RATE, return_tensors="pt"), output_hidden_states=True
        ).hidden_states
    if model.config.model_type == "audio-spectrogram-transformer":
        states = [torch.stack(state[:, 2:].chunk(12, dim=1)).mean(dim=0)[:, :n_vectors] for state in states]
    return [layer_norm(state, (16,)) for state in states[1:]]


@torch.inference_mode()
def test_vectors_are_those_of_transformers(tiny: Path) -> None:
    waveform = window(features(tiny), 7)
    wanted = reference(tiny, waveform, 7)
    for layer in (1, 2):
        got = frontend(tiny, layer=layer)(waveform[None])
        assert got.shape == (1, 7, 16)
        torch.testing.assert_close(got, wanted[layer - 1], rtol=1e-4, atol=1e-5)
    if not has_final_norm(tiny):
        mixed = layer_norm(torch.stack(wanted).mean(dim=0), (16,))
        torch.testing.assert_close(frontend(tiny)(waveform[None]), mixed, rtol=1e-4, atol=1e-5)


def has_final_norm(folder: Path) -> bool:
    """Return whether transformers normalises what the last layer gives, with weights that framecls leaves out."""
    settings = json.loads((folder / "config.json").read_text())
    return bool(settings["model_type"] == "whisper" or settings.get("do_stable_layer_norm"))


@of_each_sort
@torch.inference_mode()
def test_a_vector_is_about_the_middle_of_its_frame(tiny: Path) -> None:
    config, encoder = features(tiny, layer=1), frontend(tiny, layer=1)
    waveform = torch.stack([window(config, 7), window(config, 7)])
    for frame in (1, 4, 5):
        middle = config.margin_samples + round((frame + 0.5) * config.hop_samples)
        waveform[1] = waveform[0]
        waveform[1, middle - 40 : middle + 40] += 3 * noise_tensor(80, seed=frame)
        plain, changed = encoder(waveform)
        assert int((plain - changed).square().sum(dim=1).argmax()) == frame


@of_each_sort
@torch.inference_mode()
def test_padding_and_neighbours_change_nothing(tiny: Path) -> None:
    config, encoder = features(tiny), frontend(tiny)
    hop, margins = config.hop_samples, 2 * config.margin_samples
    lengths = torch.tensor([7, 3, 7, 5])
    rows = [window(config, 7, seed) for seed in range(4)]
    batch = torch.stack(rows)
    for row, length in zip(batch, lengths.tolist(), strict=True):
        row[length * hop + margins :] = 9.0
    together = encoder(batch, lengths)
    for row, length, vectors in zip(rows, lengths.tolist(), together, strict=True):
        alone = encoder(row[None, : length * hop + margins])[0]
        torch.testing.assert_close(vectors[:length], alone, rtol=1e-4, atol=1e-4)
        assert not vectors[length:].any()


@only_wav2vec2
@torch.inference_mode()
def test_threads_share_a_frontend(tiny: Path) -> None:
    encoder, config = frontend(tiny), features(tiny)
    batches = [window(config, 9, seed)[None] for seed in range(4)]
    wanted, got = [encoder(batch) for batch in batches], [torch.empty(0)] * 4

    def work(index: int) -> None:
        with torch.inference_mode():
            for _ in range(5):
                got[index] = encoder(batches[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


@only_wav2vec2
def test_a_frozen_encoder_with_a_name_is_not_carried(named: str, tiny: Path, tmp_path: Path) -> None:
    job = Job(
        write_corpus(tmp_path, labels=("low", "hiss")),
        tmp_path / "frozen.safetensors",
        with_encoder(make_recipe(6, 6), named),
    )
    losses: list[float] = []
    train(job, prepare(job), lambda progress: losses.append(progress.loss))
    assert np.isfinite(losses).all()
    stored = load_file(job.output)
    assert [key for key in stored if key.startswith("features.")] == ["features.mix"]
    assert stored["features.mix"].abs().max() > 0  # the mix was learnt
    config = read_config(job.output)
    assert config.hop_s == 0.04  # as with the recipe's log-mel
    assert config.features.pretrained.source == named
    answer = load(job.output, device="cpu").identify(str(tmp_path / "low0.wav"))
    model = transformers.Wav2Vec2Model.from_pretrained(tiny)
    for parameter in model.feature_extractor.parameters():
        parameter.data.neg_()
    model.save_pretrained(tiny)
    other = load(job.output, device="cpu").identify(str(tmp_path / "low0.wav"))
    assert answer.top[0].score != pytest.approx(other.top[0].score, abs=1e-6)  # it is the weights of that name


@of_each_sort
def test_a_tuned_encoder_is_carried(tiny: Path, tmp_path: Path) -> None:
    recipe = with_encoder(make_recipe(4, 4, tuned_rate=1.0), str(tiny), layer=2, tuned=True)
    if features(tiny).hop_samples == 1600:  # AST has few vectors
        recipe = replace(recipe, encoder=replace(recipe.encoder, subsampling=1))
    job = Job(write_corpus(tmp_path, labels=("low", "hiss")), tmp_path / "tuned.safetensors", recipe)
    before = dict(frontend(tiny, layer=2, tuned=True).named_parameters())
    train(job, prepare(job))
    after = load_file(job.output)
    kept = {key: f"features.{key}" for key in before if key.startswith("encoder.")}
    moved = {key for key, stored in kept.items() if not torch.allclose(before[key], after[stored].float(), atol=2e-3)}
    assert moved
    assert all(".layers." in key for key in moved)  # what is before self-attention stays
    assert not any(".layers.2." in key or "decoder" in key for key in after)  # what is not run is left out
    shutil.rmtree(tiny)
    assert load(job.output, device="cpu").identify(str(tmp_path / "low0.wav")).label in {"low", "hiss"}


@only_wav2vec2
def test_a_tuned_run_resumes_to_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = with_encoder(make_recipe(6, 2), str(tiny), tuned=True)
    whole = Job(write_corpus(tmp_path, labels=("low", "hiss")), tmp_path / "a.safetensors", recipe)
    train(whole, prepare(whole))
    broken = replace(whole, output=tmp_path / "b.safetensors", resume=True, stop_after=3)
    train(broken, prepare(broken))
    rest = replace(broken, stop_after=None)
    train(rest, prepare(rest))
    one, other = (dict(load_network(job.output).named_parameters()) for job in (whole, rest))
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


@only_wav2vec2
def test_an_encoder_of_ones_own_is_carried_and_not_tuned(tiny: Path) -> None:
    config = features(tiny).pretrained
    assert (config.source, config.carried) == ("tiny", True)
    encoder = frontend(tiny).train()
    assert [key for key, p in encoder.named_parameters() if p.requires_grad] == ["mix"]
    assert encoder.encoder is not None
    assert not encoder.encoder.training  # what is not tuned drops nothing out


@only_wav2vec2
def test_without_weights_there_is_one_clear_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = str(write_corpus(tmp_path, labels=("low", "hiss")))
    arguments = ["train", "identify", manifest, "-o", str(tmp_path / "x"), "--device", "cpu", "--encoder"]
    assert run([*arguments, "nobody/has-this"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("framecls: error: nobody/has-this: transformers cannot open this encoder: ")
    assert len(said.splitlines()) == 1
    tuned = ["--set", "features.pretrained.tuned=true"]
    assert run(["train", "identify", manifest, "-o", str(tmp_path / "x"), "--recipe", "identify", *tuned]) == 2
    assert "goes with --encoder" in capsys.readouterr().err


@only_wav2vec2
def test_what_is_no_encoder_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layers 1 to 3, and there is no 4"):
        features(tiny, layer=4)
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"junk\.pt: not a folder"):
        features(tmp_path / "junk.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"config\.json"):
        features(tmp_path / "folder")
    (tmp_path / "folder" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="no encoder that is known here: wav2vec2, "):
        features(tmp_path / "folder")
    with pytest.raises(ConfigError, match=r"wants pretrained\.source"):
        FeatureConfig(kind="pretrained")
    own = features(tiny).pretrained
    with pytest.raises(ModelError, match="do not go together"):
        open_frontend(replace(own, dim=32), str(tiny))
    weights = load_file(tiny / "model.safetensors")
    transformers.Wav2Vec2Model.from_pretrained(tiny).save_pretrained(
        tiny, state_dict={key: value for key, value in weights.items() if "layers.1" not in key}
    )
    with pytest.raises(ModelError, match=r"weights are missing, such as encoder\.layers\.1"):
        features(tiny)


@pytest.mark.parametrize("kind", ["whisper", "ast"])
def test_longer_windows_than_an_encoder_reads_are_refused(tiny: Path) -> None:
    config = features(tiny)
    with pytest.raises(ConfigError, match=r"tiny reads at most 1\.\d+ s at once"):
        frontend(tiny)(window(config, 100)[None])
