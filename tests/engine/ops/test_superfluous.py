"""What the graph makes superfluous is left out, and the answer stays what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import CPLRP, AttnLRP, Composite, GlobalTypeMap, LayerMap
from relprop.engine.ops import affine, simplify, terms
from relprop.engine.ops.affine import AffineStep
from relprop.rules import (
    AffineRule,
    AlphaBetaRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    GeneralizedGammaRule,
    Rule,
    WSquareRule,
    ZBoxRule,
    ZPlusRule,
)

D = 8
RULES: list[Rule] = [
    EpsilonRule(0.1),
    GammaRule(0.5),
    GeneralizedGammaRule(0.5),
    ZPlusRule(),
    AlphaBetaRule(2, 1),
    AlphaBetaRule(1, 0),
    ZBoxRule(-4.0, 4.0),
    WSquareRule(),
    FlatRule(),
]

LEFT_OUT: dict[str, tuple[object, str, Callable[..., object]]] = {
    "terms that vanish": (simplify, "without_zeros", lambda group, facts: group),
    "terms with one input": (simplify, "merged", lambda group: group),
    "a second denominator": (terms, "complement", lambda groups, facts: None),
    "outputs that a ReLU turns off": (affine, "rectifier", lambda node, plan: None),
    "rows that no relevance comes from": (affine, "live_rows", lambda node, plan: None),
}


def network() -> nn.Module:
    """Convolutions with ReLUs behind them, or not, or shared with a residual sum; inputs of one sign and of either."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(),
        nn.Conv2d(6, 6, 3), nn.Dropout(), nn.ReLU(),
        nn.Conv2d(6, 4, 3, stride=2), nn.SiLU(),
        nn.Conv2d(4, 4, 1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


@pytest.mark.parametrize("what", LEFT_OUT)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_leaving_it_out_changes_nothing(rule: Rule, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = network().double().eval(), torch.randn(3, 2, 12, 12, dtype=torch.float64)
    composite = Composite(GlobalTypeMap({nn.Conv2d: rule, nn.Linear: rule}))
    without = LRP(model, composite)(x, target=1)
    monkeypatch.setattr(*LEFT_OUT[what])
    whole = LRP(model, composite)(x, target=1)
    assert_close(without.relevance, whole.relevance, rtol=1e-10)


def steps(lrp: LRP, name: str) -> list[AffineStep]:
    """Of the layers whose name ends so."""
    found = [s for s in lrp._latest.program.steps if s.node.meta["relprop"].path.endswith(name)]
    return [s for s in found if isinstance(s, AffineStep)]


def explained(model: nn.Module, composite: Composite, x: Tensor) -> LRP:
    lrp = LRP(model.double().eval(), composite)
    lrp(x.double(), target=0)
    return lrp


def test_a_relu_stands_for_the_layer_in_front_of_it() -> None:
    lrp = explained(network(), Composite(GlobalTypeMap({nn.Conv2d: AlphaBetaRule()})), torch.rand(2, 2, 12, 12))
    first, second, third, fourth = (steps(lrp, name)[0] for name in ("0", "2", "5", "7"))
    assert [s.terms.complement is not None for s in (first, second, third, fourth)] == [True, False, False, True]
    assert [s.terms.value is s.node for s in (first, second, third, fourth)] == [False, True, True, False]
    assert first.node not in lrp._latest.program.reads  # so that the ReLU may overwrite it


def test_a_layer_that_others_read_stands_for_itself() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(D, D), nn.Linear(D, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.first(x)
            return self.last(z.relu() + 0.1 * z)

    (step,) = steps(
        explained(Residual(), Composite(GlobalTypeMap({nn.Linear: ZPlusRule()})), torch.rand(2, D)), "first"
    )
    assert step.terms.value is step.node


@pytest.mark.parametrize("behind", [FlatRule(), WSquareRule()], ids=repr)
def test_relevance_where_a_relu_is_off_is_not_lost(behind: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """These rules send relevance to inputs that are zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, 3)).double()
    x = torch.randn(4, D, dtype=torch.float64)
    lrp = LRP(model, Composite(LayerMap(0, AlphaBetaRule()), LayerMap(2, behind)))
    relevance = lrp(x, target=0).relevance
    assert steps(lrp, "0")[0].terms.complement is None
    monkeypatch.setattr(affine, "rectifier", lambda node, plan: None)
    assert_close(relevance, LRP(model, lrp.composite)(x, target=0).relevance, rtol=1e-10)


def test_the_generalized_gamma_rule_is_the_gamma_rule_between_relus() -> None:
    """So it costs as much: one term."""
    model = nn.Sequential(nn.ReLU(), nn.Linear(D, D), nn.ReLU(), nn.Linear(D, 3))
    x = torch.randn(4, D)
    rules = GeneralizedGammaRule(0.5), GammaRule(0.5)
    general, gamma = (explained(model, Composite(LayerMap(1, rule)), x) for rule in rules)
    assert [len(g.terms) for g in steps(general, "1")[0].terms.groups] == [1]
    assert_close(general(x.double(), target=1).relevance, gamma(x.double(), target=1).relevance, rtol=1e-10)


class Attention(nn.Module):
    """Queries, keys and values of one projection, taken apart in one way or another."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.joint, self.out = way, nn.Linear(D, 3 * D), nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        joint = self.joint(x)
        if self.way == "chunk":
            q, k, v = joint.chunk(3, -1)
        elif self.way == "slices":
            q, k, v = joint[..., :D], joint[..., D : 2 * D], joint[..., 2 * D :]
        elif self.way == "split":
            q, k, v = joint.split([D, D, D], -1)
        else:
            q, k, v = joint.unflatten(-1, (3, D)).permute(2, 0, 1, 3).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v)).mean(1)


@pytest.mark.parametrize("rule", [GammaRule(0.5), EpsilonRule(0.1), ZPlusRule(), AlphaBetaRule()], ids=repr)
@pytest.mark.parametrize("way", ["chunk", "slices", "split", "unbind"])
def test_only_the_rows_of_values_take_part(way: str, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = Attention(way).double().eval(), torch.randn(3, 5, D, dtype=torch.float64)
    composite = Composite(*CPLRP().primitives, GlobalTypeMap({nn.Linear: rule}))
    lrp = LRP(model, composite)
    relevance = lrp(x, target=1, audit=True)
    (step,) = steps(lrp, "joint")
    assert (step.map.first, step.map.count) == (2 * D, D)
    assert relevance.ledger.imbalance < 1e-10
    shapes = {key[0]: tuple(w.shape) for key, w in lrp._latest.program.constants.modified.items()}
    assert all(shape == (D, D) for name, shape in shapes.items() if name.endswith("]"))
    monkeypatch.setattr(affine, "live_rows", lambda node, plan: None)
    whole = LRP(model, composite)
    assert_close(relevance.relevance, whole(x, target=1).relevance, rtol=1e-10)
    assert steps(whole, "joint")[0].map.weight_name == "p_joint_weight"


def test_all_rows_take_part_under_attnlrp() -> None:
    (step,) = steps(explained(Attention("chunk"), AttnLRP(), torch.randn(3, 5, D)), "joint")
    assert step.map.weight_name == "p_joint_weight"


class ByLength(nn.Module):
    """As many features as there are tokens, as relative positions have them."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.joint = nn.Embedding(9, D), nn.Linear(D, 16)

    def forward(self, ids: Tensor) -> Tensor:
        return self.joint(self.tokens(ids))[..., : ids.shape[1]].sum((1, 2))[:, None]


def test_rows_that_depend_on_the_length_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = ByLength().double()
    lrp, ids = LRP(model, Composite()), torch.randint(0, 9, (3, 7))
    lrp(ids[:, :4], target=0)
    relevance = lrp(ids, target=0).relevance
    assert len(lrp._known) == 1  # what was captured for four tokens serves seven
    monkeypatch.setattr(affine, "live_rows", lambda node, plan: None)
    assert_close(relevance, LRP(model, Composite())(ids, target=0).relevance, rtol=1e-10)


def test_rows_that_are_mixed_are_all_there() -> None:
    """A matrix over features, a sum: whoever does not merely move values needs them all."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.joint = nn.Linear(D, D)

        def forward(self, x: Tensor) -> Tensor:
            z = self.joint(x)
            return z[:, :2] + z.mean(1, keepdim=True)

    (step,) = steps(explained(Mixed(), Composite(), torch.randn(3, D)), "joint")
    assert step.map.weight_name == "p_joint_weight"


@dataclass(frozen=True)
class LargestStabilizes(ZPlusRule):
    """Its denominators look at each other."""

    def modify_denominator(self, z: Tensor) -> Tensor:
        return z + 0.25 * z.abs().max()


@dataclass(frozen=True)
class WeightsTogether(AffineRule):
    """Its weights look at each other."""

    def modify_weight(self, weight: Tensor) -> Tensor:
        return weight.clamp(min=0) + 0.1 * weight.abs().max()


NOT_LOCAL = [
    LargestStabilizes(),
    WeightsTogether(),
    EpsilonRule(lambda z: z + z.std()),
    GammaRule(stabilizer=torch.exp),
]


@pytest.mark.parametrize("rule", [*NOT_LOCAL, *RULES], ids=repr)
def test_rules_that_look_at_all_entries_get_them(rule: AffineRule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left out for them, at other positions neither."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.joint, self.first, self.last = nn.Linear(D, 3 * D), nn.Linear(D, D), nn.Linear(D, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.joint(x).chunk(3, -1)
            return self.last(self.first(F.scaled_dot_product_attention(q, k, v)).relu())[:, 0]

    torch.manual_seed(0)
    model, x = Classifier().double().eval(), torch.randn(3, 5, D, dtype=torch.float64)
    composite = Composite(*CPLRP().primitives, GlobalTypeMap({nn.Linear: rule}))
    lrp = LRP(model, composite)
    relevance = lrp(x, target=1).relevance
    assert (lrp._latest.trimmed is lrp._latest.program) == (rule in NOT_LOCAL)
    for what in ("outputs that a ReLU turns off", "rows that no relevance comes from"):
        monkeypatch.setattr(*LEFT_OUT[what])
    assert_close(relevance, LRP(model, composite)(x, target=1, audit=True).relevance, rtol=1e-10)
