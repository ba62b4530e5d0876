"""Random numbers in forward: the mask that was drawn is part of the program."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import EpsilonPlus
from relprop.engine.graph.capture import capture
from relprop.engine.graph.graph import operator_name


class StaysOn(nn.Dropout):
    """Monte Carlo dropout: on, whatever the mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, training=True, inplace=self.inplace)


class Stubborn(nn.Dropout):
    """Another spelling: no mode but that of training."""

    def train(self, mode: bool = True) -> Stubborn:
        return super().train(True)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.bernoulli(torch.full_like(x, 0.5)) * (1 + torch.rand_like(x))


def whole_channels(x: Tensor) -> Tensor:
    return F.dropout2d(x[..., None, None], 0.4)[..., 0, 0]


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


DRAWING = {
    "functional": lambda: Calls(lambda x: F.dropout(x, 0.4)),
    "in place": lambda: StaysOn(0.4, inplace=True),
    "subclass": lambda: StaysOn(0.4),
    "stubborn": lambda: Stubborn(0.4),
    "channels": lambda: Calls(whole_channels),
    "noise": Noisy,
    "coins": lambda: Calls(lambda x: x * torch.empty_like(x).bernoulli_()),
}


def network(kind: str) -> nn.Module:
    """Without biases, so that all relevance arrives."""
    torch.manual_seed(0)
    first, second = nn.Linear(6, 32, bias=False), nn.Linear(32, 3, bias=False)
    return nn.Sequential(first, nn.ReLU(), DRAWING[kind](), second).eval()


@pytest.mark.parametrize("kind", DRAWING)
@pytest.mark.parametrize("audit", [False, True])
def test_relevance_is_that_of_the_output_that_was_drawn(kind: str, audit: bool) -> None:
    model, x = network(kind), torch.randn(4, 6)
    expl = LRP(model, normalize_output=False)(x, target=1, audit=audit)
    torch.testing.assert_close(expl.relevance.sum(1), expl.output[:, 1])
    if audit:
        assert expl.ledger is not None
        assert expl.ledger.imbalance < 1e-5
    assert LRP(model, EpsilonPlus())(x, target=1, audit=True).ledger.imbalance < 1e-5


@pytest.mark.parametrize("kind", DRAWING)
def test_every_call_draws_anew_and_as_the_model_does(kind: str) -> None:
    model, x = network(kind), torch.randn(4, 6)
    lrp = LRP(model)
    lrp(x, target=0)
    torch.manual_seed(5)
    first, second = lrp(x, target=0).output, lrp(x, target=0).output
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    torch.testing.assert_close(first, model(x))


@pytest.mark.parametrize("kind", DRAWING)
def test_capture_leaves_the_generator_as_it_was(kind: str) -> None:
    model, x = network(kind), torch.ones(4, 6)
    before = torch.random.get_rng_state()
    capture(model, (x,))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dropout_that_is_off_draws_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Dropout2d(0.5)).train()
    names = {operator_name(node) for node in capture(model, (torch.randn(3, 4),)).operators()}
    assert "ones_like" not in names
