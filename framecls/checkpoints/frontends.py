"""Where pre-trained encoders come from: `nn.frontend.PretrainedFrontend`, looked up, built and filled.

A source is one of

- `framecls:MODEL`: the lower layers of a framecls model, by name or path;
- `torchaudio:BUNDLE`: an encoder of torchaudio (wav2vec 2.0, HuBERT, WavLM, XLS-R), whose weights torch fetches once
  and reads from its cache from then on;
- the name or folder of an audio encoder of transformers, which is an extra: Whisper, wav2vec 2.0, HuBERT,
  WavLM, UniSpeech, data2vec, w2v-BERT or AST. transformers fetches a named one once and reads its cache from then on.

A model file only names an encoder that ships with framecls or has a name in torchaudio or transformers, and stays as it
is; it carries the weights of one that was tuned, or came from a file of the user's own.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from framecls import packages
from framecls.checkpoints import registry
from framecls.checkpoints.file import dequantize, digest_weights, read_config, read_stored
from framecls.config import (
    BUNDLE_PREFIX,
    MODEL_PREFIX,
    FeatureConfig,
    PretrainedConfig,
    size_of_lower_layers,
    to_dict,
)
from framecls.errors import ConfigError, FrameclsError, ModelError, is_out_of_memory
from framecls.nn.frontend import LowerLayers, PretrainedFrontend, TorchaudioEncoder, TransformersEncoder
from framecls.text import reason
from framecls.textfiles import read_json

_RATE = 16000  # Hz, of all encoders here
_STATE = "features.encoder."  # what the names of carried weights begin with in a model file
# Kinds of transformers that read samples through convolutions, and those that read spectra.
_WAVEFORM_KINDS = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio")
_WHISPER, _W2V_BERT, _AST = "whisper", "wav2vec2-bert", "audio-spectrogram-transformer"
_KINDS = (*_WAVEFORM_KINDS, _WHISPER, _W2V_BERT, _AST)
_SPECTRUM_HOP, _SPECTRUM_WINDOW = 160, 400  # samples, of the spectra that those read
# A layer that is left out gets no gradient, and then a run could not be resumed to the same weights; augmentation is
# the recipe's; what is above the encoder is never run.
_SWITCHED_OFF = {
    "layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "add_adapter": False,
    "decoder_layers": 0,
}
_NOT_STORED = ("id2label", "label2id", "architectures", "transformers_version", "_name_or_path", "dtype")
_MOST_CHARACTERS = 200  # of a name in a message


def look_up(config: FeatureConfig, *, own_rate: bool = False) -> FeatureConfig:
    """Return settings of pre-trained features with all that their source says of itself; others as they are.

    Weights that have to be fetched are fetched now.

    Args:
        config: what the recipe says.
        own_rate: take the vectors of a framecls model at its own frame rate, though its convolutions give more.

    Raises:
        PackageError: the encoder is one of transformers, which does not load.
        ConfigError: there is no such encoder, or no such layer in it.
        ModelError: the encoder cannot be used, or its weights cannot be fetched.
    """
    if config.kind != "pretrained" or config.pretrained.architecture:
        return config
    if config.pretrained.model:
        return _look_up_model(config, own_rate)
    is_bundle = config.pretrained.source.startswith(BUNDLE_PREFIX)
    found = _look_up_bundle(config.pretrained) if is_bundle else _look_up_transformers(config.pretrained)
    open_frontend(found, config.pretrained.source)
    return _on_grid(config, found, _RATE, config.f_max_hz)


def open_frontend(config: PretrainedConfig, source: str) -> PretrainedFrontend:
    """Build a frontend with the weights that a source has.

    Args:
        config: as `look_up` completed it.
        source: as the recipe says it; of a model file that only names it, `config.source`.

    Raises:
        PackageError: the encoder is one of transformers, which does not load.
        ModelError: the weights cannot be read or fetched, or are not those of the encoder.
    """
    if config.family == "transformers":
        return PretrainedFrontend(config, _load_transformers(config, source))
    if config.family == "torchaudio":
        return PretrainedFrontend(config, _open_bundle(config, fetched=True))
    encoder = _lower_layers(config)
    state = {key: tensor.float() for key, tensor in dequantize(_read_lower_layers(config, source)).items()}
    _check_weights(encoder, state, source)
    encoder.load_state_dict(state, strict=False, assign=True)  # the tables of the features are no weights
    return PretrainedFrontend(config, encoder)


def build_frontend(config: PretrainedConfig, state: Mapping[str, Tensor]) -> PretrainedFrontend:
    """Build the frontend of a model file; what the file carries is left to be filled.

    Args:
        config: the settings in the file.
        state: all weights of the file, which are checked before memory is taken for as many.

    Raises:
        PackageError: the encoder is one of transformers, which does not load.
        ModelError: the settings do not go together, or the weights are not those of the encoder.
    """
    if not config.carried:
        if config.family == "transformers" and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", config.source):
            raise ModelError(f"{config.source[:_MOST_CHARACTERS]!r} is no name of an encoder of transformers")
        return open_frontend(config, config.source)
    if config.family == "framecls":
        return PretrainedFrontend(config, _lower_layers(config))
    if config.family == "torchaudio":
        return PretrainedFrontend(config, _open_bundle(config, fetched=False))
    with _transformers(config.source) as transformers:
        settings = _settings_of(transformers, config)
        with torch.device("meta"):
            model = _build(transformers, settings)
        carried = {key.removeprefix(_STATE + "model."): tensor for key, tensor in state.items()}
        _check_weights(model, carried, config.source)
        return PretrainedFrontend(config, _wrap(transformers, _build(transformers, settings), settings, config))


def _on_grid(config: FeatureConfig, found: PretrainedConfig, sample_rate: int, f_max_hz: float) -> FeatureConfig:
    """Return settings of features on the grid of an encoder's vectors."""
    width = found.window_samples
    return replace(
        config,
        sample_rate=sample_rate,
        window_samples=width,
        hop_samples=found.hop_samples,
        n_fft=width,
        f_max_hz=f_max_hz,
        pretrained=found,
    )


