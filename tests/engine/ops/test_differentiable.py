"""Relevance that is differentiable: by autograd it has the derivatives of finite differences, in inputs and weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.affine_rules import RULES
from support.by_hand import program_of, relevance_by_hand
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import CPLRP, AttnLRP, Composite, GlobalTypeMap, ProductLayer
from relprop.rules import (
    EpsilonRule,
    LayerNormRule,
    NormRule,
    ProductRule,
    Rule,
    SoftmaxRule,
    ZeroRule,
)

D = 4


def check(lrp: LRP, model: nn.Module, *inputs: Tensor) -> None:
    """Relevance is that of the ordinary pass, and its derivatives are those of finite differences."""
    program = program_of(lrp, *inputs)
    y = model(*inputs)
    slopes = torch.randn_like(y)
    names = [name for name, _ in model.named_parameters()]

    def relevance(*tensors: Tensor, differentiable: bool = True) -> tuple[Tensor, ...]:
        given, weights = tensors[: len(inputs)], dict(zip(names, tensors[len(inputs) :], strict=True))
        found, _ = relevance_by_hand(
            program, given, lambda output: output * slopes, weights, differentiable=differentiable
        )
        return tuple(found)

    leaves = [t.detach().clone().requires_grad_() for t in (*inputs, *model.parameters())]
    ordinary = lrp(*inputs, target=lambda output: output * slopes)
    for found, R in zip(relevance(*leaves), ordinary.inputs.values(), strict=True):
        assert_close(found.detach(), R, rtol=1e-9)
    assert torch.autograd.gradcheck(relevance, leaves, eps=1e-6, atol=1e-6, rtol=1e-4, fast_mode=True)


OF_LAYERS: list[Rule] = [*RULES, NormRule(), EpsilonRule(lambda z: z + 0.1 * z.sign())]


@pytest.mark.parametrize("rule", OF_LAYERS, ids=repr)
def test_linear(rule: Rule) -> None:
    """In front of a ReLU and behind it, where rules leave out what the graph proves to be zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, D), nn.ReLU(), nn.Linear(D, 2)).double()
    lrp = LRP(model, Composite(GlobalTypeMap({nn.Linear: rule})), normalize_output=False)
    check(lrp, model, torch.randn(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("rule", OF_LAYERS, ids=repr)
def test_convolution(rule: Rule) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 2, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)).double()
    lrp = LRP(model, Composite(GlobalTypeMap({nn.Conv2d: rule})), normalize_output=False)
    check(lrp, model, torch.randn(2, 2, 2, 2, dtype=torch.float64))


class Between(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(3, D), function, nn.Linear(D, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x))).sum(1)


def attention(h: Tensor, **options: Any) -> Tensor:
    """One head: where there is a dimension of heads, the kernel is a fused one, without a second derivative."""
    q, k, v = (t.unsqueeze(1) for t in (h, h.tanh(), h))
    return F.scaled_dot_product_attention(q, k, v, **options).squeeze(1)


def masked(h: Tensor) -> Tensor:
    """Eager attention in which no token sees what comes behind it."""
    scores = h @ h.mT / 2
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ h


def gated(h: Tensor) -> Tensor:
    return h * torch.sigmoid(h)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "fused attention": attention,
    "causal attention": lambda h: attention(h, is_causal=True),
    "eager attention": lambda h: (h @ h.mT).softmax(-1) @ h,
    "masked attention": masked,
    "softmax": lambda h: h.softmax(-1),
    "log-softmax": lambda h: h.log_softmax(-1),
    "layer norm": lambda h: F.layer_norm(h, (D,)),
    "product": lambda h: h * h.tanh(),
    "gate": gated,
    "maximum": lambda h: torch.maximum(h, h.flip(1)),
    "max pool": lambda h: F.max_pool1d(h, 2).repeat_interleave(2, -1),
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "moved": lambda h: torch.cat([h[:, 1:], h[:, :1]], 1).roll(1, -1),
    "sorted": lambda h: h.sort(-1).values,
    "normed by hand": lambda h: h / h.pow(2).mean(-1, keepdim=True).add(1e-5).sqrt(),
}


