"""How the shipped language model came to say "unknown"."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from framecls.checkpoints.file import read_config, read_stored
from framecls.checkpoints.network import save_model, save_settings
from framecls.config import DecisionConfig, ModelConfig
from framecls.nn.network import Network
from framecls.recipes.trust_languages import Heard, Piece, choose, cross_fit, find_pieces, hear, report
from support.models import save_tiny_model, tiny_config
from support.signals import write_wav


def language_config() -> ModelConfig:
    """Return settings of a model that knows German, English and French, and is trusted with the first two."""
    return replace(tiny_config("pooled"), decision=DecisionConfig(candidates=("de", "en")))


def heard_by_a_network(seed: int = 0) -> list[Heard]:
    """Return recordings of which the network knows German and English well, and takes French for English too often."""
    rng = np.random.default_rng(seed)
    likely = {"de": [3.0, 0.0, 0.0], "en": [0.0, 3.0, 0.5], "fr": [0.0, 2.0, 1.5]}
    return [
        Heard(
            Piece((f"{language}{n}.wav",), language, f"{language}{n // 3}", "fleurs"),
            (np.array(likely[language]) + 0.8 * rng.standard_normal(3)).astype(np.float32),
            5.0,
        )
        for language in likely
        for n in range(90)
    ]


def test_less_than_a_fifth_of_what_is_not_trusted_gets_a_name() -> None:
    config, heard = language_config(), heard_by_a_network()
    assert report(heard, config)["other_misnamed"] > 0.5
    decision = choose(heard, config)
    assert decision.other_odds > 1
    chosen = report(heard, replace(config, decision=decision))
    assert chosen["other_misnamed"] <= 0.18
    assert chosen["trusted_right"] > 0.7
    lower = replace(decision, thresholds={"unknown": decision.thresholds["unknown"] - 0.01})
    assert report(heard, replace(config, decision=lower))["other_misnamed"] > 0.18
    unheard = report(heard_by_a_network(seed=1), replace(config, decision=decision))
    crossed = cross_fit(heard, config)
    assert (crossed["trusted_items"], crossed["other_items"]) == (180, 90)
    assert abs(crossed["other_misnamed"] - unheard["other_misnamed"]) < 0.1
    assert abs(crossed["trusted_right"] - unheard["trusted_right"]) < 0.1


def test_only_what_training_never_heard_is_measured() -> None:
    common = {"kind": "speech", "seconds": 4.0, "lang": "de"}
    fleurs = [
        common | {"source": "fleurs", "speaker": f"v{voice}", "path": f"f{voice}{clip}.ogg"}
        for voice in range(3)
        for clip in range(4 - voice)
    ]
    unknown = [common | {"source": "fleurs", "lang": "ast_es", "speaker": "a", "path": "a.ogg"}]
    others = [common | {"source": "emodb", "speaker": "em", "path": f"e{n}.ogg"} for n in range(5)]
    trained = [common | {"source": "gcompris-voices", "speaker": "g", "path": "g.ogg"}]
    pieces = list(find_pieces([*fleurs, *unknown, *others, *trained], ("de", "en")))
    assert [piece.files for piece in pieces] == [
        *((f"f1{clip}.ogg",) for clip in range(3)),
        ("a.ogg",),
        ("e0.ogg", "e1.ogg"),
        ("e2.ogg", "e3.ogg"),
    ]
    assert pieces[3].language == "ast_es"


def test_new_settings_leave_every_weight_as_it_is(tmp_path: Path) -> None:
    path, other = save_tiny_model(tmp_path, "pooled"), tmp_path / "other.safetensors"
    save_model(Network(read_config(path)), path, precision="int8")
    save_settings(path, other, language_config())
    before, after = read_stored(path), read_stored(other)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    assert read_config(other) == language_config()


def test_what_is_kept_is_of_these_weights_and_recordings(tmp_path: Path) -> None:
    pieces = [Piece((str(write_wav(tmp_path / "a.wav")),), "de", "a", "fleurs")]
    path, cache = save_tiny_model(tmp_path, "pooled"), tmp_path / "logits.npz"
    first = hear(path, pieces, cache)
    save_settings(path, path, language_config())
    np.testing.assert_array_equal(hear(path, pieces, cache)[0].logits, first[0].logits)
    with pytest.raises(SystemExit, match="name another --cache"):
        hear(path, pieces * 2, cache)
    torch.manual_seed(9)
    save_model(Network(language_config()), path)
    with pytest.raises(SystemExit, match="name another --cache"):
        hear(path, pieces, cache)
