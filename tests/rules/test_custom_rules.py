"""A rule of the user's own: each hook, against a built-in rule that means the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from support.compare import assert_close, assert_each_close, relative_l2
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, GlobalTypeMap
from relprop.rules import (
    AffineRule,
    Boost,
    Combined,
    Constant,
    EpsilonRule,
    FlatRule,
    GammaRule,
    Group,
    Term,
    WSquareRule,
    ZBoxRule,
    ZeroRule,
    keep,
    negative,
    positive,
)
from relprop.rules.stabilizer import stabilize


@dataclass(frozen=True)
class MyGamma(AffineRule):
    """Weight and bias by one hook."""

    gamma: float = 0.25

    def modify_parameters(self, parameter: Tensor) -> Tensor:
        return parameter + self.gamma * parameter.clamp(min=0)


@dataclass(frozen=True)
class MyGammaInTwoHooks(AffineRule):
    """Weight and bias by a hook each."""

    gamma: float = 0.25

    def modify_weight(self, weight: Tensor) -> Tensor:
        return weight + self.gamma * weight.clamp(min=0)

    def modify_bias(self, bias: Tensor) -> Tensor:
        return bias + self.gamma * bias.clamp(min=0)


@dataclass(frozen=True)
class MyGammaWithItsOwnBias(MyGamma):
    """A special hook wins over the common one."""

    def modify_bias(self, bias: Tensor) -> Tensor:
        return 0 * bias


@dataclass(frozen=True)
class MyEpsilon(AffineRule):
    """The denominator by a hook."""

    mine: float = 0.5

    def modify_denominator(self, z: Tensor) -> Tensor:
        return torch.where(z >= 0, z + self.mine, z - self.mine)


@dataclass(frozen=True)
class MyWSquare(AffineRule):
    """Input, weight and bias."""

    def modify_input(self, a: Tensor) -> Tensor:
        return torch.ones_like(a)

    def modify_weight(self, weight: Tensor) -> Tensor:
        return weight**2

    def modify_bias(self, bias: Tensor) -> Tensor:
        return torch.zeros_like(bias)


@dataclass(frozen=True)
class MyFlat(MyWSquare):
    """Inherits from another rule of the user's."""

    def modify_weight(self, weight: Tensor) -> Tensor:
        return torch.ones_like(weight)


class NotADataclass(ZeroRule):
    """A plain subclass of a built-in rule."""

    def modify_parameters(self, parameter: Tensor) -> Tensor:
        return parameter + 0.25 * parameter.clamp(min=0)


PAIRS = [
    (AffineRule(), ZeroRule()),
    (MyGamma(gamma=0.25), GammaRule(0.25)),
    (MyGamma(gamma=2.0, bias="ignore"), GammaRule(2.0, bias="ignore")),
    (MyGamma(gamma=2.0, stabilizer=0.3), GammaRule(2.0, stabilizer=0.3)),
    (MyGammaInTwoHooks(gamma=0.7, bias="distribute"), GammaRule(0.7, bias="distribute")),
    (MyGammaWithItsOwnBias(), GammaRule(0.25, bias="ignore")),
    (MyEpsilon(), EpsilonRule(0.5)),
    (MyEpsilon(bias="ignore"), EpsilonRule(0.5, bias="ignore")),
    (MyEpsilon(bias="distribute"), EpsilonRule(0.5, bias="distribute")),
    (MyWSquare(), WSquareRule()),
    (MyFlat(), FlatRule()),
    (NotADataclass(), GammaRule(0.25)),
]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 2, 2, stride=2),
        nn.Flatten(),
        nn.Linear(18, 3),
    ]


def relevance(rule: AffineRule, x: Tensor) -> Tensor:
    model = nn.Sequential(*layers()).double()
    composite = Composite(GlobalTypeMap({nn.Conv2d: rule, nn.Linear: rule}))
    return LRP(model, composite)(x, target=1).relevance


@pytest.mark.parametrize(("mine", "built_in"), PAIRS, ids=lambda rule: type(rule).__name__)
def test_a_users_rule_equals_the_built_in_one(mine: AffineRule, built_in: AffineRule, x: Tensor):
    R = relevance(mine, x)
    assert_close(R, relevance(built_in, x), rtol=1e-10)
    if mine != AffineRule():
        assert relative_l2(R, relevance(ZeroRule(), x)) > 1e-3  # and is not the 0-rule


