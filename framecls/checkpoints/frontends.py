"""Where pre-trained speech encoders come from: what a source says of an encoder, and the weights that it has.

A source is one of

- `torchaudio:NAME`: a bundle of torchaudio (wav2vec 2.0, HuBERT, WavLM, XLS-R); torch fetches its weights once and
  reads them from its cache from then on;
- the path of a file that holds the state dict of torchaudio's class, with its settings as JSON in a file beside it;
- the path of a folder as Hugging Face's transformers saves one; settings and weights get torchaudio's names;
- `framecls:MODEL`: the lower layers of a framecls model.

This module reads them; `speech_encoder` runs the first three as features, and `nn.listener` the last.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import torch
from torch import Tensor, nn

from framecls import packages
from framecls.checkpoints import registry
from framecls.checkpoints.file import find_system_fault, read_config, read_stored, widen
from framecls.config import BUNDLE_PREFIX, MODEL_PREFIX, FeatureConfig, PretrainedConfig, to_dict
from framecls.errors import ConfigError, ModelError, is_out_of_memory
from framecls.textfiles import read_json

# The functions of torchaudio.models that build an encoder.
_FACTORIES = {"Wav2Vec2": "wav2vec2_model", "WavLM": "wavlm_model"}
State = dict[str, Tensor]  # weights by name


@dataclass(frozen=True)
class _Found:
    """An encoder that a source names: what builds it, and its weights unless torch has still to fetch them."""

    family: Literal["Wav2Vec2", "WavLM"]
    architecture: dict[str, Any]
    normalize_waveform: bool
    state: State | None = None


def look_up(config: FeatureConfig) -> FeatureConfig:
    """Return settings of pre-trained features with all that their source says of itself; others as they are.

    Weights that have to be fetched are fetched now.

    Raises:
        PackageError: the encoder is one of torchaudio's, which does not load.
        ConfigError: there is no such encoder, or no such layer in it.
        ModelError: the checkpoint cannot be used, or the weights cannot be fetched.
    """
    if config.kind != "pretrained" or config.pretrained.architecture:
        return config
    asked = config.pretrained
    if asked.model:
        return _look_up_model(config)
    found = _find(asked.source)
    n_layers = found.architecture["encoder_num_layers"]
    if not 0 <= asked.layer <= n_layers:
        raise ConfigError(f"{asked.source}: it has layers 1 to {n_layers}, and there is no {asked.layer}: 0 mixes all")
    architecture = {
        **found.architecture,
        # What is above the layer that is asked for is never run.
        "encoder_num_layers": asked.layer or n_layers,
        "aux_num_out": None,
        # A layer that is left out gets no gradient, and then a run could not be resumed to the same weights.
        "encoder_layer_drop": 0.0,
    }
    try:
        pretrained = replace(
            asked,
            source=asked.source if asked.bundle else Path(asked.source).name,
            family=found.family,
            architecture=json.loads(json.dumps(architecture)),
            normalize_waveform=found.normalize_waveform,
        )
    except ConfigError as error:
        raise ConfigError(f"{asked.source}: {error}") from None
    if found.state is not None:
        with torch.device("meta"):  # its settings may call for a network far larger than the file
            wanted = build(pretrained)
        check_weights(wanted, found.state, asked.source)
    if pretrained.bundle:
        open_bundle(pretrained.bundle, pretrained.n_layers)
    width, hop = pretrained.kernel_samples, pretrained.hop_samples
    return replace(config, sample_rate=16000, window_samples=width, hop_samples=hop, n_fft=width, pretrained=pretrained)


def _look_up_model(config: FeatureConfig) -> FeatureConfig:
    """See `look_up`: the encoder of a framecls model, with a vector every 20 ms if it hears as Whisper does."""
    asked = config.pretrained
    path = registry.locate(asked.model)
    model = read_config(path)
    if model.features.kind not in ("logmel", "mfcc"):
        raise ConfigError(f"{asked.source}: it hears through another encoder itself: name that")
    n_layers = model.encoder.n_layers
    if not 0 <= asked.layer <= n_layers or not n_layers:
        raise ConfigError(f"{asked.source}: it has layers 1 to {n_layers}, and there is no {asked.layer}: 0 mixes all")
    # Two convolutions halve the rate; the mean that may follow is for speed.
    subsampling = 2 if model.encoder.stem == "convolution" else model.encoder.subsampling
    encoder = replace(model.encoder, n_layers=asked.layer or n_layers, subsampling=subsampling)
    features = {key: value for key, value in to_dict(model.features).items() if key != "pretrained"}
    shipped = asked.model in registry.names()
    chosen = replace(
        asked,
        source=asked.source if shipped else path.name,
        family="framecls",
        architecture={
            "features": features,
            "encoder": to_dict(encoder),
            "digest": _digest(_lower_part(read_stored(path), encoder.n_layers)),
        },
    )
    width, hop = chosen.kernel_samples, chosen.hop_samples
    return replace(
        config,
        sample_rate=model.features.sample_rate,
        window_samples=width,
        hop_samples=hop,
        n_fft=width,
        f_max_hz=model.features.f_max_hz,
        pretrained=chosen,
    )


def read_lower_part(config: PretrainedConfig, source: str) -> State:
    """Return the weights of the lower part of a framecls model.

    Raises:
        ModelError: they cannot be read, or are not those that the settings were made for.
    """
    stored = _lower_part(read_stored(registry.locate(source.removeprefix(MODEL_PREFIX))), config.n_layers)
    if _digest(stored) != config.architecture.get("digest"):
        raise ModelError(f"it was trained on another version of {source} than the one that is here: train it again")
    return widen(stored)


def _lower_part(stored: State, n_layers: int) -> State:
    """Keep what is before and in the first layers of an encoder."""
    kept = ("encoder.input.", *(f"encoder.layers.{number}." for number in range(n_layers)))
    return {key: tensor for key, tensor in stored.items() if key.startswith(kept)}


def _digest(stored: Mapping[str, Tensor]) -> str:
    """Return a hash of weights: of their names, types, shapes and values."""
    found = hashlib.sha256()
    for key, tensor in sorted(stored.items()):
        found.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()[:32]


def build(config: PretrainedConfig) -> Any:
    """Return an untrained encoder of torchaudio's classes, as far as the last layer that is run.

    Raises:
        PackageError: torchaudio does not load.
        ModelError: the settings do not go together.
    """
    factory = _factory(config.family)
    try:
        model = factory(**config.architecture)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{config.source}: no speech encoder can be built of its settings: {error}") from error
    return _trim(model, config.n_layers)


def _factory(family: str) -> Callable[..., Any]:
    """Return the function of torchaudio that builds encoders of a family."""
    factory: Callable[..., Any] = getattr(packages.load_torchaudio().models, _FACTORIES[family])
    return factory


def check_weights(wanted: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are not those of an encoder.

    Raises:
        ModelError: some are missing or have other shapes.
    """
    parameters = dict(wanted.named_parameters())
    if missing := sorted(parameters.keys() - state.keys()):
        raise ModelError(f"{source}: {len(missing)} weights are missing, such as {missing[0]}")
    for key, tensor in parameters.items():
        if state[key].shape != tensor.shape:
            shapes = f"{list(state[key].shape)}, not {list(tensor.shape)}"
            raise ModelError(f"{source}: its weights do not fit its settings: {key} has shape {shapes}")


