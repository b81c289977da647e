"""Check the shipped models on a GPU: that they answer as on the CPU, and how near they come to what the device can do.

Every model hears the recordings of a folder on both devices, in 32-bit floats and, where it may, in bfloat16. Then a
batch of `sound` and of `language` is timed beside its roofline (Williams et al. 2009, "Roofline: an insightful visual
performance model for multicore architectures"): the least time in which the device can do so many operations, or move
so many bytes, as measured on one large matrix product and one large copy. Bytes are those that each operation reads and
writes, as if nothing stayed in a cache.

    python -m framecls.recipes.check_gpu samples/ [--device cuda]

The exit status is 1 where a model differs by more than it may. With --device cpu, the CPU is compared with itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from framecls.audio import Input, find_inputs
from framecls.checkpoints import registry
from framecls.errors import AudioError
from framecls.inference.engine import load_engine
from framecls.inference.windows import Window
from framecls.model import Model, load

MOST_DIFFERENCE = 1e-3  # of a probability, or of a number of a unit vector, in 32-bit floats
LEAST_EQUAL = 0.999  # share of frames, or of recordings, whose labels are the same in bfloat16
TIMED = ("sound", "language")
_MATRIX = 4096  # rows and columns of the product that the device is measured by
_COPIED_BYTES = 2**28
_REPEATS = 5

Answers = list[NDArray[np.float64]]  # a recording each: (frame, label), (1, label) or (1, number)


def answer(model: Model, files: Sequence[Path]) -> Answers:
    """Return what a model says of each recording; a voice that is not heard has no vector."""
    if model.config.embedding:
        return [vector for file in files if (vector := _embed(model, file)) is not None]
    if model.config.task == "frame":
        return [np.asarray(model.tag(file).scores, np.float64) for file in files]
    top = [model.identify(file, top_k=len(model.labels)).top for file in files]
    found = [{candidate.label: candidate.score for candidate in candidates} for candidates in top]
    return [np.array([[scores.get(label, 0.0) for label in model.labels]]) for scores in found]


def _embed(model: Model, file: Path) -> NDArray[np.float64] | None:
    try:
        return model.embed(file)[None].astype(np.float64)
    except AudioError:
        return None


def count_equal(model: Model, one: Answers, other: Answers) -> float:
    """Return the share of frames, or of recordings, whose labels are the same."""
    thresholds = np.array([model.config.decision.thresholds.get(label, 0.5) for label in model.labels])

    def labels(scores: NDArray[np.float64]) -> NDArray[Any]:
        return scores >= thresholds if model.config.overlapping else scores.argmax(axis=1)[:, None]

    equal = [(labels(a) == labels(b)).all(axis=1) for a, b in zip(one, other, strict=True)]
    return float(np.concatenate(equal).mean())


def check_model(name: str, device: str, files: Sequence[Path]) -> bool:
    """Print how far a model's answers on a device are from those on the CPU; return whether that is near enough."""
    exact = answer(load(name, device="cpu", precision="fp32"), files)
    model = load(name, device=device, precision="fp32")
    here = answer(model, files)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(exact, here, strict=True))
    good = difference <= MOST_DIFFERENCE
    line = f"{name:9} fp32: differs by {difference:.1e} at most, of {MOST_DIFFERENCE:g}"
    if not model.config.embedding:
        equal = count_equal(model, exact, answer(load(name, device=device, precision="bf16"), files))
        good = good and equal >= LEAST_EQUAL
        line += f"; bf16: {100 * equal:.2f} % of the labels are the same, of {100 * LEAST_EQUAL:g} %"
    sys.stdout.write(f"{line}{'' if good else '  <- too far'}\n")
    return good


class ByteCounter(TorchDispatchMode):
    """Add up the bytes that each operation reads and writes; a view moves none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n_bytes = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it touched."""
        result = operation(*args, **(kwargs or {}))
        if not operation.is_view:
            touched = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.n_bytes += sum(tensor.numel() * tensor.element_size() for tensor in touched)
        return result


def measure(call: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that a call takes on a device, the least of several."""
    taken = []
    for _ in range(_REPEATS):
        began = _now(device)
        call()
        taken.append(_now(device) - began)
    return min(taken)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure_device(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Return the operations and the bytes a second that a device reaches."""
    matrix = torch.ones(_MATRIX, _MATRIX, device=device, dtype=dtype)
    block = torch.ones(_COPIED_BYTES // 4, device=device)
    target = torch.empty_like(block)
    operations = 2 * _MATRIX**3 / measure(lambda: matrix @ matrix, device)
    return operations, 2 * _COPIED_BYTES / measure(lambda: target.copy_(block), device)


def time_model(name: str, device: str) -> None:
    """Print how fast a batch of whole windows goes through a model and its gate, and the roofline of that."""
    engine = load_engine(name, device=device)
    config = engine.config
    n_samples = config.window_frames * config.hop_samples + 2 * config.features.margin_samples
    samples = 0.1 * np.random.default_rng(0).standard_normal((engine.batch_size, n_samples)).astype(np.float32)
    items = [(Window(0, config.window_frames), row) for row in samples]
    # In bfloat16 a CPU multiplies by operators that torch does not count.
    with FlopCounterMode(display=False) as flops:
        load_engine(name, device=device, precision="fp32").forward(items)
    with ByteCounter() as moved:
        engine.forward(items)
    taken_s = measure(lambda: engine.forward(items), engine.device)
    low = engine.precision == "bf16"
    rate, bandwidth = measure_device(engine.device, torch.bfloat16 if low else torch.float32)
    n_operations = flops.get_total_flops()
    least_s = max(n_operations / rate, moved.n_bytes / bandwidth)
    audio_s = engine.batch_size * config.window_frames * config.hop_s
    sys.stdout.write(
        f"{name:9} {engine.precision}: {engine.batch_size} windows in {1000 * taken_s:.1f} ms, "
        f"{audio_s / taken_s:,.0f} times real time; {n_operations / 1e9:.1f} G operations "
        f"({n_operations / taken_s / 1e9:,.0f} G/s of {rate / 1e9:,.0f}), {moved.n_bytes / 1e9:.2f} GB "
        f"({moved.n_bytes / taken_s / 1e9:,.0f} GB/s of {bandwidth / 1e9:,.0f}): "
        f"{least_s / taken_s:.0%} of the roofline\n"
    )


def main() -> int:
    """Check and time; return the exit status."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="recordings that can all be read")
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--model", nargs="*", default=registry.names())
    options = arguments.parse_args()
    found = find_inputs([str(options.folder)])
    files = [item.path for item in found if isinstance(item, Input) and item.path is not None]
    good = [check_model(name, options.device, files) for name in options.model]
    for name in TIMED:
        time_model(name, options.device)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