def test_a_users_rule_serves_every_layer_of_a_list(x):
    model = nn.Sequential(*layers()).double()
    mine = LRP(model, [MyGamma(gamma=1.0), ZeroRule(), MyGamma(gamma=0.5), ZeroRule(), MyEpsilon()])(x, target=0)
    ours = LRP(model, [GammaRule(1.0), ZeroRule(), GammaRule(0.5), ZeroRule(), EpsilonRule(0.5)])(x, target=0)
    assert_close(mine.relevance, ours.relevance, rtol=1e-10)


def test_the_books_balance_with_a_users_rule(x):
    model = nn.Sequential(*layers()).double()
    composite = Composite(GlobalTypeMap({nn.Conv2d: MyGamma(), nn.Linear: MyEpsilon()}))
    expl = LRP(model, composite)(x, target=1, audit=True)
    assert expl.ledger.imbalance <= 1e-10
    assert expl.ledger.sinks["epsilon"] != 0


class Everything(nn.Module):
    """A step of each kind that divides by its output, if its rule does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x))
        attended = nn.functional.scaled_dot_product_attention(h, h, h)
        return self.last((attended * h).softmax(-1) * h).amax(1)


@dataclass(frozen=True)
class ZeroWithMyEpsilon(ZeroRule):
    def modify_denominator(self, z: Tensor) -> Tensor:
        return torch.where(z >= 0, z + 0.5, z - 0.5)


def test_a_users_denominator_counts_wherever_the_epsilon_rules_does() -> None:
    """In products, attention, softmaxes, normalizations and maxima as in layers with weights."""
    torch.manual_seed(0)
    model, x = Everything().double(), torch.randn(2, 5, 4, dtype=torch.float64)
    mine, ours, zero = (
        LRP(model, rule)(x, target=1).relevance for rule in (ZeroWithMyEpsilon(), EpsilonRule(0.5), ZeroRule())
    )
    assert_close(mine, ours, rtol=1e-10)
    assert relative_l2(ours, zero) > 1e-3


def test_epsilon_is_the_stabilizer() -> None:
    rule = EpsilonRule(0.1)
    assert rule.stabilizer == rule.epsilon == 0.1
    assert repr(rule) == "EpsilonRule(epsilon=0.1)"
    assert rule == EpsilonRule(0.1) != EpsilonRule(0.2)
    assert hash(rule) == hash(EpsilonRule(0.1))
    assert replace(rule, epsilon=0.2).stabilizer == 0.2
    with pytest.raises(TypeError):
        EpsilonRule(0.1, stabilizer=0.2)


@dataclass(frozen=True)
class TwoGroups(AffineRule):
    """Two groups that split contributions by their sign, with biases that no function's name tells apart."""

    def groups(self) -> tuple[Group, ...]:
        boosted = Group((Term(positive, positive, Boost(0.5)), Term(negative, negative, None)), 1.5)
        combined = Combined(((1.0, positive), (0.5, negative)))
        return boosted, Group((Term(positive, negative, combined), Term(negative, positive, None)), -0.5)


def test_any_function_may_modify_the_bias_in_front_of_a_relu() -> None:
    """R = Σ_g coef_g Σ_j (contributions of sign g)_ij / (their sum + f_g(b_j)) · R_j, where z_j > 0."""
    torch.manual_seed(0)
    first, last = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    rules = [TwoGroups(stabilizer=0.0), ZeroRule(), ZeroRule(stabilizer=0.0)]
    found = LRP(nn.Sequential(first, nn.ReLU(), last), rules, normalize_output=False)(x, target=1)
    w, b = first.weight, first.bias
    R_out = first(x).relu() * last.weight[1]
    parts = x[:, None] * w
    up = parts.clamp(min=0) / (parts.clamp(min=0).sum(-1) + b + 0.5 * b.clamp(min=0))[..., None]
    down = parts.clamp(max=0) / (parts.clamp(max=0).sum(-1) + b.clamp(min=0) + 0.5 * b.clamp(max=0))[..., None]
    assert_close(found.relevance, ((1.5 * up - 0.5 * down) * R_out[..., None]).sum(1).detach(), rtol=1e-9)


