"""`as_strided`: a tensor's memory read in another pattern, as windows that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, fake_value
from relprop.engine.rewrites.rewriting import arguments, insert, refresh


def read_in_windows(graph: Graph, node: Node) -> Node | None:
    """What lies densely in memory, read by positions. Other patterns say nothing of entries, and are refused."""
    given = arguments(node)
    x, size, stride = given["self"], [*map(_value, given["size"])], [*map(_value, given["stride"])]
    known = fake_value(x)
    if given["storage_offset"] or known.storage_offset() or not all(isinstance(n, int) for n in known.stride()):
        return None
    order = sorted(range(known.dim()), key=known.stride().__getitem__, reverse=True)
    lying = known.permute(order)
    lead = _kept(lying, size, stride)
    if not lying.is_contiguous() or not all(isinstance(n, int) for n in (*size[lead:], *stride[lead:])):
        return None
    if order != sorted(order):
        x = insert(graph, node, torch.ops.aten.permute.default, x, order)
        x.meta["val"] = lying
        refresh([x])
    return insert(graph, node, f.strided, x, lead, tuple(size[lead:]), tuple(stride[lead:]), like=node)


def _value(size: Any) -> Any:
    """A size as the export knows it: an integer, or a symbol."""
    return size.meta["val"] if isinstance(size, Node) else size


def _kept(x: Tensor, size: Sequence[Any], stride: Sequence[Any]) -> int:
    """The number of leading dimensions that stay as they are: behind them, nothing reaches into the next entry."""
    kept = 0
    for i, (n, step) in enumerate(zip(x.shape[:-1], x.stride(), strict=False)):
        behind = [*size[i + 1 :], *stride[i + 1 :]]
        if i >= len(size) or str(size[i]) != str(n) or str(stride[i]) != str(step):
            break
        if all(isinstance(m, int) for m in behind):
            last = sum((m - 1) * s for m, s in zip(size[i + 1 :], stride[i + 1 :], strict=True))
            if last >= step:
                break
            kept = i + 1
    return kept
