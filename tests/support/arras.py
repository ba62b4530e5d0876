"""Recurrent networks with random weights, and Arras's rules for them as a loop over time that knows nothing of relprop.

Arras et al. (2017, 2019): sums and linear layers by the 0-rule or the ε-rule, with biases that keep their share; of a
product `gate · signal` the signal takes all relevance; `tanh` passes it on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

B, T, D, H = 2, 5, 3, 4
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
