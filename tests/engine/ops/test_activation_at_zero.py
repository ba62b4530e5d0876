"""The ratio f(x)/x of an activation whose input is exactly 0."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_each_close
from torch import nn

from relprop import LRP
from relprop.composites import Composite
from relprop.rules import ZeroRule

SMOOTH = [nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Tanh(), nn.ELU(), nn.Mish(), nn.Hardswish(), nn.Softsign()]


@pytest.mark.parametrize("activation", SMOOTH, ids=str)
def test_an_activation_of_exactly_zero_explains_as_its_neighbours(activation: nn.Module) -> None:
    """Among millions of values in float32 some are 0 by rounding."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False), activation, nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0, 0.0], [0.5, 1.0, 2.0]]))
        model[2].weight.copy_(torch.tensor([[3.0, 1.0]]))
    x = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    lrp = LRP(model, Composite(ZeroRule()))
    at_zero, beside = lrp(x).relevance, lrp(x + torch.tensor([1e-7, 0.0, 0.0])).relevance
    assert model[0](x)[0, 0].item() == 0.0
    assert_each_close(at_zero, beside, rtol=1e-5)


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.LeakyReLU(0.1), nn.Hardshrink(), nn.PReLU()], ids=str)
def test_an_activation_without_a_slope_at_zero_sends_nothing_from_there(activation: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False), activation, nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
    assert not LRP(model, Composite(ZeroRule()))(torch.ones(1, 2)).relevance.any()
