"""Resemblyzer's weights in our network, and their projection: against torch, scipy, and Resemblyzer itself."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.linalg
import soundfile
import torch
from torch import Tensor, nn

import framecls
from framecls.checkpoints.network import load_network
from framecls.checkpoints.registry import locate
from framecls.config import ReadOptions
from framecls.errors import ModelError
from framecls.inference.engine import Engine
from framecls.recipes.from_resemblyzer import _SHRINKAGE, begin, discriminate, project
from framecls.training.examples.batch import IGNORED, Batch
from framecls.training.examples.codecs import apply_codec
from framecls.training.recipe import find_recipe, read_recipe

SAMPLES = Path(__file__).parents[2] / "samples"
RATE, HOP, BANDS, SIZE = 16000, 160, 40, 256
RECIPE = read_recipe(find_recipe("speaker"))
CONFIG = RECIPE.model_config((), ())
needs_resemblyzer = pytest.mark.skipif(
    importlib.util.find_spec("resemblyzer") is None, reason="needs the package resemblyzer"
)


class Reference(nn.Module):
    """The network as Resemblyzer has it, by the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, SIZE, 3, batch_first=True)
        self.linear = nn.Linear(SIZE, SIZE)

    def forward(self, mels: Tensor) -> Tensor:
        """Map (batch, frame, band) mel energies to (batch, number) unit vectors."""
        hidden = self.lstm(mels)[1][0][-1]
        return nn.functional.normalize(torch.relu(self.linear(hidden)), dim=1)


def save_reference(path: Path) -> Reference:
    torch.manual_seed(5)
    reference = Reference().eval()
    state = {**reference.state_dict(), "similarity_weight": torch.ones(1), "similarity_bias": torch.ones(1)}
    torch.save({"step": 1, "model_state": state}, path)
    return reference


def read(name: str) -> np.ndarray:
    samples, rate = soundfile.read(SAMPLES / name, dtype="float32", always_2d=True)
    return librosa.resample(samples.mean(axis=1), orig_sr=rate, target_sr=RATE)