def _check_layer(config: PretrainedConfig, n_layers: int) -> int:
    """Return how many layers are run."""
    if not 0 <= config.layer <= n_layers or not n_layers:
        raise ConfigError(
            f"{config.source}: it has layers 1 to {n_layers}, and there is no {config.layer}: 0 mixes all"
        )
    return config.layer or n_layers


# Lower layers of a framecls model


def _look_up_model(config: FeatureConfig, own_rate: bool) -> FeatureConfig:
    """See `look_up`: the encoder of a framecls model, with a vector every 20 ms if its stem is that of Whisper."""
    asked = config.pretrained
    path = registry.locate(asked.model)
    model = read_config(path)
    features, encoder = model.features, model.encoder
    if features.kind not in ("logmel", "mfcc"):
        raise ConfigError(f"{asked.source}: it has a pre-trained encoder itself: name that")
    # Two convolutions halve the rate; the mean that may follow is for speed.
    subsampling = 2 if encoder.stem == "convolution" and not own_rate else encoder.subsampling
    encoder = replace(encoder, n_layers=_check_layer(asked, encoder.n_layers), subsampling=subsampling)
    shipped = asked.model in registry.names()
    found = replace(
        asked,
        source=asked.source if shipped else path.name,
        carried=asked.carried or asked.tuned or not shipped,
        family="framecls",
        architecture={
            "features": {key: value for key, value in to_dict(features).items() if key != "pretrained"},
            "encoder": to_dict(encoder),
            "digest": digest_weights(_lower_part(read_stored(path), encoder.n_layers)),
        },
        **size_of_lower_layers(features, encoder),
    )
    return _on_grid(config, found, features.sample_rate, features.f_max_hz)


def _lower_layers(config: PretrainedConfig) -> LowerLayers:
    """Build the lower layers of a framecls model without memory for their weights."""
    with torch.device("meta"):
        return LowerLayers(config.own_features, config.own_encoder)


def _read_lower_layers(config: PretrainedConfig, source: str) -> dict[str, Tensor]:
    """Return the weights of the lower layers as the model's file stores them; they must be those trained with."""
    stored = _lower_part(read_stored(registry.locate(source.removeprefix(MODEL_PREFIX))), config.n_layers)
    if digest_weights(stored) != config.architecture.get("digest"):
        raise ModelError(f"it was trained on another version of {source} than the one that is here: train it again")
    return stored


