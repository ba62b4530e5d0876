"""THE table: every affine operator, every rule, and which of them do not go together.

A new operator is one function that builds it and one row of `OPERATORS`; a new rule is one row of `RULES`.
Each row
then gets every law in tests/rules/test_laws.py.

A builder takes its hyperparameters from `pick(first, *others)`: hypothesis picks any of them, the laws that
need only
one example take the first, which therefore is the interesting one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from support import dense as oracle
from torch import Tensor, nn
from torch.nn import functional as F

import relprop.rules as rp

Pick = Callable[..., Any]
BIAS_POLICIES = ("absorb", "distribute", "ignore")


def first(*options: Any) -> Any:
    """The pick of the laws that need one example only."""
    return options[0]


# ------------------------------------------------------------------------------------------------ operators


@dataclass(frozen=True)
class Layer:
    """A module, the shape of one sample, and how the oracle sees it: movement first, then an affine core."""

    module: nn.Module
    shape: tuple[int, ...]
    movement: Callable[[Tensor], Tensor] | None = None
    core: nn.Module | None = None


@dataclass(frozen=True)
class Operator:
    """A row: `build(pick, bias)` gives the layer; `weighted` if it has weights that a rule could change."""

    name: str
    build: Callable[[Pick, bool], Layer]
    weighted: bool = True
    biased: bool = True


class Scale(nn.Module):
    """x * w + b, or x * w."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight if self.bias is None else x * self.weight + self.bias


class Mean(nn.Module):
    """x.mean(dim, keepdim)."""

    def __init__(self, dim: int | tuple[int, ...], keepdim: bool) -> None:
        super().__init__()
        self.dim, self.keepdim = dim, keepdim

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dim, keepdim=self.keepdim)


