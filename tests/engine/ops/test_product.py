"""Products: the signal gets the relevance, the gate none."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_each_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, GlobalTypeMap, ProductLayer
from relprop.rules import (
    ProductRule,
)


class Excited(nn.Module):
    """An activated signal, weighed by a gate."""

    def __init__(self, gate: nn.Module, signal: nn.Module) -> None:
        super().__init__()
        self.gate, self.signal = gate, signal

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.signal(x) * self.gate(y)


@pytest.mark.parametrize("signal", [nn.SiLU(), nn.Hardswish(), nn.ReLU(), nn.GELU(), nn.Tanh()], ids=str)
@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Hardsigmoid(), nn.Softmax(-1)], ids=str)
def test_the_signal_of_squeeze_and_excitation_is_activated_too(gate: nn.Module, signal: nn.Module) -> None:
    composite = Composite(GlobalTypeMap({ProductLayer: ProductRule("signal")}))
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -0.5]])
    of_x, of_y = LRP(Excited(gate, signal), composite)(x, y, target=1).relevance
    assert_each_close(of_x, torch.tensor([[0.0, 1.0]]))
    assert not of_y.any()


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_a_gate_of_another_resolution_is_a_gate(mode: str) -> None:
    composite = Composite(GlobalTypeMap({ProductLayer: ProductRule("signal")}))
    x, y = torch.rand(2, 1, 4, 4), torch.randn(2, 1, 2, 2)
    model = Excited(nn.Sequential(nn.Sigmoid(), nn.Upsample(scale_factor=2, mode=mode)), nn.ReLU())
    of_x, of_y = LRP(model, composite)(x, y, target=(0, 1, 1)).relevance
    assert_each_close(of_x.sum((1, 2, 3)), torch.ones(2))
    assert not of_y.any()
