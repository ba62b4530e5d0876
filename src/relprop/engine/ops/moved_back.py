"""Adjoints of the commonest movements written out: a call of autograd costs more than what they do.

None: not this case, differentiate instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, data_inputs, operator_name
from relprop.engine.ops.tape import Tape

Shares = list[tuple[Node, Tensor]]
Back = Callable[[Node, Tape, Tensor], Shares]
"""(node, tape, s) -> what each of its data inputs gets of `s`, once for each time that it is read."""

_END = 2**63 - 1


def moved_back(node: Node) -> Back | None:
    """How relevance goes back through a movement of data alone, if the numbers that this reads are known."""
    back, moved = _BACK.get(operator_name(node)), set(_tensors(node))
    known = back is _expand or moved == set(node.all_input_nodes)
    return back if known and moved == set(data_inputs(node)) and not node.kwargs else None


def _tensors(node: Node) -> list[Node]:
    """What it moves, in the order in which it reads it."""
    first = node.args[0]
    return [n for n in (first if isinstance(first, (list, tuple)) else [first]) if isinstance(n, Node)]


def _transpose(node: Node, tape: Tape, s: Tensor) -> Shares:
    return [(_tensors(node)[0], s.transpose(*_given(node)))]


def _permute(node: Node, tape: Tape, s: Tensor) -> Shares:
    (dims,) = _given(node)
    order = [int(d) % s.dim() for d in dims]
    return [(_tensors(node)[0], s.permute([order.index(d) for d in range(s.dim())]))]


def _expand(node: Node, tape: Tape, s: Tensor) -> Shares:
    (x,) = _tensors(node)
    return [(x, s.sum_to_size(tape.shapes[x]))]


def _slice(node: Node, tape: Tape, s: Tensor) -> Shares:
    (x,) = _tensors(node)
    given = _given(node)
    dim, start, end, step = given + (0, None, None, 1)[len(given) :]
    whole = torch.ops.aten.slice_backward(s, tape.shapes[x], dim, start or 0, _END if end is None else end, step)
    return [(x, whole)]


def _at(node: Node, tape: Tape, s: Tensor) -> Shares:
    (x,), (dim, position) = _tensors(node), _given(node)
    first = position % tape.shapes[x][dim]
    return [(x, torch.ops.aten.slice_backward(s, tape.shapes[x], dim, first, first + 1, 1))]


def _cat(node: Node, tape: Tape, s: Tensor) -> Shares:
    dim = next(iter(_given(node)), 0)
    read = [x for x in _tensors(node) if len(tape.shapes[x]) == s.dim()]  # PyTorch leaves out what has shape (0,)
    sizes = [tape.shapes[x][dim] for x in read]
    return [(x, s.narrow(dim, end - n, n)) for x, n, end in zip(read, sizes, accumulate(sizes), strict=True)]


def _given(node: Node) -> tuple[Any, ...]:
    """The numbers of a node."""
    return node.args[1:]


_BACK: Mapping[str, Back] = {
    "transpose": _transpose, "permute": _permute, "expand": _expand, "slice": _slice, "at": _at, "cat": _cat,
}  # fmt: skip
