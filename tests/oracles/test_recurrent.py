"""`nn.LSTM`, `nn.GRU`, `nn.RNN` against Arras's rules, written as a loop over time that knows nothing of relprop.

Arras et al. (2017, 2019): sums and linear layers by the 0-rule or the ε-rule, with biases that keep their share; of a
product `gate · signal` the signal takes all relevance; `tanh` passes it on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import atanh, log, tanh
from typing import Any

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, GlobalTypeMap
from relprop.engine.rewrites import recurrent
from relprop.errors import CaptureError
from relprop.rules import EpsilonRule, GammaRule, ProductRule, ZeroRule

B, T, D, H = 2, 5, 3, 4
EXACT = ZeroRule(stabilizer=1e-15)
CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True},
]
KINDS: dict[str, Callable[..., nn.RNNBase]] = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN tanh": nn.RNN,
    "RNN relu": lambda *args, **kwargs: nn.RNN(*args, nonlinearity="relu", **kwargs),
}
STATES = {"LSTM": 2, "GRU": 1, "RNN tanh": 1, "RNN relu": 1}


class Model(nn.Module):
    """One of the network's results: its sequence (0), or its final state (1: h, 2: c), with the batch first."""

    def __init__(self, network: nn.RNNBase, result: int = 0) -> None:
        super().__init__()
        self.network, self.result = network, result

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        own_order = x if self.network.batch_first else x.transpose(0, 1)
        given = [s.transpose(0, 1) for s in (h, c) if s is not None]
        sequence, final = self.network(own_order, *([tuple(given)] if len(given) == 2 else given))
        final = final if isinstance(final, tuple) else (final,)
        if self.result == 0:
            return sequence if self.network.batch_first else sequence.transpose(0, 1)
        return final[self.result - 1].transpose(0, 1)


def network(kind: str, seed: int = 0, **options: Any) -> nn.RNNBase:
    torch.manual_seed(seed)
    made = KINDS[kind](D, H, **({"batch_first": True} | options)).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.7)
    return made


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# The oracle.


def stabilized(z: Tensor, epsilon: float) -> Tensor:
    return z + torch.where(z >= 0, torch.full_like(z, epsilon), torch.full_like(z, -epsilon))


