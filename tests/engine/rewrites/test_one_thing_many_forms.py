"""Reuse, sharing, functional and in-place forms of one thing are explained as that thing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn
from torch.nn import functional as F

from relprop import LRP
from relprop.composites import Composite, GlobalTypeMap
from relprop.rules import (
    AlphaBetaRule,
    EpsilonRule,
    GammaRule,
    ZeroRule,
    ZPlusRule,
)

RULES = [ZeroRule(), EpsilonRule(0.1), GammaRule(0.3), ZPlusRule(), AlphaBetaRule()]


def relevance(model: nn.Module, rule: Any, x: Tensor) -> Tensor:
    """Every layer with weights gets the rule; R_out is fixed."""
    R_out = torch.linspace(-1.0, 2.0, 2 * 4).reshape(2, 4).to(x.dtype)
    return LRP(model, everywhere(rule))(x, target=lambda output: R_out).relevance


def everywhere(rule: Any) -> Composite:
    return Composite(GlobalTypeMap({nn.Linear: rule, nn.Conv2d: rule}))


class Tied(nn.Module):
    """One linear layer, used twice."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.relu(self.layer(x)))


class TwoCopies(nn.Module):
    """The same, with a layer of its own for each use."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.second = copy.deepcopy(layer), copy.deepcopy(layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class TwoModulesOneTensor(TwoCopies):
    """Two modules that share one weight."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.second.weight = self.first.weight


@pytest.fixture
def four() -> Tensor:
    return torch.randn(2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(4)
    return nn.Linear(4, 4).double()


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("reuse", [Tied, TwoModulesOneTensor])
def test_a_module_used_twice_is_two_layers(layer, four, rule, reuse):
    expected = relevance(TwoCopies(layer), rule, four)
    assert_close(relevance(reuse(layer), rule, four), expected, rtol=1e-12)


class Residual(nn.Module):
    """x + f(x), in a few spellings."""

    def __init__(self, layer: nn.Module, spelling: str) -> None:
        super().__init__()
        self.layer, self.spelling = layer, spelling

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        if self.spelling == "x + h":
            return x + h
        if self.spelling == "torch.add":
            return torch.add(h, x)
        if self.spelling == "h += x":
            h += x
            return h
        if self.spelling == "stack":
            return torch.stack([x, h]).sum(0)
        return x.add(h, alpha=1)


@pytest.mark.parametrize("spelling", ["x + h", "torch.add", "h += x", "stack", "x.add"])
def test_a_functional_residual_shares_in_proportion(layer, four, spelling):
    """By hand, with the 0-rule: z = x + Wx + b, R_x = x R/z, R_h = h R/z, and h = Wx + b passes its share on.

    R_i = x_i s_i + x_i sum_j W_ji s_j with s = R / z: the stabilizers (1e-9) aside, one formula for any
    spelling.
    """
    R_out = torch.linspace(-1.0, 2.0, 8, dtype=torch.float64).reshape(2, 4)
    s = R_out / (four + layer(four))
    expected = four * (s + s @ layer.weight)
    actual = LRP(Residual(layer, spelling))(four, target=lambda output: R_out).relevance
    assert_close(actual, expected.detach(), rtol=1e-6)


class Activated(nn.Module):
    """Linear, ReLU, linear, with the ReLU spelled in different ways."""

    def __init__(self, layer: nn.Module, spelling: str) -> None:
        super().__init__()
        self.first, self.second = copy.deepcopy(layer), copy.deepcopy(layer)
        self.relu, self.relu_inplace = nn.ReLU(), nn.ReLU(inplace=True)
        self.spelling = spelling

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        spellings = {
            "nn.ReLU": lambda: self.relu(h),
            "nn.ReLU(inplace)": lambda: self.relu_inplace(h),
            "F.relu": lambda: F.relu(h),
            "F.relu(inplace)": lambda: F.relu(h, inplace=True),
            "F.relu_": lambda: F.relu_(h),
            "h.relu_": lambda: h.relu_(),
            "clamp": lambda: h.clamp(min=0),
            "inplace, result unused": lambda: (F.relu_(h), h)[1],
        }
        return self.second(spellings[self.spelling]())


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize(
    "spelling",
    [
        "nn.ReLU(inplace)",
        "F.relu",
        "F.relu(inplace)",
        "F.relu_",
        "h.relu_",
        "clamp",
        "inplace, result unused",
    ],
)
def test_an_activation_is_the_same_in_every_spelling(layer, four, rule, spelling):
    """Where the graph shows that h >= 0 the 0-rule need not divide, so ε (1e-9) may differ between spellings."""
    expected = relevance(Activated(layer, "nn.ReLU"), rule, four)
    assert_close(relevance(Activated(layer, spelling), rule, four), expected, rtol=1e-6)


def test_an_inplace_activation_does_not_hide_the_layer_that_it_overwrites(four, layer):
    """The first layer's z is the value before the in-place ReLU, negative entries and all."""
    model = nn.Sequential(copy.deepcopy(layer), nn.ReLU(inplace=True))
    expl = LRP(model, [ZeroRule(), ZeroRule()])(four, target=lambda output: torch.ones_like(output))
    z = layer(four)
    expected = four * ((1 / z) @ layer.weight)
    assert_close(expl.relevance, expected.detach(), rtol=1e-6)