def _lower_part(stored: Mapping[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    kept = ("encoder.input.", *(f"encoder.layers.{number}." for number in range(n_layers)))
    return {key: tensor for key, tensor in stored.items() if key.startswith(kept)}


def _check_weights(encoder: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are missing or have other shapes."""
    wanted = dict(encoder.named_parameters())
    if missing := sorted(wanted.keys() - state.keys()):
        raise ModelError(f"{source}: {len(missing)} weights are missing, such as {missing[0]}")
    for key, parameter in wanted.items():
        if state[key].shape != parameter.shape:
            shapes = f"{list(state[key].shape)}, not {list(parameter.shape)}"
            raise ModelError(f"{source}: its weights do not fit its settings: {key} has shape {shapes}")


# Encoders of torchaudio


def _look_up_bundle(asked: PretrainedConfig) -> PretrainedConfig:
    """Complete the settings of an encoder of torchaudio; its weights are not needed for that."""
    params = _find_bundle(asked.source)._params
    dims, kernels, strides = zip(*params["extractor_conv_layer_config"], strict=True)
    hop_samples, window_samples = _grid_of_convolutions(kernels, strides)
    return replace(
        asked,
        carried=asked.tuned,
        family="torchaudio",
        architecture={"config": {"conv_dim": [*dims], "conv_kernel": [*kernels], "conv_stride": [*strides]}},
        dim=params["encoder_embed_dim"],
        n_layers=_check_layer(asked, params["encoder_num_layers"]),
        hop_samples=hop_samples,
        window_samples=window_samples,
    )


def _find_bundle(source: str) -> Any:
    pipelines = packages.load_torchaudio().pipelines
    bundles = {name: each for name, each in vars(pipelines).items() if isinstance(each, pipelines.Wav2Vec2Bundle)}
    if (name := source.removeprefix(BUNDLE_PREFIX)) not in bundles:
        raise ConfigError(f"{source[:_MOST_CHARACTERS]}: torchaudio has no such encoder: WAVLM_BASE_PLUS is one")
    return bundles[name]


def _open_bundle(config: PretrainedConfig, *, fetched: bool) -> TorchaudioEncoder:
    """Build an encoder of torchaudio, with its weights or without memory for them."""
    if _look_up_bundle(PretrainedConfig(config.source, config.layer, config.tuned)) != config:
        raise ModelError(f"{config.source}: its settings do not go together")
    bundle = _find_bundle(config.source)
    if fetched:
        model = _fetch(bundle, config.source)
    else:
        models = packages.load_torchaudio().models
        with torch.device("meta"):
            model = (models.wavlm_model if bundle._model_type == "WavLM" else models.wav2vec2_model)(**bundle._params)
    # What is above the last layer that is wanted is never run.
    model.aux = None
    transformer = model.encoder.transformer
    transformer.layers = transformer.layers[: config.n_layers]
    if not transformer.layer_norm_first:
        transformer.layer_norm = nn.Identity()
    prepare = partial(_normalize_waveform, eps=1e-5) if bundle._normalize_waveform else _pass_through
    return TorchaudioEncoder(model, config, "encoder.transformer.layers", prepare, _pass_through)


def _fetch(bundle: Any, source: str) -> Any:
    """Return the model of a bundle with its weights, which torch fetches unless they are in its cache."""
    try:
        model = bundle.get_model(dl_kwargs={"progress": False, "map_location": "cpu", "weights_only": True})
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"{source}: its weights can neither be read from {torch.hub.get_dir()} nor fetched ({reason(error)}): "
            "connect to a network once, or set TORCH_HOME to where they are"
        ) from error
    return getattr(model, "model", model)  # without what would normalise a batch as if it were one waveform


# Encoders of transformers


def _look_up_transformers(asked: PretrainedConfig) -> PretrainedConfig:
    """Complete the settings of an encoder of transformers."""
    source, folder = asked.source, Path(asked.source)
    is_folder = folder.is_dir()
    if is_folder:
        _check_folder(folder)
    elif folder.exists():
        raise ConfigError(f"{source}: not a folder as transformers saves an encoder")
    with _transformers(source) as transformers:
        settings = transformers.AutoConfig.from_pretrained(source)
        _check_kind(settings, source)
        settings.num_hidden_layers = _check_layer(asked, settings.num_hidden_layers)
        for name, value in _SWITCHED_OFF.items():
            if hasattr(settings, name):
                setattr(settings, name, value)
        table = json.loads(settings.to_json_string(use_diff=False))
        hop_samples, window_samples = _grid(settings)
        return replace(
            asked,
            source=folder.name if is_folder else source,
            carried=asked.tuned or is_folder,
            architecture={
                "config": {key: value for key, value in table.items() if key not in _NOT_STORED},
                "input": _read_input(transformers, source),
            },
            dim=settings.hidden_size,
            n_layers=settings.num_hidden_layers,
            hop_samples=hop_samples,
            window_samples=window_samples,
        )


def _check_folder(folder: Path) -> None:
    """Refuse a folder whose config.json is not that of an encoder; it is read in bounded time and memory."""
    settings = read_json(folder / "config.json")
    if not isinstance(settings, dict) or settings.get("model_type") not in _KINDS:
        raise ConfigError(f"{folder}: its config.json is of no encoder that is known here: {', '.join(_KINDS)}")


def _check_kind(settings: Any, source: str) -> None:
    if settings.model_type not in _KINDS:
        raise ConfigError(f"{source}: {settings.model_type!r} is no encoder that is known here: {', '.join(_KINDS)}")


def _read_input(transformers: Any, source: str) -> dict[str, Any]:
    """Return how an encoder was trained to have its input normalised, from its preprocessor_config.json."""
    try:
        table, _ = transformers.SequenceFeatureExtractor.get_feature_extractor_dict(source)
    except OSError:  # not every encoder has one
        return {"do_normalize": False}
    kept = {key: table[key] for key in ("mean", "std") if isinstance(table.get(key), int | float)}
    return {"do_normalize": bool(table.get("do_normalize", True)), **kept}


def _grid(settings: Any) -> tuple[int, int]:
    """Return the samples from one vector to the next, and those that a vector describes."""
    if settings.model_type == _WHISPER:  # the second vector's middle is `hop` after the first sample, see `_select`
        return 2 * _SPECTRUM_HOP, 4 * _SPECTRUM_HOP
    if settings.model_type == _W2V_BERT:  # two spectra are joined
        return 2 * _SPECTRUM_HOP, _SPECTRUM_WINDOW + _SPECTRUM_HOP
    if settings.model_type == _AST:
        return _SPECTRUM_HOP * settings.time_stride, _SPECTRUM_HOP * (settings.patch_size - 1) + _SPECTRUM_WINDOW
    return _grid_of_convolutions(settings.conv_kernel, settings.conv_stride)


def _grid_of_convolutions(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    hop, width = 1, 1
    for kernel, stride in reversed(list(zip(kernels, strides, strict=True))):
        hop, width = hop * stride, (width - 1) * stride + kernel
    return hop, width


def _settings_of(transformers: Any, config: PretrainedConfig) -> Any:
    """Return the settings object of transformers that a model file describes."""
    settings = transformers.AutoConfig.for_model(**config.architecture["config"])
    _check_kind(settings, config.source)
    told = (config.dim, config.n_layers, config.hop_samples, config.window_samples)
    if told != (settings.hidden_size, settings.num_hidden_layers, *_grid(settings)):
        raise ModelError(f"{config.source}: its settings do not go together")
    return settings


def _build(transformers: Any, settings: Any) -> nn.Module:
    """Build an encoder without weights of its own."""
    model: nn.Module
    if settings.model_type == _WHISPER:  # its decoder is never run
        model = transformers.models.whisper.modeling_whisper.WhisperEncoder(settings)
    else:
        model = transformers.AutoModel.from_config(settings)
    return _trim(model, settings)


def _trim(model: nn.Module, settings: Any) -> nn.Module:
    """Take off the norm after the last layer, which need not be the last that was trained."""
    if settings.model_type in (_WHISPER, _AST):
        model.set_submodule("layer_norm" if settings.model_type == _WHISPER else "layernorm", nn.Identity())
    elif getattr(settings, "do_stable_layer_norm", False):
        model.set_submodule("encoder.layer_norm", nn.Identity())
    return model.float()


def _load_transformers(config: PretrainedConfig, source: str) -> TransformersEncoder:
    """Load an encoder, all of whose weights must be there."""
    with _transformers(source) as transformers:
        settings = _settings_of(transformers, config)
        with torch.device("meta"):
            wanted = dict(_build(transformers, settings).named_parameters())
        if Path(source).is_dir():
            n_bytes = sum(file.stat().st_size for file in Path(source).iterdir() if file.is_file())
            if sum(map(torch.numel, wanted.values())) > n_bytes:  # found before as much memory is taken
                raise ModelError(f"{source}: weights are missing: the encoder of its settings is larger than its files")
        model, info = transformers.AutoModel.from_pretrained(source, config=settings, output_loading_info=True)
        prefix = "encoder." if settings.model_type == _WHISPER else ""
        if missing := sorted({key.removeprefix(prefix) for key in info["missing_keys"]} & wanted.keys()):
            raise ModelError(f"{source}: {len(missing)} weights are missing, such as {missing[0]}")
        encoder = _trim(model.get_encoder() if settings.model_type == _WHISPER else model, settings)
        if config.carried and (more := sorted(encoder.state_dict().keys() - wanted.keys())):
            raise ConfigError(
                f"{source}: it has numbers beside its weights, such as {more[0]}: use it untuned, by name"
            )
        return _wrap(transformers, encoder, settings, config)


def _wrap(transformers: Any, model: nn.Module, settings: Any, config: PretrainedConfig) -> TransformersEncoder:
    """Return an encoder with what makes its input, and picks the vectors from its hidden states."""
    layers = "encoder.layers" if settings.model_type not in (_WHISPER, _AST) else "layers"
    prepare, select = _make_prepare(transformers, settings, config), _make_select(settings)
    return TransformersEncoder(model, config, layers, prepare, select, _most_vectors(settings))


def _most_vectors(settings: Any) -> int | None:
    """Return how many vectors an encoder gives at most, None if as many as its input has."""
    if settings.model_type == _WHISPER:
        return int(settings.max_source_positions) - 1
    if settings.model_type == _AST:
        return (int(settings.max_length) - int(settings.patch_size)) // int(settings.time_stride) + 1
    return None


def _make_prepare(transformers: Any, settings: Any, config: PretrainedConfig) -> Callable[[Tensor], Tensor]:
    """Return a function from (batch, sample) waveforms to the input of an encoder."""
    own = config.architecture.get("input", {})
    if settings.model_type in _WAVEFORM_KINDS:
        return _normalize_waveform if own.get("do_normalize") is True else _pass_through
    options: dict[str, Any] = {}
    if settings.model_type == _WHISPER:
        extractor = transformers.WhisperFeatureExtractor(feature_size=settings.num_mel_bins)
        options = {"padding": "max_length", "max_length": 2 * _SPECTRUM_HOP * settings.max_source_positions}
    elif settings.model_type == _W2V_BERT:
        extractor = transformers.SeamlessM4TFeatureExtractor()
    else:
        scale = {key: float(own[key]) for key in ("mean", "std") if key in own}
        extractor = transformers.ASTFeatureExtractor(
            num_mel_bins=settings.num_mel_bins, max_length=settings.max_length, **scale
        )
    name = extractor.model_input_names[0]

    def prepare(waveform: Tensor) -> Tensor:
        rows = list(waveform.float().cpu().numpy())
        inputs: Tensor = extractor(rows, sampling_rate=_RATE, return_tensors="pt", **options)[name]
        return inputs.to(waveform)

    return prepare


def _make_select(settings: Any) -> Callable[[Tensor], Tensor]:
    """Return a function from (batch, position, channel) hidden states to (batch, vector, channel)."""
    if settings.model_type == _WHISPER:  # the middle of vector j is 320 j samples after the first
        return lambda states: states[:, 1:]
    if settings.model_type == _AST:  # two class tokens, then patches by frequency and time: bands are averaged
        n_bands = (settings.num_mel_bins - settings.patch_size) // settings.frequency_stride + 1
        return lambda states: states[:, 2:].view(len(states), n_bands, -1, states.shape[2]).mean(dim=1)
    return _pass_through


def _pass_through(x: Tensor) -> Tensor:
    return x


def _normalize_waveform(waveform: Tensor, eps: float = 1e-7) -> Tensor:  # as Wav2Vec2FeatureExtractor
    return functional.layer_norm(waveform, waveform.shape[1:], eps=eps)


@contextlib.contextmanager
def _transformers(source: str) -> Iterator[Any]:
    """Import transformers for a while without its remarks; what it raises becomes one line."""
    names = ("transformers", "transformers.utils.logging", "huggingface_hub.errors")
    transformers, logging, hub = (cast(Any, packages.load("a pre-trained encoder", name)) for name in names)
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    except FrameclsError:
        raise
    except (
        OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, ImportError,
        SafetensorError, hub.StrictDataclassError,
    ) as error:  # fmt: skip
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{source}: transformers cannot open this encoder: {reason(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