COMPOSITES: dict[str, Composite] = {"zero": Composite(), "AttnLRP": AttnLRP(), "CPLRP": CPLRP()}
PAIRS = [
    (name, composite) for composite in COMPOSITES for name in FUNCTIONS if composite == "zero" or "attention" in name
]


@pytest.mark.parametrize(("name", "composite"), PAIRS)
def test_other_families(name: str, composite: str) -> None:
    torch.manual_seed(0)
    model = Between(FUNCTIONS[name]).double().eval()
    lrp = LRP(model, COMPOSITES[composite], normalize_output=False, checks=False)
    check(lrp, model, torch.randn(2, 3, 3, dtype=torch.float64))


OTHER_RULES: dict[str, tuple[str, Rule]] = {
    "ε of a softmax": ("softmax", EpsilonRule(0.1)),
    "ε of attention": ("fused attention", EpsilonRule(0.1)),
    "ε of a product": ("product", EpsilonRule(0.1)),
    "ε of a maximum": ("maximum", EpsilonRule(0.1)),
    "ε of a pool": ("max pool", EpsilonRule(0.1)),
    "ε of a norm": ("layer norm", EpsilonRule(0.1)),
    "shares of a window": ("max pool", NormRule()),
    "LN": ("layer norm", LayerNormRule()),
}
"""What a function's operators are treated by, where it is not what the 0-rule means there."""


@pytest.mark.parametrize("what", OTHER_RULES)
def test_other_rules(what: str) -> None:
    torch.manual_seed(0)
    name, rule = OTHER_RULES[what]
    model = Between(FUNCTIONS[name]).double().eval()
    lrp = LRP(model, Composite(rule, GlobalTypeMap({nn.Linear: ZeroRule()})), normalize_output=False, checks=False)
    check(lrp, model, torch.randn(2, 3, 3, dtype=torch.float64))


BY_TYPE: dict[str, tuple[str, GlobalTypeMap]] = {
    "signal": ("gate", GlobalTypeMap({ProductLayer: ProductRule("signal")})),
    "uniform": ("gate", GlobalTypeMap({ProductLayer: ProductRule("uniform")})),
    "absorb": ("softmax", GlobalTypeMap({"softmax": SoftmaxRule("absorb")})),
    "ignore": ("softmax", GlobalTypeMap({"softmax": SoftmaxRule("ignore")})),
    "distribute": ("softmax", GlobalTypeMap({"softmax": SoftmaxRule("distribute")})),
}


@pytest.mark.parametrize("what", BY_TYPE)
def test_rules_of_their_own(what: str) -> None:
    torch.manual_seed(0)
    name, primitive = BY_TYPE[what]
    model = Between(FUNCTIONS[name]).double().eval()
    lrp = LRP(model, Composite(primitive), normalize_output=False, checks=False)
    check(lrp, model, torch.randn(2, 3, 3, dtype=torch.float64))


def test_nothing_is_nan_where_an_activation_is_at_zero() -> None:
    model = Between(F.gelu).double()
    nn.init.zeros_(model.first.bias)
    x = torch.zeros(1, 2, 3, dtype=torch.float64).requires_grad_()
    program = program_of(LRP(model), x.detach())
    (R,), _ = relevance_by_hand(program, [x], lambda y: y, differentiable=True)
    (slope,) = torch.autograd.grad(R.sum(), x)
    assert slope.isfinite().all()


def test_an_ordinary_pass_keeps_no_graph() -> None:
    model = Between(F.gelu).double()
    x = torch.randn(1, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        (R,), _ = relevance_by_hand(program_of(LRP(model), x), [x], lambda y: y)
    assert not R.requires_grad
