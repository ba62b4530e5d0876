"""Batch norms that are spelled out are fused as `nn.BatchNorm2d` is: the same relevance, layer by layer.

The oracle is the same network with PyTorch's own batch norm, which has the same parameters and computes the same.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from support.torchvision_shim import install
from torch import Tensor, nn

import relprop as rp
from relprop import LRP
from relprop.composites import EpsilonPlus, EpsilonPlusFlat
from relprop.engine.graph.capture import capture
from relprop.engine.graph.graph import Graph, info, operator_name
from relprop.engine.rewrites import as_rewrites, canonical
from relprop.rules import GammaRule

Norm = nn.BatchNorm1d | nn.BatchNorm2d
Wrap = Callable[[Norm], nn.Module]


class Frozen(nn.Module):
    """Statistics and parameters of a batch norm as buffers that broadcast over what follows the channels."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        shape = (1, -1, 1, 1) if isinstance(norm, nn.BatchNorm2d) else (-1,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name.removeprefix("running_"), getattr(norm, name).detach().clone().view(shape))
        self.eps = norm.eps


class ScaleAndShift(Frozen):
    """As detectors have it."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.var + self.eps).rsqrt()
        return x * scale + (self.bias - self.mean * scale)


class StepByStep(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / torch.sqrt(self.var + self.eps) * self.weight + self.bias


class InPlace(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        return x.sub(self.mean).div_((self.var + self.eps).sqrt()).mul_(self.weight).add_(self.bias)


class OneCall(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight / (self.var + self.eps) ** 0.5
        return torch.addcmul(self.bias - self.mean * scale, x, scale)


class Unbatched(Frozen):
    """Constants (C, 1, 1), made from vectors on the way."""

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.weight * (self.var + self.eps).rsqrt()).flatten()
        shift = self.bias.flatten() - self.mean.flatten() * scale
        return x * scale[:, None, None] + shift[:, None, None] if x.dim() > 2 else x * scale + shift


class Called(Frozen):
    """By a function, with parameters of the module's own."""

    def forward(self, x: Tensor) -> Tensor:
        mean, var, weight, bias = (t.flatten() for t in (self.mean, self.var, self.weight, self.bias))
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps)


class WithActivation(ScaleAndShift):
    """A module that goes on behind its norm."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


SPELLINGS: list[Wrap] = [ScaleAndShift, StepByStep, InPlace, OneCall, Unbatched, Called]


def _norm(channels: int, kind: type[Norm] = nn.BatchNorm2d) -> Norm:
    norm = kind(channels)
    for tensor, low, high in (
        (norm.weight, -1.5, 1.5), (norm.bias, -0.5, 0.5), (norm.running_mean, -0.5, 0.5), (norm.running_var, 0.5, 2.0),
    ):  # fmt: skip
        nn.init.uniform_(tensor, low, high)
    return norm.requires_grad_(False)


def behind(wrap: Wrap) -> nn.Module:
    """Behind convolutions of all sorts, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), wrap(_norm(4)), nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2), wrap(_norm(6)), nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, groups=2), wrap(_norm(4)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), wrap(_norm(5, nn.BatchNorm1d)), nn.ReLU(),
        nn.Linear(5, 3),
    )  # fmt: skip