class Linear:
    """`z = W x + V h + b`, and its ε-rule."""

    def __init__(self, weight: Tensor, recurrent_weight: Tensor, bias: Tensor, epsilon: float) -> None:
        self.w, self.v, self.b, self.epsilon = weight, recurrent_weight, bias, epsilon

    def __call__(self, x: Tensor, h: Tensor) -> Tensor:
        return x @ self.w.T + h @ self.v.T + self.b

    def relevance(self, x: Tensor, h: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        s = r / stabilized(self(x, h), self.epsilon)
        return x * (s @ self.w), h * (s @ self.v)


def one_direction(
    kind: str, weights: list[Tensor], x: Tensor, r_out: Tensor, states: tuple[Tensor, ...], eps: float
) -> tuple[Tensor, ...]:
    """Relevance of `x` (B, T, D) and of the initial states, for relevance `r_out` (B, T, H) of the outputs."""
    walk = {"LSTM": lstm, "GRU": gru, "RNN tanh": rnn(torch.tanh), "RNN relu": rnn(torch.relu)}[kind]
    w, v = weights[:2]
    b, d = weights[2:] if len(weights) > 2 else (w.new_zeros(len(w)), w.new_zeros(len(w)))
    return walk(w, v, b, d, x, r_out, states, eps)


def lstm(w: Tensor, v: Tensor, b: Tensor, d: Tensor, x: Tensor, r_out: Tensor, states: Any, eps: float) -> Any:
    h, c = states
    blocks = zip(w.chunk(4), v.chunk(4), (b + d).chunk(4), strict=True)
    at_i, at_f, at_g, at_o = (Linear(*block, eps) for block in blocks)
    past = []
    for t in range(T):
        i, f, o = (torch.sigmoid(at(x[:, t], h)) for at in (at_i, at_f, at_o))
        g = torch.tanh(at_g(x[:, t], h))
        new = f * c + i * g
        past.append((h, c, i, f, g, new))
        h, c = o * torch.tanh(new), new
    r_x, r_h, r_c = torch.zeros_like(x), torch.zeros_like(h), torch.zeros_like(c)
    for t in reversed(range(T)):
        h, c, i, f, g, new = past[t]
        r_c = r_c + r_h + r_out[:, t]  # h = o tanh(c): to the signal
        r_g, r_c = i * g / stabilized(new, eps) * r_c, f * c / stabilized(new, eps) * r_c
        r_x[:, t], r_h = at_g.relevance(x[:, t], h, r_g)
    return r_x, r_h, r_c


def gru(w: Tensor, v: Tensor, b: Tensor, d: Tensor, x: Tensor, r_out: Tensor, states: Any, eps: float) -> Any:
    (h,) = states
    (w_r, w_z, w_n), (v_r, v_z, v_n), (b_r, b_z, b_n), (d_r, d_z, d_n) = (p.chunk(3) for p in (w, v, b, d))
    past = []
    for t in range(T):
        r = torch.sigmoid(x[:, t] @ w_r.T + b_r + h @ v_r.T + d_r)
        z = torch.sigmoid(x[:, t] @ w_z.T + b_z + h @ v_z.T + d_z)
        from_x, from_h = x[:, t] @ w_n.T + b_n, h @ v_n.T + d_n
        n = torch.tanh(from_x + r * from_h)
        new = (1 - z) * n + z * h
        past.append((h, r, z, n, from_x, from_h, new))
        h = new
    r_x, r_h = torch.zeros_like(x), torch.zeros_like(h)
    for t in reversed(range(T)):
        h, r, z, n, from_x, from_h, new = past[t]
        r_new = r_h + r_out[:, t]
        r_n = (1 - z) * n / stabilized(new, eps) * r_new
        r_h = z * h / stabilized(new, eps) * r_new
        summed = stabilized(from_x + r * from_h, eps)
        r_from_x, r_from_h = from_x / summed * r_n, r * from_h / summed * r_n
        r_x[:, t] = x[:, t] * ((r_from_x / stabilized(from_x, eps)) @ w_n)
        r_h = r_h + h * ((r_from_h / stabilized(from_h, eps)) @ v_n)
    return r_x, r_h


def rnn(activation: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def walk(w: Tensor, v: Tensor, b: Tensor, d: Tensor, x: Tensor, r_out: Tensor, states: Any, eps: float) -> Any:
        linear, (h,), past = Linear(w, v, b + d, eps), states, []
        for t in range(T):
            past.append(h)
            h = activation(linear(x[:, t], h))
        r_x, r_h = torch.zeros_like(x), torch.zeros_like(h)
        for t in reversed(range(T)):
            r_x[:, t], r_h = linear.relevance(x[:, t], past[t], r_h + r_out[:, t])
        return r_x, r_h

    return walk


def by_hand(
    kind: str, made: nn.RNNBase, x: Tensor, r_out: Tensor, states: tuple[Tensor, ...] = (), eps: float = 0.0
) -> tuple[Tensor, ...]:
    """Relevance of `x` and of the initial states (B, layers · directions, H) of the whole network."""
    directions = 2 if made.bidirectional else 1
    count = made.num_layers * directions
    states = states or tuple(torch.zeros(B, count, H, dtype=x.dtype) for _ in range(STATES[kind]))
    inputs = [x]  # of each layer
    for layer in range(made.num_layers - 1):
        first = copy.deepcopy(made)
        first.num_layers = layer + 1
        first._flat_weights = made._flat_weights[: len(made._flat_weights) * (layer + 1) // made.num_layers]
        own = tuple(s[:, : (layer + 1) * directions].transpose(0, 1).contiguous() for s in states)
        inputs.append(first(x, own if len(own) == 2 else own[0])[0].detach())
    size = len(made._flat_weights) // count
    r_states = [torch.zeros_like(s) for s in states]
    for layer in reversed(range(made.num_layers)):
        below = torch.zeros_like(inputs[layer])
        for direction in range(directions):
            k = layer * directions + direction
            flip = (lambda t: t.flip(1)) if direction else (lambda t: t)
            weights = [p.detach() for p in made._flat_weights[k * size : (k + 1) * size]]
            r = flip(r_out[..., direction * H : (direction + 1) * H])
            r_x, *rest = one_direction(kind, weights, flip(inputs[layer]), r, tuple(s[:, k] for s in states), eps)
            below += flip(r_x)
            for r_state, found in zip(r_states, rest, strict=True):
                r_state[:, k] = found
        r_out = below
    return (r_out, *r_states)


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
    expl = LRP(Model(made), EXACT)(noise(B, T, D), target=(T - 1, 1), audit=True)
    assert expl.relevance.sum((1, 2)).tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
    assert set(expl.ledger.sinks) <= {"epsilon", "constant", "bias"}
    assert sum(abs(kept) for kept in expl.ledger.sinks.values()) <= 1e-9


def test_projected_lstm():
    """`h = W_r (o · tanh(c))`: outputs are torch's, and without biases all of it arrives."""
    made = network("LSTM", num_layers=2, bidirectional=True, bias=False, proj_size=2)
    x = noise(B, T, D)
    expl = LRP(Model(made), EXACT)(x, target=(T - 1, 1), audit=True)
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


# Where such networks stand in a model.


class Classifier(nn.Module):
    """As Arras et al. have it: words, a bidirectional LSTM, and classes from its two final states."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, D)
        self.lstm = nn.LSTM(D, H, bidirectional=True)
        self.head = nn.Linear(2 * H, 3)

    def forward(self, ids: Tensor) -> Tensor:
        _, (h, _) = self.lstm(self.words(ids).transpose(0, 1))  # time first
        logits: Tensor = self.head(torch.cat([h[0], h[1]], -1))
        return logits


def test_a_text_classifier():
    torch.manual_seed(0)
    model = Classifier().double().eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lrp = LRP(model)
    for length in (5, 7, 5):  # a longer sequence is captured anew
        ids = torch.randint(11, (3, length), generator=torch.Generator().manual_seed(length))
        expl = lrp(ids, target=1, audit=True)
        assert expl.relevance.shape == (3, length, D)
        assert_close(expl.output, model(ids), rtol=1e-13)
        assert expl.ledger.imbalance <= 1e-8
        for i in range(3):
            assert_close(lrp(ids[i : i + 1], target=1).relevance, expl.relevance[i : i + 1], rtol=1e-9)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_time_first_at_the_input():
    """The first dimension of the input is time then, which the unrolled program cannot leave open."""
    made = network("GRU", batch_first=False)

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = made

        def forward(self, x: Tensor) -> Tensor:
            final: Tensor = self.gru(x)[1][0]
            return final

    lrp = LRP(TimeFirst(), EXACT)
    for length in (T, T + 2):
        x = noise(length, B, D)
        expected = LRP(Model(network("GRU"), 1), EXACT)(x.transpose(0, 1), target=(0, 2)).relevance
        assert_close(lrp(x, target=2).relevance.transpose(0, 1), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_equal_one_step(kind: type[nn.RNNCellBase]):
    name = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU", nn.RNNCell: "RNN tanh"}[kind]
    made = network(name)

    class OneStep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = kind(D, H).double()
            for own, given in zip(self.cell.parameters(), made.parameters(), strict=True):
                own.data.copy_(given.data)

        def forward(self, x: Tensor) -> Tensor:
            state = self.cell(x)
            return state[0] if isinstance(state, tuple) else state

    x, r = noise(B, D), noise(B, H, seed=2)
    expl = LRP(OneStep(), EXACT)(x, target=lambda output: r)
    whole = LRP(Model(made), EXACT)(x[:, None], target=lambda output: r[:, None])
    assert_close(expl.output, whole.output[:, 0], rtol=1e-14)
    assert_close(expl.relevance, whole.relevance[:, 0], rtol=1e-9)


def test_a_learned_initial_state_is_a_sink():
    made = network("LSTM", bias=False)

    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = made
            self.start = nn.Parameter(noise(1, 1, H, seed=5))

        def forward(self, x: Tensor) -> Tensor:
            start = self.start.expand(1, x.shape[0], H)
            sequence: Tensor = self.lstm(x, (start, start))[0]
            return sequence[:, -1]

    expl = LRP(Learned(), EXACT)(noise(B, T, D), target=0, audit=True)
    kept = sum(expl.ledger.sinks.values())
    assert abs(kept) > 1e-3
    assert expl.ledger.input + kept == pytest.approx(2.0, abs=1e-9)
    assert expl.ledger.imbalance <= 1e-10


def test_other_rules_serve_the_linear_layers():
    model, x = Model(network("LSTM")), noise(B, T, D)
    expl = LRP(model, Composite(GlobalTypeMap({nn.LSTM: GammaRule(0.25)})))(x, target=(T - 1, 0), audit=True)
    assert expl.ledger.imbalance <= 1e-8
    assert not torch.allclose(expl.relevance, LRP(model)(x, target=(T - 1, 0)).relevance, rtol=1e-2)


def test_too_long_to_unroll_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recurrent, "LONGEST", 19)
    with pytest.raises(CaptureError, match=r"network \(LSTM\): 5 steps in 4 layers and directions are 20 cells"):
        LRP(Model(network("LSTM", num_layers=2, bidirectional=True)))(noise(B, T, D), target=(0, 0))