class Sum(Mean):
    """x.sum(dim, keepdim)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(self.dim, keepdim=self.keepdim)


def linear(pick: Pick, bias: bool) -> Layer:
    features = pick(6, 1, 4)
    return Layer(nn.Linear(features, pick(5, 1, 3), bias), (*pick((), (3,), (2, 2)), features))


def _spatial(dims: int) -> tuple[int, ...]:
    return {1: (7,), 2: (5, 6), 3: (4, 3, 4)}[dims]


def conv(dims: int) -> Callable[[Pick, bool], Layer]:
    Conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]

    def build(pick: Pick, bias: bool) -> Layer:
        channels, out, groups = pick((4, 6, 2), (2, 3, 1), (3, 3, 3), (2, 4, 2))
        module = Conv(
            channels,
            out,
            pick(3, 2, 1),
            stride=pick(2, 1),
            padding=pick(1, 2, 0, "valid"),
            dilation=pick(1, 2) if dims < 3 else 1,
            groups=groups,
            bias=bias,
        )
        return Layer(module, (channels, *_spatial(dims)))

    return build


def conv_same(pick: Pick, bias: bool) -> Layer:
    module = nn.Conv2d(3, 2, pick((3, 2), 4), padding="same", dilation=pick(2, 1), bias=bias)
    return Layer(module, (3, 5, 6))


def conv_padding_mode(mode: str, dims: int = 2) -> Callable[[Pick, bool], Layer]:
    """The rule acts on the convolution; padding that copies data is movement, so its copies are
    connections.
    """
    Conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]

    def build(pick: Pick, bias: bool) -> Layer:
        size, stride, padding = pick(3, 2), pick(1, 2), pick(2, 1)
        module = Conv(3, 2, size, stride=stride, padding=padding, padding_mode=mode, bias=bias)
        core = Conv(3, 2, size, stride=stride, bias=bias)
        core.load_state_dict(module.state_dict())
        return Layer(module, (3, *_spatial(dims)), lambda x: F.pad(x, [padding] * 2 * dims, mode), core)

    return build


def depthwise(pick: Pick, bias: bool) -> Layer:
    return Layer(nn.Conv2d(3, 3 * pick(2, 1), 3, padding=pick(1, 0), groups=3, bias=bias), (3, 5, 4))


def conv_transpose(dims: int) -> Callable[[Pick, bool], Layer]:
    Conv = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims]

    def build(pick: Pick, bias: bool) -> Layer:
        channels, out, groups = pick((4, 2, 2), (2, 3, 1), (3, 3, 3))
        stride, output_padding = pick((2, 1), (1, 0), (2, 0))
        module = Conv(
            channels,
            out,
            pick(3, 2),
            stride=stride,
            padding=pick(1, 0),
            output_padding=output_padding,
            dilation=pick(1, 2) if dims < 3 else 1,
            groups=groups,
            bias=bias,
        )
        return Layer(module, (channels, *{1: (5,), 2: (3, 4), 3: (2, 3, 2)}[dims]))

    return build


def batch_norm(dims: int) -> Callable[[Pick, bool], Layer]:
    Norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]

    def build(pick: Pick, bias: bool) -> Layer:
        """Without affine parameters when `bias` is off; the running mean still makes a bias."""
        module = Norm(3, affine=bias)
        module.running_mean.normal_()
        module.running_var.uniform_(0.5, 2.0)
        if bias:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
        shape = pick((3, 4), (3,)) if dims == 1 else (3, *_spatial(dims)[:dims])
        return Layer(module.eval(), shape)

    return build


def scale(pick: Pick, bias: bool) -> Layer:
    shape = pick((3, 1), (1,), (4,), (3, 4))
    return Layer(Scale(torch.randn(shape), torch.randn(shape) if bias else None), (3, 4))


def avg_pool(dims: int) -> Callable[[Pick, bool], Layer]:
    Pool = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}[dims]

    def build(pick: Pick, bias: bool) -> Layer:
        kernel, stride, padding = pick((3, 2, 1), (2, 2, 0), (3, 1, 0), (2, 3, 1))
        module = Pool(kernel, stride, padding, ceil_mode=pick(True, False), count_include_pad=pick(False, True))
        return Layer(module, (2, *_spatial(dims)))

    return build


def avg_pool_divisor(pick: Pick, bias: bool) -> Layer:
    return Layer(nn.AvgPool2d(2, divisor_override=pick(3, 1)), (2, 5, 4))


def adaptive_avg_pool(dims: int) -> Callable[[Pick, bool], Layer]:
    Pool = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dims]

    def build(pick: Pick, bias: bool) -> Layer:
        size = {1: pick(3, 1, 9), 2: pick((2, 4), 1, (1, 8)), 3: pick((3, 2, 1), 1)}[dims]
        return Layer(Pool(size), (2, *_spatial(dims)))

    return build


def mean(pick: Pick, bias: bool) -> Layer:
    return Layer(Mean(pick((2, 3), -1, (1,)), pick(False, True)), (2, 3, 4))


def total(pick: Pick, bias: bool) -> Layer:
    return Layer(Sum(pick((2, 3), -1, 1), pick(False, True)), (2, 3, 4))


def upsample_nearest(pick: Pick, bias: bool) -> Layer:
    kind = pick({"scale_factor": 2}, {"size": (7, 3)}, {"scale_factor": 1.5})
    return Layer(nn.Upsample(mode=pick("nearest", "nearest-exact"), **kind), (2, 3, 4))


def upsample_bilinear(pick: Pick, bias: bool) -> Layer:
    kind = pick({"scale_factor": 2}, {"size": (7, 5)})
    return Layer(nn.Upsample(mode="bilinear", align_corners=pick(False, True), **kind), (2, 3, 4))


def upsample_linear(pick: Pick, bias: bool) -> Layer:
    return Layer(nn.Upsample(mode="linear", scale_factor=pick(2, 3), align_corners=pick(False, True)), (2, 4))


OPERATORS = [
    Operator("linear", linear),
    Operator("conv1d", conv(1)),
    Operator("conv2d", conv(2)),
    Operator("conv3d", conv(3)),
    Operator("conv2d_same", conv_same),
    Operator("conv1d_replicate", conv_padding_mode("replicate", 1)),
    Operator("conv2d_reflect", conv_padding_mode("reflect")),
    Operator("conv2d_circular", conv_padding_mode("circular")),
    Operator("depthwise_conv2d", depthwise),
    Operator("conv_transpose1d", conv_transpose(1)),
    Operator("conv_transpose2d", conv_transpose(2)),
    Operator("conv_transpose3d", conv_transpose(3)),
    Operator("batch_norm1d", batch_norm(1)),
    Operator("batch_norm2d", batch_norm(2)),
    Operator("batch_norm3d", batch_norm(3)),
    Operator("scale", scale),
    Operator("avg_pool1d", avg_pool(1), weighted=False, biased=False),
    Operator("avg_pool2d", avg_pool(2), weighted=False, biased=False),
    Operator("avg_pool3d", avg_pool(3), weighted=False, biased=False),
    Operator("avg_pool2d_divisor", avg_pool_divisor, weighted=False, biased=False),
    Operator("adaptive_avg_pool1d", adaptive_avg_pool(1), weighted=False, biased=False),
    Operator("adaptive_avg_pool2d", adaptive_avg_pool(2), weighted=False, biased=False),
    Operator("adaptive_avg_pool3d", adaptive_avg_pool(3), weighted=False, biased=False),
    Operator("mean", mean, weighted=False, biased=False),
    Operator("sum", total, weighted=False, biased=False),
    Operator("upsample_nearest", upsample_nearest, weighted=False, biased=False),
    Operator("upsample_bilinear", upsample_bilinear, weighted=False, biased=False),
    Operator("upsample_linear", upsample_linear, weighted=False, biased=False),
]


# ---------------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True)
class Rule:
    """A row: `draw(pick, layer)` gives the rule's parameters, as relprop's rule and as the oracle take them.

    The bias policy is drawn beside them.
    """

    name: str
    make: Callable[..., Any]
    formula: Callable[..., oracle.Shares]
    draw: Callable[[Pick, Layer], tuple[dict[str, Any], dict[str, Any]]]


def _stabilized(**choices: tuple[Any, ...]) -> Callable[[Pick, Layer], tuple[dict, dict]]:
    def draw(pick: Pick, layer: Layer) -> tuple[dict[str, Any], dict[str, Any]]:
        parameters = {name: pick(*options) for name, options in choices.items()}
        parameters["stabilizer"] = pick(1e-9, 0.25, lambda d: d + 0.5 * (2 * (d >= 0) - 1))
        return parameters, parameters

    return draw


def _epsilon(pick: Pick, layer: Layer) -> tuple[dict[str, Any], dict[str, Any]]:
    epsilon = pick(1e-6, 0.25, lambda d: d + 0.5 * (2 * (d >= 0) - 1))
    return {"epsilon": epsilon}, {"stabilizer": epsilon}


def _alpha_beta(pick: Pick, layer: Layer) -> tuple[dict[str, Any], dict[str, Any]]:
    beta = pick(1.0, 0.0, 0.5, 3.0)
    parameters = {"alpha": 1.0 + beta, "beta": beta, "stabilizer": pick(1e-9, 0.25)}
    return parameters, parameters


def _box(pick: Pick, layer: Layer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scalars, or a tensor per channel, or one for a sample, the latter also with a batch dimension of one.

    A convolution that first pads with data has another shape inside, so its box cannot be one of a sample's shape.
    """
    shape, bottom, top, stabilizer = layer.shape, -4.0, 5.0, pick(1e-9, 0.25)
    kinds = ("sample", "scalar", "batched", "channel") if layer.movement is None else ("channel", "scalar")
    kind = pick(*kinds)
    if kind == "scalar":
        low, high = bottom, top
    else:
        size = {"sample": shape, "batched": (1, *shape), "channel": (shape[0], *(1 for _ in shape[1:]))}[kind]
        low, high = (bottom - torch.rand(size)).double(), (top + torch.rand(size)).double()
    sizes = [torch.as_tensor(x, dtype=torch.float64) for x in (low, high)]
    low_row, high_row = ((x[0] if kind == "batched" else x).expand(shape).flatten() for x in sizes)
    return (
        {"low": low, "high": high, "stabilizer": stabilizer},
        {"low": low_row, "high": high_row, "stabilizer": stabilizer},
    )


