"""`nn.LSTM`, `nn.GRU`, `nn.RNN` against Arras's rules, written as a loop over time that knows nothing of relprop.

Arras et al. (2017, 2019): sums and linear layers by the 0-rule or the ε-rule, with biases that keep their share; of a
product `gate · signal` the signal takes all relevance; `tanh` passes it on.
"""

from __future__ import annotations

from math import atanh, log, tanh
from typing import Any

import pytest
import torch
from support.arras import KINDS, STATES, B, D, H, Model, T, by_hand, network, noise
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, GlobalTypeMap
from relprop.rules import EpsilonRule, ProductRule, ZeroRule

EXACT = ZeroRule(stabilizer=1e-15)
CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True},
]


# Outputs are torch's, relevance is Arras's.


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_loop(kind: str, options: dict[str, Any]):
    made = network(kind, **options)
    x, r_out = noise(B, T, D), noise(B, T, H * (2 if made.bidirectional else 1), seed=2)
    model = Model(made)
    expl = LRP(model, EXACT)(x, target=lambda output: r_out, audit=True)
    assert_close(expl.output, model(x), rtol=1e-14)
    assert_close(expl.relevance, by_hand(kind, made, x, r_out)[0], rtol=1e-8, what=f"{kind} {options}")
    assert expl.ledger.imbalance <= 1e-10
    assert expl.ledger.input + sum(expl.ledger.sinks.values()) == pytest.approx(expl.ledger.output, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_initial_states_are_inputs(kind: str):
    """What reaches the states before the first step arrives there, in every layer and direction."""
    made = network(kind, num_layers=2, bidirectional=True)
    x, r_out = noise(B, T, D), noise(B, T, 2 * H, seed=2)
    states = tuple(0.5 * noise(B, 4, H, seed=3 + i) for i in range(STATES[kind]))
    expl = LRP(Model(made), EXACT)(x, *states, target=lambda output: r_out, audit=True)
    assert_close(expl.output, Model(made)(x, *states), rtol=1e-14)
    for name, found, expected in zip(expl.inputs, expl.relevance, by_hand(kind, made, x, r_out, states), strict=True):
        assert_close(found, expected, rtol=1e-8, what=f"{kind} {name}")
    assert expl.ledger.imbalance <= 1e-10


@pytest.mark.parametrize("kind", ["LSTM", "RNN tanh"])
def test_epsilon_rule(kind: str):
    made = network(kind, num_layers=2, bidirectional=True)
    x, r_out = noise(B, T, D), noise(B, T, 2 * H, seed=2)
    expl = LRP(Model(made), EpsilonRule(0.1))(x, target=lambda output: r_out, audit=True)
    assert_close(expl.relevance, by_hand(kind, made, x, r_out, eps=0.1)[0], rtol=1e-9)
    assert expl.ledger.imbalance <= 1e-10
    assert abs(expl.ledger.sinks["epsilon"]) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_final_states(kind: str):
    """Relevance at the final state is relevance at the last step, or at the first of the way back."""
    made, x, r = network(kind, bidirectional=True), noise(B, T, D), noise(B, 2, H, seed=2)
    in_sequence = torch.zeros(B, T, 2 * H, dtype=x.dtype)
    in_sequence[:, -1, :H], in_sequence[:, 0, H:] = r[:, 0], r[:, 1]
    at_state = LRP(Model(made, 1), EXACT)(x, target=lambda output: r)
    assert_close(at_state.output, Model(made, 1)(x), rtol=1e-14)
    assert_close(at_state.relevance, by_hand(kind, made, x, in_sequence)[0], rtol=1e-8)


def test_cell_state_of_an_lstm():
    """`h = o · tanh(c)` gives all to `c`, so relevance at c is relevance at h."""
    made, x, r = network("LSTM", num_layers=2), noise(B, T, D), noise(B, 2, H, seed=2)
    at_h, at_c = (LRP(Model(made, result), EXACT)(x, target=lambda output: r) for result in (1, 2))
    assert_close(at_c.output, Model(made, 2)(x), rtol=1e-14)
    assert_close(at_c.relevance, at_h.relevance, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_without_biases_all_of_it_arrives(kind: str):
    made = network(kind, num_layers=2, bidirectional=True, bias=False)
    expl = LRP(Model(made), EXACT, normalize_output=True)(noise(B, T, D), target=(T - 1, 1), audit=True)
    assert expl.relevance.sum((1, 2)).tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
    assert set(expl.ledger.sinks) <= {"epsilon", "constant", "bias"}
    assert sum(abs(kept) for kept in expl.ledger.sinks.values()) <= 1e-9


def test_projected_lstm():
    """`h = W_r (o · tanh(c))`: outputs are torch's, and without biases all of it arrives."""
    made = network("LSTM", num_layers=2, bidirectional=True, bias=False, proj_size=2)
    x = noise(B, T, D)
    expl = LRP(Model(made), EXACT, normalize_output=True)(x, target=(T - 1, 1), audit=True)
    assert_close(expl.output, Model(made)(x), rtol=1e-14)
    assert expl.relevance.sum((1, 2)).tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
    assert expl.ledger.imbalance <= 1e-10


# Worked by hand.

Z = log(3) / 2  # tanh(Z) = 1/2


class LastOf(nn.Module):
    def __init__(self, network: nn.RNNBase) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        sequence: Tensor = self.network(x)[0]
        return sequence[:, -1]


def small(kind: type[nn.RNNBase], blocks: int, signal: int, w: float, v: float, b: float, d: float = 0.0) -> LastOf:
    """One unit whose gates are all σ(0) = 1/2, and whose signal sees `w x + b` and `v h + d`."""
    made = kind(1, 1, batch_first=True).double().eval()
    with torch.no_grad():
        for parameter, value in zip(made.parameters(), (w, v, b, d), strict=True):
            parameter.zero_()
            assert len(parameter) == blocks
            parameter[signal] = value
    return LastOf(made)


def small_lstm() -> tuple[LastOf, Tensor]:
    """Two steps with g = tanh(Z) = 1/2: c1 = 1/4, c2 = 1/8 + 1/4. Their pre-activations Z are made of

    step 1: 3/4 input, 1/4 bias            step 2: 1/2 input, 1/4 from h1, 1/4 bias
    """
    h1 = tanh(1 / 4) / 2
    return small(nn.LSTM, 4, 2, 1.0, Z / 4 / h1, Z / 4), torch.tensor([[[3 / 4 * Z], [Z / 2]]], dtype=torch.float64)


def test_lstm_worked_by_hand():
    """h2 has 1, and so has c2 = 1/8 + 1/4, of which c1 gets 1/3 and g2 gets 2/3.

    g2 = 2/3: x2 gets 1/3, h1 gets 1/6, the bias 1/6. c1 = 1/3 + 1/6 = 1/2, all for g1, since c0 = 0.
    g1 = 1/2: x1 gets 3/8, the bias 1/8. Together 3/8 + 1/3 + 1/6 + 1/8 = 1.
    """
    model, x = small_lstm()
    expl = LRP(model)(x, target=0, audit=True)
    assert expl.output.item() == pytest.approx(tanh(3 / 8) / 2, abs=1e-12)
    assert expl.relevance.flatten().tolist() == pytest.approx([3 / 8, 1 / 3], abs=1e-7)
    assert expl.ledger.sinks["bias"] == pytest.approx(1 / 6 + 1 / 8, abs=1e-7)


def test_lstm_with_halves_worked_by_hand():
    """Every gate gets half, which ends at its pre-activation 0, so the sink is ε.

    h2 = 1: c2 gets 1/2, of which 1/6 is for f·c1 and 1/3 for i·g2; c1 gets 1/12, g2 gets 1/6.
    g2 = 1/6: x2 gets 1/12, h1 gets 1/24, so c1 gets another 1/48 and has 5/48, and g1 gets 5/96.
    g1 = 5/96: x1 gets 3/4 of that, 5/128.
    """
    model, x = small_lstm()
    halves = Composite(GlobalTypeMap({nn.LSTM: ProductRule("uniform")}))
    expl = LRP(model, halves)(x, target=0, audit=True)
    assert expl.relevance.flatten().tolist() == pytest.approx([5 / 128, 1 / 12], abs=1e-7)
    assert expl.ledger.imbalance <= 1e-7
    signals = Composite(GlobalTypeMap({"lstm": ProductRule("signal")}))
    assert_close(LRP(model, signals)(x, target=0).relevance, LRP(model)(x, target=0).relevance)


def test_gru_worked_by_hand():
    """x1 = Z, so n1 = 1/2 and h1 = 1/2·1/2 = 1/4. With v = 4Z, x2 = Z/2: n2 = tanh(Z/2 + 1/2·4Z·1/4) = 1/2.

    h2 = 1/2·1/2 + 1/2·1/4 = 1/4 + 1/8: n2 gets 2/3, h1 gets 1/3. Of n2's, x2 and h1 get a half each.
    x2 = 1/3, h1 = 1/3 + 1/3, all for n1 and so for x1 = 2/3.
    """
    model = small(nn.GRU, 3, 2, 1.0, 4 * Z, 0.0)
    expl = LRP(model)(torch.tensor([[[Z], [Z / 2]]], dtype=torch.float64), target=0)
    assert expl.output.item() == pytest.approx(3 / 8, abs=1e-12)
    assert expl.relevance.flatten().tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-7)


def test_rnn_worked_by_hand():
    """h1 = tanh(Z) = 1/2, h2 = tanh(3/2 + v/2) with v = 1: x2 gets 3/4, h1 and so x1 gets 1/4."""
    model = small(nn.RNN, 1, 0, 1.0, 1.0, 0.0)
    expl = LRP(model)(torch.tensor([[[atanh(0.5)], [1.5]]], dtype=torch.float64), target=0)
    assert expl.relevance.flatten().tolist() == pytest.approx([1 / 4, 3 / 4], abs=1e-7)