class Branches(nn.Module):
    """Behind a concatenation, and in front of a layer."""

    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1, bias=False)
        self.mixed, self.summed = wrap(_norm(8)), wrap(_norm(8))
        self.unpadded, self.head = nn.Conv2d(8, 4, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.mixed(torch.cat([self.wide(x), self.narrow(x)], 1)).relu()
        return self.head(self.unpadded(self.summed(h + h.flip(3))).relu().mean((2, 3)))


class ReadTwice(nn.Module):
    """Behind a layer that is read by a sum, too."""

    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), wrap(_norm(4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        return self.norm(z) + z


def pair(make: Callable[[Wrap], nn.Module], wrap: Wrap) -> tuple[nn.Module, nn.Module]:
    """The network with PyTorch's batch norm, and with another spelling of it."""
    made = []
    for how in (lambda norm: norm, wrap):
        torch.manual_seed(3)
        made.append(make(how).double().eval())
    return made[0], made[1]


def lowered(model: nn.Module, x: Tensor, canonize: object = True) -> Graph:
    return canonical(capture(model, (x,)), as_rewrites(canonize))


def left_over(graph: Graph) -> list[str]:
    """Modules of which a scale or a sum was left."""
    return [info(n).path for n in graph.operators() if info(n).data and operator_name(n) in {"scale", "add"}]


@pytest.mark.parametrize("wrap", SPELLINGS)
@pytest.mark.parametrize("make", [behind, Branches])
def test_relevance_is_that_of_the_module(make: Callable[[Wrap], nn.Module], wrap: Wrap) -> None:
    plain, frozen = pair(make, wrap)
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    assert_close(frozen(x), plain(x), rtol=1e-10, atol=1e-12)
    for composite in (EpsilonPlusFlat(), GammaRule(0.3)):
        expected = LRP(plain, composite)(x, target=1, layers="*", audit=True)
        got = LRP(frozen, composite)(x, target=1, layers="*", audit=True)
        assert_close(got.relevance, expected.relevance, rtol=1e-8, atol=1e-12)
        for name in expected.layers.keys() & got.layers.keys():
            assert_close(got.layers[name], expected.layers[name], rtol=1e-8, atol=1e-12)
        assert got.ledger.imbalance < 1e-9


@pytest.mark.parametrize("wrap", SPELLINGS)
def test_nothing_is_left_of_them(wrap: Wrap) -> None:
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    assert left_over(lowered(pair(behind, wrap)[1], x)) == []
    assert left_over(lowered(pair(Branches, wrap)[1], x)) == [""]  # the model's own sum
    assert "norm" in left_over(lowered(pair(ReadTwice, wrap)[1], x))
    assert left_over(lowered(pair(behind, wrap)[1], x, False))


def test_the_table_says_what_became_of_a_module() -> None:
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    plain, frozen = (LRP(m, EpsilonPlus(), example_inputs=(x,)) for m in pair(behind, StepByStep))
    fused = [(layer.name, layer.fused_into) for layer in frozen.layers if layer.fused_into]
    assert fused == [("1", "0"), ("4", "3"), ("7", "6"), ("12", "11")]
    assert fused == [(layer.name, layer.fused_into) for layer in plain.layers if layer.fused_into]


def test_a_module_that_goes_on_behind_its_norm_keeps_its_row() -> None:
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    plain, fused = pair(lambda wrap: nn.Sequential(nn.Conv2d(3, 4, 3), wrap(_norm(4)), nn.ReLU()), WithActivation)
    assert left_over(lowered(fused, x)) == []
    lrp = LRP(fused, EpsilonPlus(), example_inputs=(x,))
    assert [(layer.name, layer.fused_into) for layer in lrp.layers] == [("0", None), ("1", None), ("2", None)]
    target = (1, 2, 2)
    assert_close(lrp(x, target=target).relevance, LRP(plain, EpsilonPlus())(x, target=target).relevance, rtol=1e-8)


class DenseNet(nn.Module):
    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self.stem, self.norm, self.squeeze = nn.Conv2d(3, 4, 3), wrap(_norm(7)), nn.Conv2d(7, 5, 1)
        self.last, self.head = wrap(_norm(5)), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([x[..., 1:-1, 1:-1], self.stem(x)], 1)
        h = self.squeeze(F.relu(self.norm(h))).tanh()
        return self.head(F.adaptive_avg_pool2d(F.relu(self.last(h)), 1).flatten(1))


@pytest.mark.parametrize("wrap", SPELLINGS)
def test_thresholds_too(wrap: Wrap) -> None:
    plain, frozen = pair(DenseNet, wrap)
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    assert left_over(lowered(frozen, x, "thresholds")) == []
    expected, got = (LRP(m, EpsilonPlus(), canonize="thresholds")(x, target=1) for m in (plain, frozen))
    assert_close(got.relevance, expected.relevance, rtol=1e-8, atol=1e-12)


class NoNorms(nn.Module):
    """What looks like a norm: a scale alone, one number, a LayerNorm's learned scale, the input's preparation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.gamma, self.beta = nn.Parameter(torch.rand(3, 1, 1) + 0.5), nn.Parameter(torch.rand(3, 1, 1))
        self.number = nn.Parameter(torch.rand(()))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x * self.gamma + self.beta)  # it would hide the input's bounds
        h = self.second(h * 1.0) * self.gamma
        h = self.third(h.tanh()) * self.number + self.number
        mean, std = h.mean(1, keepdim=True), h.std(1, keepdim=True) + 1e-3
        normalized = (h - mean) / std * self.gamma + self.beta
        return self.first(normalized).mean((2, 3))


def test_other_scales_and_shifts_stay() -> None:
    model = NoNorms().double().eval()
    x = torch.rand(2, 3, 5, 5, dtype=torch.float64)

    def shown(graph: Graph) -> list[tuple[str, str]]:
        return [(operator_name(n), info(n).operator) for n in graph.operators() if info(n).data]

    assert shown(lowered(model, x)) == shown(lowered(model, x, False))
    assert len(left_over(lowered(model, x))) > 4


def test_canonize_gives_modules_without_them() -> None:
    model = pair(Branches, StepByStep)[1]
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    canonized = rp.canonize(model, (x,))
    assert_close(canonized(x), model(x), rtol=1e-12, atol=1e-12)
    assert isinstance(canonized.summed, nn.Identity)
    assert isinstance(canonized.mixed, StepByStep)  # the graph splits it over two layers, modules cannot
    assert isinstance(model.summed, StepByStep)


class PartlyAsFunctions(nn.Module):
    """A batch norm, and a scale and a shift behind it that are no module: the graph fuses both, modules can neither."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), _norm(4)
        self.scale, self.shift = nn.Parameter(torch.rand(4, 1, 1)), nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * self.scale + self.shift


def test_canonize_leaves_what_is_no_module() -> None:
    model = PartlyAsFunctions().double().eval()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    assert left_over(lowered(model, x)) == []
    canonized = rp.canonize(model, (x,))
    assert_close(canonized(x), model(x), rtol=1e-12, atol=1e-12)
    assert isinstance(canonized.norm, nn.BatchNorm2d)


@pytest.mark.slow
def test_the_norms_of_torchvision_and_timm() -> None:
    if not install():
        pytest.skip("torchvision is not installed")
    timm = pytest.importorskip("timm")
    from torchvision.models import resnet18
    from torchvision.ops import FrozenBatchNorm2d

    model = resnet18(weights=None).double().eval()
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.load_state_dict(_norm(norm.num_features).state_dict())
        nn.init.uniform_(norm.weight, 0.3, 0.6)
    frozen = resnet18(weights=None, norm_layer=FrozenBatchNorm2d).double().eval()
    frozen.load_state_dict(model.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    converted = timm.layers.freeze_batch_norm_2d(resnet18(weights=None).double().eval())
    converted.load_state_dict(model.state_dict(), strict=False)
    expected = LRP(model, EpsilonPlus())(x, target=3).relevance
    for other in (frozen, converted):
        assert_close(other(x), model(x), rtol=1e-9, atol=1e-12)
        lrp = LRP(other, EpsilonPlus())
        assert_close(lrp(x, target=3).relevance, expected, rtol=1e-6, atol=1e-9)
        assert sum(layer.fused_into is not None for layer in lrp.layers) == 20
