"""Matrix products in bfloat16: twice as fast, or more, where the processor multiplies such numbers itself.

Weights are rounded once, when a model is loaded. Products are summed in 32 bits; the convolutions that read the
spectrum, the attention of the first layer, norms, the path of the residuals, pooling and the head stay in 32-bit
floats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from framecls.nn.campplus import CamPlusPlus
from framecls.nn.encoder import Encoder

# Channels from which on an encoder gains: a product with a smaller matrix takes less time than the steps around it.
_MIN_DIM = 256
# Of an encoder, what stays exact: lowering it saves 3 % of the time, and puts `language` off by half as much again.
_EXACT = "layers.0.attention."


class BFloat16Linear(nn.Module):
    """A linear layer that rounds its input, and multiplies and returns bfloat16."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.bfloat16()
        self._packed = _pack(layer)

    def forward(self, x: Tensor) -> Tensor:
        """See the layer's own `forward`."""
        x = x.bfloat16()
        if self._packed is None:
            y: Tensor = self.layer(x)
            return y
        packed: Tensor = _mkldnn()._linear_pointwise(x, self._packed, self.layer.bias, "none", [], "")
        return packed


def _mkldnn() -> Any:
    return torch.ops.mkldnn


def _pack(layer: nn.Linear) -> Tensor | None:
    """Return the weights in the order in which oneDNN multiplies, which else copies them at each product.

    Torch's compiler does the same by these operators. They are no public interface: None where they are not to be had,
    and what is computed is the same to the last bit.
    """
    if layer.weight.device.type != "cpu":
        return None
    try:
        packed: Tensor = _mkldnn()._reorder_linear_weight(layer.weight.detach())
        _mkldnn()._linear_pointwise(layer.weight.new_zeros(1, layer.in_features), packed, layer.bias, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return None
    return packed


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 numbers itself, as torch says."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    tests = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in tests)


def lower(network: nn.Module) -> None:
    """Let the wide self-attention encoders of a network multiply in bfloat16, in place."""
    for encoder in [module for module in network.modules() if isinstance(module, Encoder)]:
        is_wide = encoder.config.kind == "attention" and encoder.config.dim >= _MIN_DIM
        for name, layer in list(encoder.named_modules()) if is_wide else ():
            if isinstance(layer, nn.Linear) and not name.startswith(_EXACT):
                encoder.set_submodule(name, BFloat16Linear(layer))


def lower_voices(network: nn.Module) -> None:
    """Let a wide CAM++ compute in bfloat16 from its features to its pooling, in place.

    The vectors change by a cosine of 0.999, which matters less among those of windows of one recording than in one that
    is compared with what was stored on another day.
    """
    for encoder in [module for module in network.modules() if isinstance(module, CamPlusPlus)]:
        if encoder.config.dim >= _MIN_DIM:
            encoder.bfloat16()


def is_lowered(network: nn.Module) -> bool:
    """Return whether a network has layers that multiply in bfloat16."""
    return any(isinstance(module, BFloat16Linear) for module in network.modules())