def _trim(model: Any, n_layers: int) -> Any:
    """Take off what is never run: upper layers, the head, and a norm that torchaudio applies after the last layer."""
    model.aux = None
    transformer = model.encoder.transformer
    transformer.layers = transformer.layers[:n_layers]
    if not transformer.layer_norm_first:
        transformer.layer_norm = nn.Identity()
    return model


def read_weights(config: PretrainedConfig, source: str) -> State:
    """Return the weights that a bundle or checkpoint has for an encoder with these settings, by torchaudio's names.

    Raises:
        PackageError: torchaudio does not load.
        ConfigError: there is no such source.
        ModelError: they cannot be read or fetched.
    """
    if bundle := PretrainedConfig(source=source).bundle:
        state: State = open_bundle(bundle, config.n_layers).state_dict()
        return state
    found = _find(source)
    assert found.state is not None
    return found.state


def _bundles() -> dict[str, Any]:
    """Return torchaudio's encoders by the names of their bundles."""
    pipelines = packages.load_torchaudio().pipelines
    named = {name: getattr(pipelines, name) for name in dir(pipelines) if name.isupper()}
    return {name: bundle for name, bundle in named.items() if isinstance(bundle, pipelines.Wav2Vec2Bundle)}


def _find(source: str) -> _Found:
    """Return what a bundle or checkpoint says of its encoder; the weights of a bundle are not fetched for that."""
    if bundle_name := PretrainedConfig(source=source).bundle:
        bundles = _bundles()
        if bundle_name not in bundles:
            raise ConfigError(f"{source}: torchaudio has no such speech encoder: choose {', '.join(bundles)}")
        return _of_bundle(bundles[bundle_name])
    path = Path(source)
    if not os.path.exists(path):
        raise ConfigError(
            f"{source}: no such file; a speech encoder is {BUNDLE_PREFIX}NAME, {MODEL_PREFIX}NAME "
            "or the path of a checkpoint"
        )
    return _of_folder(path) if path.is_dir() else _of_checkpoint(path)