BOUNDED: dict[str, tuple[nn.Module, tuple[int, ...], tuple[int, ...]]] = {
    "features": (nn.Linear(3, 4), (3,), (3,)),
    "tokens": (nn.Linear(3, 4), (5, 3), (3,)),
    "signals": (nn.Conv1d(3, 4, 2), (3, 5), (3, 1)),
    "pictures": (nn.Conv2d(3, 4, 2), (3, 5, 5), (3, 1, 1)),
}


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", BOUNDED)
def test_bounds_per_channel_and_per_sample(kind: str, batch: int) -> None:
    """Each sample is explained with its own bounds, as it is alone, also where there are as many as channels."""
    torch.manual_seed(0)
    layer, shape, bound = BOUNDED[kind]
    model = nn.Sequential(layer, nn.Flatten()).double()
    x = torch.rand(batch, *shape, dtype=torch.float64)
    tail = (1,) * (len(shape) - len(bound)) + bound
    for low in (-torch.rand(bound, dtype=torch.float64), -torch.rand(batch, *tail, dtype=torch.float64)):
        high = 2.0 - low
        together = LRP(model, [ZBoxRule(low, high), ZeroRule()])(x, target=1).relevance
        for k in range(batch):
            own = [t[k] if low.dim() > len(shape) else t for t in (low, high)]
            alone = LRP(model, [ZBoxRule(*own), ZeroRule()])(x[k : k + 1], target=1).relevance
            assert_close(together[k : k + 1], alone, rtol=1e-10)


def test_a_rule_is_a_value():
    assert MyGamma(gamma=0.5) == MyGamma(gamma=0.5) != MyGamma(gamma=0.25)
    assert GammaRule(0.25) == GammaRule() != GammaRule(0.25, bias="ignore")
    assert hash(GammaRule(0.25)) == hash(GammaRule())
    assert repr(MyGamma(gamma=0.5)) == "MyGamma(gamma=0.5)"
    with pytest.raises(AttributeError):
        GammaRule().gamma = 1.0


def test_the_sign_of_zero_is_positive() -> None:
    """Also of a zero that was computed as -0: a denominator of either zero is ε."""
    z = torch.tensor([-0.0, 0.0, -1e-12, 1e-12, -2.0])
    expected = torch.tensor([1e-6, 1e-6, -1e-6, 1e-6, -2.0])
    assert_each_close(stabilize(z, 1e-6), expected, rtol=1e-5, atol=0)
    assert_each_close(stabilize(z.clone(), 1e-6, overwrite=True), expected, rtol=1e-5, atol=0)


@dataclass(frozen=True)
class BoxFromBelow(AffineRule):
    """`Σ_i (a_i − l) w_ij`, the part that no sample tells from another first."""

    low: float = -1.0

    def groups(self) -> tuple[Group, ...]:
        return (Group((Term(Constant(self.low), keep, None, -1.0), Term(keep, keep, None))),)


@pytest.mark.parametrize("audit", [False, True])
def test_the_order_of_terms_is_free(audit: bool) -> None:
    """R_i = Σ_j (a_i − l) w_ij / Σ_i (a_i − l) w_ij · R_j."""
    torch.manual_seed(0)
    layer, a = nn.Linear(4, 3).double(), torch.rand(5, 4, dtype=torch.float64)
    shifted = (a + 1.0) * layer.weight[1]
    found = LRP(layer, BoxFromBelow(stabilizer=0.0), normalize_output=True)(a, target=1, audit=audit).relevance
    assert_close(found, (shifted / shifted.sum(-1, keepdim=True)).detach(), rtol=1e-9)


@dataclass(frozen=True)
class Part(AffineRule):
    """One term as it is, of which a part goes on."""

    part: float = 0.3

    def groups(self) -> tuple[Group, ...]:
        return (Group((Term(),), self.part),)


@pytest.mark.parametrize("audit", [False, True])
def test_one_plain_term_shares_out_its_part(audit: bool) -> None:
    """R_i = part · Σ_j a_i w_ij / z_j · R_j."""
    torch.manual_seed(0)
    layer, a = nn.Linear(4, 3, bias=False).double(), torch.rand(5, 4, dtype=torch.float64)
    whole = LRP(layer, Part(1.0), normalize_output=False)(a, target=1).relevance
    assert_close(LRP(layer, Part(), normalize_output=False)(a, target=1, audit=audit).relevance, 0.3 * whole)
    assert_close(whole, LRP(layer, ZeroRule(), normalize_output=False)(a, target=1).relevance)
    told = LRP(nn.Sequential(layer, nn.ReLU(), nn.Linear(3, 2).double()), Part())(a, target=1, audit=True)
    assert told.ledger is not None
    assert abs(told.ledger.entries[0].sinks["rule"] / told.ledger.entries[0].received - 0.7) < 1e-9
    assert abs(told.ledger.imbalance) < 1e-9
    assert Part(1.0).unmodified
    assert not Part().unmodified
