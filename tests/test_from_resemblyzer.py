"""Resemblyzer's weights in our network: against torch's own LSTM, and against Resemblyzer where it is installed."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

import framecls
from framecls.checkpoint import load_network
from framecls.engine import Engine
from framecls.errors import ModelError
from framecls.pretrained import locate
from framecls.recipes.from_resemblyzer import begin
from framecls.training.recipe import find_recipe, read_recipe

SAMPLES = Path(__file__).parent.parent / "samples"
RATE, HOP, BANDS, SIZE = 16000, 160, 40, 256
RECIPE = read_recipe(find_recipe("speaker"))
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
    network = begin(tmp_path / "pretrained.pt", "speaker")
    samples = gain * read("speech_en.ogg")
    engine = Engine(network, torch.device("cpu"))
    outputs = list(engine.run(engine.open(samples, RATE)))
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
        begin(path, "speaker")


def test_the_shipped_model_is_of_its_recipe() -> None:
    config = load_network(locate("speaker")).config
    wanted = RECIPE.model_config((), ())
    for name in ("features", "encoder", "window", "pooling", "embedding", "embedding_activation", "gate"):
        assert getattr(config, name) == getattr(wanted, name), name
    assert config.card.items() >= wanted.card.items()


@needs_resemblyzer
@pytest.mark.parametrize("name", ["speech_en.ogg", "speech_tr.mp3"])
def test_the_shipped_model_says_what_resemblyzer_says(name: str) -> None:
    """Of the same pieces; and of the whole, which it cuts in other places and cuts silences out of."""
    from resemblyzer import VoiceEncoder, preprocess_wav

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = VoiceEncoder("cpu", verbose=False)
        samples = read(name)
        whole = encoder.embed_utterance(preprocess_wav(samples))
    engine = Engine(load_network(locate("speaker")), torch.device("cpu"))
    outputs = list(engine.run(engine.open(samples, RATE)))
    for output, window in zip(outputs, mel_windows(samples), strict=True):
        with torch.no_grad():
            wanted = encoder(torch.from_numpy(window)[None])[0].numpy()
        assert float(output.logits @ wanted) > 0.99
    assert float(framecls.embed(SAMPLES / name, "speaker", device="cpu") @ whole) > 0.9