def _of_bundle(bundle: Any) -> _Found:
    return _Found(bundle._model_type, dict(bundle._params), bundle._normalize_waveform)


def open_bundle(name: str, n_layers: int) -> Any:
    """Return an encoder of torchaudio, in evaluation mode and without gradients; each call gives another.

    Raises:
        PackageError: torchaudio does not load.
        ModelError: its weights are not in torch's cache and cannot be fetched.
    """
    bundles = _bundles()
    if name not in bundles:
        raise ModelError(f"torchaudio has no speech encoder {name!r}: choose {', '.join(bundles)}")
    try:
        model = bundles[name].get_model(dl_kwargs={"progress": False})
    except (OSError, RuntimeError, EOFError) as error:
        if is_out_of_memory(error):
            raise
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        if not isinstance(error, URLError | ConnectionError | TimeoutError):
            raise ModelError(f"the speech encoder {name}: what is in {folder} cannot be read: {error}") from error
        reason = getattr(error, "reason", error)
        raise ModelError(
            f"the speech encoder {name} is not in {folder} and could not be fetched ({reason}): "
            "connect to a network once, or set TORCH_HOME to where it is"
        ) from error
    return _trim(getattr(model, "model", model), n_layers).eval().requires_grad_(False)


def _of_checkpoint(path: Path) -> _Found:
    """Read a file of weights as torchaudio names them; a JSON file of the same name beside it says what they build.

    That file has the arguments of `torchaudio.models.wav2vec2_model` or `wavlm_model`, and may have "family" and
    "normalize_waveform". Without it the encoder of torchaudio with the same weights is looked for.
    """
    state = _read_state_dict(path)
    beside = path.with_suffix(".json")
    if not beside.is_file():
        for bundle in _bundles().values():
            found = _of_bundle(bundle)
            if _fits(found, state):
                return replace(found, state=state)
        raise ModelError(f"{path}: the weights of no speech encoder that torchaudio has: describe it in {beside.name}")
    settings = _read_json(beside)
    family = settings.pop("family", "Wav2Vec2")
    normalizes = settings.pop("normalize_waveform", False)
    n_layers = settings.get("encoder_num_layers")
    if family not in _FACTORIES or not isinstance(normalizes, bool) or type(n_layers) is not int:
        raise ModelError(f"{beside}: it does not describe a speech encoder of torchaudio")
    return _Found(family, settings, normalizes, state)


def _fits(found: _Found, state: Mapping[str, Tensor]) -> bool:
    """Return whether an encoder has weights of these names and shapes."""
    projection = state.get("encoder.feature_projection.projection.weight")
    if projection is None or len(projection) != found.architecture["encoder_embed_dim"]:
        return False  # said at once; to build the larger ones, even without memory for them, takes a while
    with torch.device("meta"):
        wanted = _factory(found.family)(**{**found.architecture, "aux_num_out": None}).state_dict()
    return all(key in state and state[key].shape == tensor.shape for key, tensor in wanted.items())


def _read_state_dict(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, MemoryError) as error:
        raise ModelError(f"{path}: cannot be read as weights: {find_system_fault(path, error) or error}") from error
    except Exception as error:  # torch's own pickle.UnpicklingError says in many lines how to load it unsafely
        raise ModelError(f"{path}: not a file of weights alone: save the state_dict of the encoder") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path}: not a file of weights alone: save the state_dict of the encoder")
    return state


