"""`nn.LSTM`, `nn.GRU`, `nn.RNN` and their cells, unrolled over the length of the sequence.

A cell becomes what its formula says, in operators that every rule knows. With `[x, h]` for concatenation:

    LSTM  i, f, o = σ(W [x, h] + b)   g = tanh(W_g [x, h] + b_g)                  c' = f·c + i·g   h' = o·tanh(c')
    GRU   r, z = σ(W [x, h] + b)      n = tanh(W_n x + b_n + r·(V_n h + d_n))     h' = (1−z)·n + z·h
    RNN                               h' = tanh(W [x, h] + b)

Products with a gate are `gated` (signal takes all), sums and linear layers are as anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_arg

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, fake_value, info, operator_name, shape_of, where_is
from relprop.engine.graph.recurrent import LONGEST, too_long
from relprop.engine.ops.analysis import analyze_operator
from relprop.engine.ops.recurrent import gated
from relprop.errors import CaptureError

aten = torch.ops.aten


def rows_of(t: Tensor, start: int, stop: int) -> Tensor:
    """Part of a weight or bias."""
    return t[start:stop]


def beside(*weights: Tensor) -> Tensor:
    """Weights of several inputs as one weight of their concatenation."""
    return torch.cat(weights, dim=1)


def sum_of(*biases: Tensor) -> Tensor:
    """Biases that act on the same values, as one."""
    return torch.stack(biases).sum(0)


def _described(node: Node) -> Any:
    value = fake_value(node)
    return (value.shape, value.dtype, value.device) if isinstance(value, Tensor) else value


class _Builder:
    """Puts operators ahead of a node, each with its symbolic value."""

    def __init__(self, graph: Graph, before: Node) -> None:
        self.graph, self.before = graph, before
        self.values: dict[str, Any] = {}

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        with self.graph.fx.inserting_before(self.before):
            node = self.graph.fx.call_function(function, args, kwargs)
        node.meta["relprop"] = replace(info(self.before), entry="", data=False, static=False, nonneg=False)
        node.meta["val"] = self._symbolic(node)
        analyze_operator(node)
        return node

    def _symbolic(self, node: Node) -> Any:
        """The node's symbolic value, made once for all steps, which differ in nothing but what they select."""
        given: Any = (*node.args[:2], 0) if node.target is aten.select.int else node.args
        args, kwargs = map_arg((given, node.kwargs), fake_value)
        key = str((node.target, map_arg((given, node.kwargs), _described)))
        if key not in self.values:
            assert callable(node.target)
            with torch.no_grad():
                self.values[key] = node.target(*args, **kwargs)
        return self.values[key]

    def add(self, *summands: Node) -> Node:
        return self(f.add, *summands, coefficients=(1,) * len(summands))

    def select(self, x: Node, dim: int, index: int) -> Node:
        return self(aten.select.int, x, dim, index)

    def cat(self, parts: Sequence[Node]) -> Node:
        return parts[0] if len(parts) == 1 else self(aten.cat.default, list(parts), -1)

    def parts(self, x: Node, count: int, size: int) -> Iterator[Node]:
        return (self(aten.slice.Tensor, x, -1, i * size, (i + 1) * size) for i in range(count))


@dataclass(frozen=True)
class _Weights:
    """One direction of one layer."""

    input: Node
    hidden: Node
    input_bias: Node | None = None
    hidden_bias: Node | None = None
    projection: Node | None = None


State = tuple[Node, ...]
"""`(h,)`, or `(h, c)` of an LSTM."""

Step = Callable[[Sequence[Node], State], State]
"""Input and state -> state. The input is given in parts, since it is concatenated with `h` anyway."""


def _linear(build: _Builder, w: _Weights, size: int, blocks: Sequence[int]) -> Callable[[Sequence[Node], Node], Node]:
    """`W [x, h] + b` for some of the cell's blocks of outputs."""
    weights, biases = [w.input, w.hidden], [b for b in (w.input_bias, w.hidden_bias) if b is not None]
    weight = build(beside, *(_blocks(build, t, size, blocks) for t in weights))
    bias = build(sum_of, *(_blocks(build, t, size, blocks) for t in biases)) if biases else None

    def layer(x: Sequence[Node], h: Node) -> Node:
        return build(aten.linear.default, build.cat([*x, h]), weight, bias)

    return layer


def _blocks(build: _Builder, t: Node, size: int, blocks: Sequence[int]) -> Node:
    found = [build(rows_of, t, i * size, (i + 1) * size) for i in blocks]
    return found[0] if len(found) == 1 else build(aten.cat.default, found, 0)


def _lstm(build: _Builder, w: _Weights, size: int) -> Step:
    gates, signal = _linear(build, w, size, (0, 1, 3)), _linear(build, w, size, (2,))

    def step(x: Sequence[Node], state: State) -> State:
        h, c = state
        i, keep, o = build.parts(build(aten.sigmoid.default, gates(x, h)), 3, size)
        g = build(aten.tanh.default, signal(x, h))
        c = build.add(build(gated, keep, c), build(gated, i, g))
        h = build(gated, o, build(aten.tanh.default, c))
        return (h if w.projection is None else build(aten.linear.default, h, w.projection, None)), c

    return step


