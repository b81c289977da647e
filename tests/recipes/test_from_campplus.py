"""CAM++'s weights in our network, against the network of its paper with those weights, written out here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.checkpoints.network import load_network
from framecls.checkpoints.registry import locate
from framecls.errors import ModelError
from framecls.recipes.from_campplus import begin
from framecls.training.recipe import find_recipe, read_recipe

RECIPE = read_recipe(find_recipe("speaker"))
CONFIG = RECIPE.model_config((), ())
BLOCKS = ((12, 1), (24, 2), (16, 2))


class Reference:
    """CAM++ on (band, vector) log-mel energies, each normalisation in its place; weights are made as asked for."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def weight(self, name: str, *shape: int) -> Tensor:
        if name not in self.weights:
            value = torch.randn(shape)
            if name.endswith("running_var"):
                value = 0.5 + value.square()
            elif len(shape) > 1:
                value *= (2 / value[0].numel()) ** 0.5
            self.weights[name] = value
        return self.weights[name]

    def norm(self, x: Tensor, name: str, *, affine: bool = True) -> Tensor:
        size = x.shape[1]
        mean, variance = (self.weight(f"{name}.running_{kind}", size) for kind in ("mean", "var"))
        factors = (self.weight(f"{name}.weight", size), self.weight(f"{name}.bias", size)) if affine else (None, None)
        return functional.batch_norm(x, mean, variance, *factors)

    def bands(self, x: Tensor, name: str, number: int, n_in: int, stride: int, width: int = 3) -> Tensor:
        kernel = self.weight(f"{name}{number}.weight", 32, n_in, width, width)
        return functional.conv2d(x, kernel, stride=(stride, 1), padding=width // 2)

    def front(self, x: Tensor) -> Tensor:
        x = self.norm(self.bands(x[:, None], "head.conv", 1, 1, 1), "head.bn1").relu()
        for name, stride in (("layer1.0", 2), ("layer1.1", 1), ("layer2.0", 2), ("layer2.1", 1)):
            name = f"head.{name}"
            y = self.norm(self.bands(x, f"{name}.conv", 1, 32, stride), f"{name}.bn1").relu()
            y = self.norm(self.bands(y, f"{name}.conv", 2, 32, 1), f"{name}.bn2")
            if stride > 1:
                x = self.norm(self.bands(x, f"{name}.shortcut.", 0, 32, stride, 1), f"{name}.shortcut.1")
            x = (y + x).relu()
        return self.norm(self.bands(x, "head.conv", 2, 32, 2), "head.bn2").relu().flatten(1, 2)

    def dense(self, x: Tensor, name: str, dilation: int) -> Tensor:
        y = self.norm(x, f"{name}.nonlinear1.batchnorm").relu()
        y = functional.conv1d(y, self.weight(f"{name}.linear1.weight", 128, x.shape[1], 1))
        y = self.norm(y, f"{name}.nonlinear2.batchnorm").relu()
        name = f"{name}.cam_layer"
        near = functional.avg_pool1d(y, 100, ceil_mode=True).repeat_interleave(100, dim=2)[:, :, : y.shape[2]]
        context = y.mean(dim=2, keepdim=True) + near
        for linear, size in (("linear1", 64), ("linear2", 32)):
            kernel = self.weight(f"{name}.{linear}.weight", size, context.shape[1], 1)
            context = functional.conv1d(context, kernel, self.weight(f"{name}.{linear}.bias", size))
            context = context.relu() if linear == "linear1" else context.sigmoid()
        kernel = self.weight(f"{name}.linear_local.weight", 32, 128, 3)
        return functional.conv1d(y, kernel, padding=dilation, dilation=dilation) * context

    def __call__(self, mel: Tensor) -> Tensor:
        """Map (batch, vector, band) to (batch, number) unit vectors."""
        x = self.front(mel.transpose(1, 2))
        x = functional.conv1d(x, self.weight("xvector.tdnn.linear.weight", 128, 320, 5), stride=2, padding=2)
        x = self.norm(x, "xvector.tdnn.nonlinear.batchnorm").relu()
        for block, (n_layers, dilation) in enumerate(BLOCKS, start=1):
            for layer in range(1, n_layers + 1):
                x = torch.cat([x, self.dense(x, f"xvector.block{block}.tdnnd{layer}", dilation)], dim=1)
            name = f"xvector.transit{block}"
            x = self.norm(x, f"{name}.nonlinear.batchnorm").relu()
            x = functional.conv1d(x, self.weight(f"{name}.linear.weight", x.shape[1] // 2, x.shape[1], 1))
        x = self.norm(x, "xvector.out_nonlinear.batchnorm").relu()
        x = torch.cat([x.mean(dim=2), x.std(dim=2)], dim=1)
        x = functional.conv1d(x[:, :, None], self.weight("xvector.dense.linear.weight", 192, 1024, 1))
        return functional.normalize(self.norm(x, "xvector.dense.nonlinear.batchnorm", affine=False)[:, :, 0])


@pytest.fixture(scope="module")
def reference() -> Reference:
    torch.manual_seed(5)
    made = Reference()
    made(torch.randn(1, 20, 80))
    return made


@pytest.fixture(scope="module")
def network(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    path = tmp_path_factory.mktemp("weights") / "campplus.pt"
    torch.save(reference.weights, path)
    return begin(path, CONFIG)


@pytest.mark.parametrize("n_frames", [25, 100, 150, 230])
def test_the_network_computes_what_that_of_the_paper_does(
    n_frames: int, reference: Reference, network: nn.Module
) -> None:
    """Alone, and beside a longer window, where half of it is padding."""
    mel = torch.randn(1, 2 * n_frames, 80)
    mel -= mel.mean(dim=1, keepdim=True)
    wanted = reference(mel)
    longer = torch.cat([mel, torch.full((1, 2 * n_frames, 80), 1e3)], dim=1)
    beside = torch.cat([longer, torch.randn_like(longer)])
    for vectors, counts in ((mel, [n_frames]), (beside, [n_frames, 2 * n_frames])):
        got = network.classify(vectors, torch.tensor(counts)).logits  # type: ignore[operator]
        torch.testing.assert_close(got[:1], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("damage", ["text", "empty", "missing", "shape"])
def test_a_file_that_does_not_fit_is_refused(damage: str, tmp_path: Path, reference: Reference) -> None:
    path = tmp_path / "campplus.pt"
    weights = dict(reference.weights)
    if damage in ("text", "empty"):
        path.write_text("hello there" if damage == "text" else "")
    else:
        name = "xvector.block2.tdnnd3.linear1.weight" if damage == "missing" else "head.layer1.0.bn1.bias"
        weights |= {"head.layer1.0.bn1.bias": torch.zeros(3)} if damage == "shape" else {}
        torch.save({key: value for key, value in weights.items() if damage != "missing" or key != name}, path)
    with pytest.raises(ModelError):
        begin(path, CONFIG)


def test_the_shipped_model_is_of_its_recipe() -> None:
    config = load_network(locate("speaker")).config
    for name in ("features", "encoder", "window", "pooling", "embedding", "gate"):
        assert getattr(config, name) == getattr(CONFIG, name), name
    assert config.card.items() >= CONFIG.card.items()
