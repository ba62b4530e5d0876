"""Products: the signal gets the relevance, the gate none."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_each_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, EpsilonPlusFlat, GlobalTypeMap, ProductLayer
from relprop.engine.graph.graph import operator_name
from relprop.engine.program.loops import forward
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


class Product(nn.Module):
    """Factors of other sizes, and one that is there twice."""

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return (x * y * x * z).flatten(1)


@pytest.mark.parametrize("differentiable", [False, True])
def test_every_occurrence_of_a_factor_gets_its_share(differentiable: bool) -> None:
    """x twice: R_x = R / 2, the others R / 4, each where it was spread to, added up."""
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 1, 4, dtype=torch.float64)
    z = torch.randn(2, 3, 1, dtype=torch.float64)
    lrp = LRP(Product(), normalize_output=False)
    found = lrp(x, y, z, target=lambda out: out, differentiable=differentiable)
    product = x * y * x * z
    assert_each_close(found.relevance[0], product / 2, rtol=1e-12)
    assert_each_close(found.relevance[1], product.sum(1, keepdim=True) / 4, rtol=1e-12)
    assert_each_close(found.relevance[2], product.sum(2, keepdim=True) / 4, rtol=1e-12)


def test_a_gated_part_keeps_its_factors_and_not_what_they_make() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.gate, self.down = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(nn.functional.silu(self.gate(x)) * self.up(x))

    kept = {}
    for share in ("uniform", "signal"):
        composite = Composite(GlobalTypeMap({ProductLayer: ProductRule(share)}))
        lrp, x = LRP(Gated().double(), composite), torch.randn(1, 3, dtype=torch.float64)
        lrp(x, target=1)
        program = lrp._latest.program
        tape = forward(program, [x], program.reads)
        assert not tape.recorded
        kept[share] = {operator_name(node) for node in tape.values if node.op == "call_function"}
    assert kept["uniform"] >= {"silu", "linear"}
    assert "product" not in kept["uniform"]
    assert kept["signal"] >= {"silu"}


class MadeKernel(nn.Module):
    """A convolution whose kernel another network makes."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.make, self.bias = nn.Linear(2, 3 * 4 * 9, bias=False), nn.Parameter(torch.randn(4))
        self.transposed = transposed

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        kernel = self.make(z)[0]
        if self.transposed:
            return nn.functional.conv_transpose2d(x, kernel.view(3, 4, 3, 3), self.bias).flatten(1)
        return nn.functional.conv2d(x, kernel.view(4, 3, 3, 3), self.bias).flatten(1)


@pytest.mark.parametrize("composite", [None, EpsilonPlusFlat()], ids=["zero", "flat"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_kernel_that_is_data_is_a_factor_under_every_composite(transposed: bool, composite: Composite | None) -> None:
    model = MadeKernel(transposed).double().eval()
    x, z = torch.randn(1, 3, 5, 5, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    expl = LRP(model, composite, normalize_output=False)(x, z, target=7, audit=True)
    gradients = torch.autograd.functional.jacobian(lambda *inputs: model(*inputs)[:, 7].sum(), (x, z))
    for found, a, gradient in zip(expl.relevance, (x, z), gradients, strict=True):
        if composite is None:
            torch.testing.assert_close(found, a * gradient / 2, rtol=1e-7, atol=1e-8)
        assert found.any()
    assert expl.ledger.imbalance < 1e-9
