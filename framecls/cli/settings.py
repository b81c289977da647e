"""`framecls train --settings`: every setting of a recipe with its meaning and default, from where they are declared."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
import typing
from collections.abc import Iterator
from typing import Any

from framecls.config import PretrainedConfig
from framecls.training.recipe import Recipe

_ASKED = ("source", "layer", "tuned")  # of a pre-trained encoder; the rest is what it says of itself
_LONGEST = 60  # characters of a default


def list_settings(kind: type[Any] = Recipe, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the name, default and meaning of each setting, those of a table after its own line of them."""
    meanings, hints = _read_comments(kind), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if kind is PretrainedConfig and field.name not in _ASKED:
            continue
        if dataclasses.is_dataclass(hints[field.name]):
            yield from list_settings(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, _show_default(field), meanings.get(field.name, "")


def _show_default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "must be given"
    text = (
        {True: "true", False: "false", None: "none"}.get(value)
        if value is None or value is True or value is False
        else None
    )
    if text is None:
        text = str(list(value)) if isinstance(value, tuple) else repr(value).replace("'", '"')
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def _read_comments(kind: type[Any]) -> dict[str, str]:
    """Return for each field of a dataclass the comment on its line, or else the one above it."""
    source = textwrap.dedent(inspect.getsource(kind))
    comments = {
        token.start[0]: (token.string.lstrip("# "), not token.line[: token.start[1]].strip())
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        beside = [comments[line][0] for line in range(node.lineno, (node.end_lineno or 0) + 1) if line in comments]
        above: list[str] = []
        line = node.lineno - 1
        while line in comments and comments[line][1]:
            above.insert(0, comments[line][0])
            line -= 1
        found[node.target.id] = _WORDS.get(node.target.id, "") or " ".join([*above, *beside])
    return found


# What needs no comment where it is declared: the field's own words.
_WORDS = {
    name.strip(): meaning.strip()
    for name, _, meaning in (
        row.partition(":")
        for row in """
        name: of the model, where it has no other
        task: frame or pooled, as the command says
        labels: of the model; none: those of the manifest, sorted
        overlapping: several labels, or none, may hold at once
        hop_samples: samples from one feature vector to the next
        window_samples: samples that a feature vector describes
        sample_rate: Hz at which recordings are heard
        n_fft: samples of the Fourier transform
        n_mels: mel bands
        n_mfcc: cepstral coefficients, with kind mfcc
        f_min_hz: lowest frequency that is heard
        f_max_hz: highest frequency that is heard
        kind: of network: attention, fc, window or lstm
        score: how attention compares two frames: dot or additive
        dim: channels of each layer
        n_layers: layers of the network
        n_heads: heads of attention in a layer
        ff_dim: channels between the two layers on each frame
        position: how frames know their order: convolution, sinusoidal or none
        dropout: share of channels that is hidden in training
        activation: silu or gelu
        length_s: seconds, of a window or an example
        overlap_s: seconds that a window shares with the next
        min_duration_s: shorter segments are dropped
        min_gap_s: segments of one label closer than this are joined
        thresholds: probability from which a label counts
        enabled: whether it is done at all
        learning_rate: the greatest; it rises first and falls to the end
        warmup_steps: steps in which the learning rate rises
        weight_decay: that AdamW takes off the weights
        clip_norm: greatest norm of the gradients of a step
        ema_decay: of the moving average of the weights, which the model keeps
        label_smoothing: share of a target that is spread over all labels
        dev_every: steps from one measurement to the next
        seed: of all that is random
        steps: of training
        margin: of the cosine of voices, see above
        scale: of the cosine of voices
        pooling: from frames to one answer: mean, last, attentive, multihead or reading
        phone_layer: layers below the phone head
        embedding_hidden: size of a layer before the embedding
        gate: the label of sound that marks what is listened to
        window: of the network
        card: what the model's card says
        precision: of the arithmetic: float32, or bfloat16, which new processors are faster with
        speed: factors by which an example is played faster or slower
        shift_semitones: by which its pitch is shifted
        noise_snr_db: level of the sound over that of the noise
        gain_db: by which an example is made louder
        frequency_mask_width: most bands that one mask hides
        time_masks: runs of frames that are hidden in an example
        time_mask_s: most seconds that one of them hides
        min_durations_s: the same as min_duration_s, of labels that have lengths of their own
        min_gaps_s: the same as min_gap_s, of labels that have gaps of their own
        anchor_temperature: of the softmax over similarities to the anchors
        precomputed_dim: numbers in a vector that was computed elsewhere
        """.strip().splitlines()
    )
}
_CHANCE = re.compile(r"(\w+)_chance")


def describe(name: str, meaning: str) -> str:
    """Return what a setting means; of chances that have no words of their own, what they are chances of."""
    if meaning:
        return meaning
    key = name.rpartition(".")[2]
    if match := _CHANCE.fullmatch(key):
        return f"chance of {match[1].replace('_', ' ')} in an example"
    return key.replace("_", " ")


def print_settings() -> None:
    """Write all settings to stdout, a table a panel."""
    import sys

    width = max(len(name) for name, _, _ in list_settings())
    for name, default, meaning in list_settings():
        sys.stdout.write(f"{name:<{width}}  {default:<20}  {describe(name, meaning)}\n")
