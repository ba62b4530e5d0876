"""What no rule explains is refused, and can be taught: registered modules and operators."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_each_close
from torch import Tensor, nn

import relprop as rp
from relprop import LRP
from relprop.errors import RuleError, UnexplainedError
from relprop.rules import PassRule, ZeroRule, ZPlusRule


class Odd(nn.Module):
    """Nothing that the operator table knows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.erfcx(self.linear(x)) * torch.special.bessel_j0(x)


class WithOdd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.odd, self.last = nn.Linear(4, 3), Odd(), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.odd(self.odd(self.first(x))))


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    from relprop.engine.ops import registry, units

    monkeypatch.setattr(units, "_REGISTERED", {})
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))


def test_what_no_rule_explains_is_refused_with_a_table() -> None:
    with pytest.raises(UnexplainedError) as raised:
        LRP(WithOdd(), example_inputs=(torch.rand(2, 4),))
    said = str(raised.value)
    for part in ("special_erfcx", "special_bessel_j0", "odd", "Odd", "register_op", "register_module"):
        assert part in said
    assert said.count("special_erfcx") >= 2  # one row for each call


def test_registered_module_by_differentiation() -> None:
    rp.register_module(Odd)
    model, x = WithOdd().double(), torch.rand(2, 4, dtype=torch.float64)
    lrp = LRP(model, ZeroRule(), normalize_output=True)  # an ε of 1e-6 would weigh where an output is near 0
    expl = lrp(x, target=0, audit=True)
    a = model.first(x).detach()
    b = model.odd(a).detach()
    c = model.odd(b).detach()
    s = model.last.weight[0] / model.last(c)[:, :1].detach()  # R = c * s, and so on by gradients
    for value in (b, a):
        leaf = value.clone().requires_grad_()
        (s,) = torch.autograd.grad(model.odd(leaf), leaf, s)
    assert_each_close(expl.relevance, x * (s @ model.first.weight), rtol=1e-5, atol=0)
    assert expl.ledger is not None
    assert expl.ledger.imbalance < 1e-10
    assert "module" in expl.ledger.sinks
    assert [layer.name for layer in lrp.layers] == ["first", "odd", "odd@1", "last"]


def test_registered_module_by_pass_or_function() -> None:
    x = torch.rand(2, 4)
    rp.register_module(Odd, rule=PassRule())
    model = WithOdd()
    passed = LRP(model)(x, target=0, layers=["first", "odd"])
    assert torch.equal(passed.layers["first"], passed.layers["odd"])
    rp.register_module(Odd, rule=lambda forward, inputs, output, relevance: relevance / 2)
    halved = LRP(model)(x, target=0, layers=["first", "odd@1"], audit=True)
    assert halved.ledger is not None
    assert halved.ledger.imbalance < 1e-6
    assert_each_close(halved.layers["first"], passed.layers["first"] / 4)
    rp.register_module(Odd, rule=lambda forward, inputs, output, relevance: relevance[:, :1])
    with pytest.raises(RuleError, match=r"odd \(Odd\).*shaped like its inputs"):
        LRP(model)(x)
    with pytest.raises(RuleError, match="modifies weights"):
        rp.register_module(Odd, rule=ZPlusRule())


def test_registered_operator() -> None:
    class Bessel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i1(x)

    model, x = nn.Sequential(Bessel(), nn.Linear(4, 2, bias=False)), torch.rand(2, 4)
    with pytest.raises(UnexplainedError, match="special_i1"):
        LRP(model)(x)
    rp.register_op(torch.ops.aten.special_i1, family="activation")
    assert_each_close(LRP(model, normalize_output=True)(x, target=0).relevance.sum(1), torch.ones(2), atol=1e-5)
    for wrong in ({}, {"like": "relu", "family": "max"}, {"like": "nonsense"}, {"family": "nonsense"}):
        with pytest.raises(rp.RelpropError):
            rp.register_op("special_i1", **wrong)
