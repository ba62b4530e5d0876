"""Relevance of parameters: what went through weights, what biases and constants kept; it adds up to the books."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from support.affine_rules import RULES
from support.by_hand import program_of, relevance_by_hand
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import CPLRP, Composite, GlobalTypeMap
from relprop.rules import EpsilonRule, FlatRule, Rule, WSquareRule, ZBoxRule, ZeroRule, ZPlusRule


def of_parameters(lrp: LRP, *inputs: Tensor) -> tuple[Mapping[str, Tensor], dict[str, float], dict[str, float]]:
    """Relevance of parameters, and by module what the books say was passed on, and what its bias or constants kept."""
    program = program_of(lrp, *inputs)
    ledger = lrp(*inputs, target=1, audit=True).ledger
    assert ledger is not None

    def one(output: Tensor) -> Tensor:
        seed = torch.zeros_like(output)
        seed[:, 1] = 1.0
        return seed

    with torch.no_grad():
        _, tape = relevance_by_hand(program, inputs, one, parameters={})
    assert tape.parameters is not None
    passed: dict[str, float] = {}
    kept: dict[str, float] = {}
    for entry in ledger:
        passed[entry.module] = passed.get(entry.module, 0.0) + entry.passed
        kept[entry.module] = kept.get(entry.module, 0.0) + entry.sinks.get("bias", 0.0)
    return tape.parameters, passed, kept


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(4, 3, 2, stride=2),
                         nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 5), nn.ReLU(),
                         nn.Linear(5, 3))  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_it_adds_up_to_the_books(rule: Rule) -> None:
    torch.manual_seed(0)
    model, x = network().double().eval(), torch.randn(2, 2, 6, 6, dtype=torch.float64)
    lrp = LRP(model, Composite(GlobalTypeMap({nn.Conv2d: rule, nn.Linear: rule})), normalize_output=True)
    found, passed, kept = of_parameters(lrp, x)
    for path in ("0", "2", "6", "8"):
        layer = model.get_submodule(path)
        assert found[f"{path}.weight"].shape == layer.weight.shape
        assert float(found[f"{path}.weight"].sum()) == pytest.approx(passed[path], abs=1e-10)
        if f"{path}.bias" in found:
            assert found[f"{path}.bias"].shape == layer.bias.shape
        assert float(found.get(f"{path}.bias", torch.zeros(1)).sum()) == pytest.approx(kept[path], abs=1e-10)
    assert any(kept.values()) == (not isinstance(rule, WSquareRule | FlatRule | ZBoxRule) and rule.bias == "absorb")


def test_a_linear_layer_worked_by_hand() -> None:
    """a = (2, 1), (1, 3); z₁ = 2 + 2 − 1 = 3 and 1 + 6 − 1 = 6 for w₁ = (1, 2), b₁ = −1, with R = 1 each.

    R_w = Σ a_i w_1i / z₁ = (2/3 + 1/6, 2/3 + 6/6) = (5/6, 5/3), R_b = −1/3 − 1/6 = −1/2: together 2.
    """
    layer = nn.Linear(2, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[5.0, 7.0], [1.0, 2.0]]))
        layer.bias.copy_(torch.tensor([3.0, -1.0]))
    x = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    found, _, _ = of_parameters(LRP(nn.Sequential(layer), ZeroRule(stabilizer=0.0), normalize_output=True), x)
    assert_close(found["0.weight"], torch.tensor([[0.0, 0.0], [5 / 6, 5 / 3]], dtype=torch.float64), rtol=1e-9)
    assert_close(found["0.bias"], torch.tensor([0.0, -0.5], dtype=torch.float64), rtol=1e-9)


def test_a_convolution_against_its_windows() -> None:
    """z⁺-rule: R_w = w⁺ Σ_{b,y,x} a⁺ s + w⁻ Σ a⁻ s over the windows that an entry of the kernel sees."""
    torch.manual_seed(0)
    layer, x = nn.Conv2d(2, 3, 2, stride=2, padding=1).double(), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    nn.init.uniform_(layer.bias, 0.5, 1.0)  # so that no denominator is 0 where a window sees negative parts alone
    R_out = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    program = program_of(LRP(nn.Sequential(layer), ZPlusRule(stabilizer=0.0)), x)
    with torch.no_grad():
        _, tape = relevance_by_hand(program, [x], lambda output: R_out, parameters={})
    w, b = layer.weight.detach().flatten(1), layer.bias.detach()
    windows = F.unfold(x, 2, stride=2, padding=1)
    parts = [(windows.clamp(min=0), w.clamp(min=0)), (windows.clamp(max=0), w.clamp(max=0))]
    z = sum(torch.einsum("bil,ji->bjl", a, v) for a, v in parts) + b.clamp(min=0)[:, None]
    s = R_out.flatten(2) / z
    expected = sum(v * torch.einsum("bil,bjl->ji", a, s) for a, v in parts)
    assert tape.parameters is not None
    assert_close(tape.parameters["0.weight"], expected.reshape(3, 2, 2, 2), rtol=1e-9)
    assert_close(tape.parameters["0.bias"], b.clamp(min=0) * s.sum((0, 2)), rtol=1e-9)


class Tokens(nn.Module):
    """Positions and a class token beside data, one layer used twice, queries, keys and values of one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.first = nn.Parameter(torch.randn(1, 4, 6)), nn.Parameter(torch.randn(1, 1, 6))
        self.joint, self.twice, self.last = nn.Linear(6, 18), nn.Linear(6, 6), nn.Linear(6, 3)
        self.norm = nn.LayerNorm(6)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.positions
        q, k, v = self.joint(self.norm(self.twice(self.twice(x)))).chunk(3, -1)
        return self.last(F.scaled_dot_product_attention(q, k, v))[:, 0]


