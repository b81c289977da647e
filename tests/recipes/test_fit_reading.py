"""A model that also reads as Whisper's decoder does: same answers before its head listens, rows that learn."""

from __future__ import annotations

from dataclasses import replace

import torch

from framecls.nn.network import Network
from framecls.recipes.fit_reading import fit_rows, whisper_rows, with_reading
from support.models import tiny_config

CONFIG = replace(tiny_config("pooled"), pooling="multihead", labels=("soft", "loud"))


def decoder_arrays(size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {"embeddings/weight": (5, size), "position_encodings/encodings": (2, size)}
    norms = ["", *(f"layer_{i}/{part}/" for i in range(6) for part in ("self_attention", "attention", "ffn"))]
    shapes |= {f"{name}layer_norm/{kind}": (size,) for name in norms for kind in ("gamma", "beta")}
    sizes = {
        "self_attention/linear_0": (3 * size, size), "self_attention/linear_1": (size, size),
        "attention/linear_0": (size, size), "attention/linear_1": (2 * size, size), "attention/linear_2": (size, size),
        "ffn/linear_0": (4 * size, size), "ffn/linear_1": (size, 4 * size),
    }  # fmt: skip
    for layer in range(6):
        for name, (rows, columns) in sizes.items():
            shapes |= {f"layer_{layer}/{name}/weight": (rows, columns), f"layer_{layer}/{name}/bias": (rows,)}
    return {f"decoder/{name}": torch.randn(shape, generator=generator) / 4 for name, shape in shapes.items()}


def test_what_is_read_stands_beside_what_was_pooled() -> None:
    network = Network(CONFIG).eval()
    arrays = {name: tensor.numpy() for name, tensor in decoder_arrays(network.encoder.output_size).items()}
    reading = with_reading(network, arrays, start=1)
    vectors, n_frames = torch.randn(3, 40, CONFIG.features.dim), torch.tensor([20, 12, 7])
    with torch.no_grad():
        before, after = network.classify(vectors, n_frames).logits, reading.classify(vectors, n_frames).logits
        torch.testing.assert_close(after, before)
        pooled = reading.pooling(*reading.encode(vectors, n_frames))  # type: ignore[misc]
        # Rows of a batch do not depend on each other, to the last bit.
        assert torch.equal(reading.classify(vectors[:1], n_frames[:1]).logits, after[:1])
    assert pooled.shape == (3, 3 * network.encoder.output_size)
    assert pooled[:, -network.encoder.output_size :].std() > 0.1


def test_rows_begin_at_whispers_and_learn_what_it_does_not_know() -> None:
    torch.manual_seed(2)
    embedding = torch.randn(6, 8)
    rows = whisper_rows(("nb", "jv", "xx"), embedding, {"nb": 2, "jv": 4, "de": 5})
    torch.testing.assert_close(rows, torch.stack([embedding[2], embedding[4], embedding[[2, 4]].mean(dim=0)]))
    labels = torch.arange(60) % 3
    read = 6 * torch.randn(3, 8)[labels] + torch.randn(60, 8)
    moved, bias = fit_rows(read, labels, rows)
    right = (read @ moved.T + bias).argmax(dim=1) == labels
    assert right.float().mean() > 0.9 > ((read @ rows.T).argmax(dim=1) == labels).float().mean()
