"""Which outputs of a linear layer relevance comes from.

Under CP-LRP it comes from values alone, and of a joint projection to queries, keys and values only a third of the rows
takes part in the reverse pass. The graph shows it: the numbers of the rows are moved as the values are.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, fake_value, is_open
from relprop.engine.graph.run import run_node
from relprop.engine.ops.movement import MovementStep
from relprop.engine.ops.registry import op_of
from relprop.engine.ops.step import Plan

MOST_ENTRIES = 1 << 24
"""Of an output, for its rows to be followed; up to here float32 counts exactly."""


def live_rows(node: Node, plan: Plan) -> tuple[int, int] | None:
    """The first of the rows that relevance comes from, and how many there are up to the last; None: all.

    Sizes that the capture left open must not matter: the rows have to be the same for those of the example and for
    twice as large ones.

    Args:
        node: a linear layer (..., features).
    """
    if not all(_moves(reader, plan) for reader in plan.senders(node)):
        return None
    example = _open_sizes(plan, node)
    found = _rows(node, plan, example)
    if found is None:
        return None
    return found if _rows(node, plan, {e: 2 * size for e, size in example.items()}) == found else None


def _open_sizes(plan: Plan, node: Node) -> dict[Any, int]:
    """Symbol of each size that the capture left open -> its size in the example; read once for a plan."""
    if plan.sizes is None:
        values = [fake_value(n) for n in node.graph.nodes if n.op == "placeholder"]
        sizes: list[Any] = [s for value in values if isinstance(value, Tensor) for s in value.shape if is_open(s)]
        plan.sizes = {size.node.expr: size.node.hint for size in sizes if size.node.expr.is_Symbol}
    return plan.sizes


def _rows(node: Node, plan: Plan, sizes: dict[Any, int]) -> tuple[int, int] | None:
    shape = [_number(size, sizes) for size in fake_value(node).shape]
    if None in shape or prod(shape) > MOST_ENTRIES:
        return None
    rows = torch.arange(shape[-1], dtype=torch.float32).expand(shape).contiguous()  # unfolding takes no integers
    waiting, found = [(node, rows)], []
    while waiting:
        value, here = waiting.pop()
        readers = plan.senders(value)
        moved = [_moved(reader, value, here, sizes) if _moves(reader, plan) else None for reader in readers]
        if value in plan.starts or any(m is None for m in moved):
            if _corners(here) == (0, shape[-1] - 1):
                return None
            found.append(here)
        waiting += [(reader, m) for reader, m in zip(readers, moved, strict=True) if m is not None]
    ends = [tuple(map(int, here.aminmax())) for here in found if here.numel()]
    if not ends:
        return None
    first, last = min(low for low, _ in ends), max(high for _, high in ends)
    return None if last - first + 1 == shape[-1] else (first, last - first + 1)


def _corners(rows: Tensor) -> tuple[int, int] | None:
    """The first and the last entry. Mostly they are the first and the last row, if those are still there."""
    return (int(rows[(0,) * rows.dim()]), int(rows[(-1,) * rows.dim()])) if rows.numel() else None


def _moves(reader: Node, plan: Plan) -> bool:
    """It only places the values of one node elsewhere, whatever they are."""
    step = plan.steps[reader]
    op = op_of(reader)
    return isinstance(step, MovementStep) and len(step.sources) == 1 and not (op.fills or op.by_value)


def _moved(reader: Node, source: Node, rows: Tensor, sizes: dict[Any, int]) -> Tensor | None:
    """What a reader makes of the rows; None where it looks at other tensors, or changes the dtype."""
    given: dict[Node, Any] = {n: _number(fake_value(n), sizes) for n in reader.all_input_nodes}
    given[source] = rows
    if any(value is None for value in given.values()):
        return None
    moved = run_node(reader, given.__getitem__)
    return moved if isinstance(moved, Tensor) and moved.dtype == rows.dtype else None


def _number(size: Any, sizes: dict[Any, int]) -> Any:
    """A size, given those that were left open; None for what is no integer, or depends on values."""
    if isinstance(size, torch.SymInt):
        expression = size.node.expr
        if expression in sizes:  # to substitute takes ten times as long
            return sizes[expression]
        number = expression.subs(sizes)
        return int(number) if number.is_number else None
    return size if isinstance(size, int) else None