def mel_windows(samples: np.ndarray) -> list[np.ndarray]:
    """Return (frame, band) mel energies of pieces of 1.6 s that overlap by half, by librosa, each raised to -30 dB."""
    shifted = np.append(samples[HOP // 2 :], np.zeros(HOP // 2, np.float32))  # ours lie half a hop later
    mel = librosa.feature.melspectrogram(y=shifted, sr=RATE, n_fft=400, hop_length=HOP, n_mels=BANDS).T
    n_frames, found = -(-len(samples) // HOP), []
    for first in range(0, max(1, n_frames - 80), 80):
        level = np.sqrt(np.square(samples[first * HOP : (first + 160) * HOP]).mean())
        gain = max(1.0, 10 ** (-30 / 20) / level)
        found.append((mel[first : min(first + 160, n_frames)] * gain**2).astype(np.float32))
    return found


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_the_network_computes_what_resemblyzers_does(tmp_path: Path, gain: float) -> None:
    reference = save_reference(tmp_path / "pretrained.pt")
    network = begin(tmp_path / "pretrained.pt", CONFIG)
    samples = gain * read("speech_en.ogg")
    engine = Engine(network, torch.device("cpu"))
    outputs = [output for recording in engine.run([samples], ReadOptions(sample_rate=RATE)) for output in recording]
    windows = mel_windows(samples)
    assert len(outputs) == len(windows) > 4
    with torch.no_grad():
        wanted = torch.cat([reference(torch.from_numpy(window)[None]) for window in windows])
    got = torch.from_numpy(np.stack([output.logits for output in outputs]))
    assert float((got[:-1] * wanted[:-1]).sum(dim=1).min()) > 0.9999
    assert float(got[-1] @ wanted[-1]) > 0.999  # its last frame is beyond the end, and its level so much lower


@pytest.mark.parametrize("damage", ["text", "empty", "other", "shape"])
def test_a_file_that_does_not_fit_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "pretrained.pt"
    if damage in ("text", "empty"):
        path.write_text("hello there" if damage == "text" else "")
    elif damage == "other":
        torch.save({"weights": {}}, path)
    else:
        save_reference(path)
        found = torch.load(path, weights_only=True)
        found["model_state"]["linear.bias"] = torch.zeros(3)
        torch.save(found, path)
    with pytest.raises(ModelError):
        begin(path, CONFIG)


def scatter(vectors: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (number, number) the scatter within classes and that of their means."""
    means = np.stack([vectors[classes == one].mean(axis=0) for one in np.unique(classes)])
    rest = np.concatenate([vectors[classes == one] - mean for one, mean in zip(np.unique(classes), means, strict=True)])
    return rest.T @ rest / (len(vectors) - len(means)), np.cov(means.T)


def test_the_projection_is_that_of_the_generalized_eigenvectors() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(30), rng.integers(2, 9, 30))
    vectors = rng.normal(size=(30, 12))[classes] + rng.normal(size=(len(classes), 12)) * np.geomspace(0.1, 5, 12)
    once = (np.append(vectors, [[1e3] * 12], axis=0), np.append(classes, 99))  # of a class of one nothing is learnt
    mean, matrix = discriminate(*map(torch.from_numpy, once), 5)
    within, between = scatter(vectors, classes)
    within += _SHRINKAGE * np.trace(within) / 12 * np.eye(12)
    wanted = scipy.linalg.eigh(between, within)[1][:, -5:]
    np.testing.assert_allclose(mean, vectors.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(abs(np.sum(matrix.numpy() * (within @ wanted), axis=0)), 1, atol=1e-4)


def test_a_projected_network_gives_projected_vectors(tmp_path: Path) -> None:
    save_reference(tmp_path / "pretrained.pt")
    network = begin(tmp_path / "pretrained.pt", CONFIG)
    rng = np.random.default_rng(1)
    waveform = torch.from_numpy(rng.normal(0, 0.1, (12, 16000)).astype(np.float32))
    waveform = torch.nn.functional.pad(waveform, (CONFIG.features.margin_samples,) * 2)
    voices = torch.tensor([0, 1, 2] * 3 + [IGNORED] * 3)
    n_frames, no_phones = torch.full((12,), 100), torch.zeros(12, 0)
    batch = Batch(waveform, n_frames, voices, no_phones, no_phones)
    projected = project(network, [batch, batch], 2)
    with torch.no_grad():
        before, after = network(waveform, n_frames).logits, projected(waveform, n_frames).logits
    mean, matrix = discriminate(before[:9].repeat(2, 1), voices[:9].repeat(2), 2)
    wanted = torch.nn.functional.normalize((before - mean) @ matrix, dim=1)
    torch.testing.assert_close(after, wanted, atol=1e-4, rtol=0)
    assert projected.config.embedding == 2


def test_the_shipped_model_is_of_its_recipe() -> None:
    config = load_network(locate("speaker")).config
    wanted = RECIPE.model_config((), ())
    for name in ("features", "encoder", "window", "pooling", "embedding", "embedding_hidden", "gate"):
        assert getattr(config, name) == getattr(wanted, name), name
    assert config.card.items() >= wanted.card.items()


@needs_resemblyzer
@pytest.mark.parametrize("name", ["speech_en.ogg", "speech_tr.mp3"])
def test_the_beginning_says_what_resemblyzer_says(name: str) -> None:
    """Of the same pieces; and of the whole, which it cuts in other places and cuts silences out of."""
    import resemblyzer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)
        samples = read(name)
        whole = encoder.embed_utterance(resemblyzer.preprocess_wav(samples))
    network = begin(Path(resemblyzer.__file__).parent / "pretrained.pt", CONFIG)
    engine = Engine(network, torch.device("cpu"))
    outputs = [output for recording in engine.run([samples], ReadOptions(sample_rate=RATE)) for output in recording]
    for output, window in zip(outputs, mel_windows(samples), strict=True):
        with torch.no_grad():
            wanted = encoder(torch.from_numpy(window)[None])[0].numpy()
        assert float(output.logits @ wanted) > 0.99
    mean = np.mean([output.logits for output in outputs], axis=0)
    assert float(mean @ whole) / np.linalg.norm(mean) > 0.9


def test_the_shipped_model_knows_voices_over_a_telephone() -> None:
    """Each is nearest to itself; by Resemblyzer's own vectors one of these is nearer to another voice."""
    names = ("speech_en.ogg", "speech_it.opus", "speech_flite.flac", "speech_de.opus", "speech_espeak.ogg")
    clips = [read(name) for name in names]
    clean = [framecls.embed(clip, "speaker", sample_rate=RATE, device="cpu") for clip in clips]
    heard = [apply_codec(clip, RATE, "gsm", 0.0) for clip in clips]
    line = [framecls.embed(clip, "speaker", sample_rate=RATE, device="cpu") for clip in heard]
    cosines = np.array(clean) @ np.array(line).T
    assert (cosines.argmax(axis=0) == np.arange(len(names))).all(), cosines.round(2)
