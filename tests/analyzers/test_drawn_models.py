"""Small models drawn at random out of what people do: reused, squeezed, hooked, masked, indexed, cast, parametrized.

Whatever is drawn, the output is the model's, relevance of a batch is that of its samples, the books balance, the 0-rule
on a piecewise linear network without biases is input times gradient, and the model is untouched.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.compare import assert_close
from support.gradients import input_times_gradient
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from relprop import LRP
from relprop.composites import EpsilonPlus
from relprop.rules import ZeroRule

D = 6
KINDS = ("reuse", "squeeze", "hook", "mask", "index", "cast", "parametrize", "branch", "in place", "concatenate")


class Double(nn.Module):
    """A parametrization that is more than its tensor."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Drawn(nn.Module):
    """Layers in a row, each with something that its kind does; piecewise linear, and without biases."""

    def __init__(self, kinds: list[str]) -> None:
        super().__init__()
        self.kinds = kinds
        self.layers = nn.ModuleList([nn.Linear(D, D, bias=False) for _ in kinds])
        self.shared, self.head = nn.Linear(D, D, bias=False), nn.Linear(D, 3, bias=False)
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]))
        for kind, layer in zip(kinds, self.layers, strict=True):
            if kind == "hook":
                layer.register_forward_hook(lambda module, inputs, output: output * 0.5)
            elif kind == "parametrize":
                parametrize.register_parametrization(layer, "weight", Double())
                parametrizations.weight_norm(self.shared) if not parametrize.is_parametrized(self.shared) else None

    def forward(self, x: Tensor) -> Tensor:
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            x = self._step(kind, F.relu(layer(x)), x)
        return self.head(x)

    def _step(self, kind: str, h: Tensor, before: Tensor) -> Tensor:
        if kind == "reuse":
            return F.relu(self.shared(self.shared(h)))
        if kind == "squeeze":
            return h.unsqueeze(1).unsqueeze(-1).squeeze(-1).squeeze(1)
        if kind == "mask":
            return torch.where(self.mask > 0, h, torch.zeros_like(h)) + h * self.mask
        if kind == "index":
            return h[:, [5, 0, 1, 1, 2, 3]]
        if kind == "cast":
            return h.to(torch.float64).to(h.dtype)
        if kind == "branch":
            return h + before
        if kind == "in place":
            h = h.clone()
            h[:, :2] *= 3
            return h.relu_()
        if kind == "concatenate":
            return torch.cat([h[:, 3:], before.narrow(1, 0, 3)], 1)
        return h


def state_of(model: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    batch=st.integers(1, 4),
    target=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_drawn_models_are_explained_as_they_are(kinds: list[str], batch: int, target: int, seed: int) -> None:
    check(kinds, batch, target, seed)


@pytest.mark.slow
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=6),
    batch=st.integers(1, 4),
    target=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_drawn_models(kinds: list[str], batch: int, target: int, seed: int) -> None:
    check(kinds, batch, target, seed)


def check(kinds: list[str], batch: int, target: int, seed: int) -> None:
    torch.manual_seed(seed)
    model, x = Drawn(kinds).double().eval(), torch.randn(batch, D, dtype=torch.float64)
    before, keys = state_of(model), copy.copy(list(model.__dict__))
    lrp = LRP(model, ZeroRule(stabilizer=0.0), normalize_output=False)
    expl = lrp(x, target=target)
    assert_close(expl.output, model(x), rtol=1e-9)
    (expected,) = input_times_gradient(lambda a: model(a)[:, target], x)
    assert_close(expl.relevance, expected, rtol=1e-7, atol=1e-9)
    plus = LRP(model, EpsilonPlus())
    whole = plus(x, target=target, audit=True)
    parts = torch.cat([plus(x[i : i + 1], target=target).relevance for i in range(batch)])
    assert_close(whole.relevance, parts, rtol=1e-7, atol=1e-9)
    assert whole.ledger is not None
    assert whole.ledger.imbalance < 1e-6
    after = state_of(model)
    assert list(model.__dict__) == keys
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
