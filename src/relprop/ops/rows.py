"""Which outputs of a linear layer relevance comes from.

Under CP-LRP it comes from values alone, and of a joint projection to queries, keys and values only a third of the rows
takes part in the reverse pass. The graph shows it: the numbers of the rows are moved as the values are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_arg

from relprop.graph import Node, fake_value, operator_name
from relprop.ops.movement import BY_VALUE, FILLS, MovementStep
from relprop.ops.step import Plan

MOST_ENTRIES = 1 << 24
"""Of an output, for its rows to be followed."""


def live_rows(node: Node, plan: Plan) -> tuple[int, int] | None:
    """The first of the rows that relevance comes from, and how many there are up to the last; None: all.

    Args:
        node: a linear layer (..., features).
    """
    sizes = [_number(size) for size in fake_value(node).shape]
    if not all(_moves(reader, plan) for reader in _senders(node, plan)) or torch.Size(sizes).numel() > MOST_ENTRIES:
        return None
    rows = torch.arange(sizes[-1], dtype=torch.int32).expand(sizes).contiguous()
    waiting, found = [(node, rows)], []
    while waiting:
        value, here = waiting.pop()
        for reader in _senders(value, plan):
            moved = _moved(reader, value, here) if _moves(reader, plan) else None
            if moved is None:
                found.append(here)
            else:
                waiting.append((reader, moved))
    ends = [(int(here.min()), int(here.max())) for here in found if here.numel()]
    if not ends:
        return None
    first, last = min(low for low, _ in ends), max(high for _, high in ends)
    return None if last - first + 1 == sizes[-1] else (first, last - first + 1)


def _senders(node: Node, plan: Plan) -> list[Node]:
    """Readers that relevance comes back from."""
    return [reader for reader in node.users if reader in plan.steps and node in plan.steps[reader].sources]


def _moves(reader: Node, plan: Plan) -> bool:
    """It only places the values of one node elsewhere, whatever they are."""
    step = plan.steps[reader]
    alone = isinstance(step, MovementStep) and len(step.sources) == 1
    return alone and operator_name(reader) not in FILLS | BY_VALUE


def _moved(reader: Node, source: Node, rows: Tensor) -> Tensor | None:
    """What a reader makes of the rows; None where it looks at other tensors, or changes the dtype."""
    others = [n for n in reader.all_input_nodes if n is not source]
    if any(isinstance(fake_value(n), Tensor) or _number(fake_value(n)) is None for n in others):
        return None

    def look_up(n: Node) -> Any:
        return rows if n is source else _number(fake_value(n))

    assert callable(reader.target)
    moved = reader.target(*map_arg(reader.args, look_up), **map_arg(reader.kwargs, look_up))
    return moved if isinstance(moved, Tensor) and moved.dtype == rows.dtype else None


def _number(size: Any) -> Any:
    """A size, of one that was left open that of the example; None for what is no integer."""
    if isinstance(size, torch.SymInt):
        return int(size.node.hint)
    return size if isinstance(size, int) else None
