"""Rotary positions: which products they are, however they are written, and what they keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP, Composite, GlobalTypeMap, ProductLayer
from relprop.engine.ops.positions import by_position
from relprop.errors import RuleError
from relprop.rules import ProductRule

T, D = 5, 6
X = torch.randn(2, T, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ANGLES = torch.randn(T, D // 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
Turn = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """Features (B, T, D), turned by their positions, and a linear head; `mix` is learned."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.turn, self.first, self.last = turn, nn.Linear(4, D, bias=False), nn.Linear(T * D, 3, bias=False)
        self.mix = nn.Parameter(torch.rand(D))
        self.register_buffer("angles", ANGLES)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.turn(self, self.first(x)).flatten(1))


def halves(m: Net, h: Tensor) -> Tensor:
    angles = torch.cat([m.angles, m.angles], -1)
    turned = torch.cat([-h[..., D // 2 :], h[..., : D // 2]], -1)
    return h * angles.cos() + turned * angles.sin()


def in_heads(m: Net, h: Tensor) -> Tensor:
    heads = h.reshape(*h.shape[:2], 3, 2).transpose(1, 2)
    angles = m.angles[:, :1].repeat(1, 2)[None, None]
    turned = torch.cat([-heads[..., 1:], heads[..., :1]], -1)
    return (heads * angles.cos() + turned * angles.sin()).transpose(1, 2).flatten(2)


def apart(m: Net, h: Tensor) -> Tensor:
    even, odd, cos, sin = h[..., 0::2], h[..., 1::2], m.angles.cos(), m.angles.sin()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(2)


def complex_numbers(m: Net, h: Tensor) -> Tensor:
    turn = torch.polar(torch.ones_like(m.angles), m.angles)
    return torch.view_as_real(torch.view_as_complex(h.reshape(*h.shape[:-1], -1, 2)) * turn).flatten(2)


ROTATIONS: dict[str, Turn] = {"halves": halves, "in heads": in_heads, "apart": apart, "complex": complex_numbers}
OTHERS: dict[str, Turn] = {
    "a learned mix of a token and the one before": lambda m, h: (
        h * m.mix + nn.functional.pad(h, (0, 0, 1, -1)) * (1 - m.mix)
    ),
    "a window": lambda m, h: h * m.angles.repeat(1, 2).cos(),
    "two tensors": lambda m, h: h * m.angles.repeat(1, 2).cos() + h.relu() * m.angles.repeat(1, 2).sin(),
    "one number for each position": lambda m, h: h * m.angles[:, :1].cos() + h.flip(-1) * m.angles[:, :1].sin(),
    "numbers": lambda m, h: h * 0.3 + h.flip(-1) * 0.7,
}


@pytest.mark.parametrize("name", ROTATIONS)
def test_half_of_what_comes_stays_with_the_position(name: str) -> None:
    """All else is linear and keeps nothing, so input x gradient halves, and the sink has the other half."""
    model, x = Net(ROTATIONS[name]), X.clone().requires_grad_()
    output = model(x)
    (gradient,) = torch.autograd.grad(output[:, 1].sum(), x)
    expl = LRP(model, AttnLRP(rope="half"), normalize_output=False)(X, target=1, audit=True, positions=True)
    assert_close(expl.relevance, X * gradient / 2, rtol=1e-7)
    assert expl.ledger is not None
    assert expl.ledger.sinks["rotary"] == pytest.approx(float(output[:, 1].sum().detach()) / 2, rel=1e-7)
    assert expl.ledger.imbalance < 1e-8
    turned = model.turn(model, model.first(X)).flatten(1)
    by_place = (turned * model.last.weight[1]).reshape(2, T, D).sum(-1) / 2
    assert_close(expl.positions(), by_place.detach(), rtol=1e-7)


@pytest.mark.parametrize("name", OTHERS)
def test_other_products_with_constants_keep_nothing(name: str) -> None:
    model = Net(OTHERS[name])
    half, constant = (LRP(model, AttnLRP(rope=rope))(X, target=1, audit=True) for rope in ("half", "constant"))
    assert "rotary" not in half.ledger.sinks
    assert torch.equal(half.relevance, constant.relevance)


def test_the_rule_prints_only_where_it_says_something() -> None:
    assert repr(ProductRule()) == "ProductRule(share='uniform')"
    assert repr(ProductRule(rope="half")) == "ProductRule(share='uniform', rope='half')"
    assert "rope='half'" in repr(LRP(Net(halves), AttnLRP(rope="half")))


def test_refusals() -> None:
    with pytest.raises(RuleError, match="rope='third' is none of constant, half"):
        ProductRule(rope="third")  # type: ignore[arg-type]
    with pytest.raises(RuleError, match="takes a rule for affine layers"):
        LRP(Net(halves), Composite(GlobalTypeMap({nn.Linear: ProductRule(rope="half")})))(X)


@pytest.mark.parametrize("rope", ["half", "constant"])
def test_checkpoints_and_several_targets(rope: str) -> None:
    model, composite = Net(in_heads), Composite(GlobalTypeMap({ProductLayer: ProductRule(rope=rope)}))
    expected = [LRP(model, composite)(X, target=k).relevance for k in range(3)]
    for found in (LRP(model, composite, checkpoint=True), LRP(model, composite)):
        for one, other in zip(found.each(X, targets=[0, 1, 2], chunk=2), expected, strict=True):
            assert_close(one.relevance, other, rtol=1e-9)


@pytest.mark.parametrize(
    ("kept", "factor", "shape", "summed"),
    [
        ((2, 3, T, D), (1, 1, T, D), (2, T, D), (1,)),
        ((2, T, 3, D), (1, T, 1, D), (2, T, D), (2,)),
        ((2, T, 3, D), (2, T, 1, D), (2, T, D), (2,)),
        ((2, 3, T, D), (T, D), (2, T, D), (1,)),
        ((2, T, D), (T, D), (2, T, D), ()),
        ((T, 3, D), (T, 1, D), (1, T, D), (1,)),
    ],
)
def test_positions_are_where_the_factor_says(
    kept: tuple[int, ...], factor: tuple[int, ...], shape: tuple[int, ...], summed: tuple[int, ...]
) -> None:
    R = torch.rand(kept)
    found = by_position(R, torch.rand(factor))
    assert tuple(found.shape) == shape
    assert_close(found, (R.sum(summed) if summed else R).reshape(shape), rtol=1e-6)
