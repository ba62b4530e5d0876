"""What a divisor sums exponentials over: dimensions, or the places of an index, with something small added to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from relprop.engine.graph.graph import Node, is_random, operator_name, shape_of
from relprop.engine.rewrites.rewriting import arguments, is_made_of_zeros, positional, rank_of, sizes_of
from relprop.engine.rewrites.written_out import Writer, index_for_each

RESHAPED = {"view", "reshape", "unsqueeze", "squeeze", "expand", "expand_as", "alias", "contiguous", "clone", "detach"}
DEEPEST = 6
"""How far back two values are compared, since the ways back through a network are many."""


@dataclass(frozen=True)
class Total:
    """What a sum runs over: dimensions, or what an index sends to one place of a dimension, read there again."""

    dims: tuple[int, ...]
    index: Node | None = None
    zeros: Node | None = None
    added: float | Node = 0.0
    least: float | None = None


def is_a(value: Any, *names: str) -> bool:
    """A node that runs one of these operators."""
    return isinstance(value, Node) and operator_name(value) in names


def unsqueezed(node: Any) -> Node | None:
    """What `x.unsqueeze(d)` or `x[:, None]` puts a dimension into; None where the node does not."""
    if not is_a(node, "unsqueeze"):
        return None
    inner: Node = positional(node)[0]
    while is_a(inner, "slice") and sizes_of(inner) == sizes_of(positional(inner)[0]):
        inner = positional(inner)[0]
    return inner


def alike(a: Any, b: Any, depth: int = DEEPEST) -> bool:
    """One value, perhaps computed twice; what is drawn twice is not."""
    if not (isinstance(a, Node) and isinstance(b, Node)):
        return type(a) is type(b) and bool(a == b)
    if a is b:
        return True
    same = a.op == b.op == "call_function" and a.target is b.target and a.kwargs == b.kwargs and not is_random(a)
    if not same or not depth or len(a.args) != len(b.args):
        return False
    return all(alike(x, y, depth - 1) for x, y in zip(a.args, b.args, strict=True))


def origin(node: Any) -> Any:
    """What a value was before it was shaped anew."""
    while is_a(node, *RESHAPED):
        node = positional(node)[0]
    return node


def is_zero(value: Any) -> bool:
    """The number 0, or a tensor of it."""
    filled = is_a(value, "full", "full_like", "scalar_tensor") and 0 in value.args[-1:]
    return is_made_of_zeros(value) or filled or (is_number(value) and value == 0)


def total_of(write: Writer, node: Any, terms: Node) -> Total | None:
    """What a divisor sums the terms over; None where it is no sum of them that each of them reads."""
    if is_a(node, "expand", "expand_as"):
        return total_of(write, positional(node)[0], terms)
    found = bounded(node, lambda inner: total_of(write, inner, terms))
    if found is not None:
        return found
    read = read_at(node)
    return sum_of_places(write, *read, terms) if read is not None else _sum_over(node, terms)


def bounded(node: Any, total_of: Callable[[Any], Total | None]) -> Total | None:
    """A sum that something small was added to, or that is kept from being 0; None where it is neither."""
    if is_a(node, "add") and not node.kwargs:
        a, b = positional(node)[:2]
        return _added(a, b, total_of) or _added(b, a, total_of)
    if is_a(node, "clamp", "clamp_min") and arguments(node).get("max") is None:
        total, least = total_of(positional(node)[0]), arguments(node)["min"]
        return replace(total, least=float(least)) if total and not total.added and is_number(least) else None
    return None


def _added(inner: Any, added: Any, total_of: Callable[[Any], Total | None]) -> Total | None:
    """A sum and what is added to it, which is a number or an exponential."""
    if not (is_number(added) or is_a(added, "exp")):
        return None
    total = total_of(inner)
    if total is None or total.least is not None or isinstance(total.added, Node):
        return None
    if is_number(added):
        return replace(total, added=total.added + added)
    return None if total.added else replace(total, added=added)


def is_number(value: Any) -> bool:
    """A number that the program holds."""
    return isinstance(value, (int, float))


def _sum_over(node: Any, terms: Node) -> Total | None:
    """A sum over dimensions, which stay, or are put back, or are the first ones, along which quotients broadcast."""
    inner = unsqueezed(node)
    dims = summed_over(node if inner is None else inner, terms)
    if dims is None:
        return None
    keeps = bool(arguments(node if inner is None else inner)["keepdim"])
    if inner is not None:
        fits = not keeps and dims == (positional(node)[1] % rank_of(terms),)
    else:
        fits = keeps or dims == tuple(range(len(dims)))
    return Total(dims) if fits else None


def summed_over(node: Any, terms: Node) -> tuple[int, ...] | None:
    """The dimensions of a sum of the terms; None where it is none."""
    # Terms are known to be weighted exponentials. A factor may be negative, so that their norm is not their sum.
    norm = (
        is_a(node, "linalg_vector_norm")
        and arguments(node)["ord"] == 1
        and is_a(terms, "exp", "softmax", "tril", "triu", "masked_fill", "where")
    )
    summed = norm or (is_a(node, "sum") and len(node.args) > 1)
    if not summed or not alike(positional(node)[0], terms):
        return None
    dims = arguments(node)["dim"]
    rank = rank_of(terms)
    return tuple(sorted(d % rank for d in ([dims] if isinstance(dims, int) else dims or range(rank))))


def read_at(node: Any) -> tuple[Any, int, Node] | None:
    """(table, dimension, index) of what is read at an index."""
    if is_a(node, "index_select", "gather"):
        return positional(node)[:3]
    if not is_a(node, "index"):
        return None
    table, indices = positional(node)[:2]
    given = [d for d, index in enumerate(indices) if index is not None]
    return (table, given[0], indices[given[0]]) if len(given) == 1 else None


def sum_of_places(write: Writer, table: Any, dim: int, index: Node, terms: Node) -> Total | None:
    """The sum of what an index sends to a place of a table of zeros, read at the same index."""
    rank = rank_of(terms)
    found = bounded(table, lambda inner: sum_of_places(write, inner, dim, index, terms))
    if found is not None:
        return found
    summed = is_a(table, "scatter_reduce") and arguments(table)["reduce"] == "sum"
    if not (is_a(table, "scatter_add", "index_add") or summed) or arguments(table).get("alpha", 1) != 1:
        return None
    zeros, into, sent, source = positional(table)[:4]
    if not (is_made_of_zeros(zeros) and into % rank == dim % rank and alike(source, terms)):
        return None
    if not (alike(sent, index) or (alike(origin(sent), origin(index)) and rank_of(origin(sent)) == 1)):
        return None
    if rank_of(sent) == 1 and rank > 1:
        sent = index_for_each(write, sent, dim % rank, terms)
    return Total((dim % rank,), sent, zeros)


def is_constant_within(shift: Node, total: Total, rank: int) -> bool:
    """Whether all terms of one sum have the same shift, so that it cancels."""
    shape = shape_of(shift)
    if shape is None:
        return False
    if all(d < rank - len(shape) or shape[d - rank + len(shape)] == 1 for d in total.dims):
        return True
    read = read_at(shift)
    if total.index is None or read is None:
        return False
    return read[1] % rank == total.dims[0] and alike(origin(read[2]), origin(total.index))


def wrapped(x: Node, dims: Any) -> tuple[int, ...]:
    """Dimensions of a value, counted from its first one."""
    return tuple(d % rank_of(x) for d in dims)