def _read_json(path: Path) -> dict[str, Any]:
    try:
        settings = read_json(path)
    except ConfigError as error:
        raise ModelError(str(error)) from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: it does not describe a speech encoder")
    return settings


# Settings of Hugging Face's config.json, and what torchaudio calls them.
_HUGGING_FACE = {
    "conv_bias": "extractor_conv_bias",
    "hidden_size": "encoder_embed_dim",
    "feat_proj_dropout": "encoder_projection_dropout",
    "num_conv_pos_embeddings": "encoder_pos_conv_kernel",
    "num_conv_pos_embedding_groups": "encoder_pos_conv_groups",
    "num_hidden_layers": "encoder_num_layers",
    "num_attention_heads": "encoder_num_heads",
    "attention_dropout": "encoder_attention_dropout",
    "intermediate_size": "encoder_ff_interm_features",
    "activation_dropout": "encoder_ff_interm_dropout",
    "hidden_dropout": "encoder_dropout",
    "do_stable_layer_norm": "encoder_layer_norm_first",
    "layerdrop": "encoder_layer_drop",
}
_HUGGING_FACE_WAVLM = {"num_buckets": "encoder_num_buckets", "max_bucket_distance": "encoder_max_distance"}
_MODEL_TYPES: dict[str, Literal["Wav2Vec2", "WavLM"]] = {"wav2vec2": "Wav2Vec2", "hubert": "Wav2Vec2", "wavlm": "WavLM"}


def _of_folder(folder: Path) -> _Found:
    """Read a checkpoint in the form of Hugging Face's transformers: config.json, and weights beside it."""
    settings = _read_json(folder / "config.json")
    family = _MODEL_TYPES.get(str(settings.get("model_type")))
    if family is None:
        raise ModelError(f"{folder}: its config.json is of no wav2vec2, hubert or wavlm model")
    names = _HUGGING_FACE | (_HUGGING_FACE_WAVLM if family == "WavLM" else {})
    try:
        architecture = {own: settings[theirs] for theirs, own in names.items()}
        convolutions = zip(settings["conv_dim"], settings["conv_kernel"], settings["conv_stride"], strict=True)
        architecture["extractor_conv_layer_config"] = [list(layer) for layer in convolutions]
        architecture["extractor_mode"] = f"{settings['feat_extract_norm']}_norm"
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: its config.json does not describe a speech encoder: {error}") from error
    weights = next((p for p in (folder / "model.safetensors", folder / "pytorch_model.bin") if p.is_file()), None)
    if weights is None:
        raise ModelError(f"{folder}: there is neither model.safetensors nor pytorch_model.bin in it")
    prepared = folder / "preprocessor_config.json"
    normalizes = bool(_read_json(prepared).get("do_normalize", True)) if prepared.is_file() else False
    state = from_hugging_face(_read_state_dict(weights), str(settings["model_type"]))
    return _Found(family, architecture, normalizes, state)


def from_hugging_face(state: Mapping[str, Tensor], model_type: str) -> State:
    """Return weights under the names that torchaudio gives them; heads and masks are left out."""
    renamed: State = {}
    for key, tensor in state.items():
        name = key.removeprefix(f"{model_type}.")
        name = name.replace("conv.weight_g", "conv.parametrizations.weight.original0")
        name = name.replace("conv.weight_v", "conv.parametrizations.weight.original1")
        if name.startswith("feature_extractor."):
            renamed[name] = tensor
        elif name.startswith("feature_projection."):
            renamed[f"encoder.{name}"] = tensor
        elif name.startswith("encoder."):
            renamed[f"encoder.transformer.{name.removeprefix('encoder.')}"] = tensor
    return _join_projections(renamed) if model_type == "wavlm" else renamed


def _join_projections(state: State) -> State:
    """Join WavLM's query, key and value projections, which torchaudio keeps as one."""
    joined = dict(state)
    for key in state:
        if key.endswith(".attention.q_proj.weight"):
            base = key.removesuffix("q_proj.weight")
            for kind in ("weight", "bias"):
                parts = [joined.pop(f"{base}{which}_proj.{kind}") for which in "qkv"]
                joined[f"{base}attention.in_proj_{kind}"] = torch.cat(parts)
                joined[f"{base}attention.out_proj.{kind}"] = joined.pop(f"{base}out_proj.{kind}")
    return joined
