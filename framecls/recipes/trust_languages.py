"""Choose when the `language` model names a language and when it says "unknown", and write that into its file.

Two numbers are chosen, on recordings of FLEURS by voices that were held out of training (see `prepare_language`). How
much likelier than the network says those languages are that it is not trusted with: the likeliest odds that a recording
is in one of them. Then the lowest threshold with which fewer than a fifth of such recordings get a wrong name. The
figures are of voices that had no part in the choice: each tenth of them is judged with what the other nine give.

    python -m framecls.recipes.trust_languages language.safetensors CORPUS/manifest.jsonl --date 2026-11-30 \
        --cache logits.npz --out framecls/weights/language.safetensors
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from framecls.checkpoints.file import digest_weights, read_config, read_stored
from framecls.checkpoints.network import save_settings
from framecls.config import UNKNOWN, DecisionConfig, ModelConfig, ReadOptions
from framecls.inference.engine import load_engine
from framecls.inference.identify import Choice, choose_candidates, find_rejection, pool_windows, posteriors, rank
from framecls.recipes.prepare_language import DEV_SOURCES, dev_voices, iso_code, read_rows
from framecls.training.recipe import find_recipe, read_recipe

_MOST_MISNAMED = 0.18
_ODDS = [round(float(odds), 1) for odds in np.geomspace(0.2, 50, 100)]
_N_PARTS = 10
_JOINED_S = 6.0  # clips of other sources are joined until they are as long
_MOST_OF_VOICE = 3  # such recordings of one voice
_DRAWS = 6  # of names for `among`, for each recording and number of names


@dataclass(frozen=True)
class Piece:
    """A recording that training never heard."""

    files: tuple[str, ...]
    language: str
    voice: str
    source: str


@dataclass(frozen=True)
class Heard:
    """What the network makes of it."""

    piece: Piece
    logits: NDArray[np.float32]  # (label,)
    heard_s: float


def find_pieces(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Iterator[Piece]:
    """Yield recordings of held-out voices and sources, and of languages that the model does not know."""
    held_out = dev_voices(rows)
    spoken = [{**row, "language": iso_code(row["lang"]) or row["lang"]} for row in rows]
    for row in spoken:
        if row["source"] == "fleurs" and (row["speaker"] in held_out or row["language"] not in labels):
            yield Piece((row["path"],), row["language"], row["speaker"], "fleurs")
    for (source, language, voice), clips in groupby(
        sorted((row for row in spoken if row["source"] in DEV_SOURCES), key=_voice), key=_voice
    ):
        joined: list[list[str]] = [[]]
        seconds = 0.0
        for clip in clips:
            joined[-1].append(clip["path"])
            seconds += clip["seconds"]
            if seconds >= _JOINED_S:
                joined.append([])
                seconds = 0.0
        yield from (Piece(tuple(files), language, voice, source) for files in joined[:-1][:_MOST_OF_VOICE])


def _voice(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["source"], row["language"], row.get("speaker") or ""


def hear(model: Path, pieces: Sequence[Piece], cache: Path) -> list[Heard]:
    """Return what the network makes of recordings, from `cache` where an earlier run left it there."""
    about = _describe(model, pieces)
    if not cache.exists():
        engine = load_engine(model, device="cpu")
        reading = ReadOptions(sample_rate=engine.config.features.sample_rate)
        pooled = [pool_windows(windows) for windows in engine.run(map(read_piece, pieces), reading)]
        logits, heard_s = (np.array(column, np.float32) for column in zip(*pooled, strict=True))
        np.savez(cache, logits=logits, heard_s=heard_s, about=about)
    stored = np.load(cache)
    if "about" not in stored or stored["about"].item() != about:
        raise SystemExit(f"{cache} is of other recordings or other weights: name another --cache")
    return [
        Heard(piece, row, float(seconds))
        for piece, row, seconds in zip(pieces, stored["logits"], stored["heard_s"], strict=True)
    ]


def _describe(model: Path, pieces: Sequence[Piece]) -> str:
    """Return what a cache is of."""
    weights = digest_weights(read_stored(model))
    return json.dumps({"weights": weights, "pieces": [asdict(piece) for piece in pieces]})


def read_piece(piece: Piece) -> NDArray[np.float32]:
    """Return (sample,) the clips of a piece, with pauses between."""
    parts = [soundfile.read(file, dtype="float32") for file in piece.files]
    pause = np.zeros(round(0.3 * parts[0][1]), np.float32)
    return np.concatenate([part for samples, _ in parts for part in (samples, pause)][:-1])


def choose(heard: Sequence[Heard], config: ModelConfig) -> DecisionConfig:
    """Return the odds of the languages that are not trusted, and the threshold, that these recordings give."""
    trusted = np.array([label in config.decision.candidates for label in config.labels])
    truth = np.array([row.piece.language in config.decision.candidates for row in heard])
    logits = np.stack([row.logits for row in heard])

    def surprise(odds: float) -> float:
        decision = replace(config.decision, other_odds=odds)
        share = posteriors(logits, replace(config, decision=decision))[:, trusted].sum(axis=1)
        right = np.clip(np.where(truth, share, 1 - share), 1e-9, None)
        return float(-np.log(right[truth]).mean() - np.log(right[~truth]).mean())

    decision = replace(config.decision, other_odds=min(_ODDS, key=surprise))
    strangers = [row for row, is_trusted in zip(heard, truth, strict=True) if not is_trusted]
    for percent in range(1, 100):
        decision = replace(decision, thresholds={UNKNOWN: percent / 100})
        if share_named(strangers, replace(config, decision=decision), right=False) <= _MOST_MISNAMED:
            break
    return decision


def answer(row: Heard, config: ModelConfig, choice: Choice) -> str:
    """Return what `identify` answers."""
    ranking = rank(row.logits, config, choice, 1)
    return ranking.top[0].label if find_rejection(ranking, row.heard_s, config) is None else UNKNOWN


def share_named(heard: Sequence[Heard], config: ModelConfig, *, right: bool) -> float:
    """Return the share of recordings that get the right name, or else a wrong one."""
    choice = choose_candidates(config, None)
    answers = [(answer(row, config, choice), row.piece.language) for row in heard]
    named = [said == language if right else said not in (language, UNKNOWN) for said, language in answers]
    return round(sum(named) / max(1, len(named)), 3)


def report(heard: Sequence[Heard], config: ModelConfig) -> dict[str, float]:
    """Return the shares of right and wrong names, of trusted languages and of others."""
    trusted = [row for row in heard if row.piece.language in config.decision.candidates]
    others = [row for row in heard if row.piece.language not in config.decision.candidates]
    return {
        "trusted_items": len(trusted),
        "trusted_right": share_named(trusted, config, right=True),
        "trusted_misnamed": share_named(trusted, config, right=False),
        "other_items": len(others),
        "other_misnamed": share_named(others, config, right=False),
    }


def cross_fit(heard: Sequence[Heard], config: ModelConfig) -> dict[str, float]:
    """Return the report on recordings, each judged with what those of other voices give."""
    voices = sorted({(row.piece.language, row.piece.voice) for row in heard})
    part_of = {voice: index % _N_PARTS for index, voice in enumerate(voices)}
    parts = []
    for part in range(_N_PARTS):
        mine = [row for row in heard if part_of[row.piece.language, row.piece.voice] == part]
        rest = [row for row in heard if part_of[row.piece.language, row.piece.voice] != part]
        parts.append(report(mine, replace(config, decision=choose(rest, config))))
    whole = {key: sum(part[key] for part in parts) for key in ("trusted_items", "other_items")}
    return {
        key: part_sum
        if (part_sum := whole.get(key)) is not None
        else round(
            sum(p[key] * p[f"{key.split('_')[0]}_items"] for p in parts) / whole[f"{key.split('_')[0]}_items"], 3
        )
        for key in parts[0]
    }


def report_among(heard: Sequence[Heard], config: ModelConfig) -> dict[str, dict[str, float]]:
    """Return, by the number of languages named with `among`, how often the right one of them is the answer.

    And how often one is that is wrong: where the right one is named too, and where it is not.
    """
    rng = np.random.default_rng(0)
    figures = {}
    for n_names in (1, 2, 3, 5):
        found: dict[str, list[bool]] = {"right": [], "wrong": [], "false": []}
        for row in (row for row in heard for _ in range(_DRAWS)):
            others = [label for label in config.decision.candidates if label != row.piece.language]
            drawn = rng.choice(others, n_names, replace=False).tolist()
            said = answer(row, config, choose_candidates(config, drawn))
            found["false"].append(said != UNKNOWN)
            if row.piece.language in config.labels:
                said = answer(row, config, choose_candidates(config, [row.piece.language, *drawn[1:]]))
                found["right"].append(said == row.piece.language)
                found["wrong"].append(said not in (row.piece.language, UNKNOWN))
        figures[str(n_names)] = {key: round(float(np.mean(values)), 3) for key, values in found.items()}
    return figures


def main() -> None:
    """Choose, measure and write one model."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--recipe", default="language", help="whose [card] to take")
    arguments.add_argument("--date", required=True)
    arguments.add_argument("--cache", type=Path, required=True, help="what the network makes of the recordings, once")
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    config = read_config(options.model)
    rows = [row for row in read_rows(options.manifest) if row["kind"] == "speech"]
    heard = hear(options.model, list(find_pieces(rows, config.labels)), options.cache)
    fleurs = [row for row in heard if row.piece.source == "fleurs"]
    known = [row for row in fleurs if row.piece.language in config.labels]
    chosen = replace(config, decision=choose(known, config))
    sets = {
        "fleurs": known,
        "fleurs_other_languages": [row for row in fleurs if row.piece.language not in config.labels],
        "other_sources": [row for row in heard if row.piece.source != "fleurs"],
    }
    figures: dict[str, Any] = {name: report(part, chosen) for name, part in sets.items()}
    figures["fleurs"] = cross_fit(known, config)
    among = report_among(fleurs, chosen)
    told = {"decision": asdict(chosen.decision), "answers": figures, "among": among}
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    card = {**config.card, **read_recipe(find_recipe(options.recipe)).card, "date": options.date}
    card |= {"answers": figures, "among": among}
    save_settings(options.model, options.out, replace(chosen, card=card))


if __name__ == "__main__":
    main()