def _gru(build: _Builder, w: _Weights, size: int) -> Step:
    gates = _linear(build, w, size, (0, 1))
    of_input, of_hidden = (_blocks(build, t, size, (2,)) for t in (w.input, w.hidden))
    input_bias, hidden_bias = (
        None if b is None else _blocks(build, b, size, (2,)) for b in (w.input_bias, w.hidden_bias)
    )
    minus = build(f.scalar, -1.0)

    def step(x: Sequence[Node], state: State) -> State:
        (h,) = state
        reset, update = build.parts(gates(x, h), 2, size)
        r, z = build(aten.sigmoid.default, reset), build(aten.sigmoid.default, update)
        renew = build(aten.sigmoid.default, build(f.scale, update, minus, None))  # 1 − z
        hidden = build(gated, r, build(aten.linear.default, h, of_hidden, hidden_bias))
        summed = build.add(build(aten.linear.default, build.cat(x), of_input, input_bias), hidden)
        n = build(aten.tanh.default, summed)
        return (build.add(build(gated, renew, n), build(gated, z, h)),)

    return step


def _rnn(activation: Any) -> Callable[[_Builder, _Weights, int], Step]:
    def cell(build: _Builder, w: _Weights, size: int) -> Step:
        linear = _linear(build, w, size, (0,))
        return lambda x, state: (build(activation, linear(x, state[0])),)

    return cell


@dataclass(frozen=True)
class _Kind:
    cell: Callable[[_Builder, _Weights, int], Step]
    blocks: int


KINDS = {
    "lstm": _Kind(_lstm, 4),
    "gru": _Kind(_gru, 3),
    "rnn_tanh": _Kind(_rnn(aten.tanh.default), 1),
    "rnn_relu": _Kind(_rnn(aten.relu.default), 1),
}


def _step(build: _Builder, kind: _Kind, w: _Weights) -> Step:
    rows, *_ = shape_of(w.input) or (0,)
    assert rows is not None
    return kind.cell(build, w, rows // kind.blocks)


def unroll_cell(graph: Graph, node: Node) -> Node | None:
    """`nn.LSTMCell` and its like: one step."""
    args: Any = node.args
    x, given, *parameters = args
    build = _Builder(graph, node)
    step = _step(build, KINDS[operator_name(node).removesuffix("_cell")], _Weights(*parameters))
    state = step([x], tuple(given) if isinstance(given, list) else (given,))
    if len(state) == 1:
        return state[0]
    _replace_readers(node, state.__getitem__)
    return None


def unroll(graph: Graph, node: Node) -> None:
    """`nn.LSTM` and its like: layers, directions and steps one after another."""
    assert isinstance(node.target, torch._ops.OpOverload)
    if node.target._overloadname != "input":
        raise CaptureError(f"{where_is(node)} reads packed sequences, which relprop does not unroll. Give padded ones.")
    args: Any = node.args
    x, given, params, has_biases, layers, _, _, bidirectional, batch_first = args
    build, kind = _Builder(graph, node), KINDS[operator_name(node)]
    directions, time = 1 + bidirectional, int(batch_first)
    weights = list(_weights(params, has_biases, layers * directions))
    initial = given if isinstance(given, list) else [given]
    sequence = [[build.select(x, time, t)] for t in range(_length(node, x, time, len(weights)))]
    final: list[State] = []
    for layer in range(layers):
        passes = []
        for i in range(layer * directions, (layer + 1) * directions):
            start = tuple(build.select(s, 0, i) for s in initial)
            states = _run(_step(build, kind, weights[i]), sequence, start, backwards=i % directions == 1)
            final.append(states[0 if i % directions == 1 else -1])
            passes.append(states)
        sequence = [[state[0] for state in states] for states in zip(*passes, strict=True)]

    def result(which: int) -> Node:
        if which == 0:
            return build(aten.stack.default, [build.cat(parts) for parts in sequence], time)
        return build(aten.stack.default, [state[which - 1] for state in final], 0)

    _replace_readers(node, result)


def _run(step: Step, sequence: Sequence[Sequence[Node]], state: State, *, backwards: bool) -> list[State]:
    """The state after each step, in the order of the sequence."""
    states = []
    for x in reversed(sequence) if backwards else sequence:
        state = step(x, state)
        states.append(state)
    return states[::-1] if backwards else states


def _replace_readers(node: Node, result: Callable[[int], Node]) -> None:
    """Let readers of `node[i]` read `result(i)`."""
    for reader in list(node.users):
        which: Any = reader.args[1]
        reader.replace_all_uses_with(result(which))


def _length(node: Node, x: Node, time: int, passes: int) -> int:
    size = fake_value(x).shape[time]
    length = size if isinstance(size, int) else size.node.maybe_as_int()  # export may have fixed a symbolic size
    if length is None:
        raise CaptureError(
            f"{where_is(node)}: the length of the sequence is not known at capture, so the network cannot be unrolled."
        )
    if length * passes > LONGEST:
        raise CaptureError(f"{where_is(node)}: {too_long(length, passes)}")
    return int(length)


def _weights(params: Sequence[Node], has_biases: bool, count: int) -> Iterator[_Weights]:
    """The parameters of each layer and direction: two weights, two biases or none, and perhaps a projection."""
    size = len(params) // count
    for i in range(count):
        first, second, *rest = params[i * size : (i + 1) * size]
        biases = [rest.pop(0), rest.pop(0)] if has_biases else [None, None]
        yield _Weights(first, second, *biases, *rest)