def test_constants_repeated_layers_and_some_rows() -> None:
    torch.manual_seed(0)
    model, x = Tokens().double().eval(), torch.randn(2, 3, 6, dtype=torch.float64)
    composite = Composite(*CPLRP().primitives, GlobalTypeMap({nn.Linear: EpsilonRule(0.1)}))
    lrp = LRP(model, composite, normalize_output=True)
    found, passed, kept = of_parameters(lrp, x)
    for path in ("twice", "joint", "last"):
        assert found[f"{path}.weight"].shape == model.get_submodule(path).weight.shape
        assert float(found[f"{path}.weight"].sum()) == pytest.approx(passed[path], abs=1e-10)
        assert found[f"{path}.bias"].shape == model.get_submodule(path).bias.shape
        assert float(found[f"{path}.bias"].sum()) == pytest.approx(kept[path], abs=1e-10)
    assert not found["joint.weight"][:12].any()  # queries and keys get nothing
    assert found["joint.weight"][12:].all()
    sinks = lrp(x, target=1, audit=True).ledger.sinks
    assert found["positions"].shape == model.positions.shape
    assert float(found["positions"].sum()) == pytest.approx(sinks["positions"], abs=1e-10)
    assert found["first"].shape == model.first.shape
    assert float(found["first"].sum()) == pytest.approx(sinks["constant"], abs=1e-10)
    assert float(found["norm.bias"].sum()) == pytest.approx(kept["norm"], abs=1e-10)


def test_parameters_and_inputs_get_all_relevance() -> None:
    """What does not reach the inputs is with biases, constants and stabilizers: the books, told by parameters."""
    torch.manual_seed(0)
    model, x = Tokens().double().eval(), torch.randn(2, 3, 6, dtype=torch.float64)
    lrp = LRP(model, Composite(*CPLRP().primitives), normalize_output=True)
    found, _, _ = of_parameters(lrp, x)
    expl = lrp(x, target=1, audit=True)
    biases = sum(float(R.sum()) for name, R in found.items() if not name.endswith("weight"))
    assert biases + float(expl.relevance.sum()) + expl.ledger.sinks["epsilon"] == pytest.approx(2.0, abs=1e-8)


def test_it_is_not_told_unasked() -> None:
    model, x = network().double().eval(), torch.randn(2, 2, 6, 6, dtype=torch.float64)
    program = program_of(LRP(model), x)
    with torch.no_grad():
        asked, tape = relevance_by_hand(program, [x], lambda y: y, parameters={})
        unasked, plain = relevance_by_hand(program, [x], lambda y: y)
    assert plain.parameters is None
    assert tape.parameters
    assert_close(asked[0], unasked[0], rtol=1e-12)


@pytest.mark.parametrize("checkpoint", [False, 3])
def test_an_analyzer_tells_it(checkpoint: bool | int) -> None:
    torch.manual_seed(0)
    model, x = network().double().eval(), torch.randn(2, 2, 6, 6, dtype=torch.float64)
    lrp = LRP(model, checkpoint=checkpoint, normalize_output=True)
    by_hand, _, _ = of_parameters(lrp, x)
    told = lrp(x, target=1, parameters=True).parameters
    assert told.keys() == by_hand.keys()
    for name, R in by_hand.items():
        assert_close(told[name], R, rtol=1e-9)