RULES = [
    Rule("zero", rp.ZeroRule, oracle.zero, _stabilized()),
    Rule("epsilon", rp.EpsilonRule, oracle.zero, _epsilon),
    Rule("gamma", rp.GammaRule, oracle.gamma, _stabilized(gamma=(0.25, 0.0, 3.0))),
    Rule(
        "generalized_gamma",
        rp.GeneralizedGammaRule,
        oracle.generalized_gamma,
        _stabilized(gamma=(0.25, 0.0, 3.0)),
    ),
    Rule("z_plus", rp.ZPlusRule, oracle.z_plus, _stabilized()),
    Rule("alpha_beta", rp.AlphaBetaRule, oracle.alpha_beta, _alpha_beta),
    Rule("w_square", rp.WSquareRule, oracle.w_square, _stabilized()),
    Rule("flat", rp.FlatRule, oracle.flat, _stabilized()),
    Rule("z_box", rp.ZBoxRule, oracle.z_box, _box),
    Rule("norm", rp.NormRule, oracle.zero, _stabilized()),
]

# Pairs that must be refused, with an error that names both: interpolation weighs its connections differently, but has
# no weight that w² could square or flat could level.
REFUSED = {
    ("w_square", "upsample_bilinear"),
    ("w_square", "upsample_linear"),
    ("flat", "upsample_bilinear"),
    ("flat", "upsample_linear"),
}
