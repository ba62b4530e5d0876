"""Embeddings rewritten so that relevance is read as ids came: one entry for each id, in the order of the input.

embedding(transposed ids)    -> the transposed embedding
embedding(reshaped ids)      -> the reshaped embedding
embedding(cat(ids, others))  -> cat(embedding(ids), embedding(others))
embedding_bag(ids)           -> embedding, and the bag's sum, mean or maximum
one-hot rows as numbers      -> categories, also of ids[..., None] == arange(V)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, fake_value, is_floating, operator_name
from relprop.engine.ops.analysis import remove_dead
from relprop.engine.ops.ids import Ids, compared_with_all, is_integer
from relprop.engine.rewrites.rewriting import arguments, changed, insert, positional

aten = torch.ops.aten

TRANSPOSED = {"transpose", "swapaxes", "permute", "t", "numpy_T", "mT"}
"""Operators that reorder dimensions."""

RESHAPED = {"view", "reshape", "flatten", "unflatten"}
"""Operators that leave the order of entries as it is."""

UNCHANGED = {"contiguous", "clone", "alias", "to", "_to_copy", "detach"}


def embed_ids_as_given(graph: Graph) -> Graph:
    """Every rewrite of the table above, where ids are those of an input."""
    for node in list(graph.operators()):
        if operator_name(node) == "embedding_bag":
            _write_out_bag(graph, node)
    ids = Ids(graph)
    for node in list(graph.operators()):
        if operator_name(node) == "embedding" and ids.of(arguments(node)["indices"]):
            embedded = _embedded(graph, node, arguments(node)["indices"], fake_value(node))
            if embedded is not node:
                node.replace_all_uses_with(embedded)
        elif operator_name(node) in {"to", "_to_copy", "scatter"} and is_floating(node) and _is_one_hot(node, ids):
            _read_behind(graph, node)
    return remove_dead(graph)


def _read_behind(graph: Graph, node: Node) -> None:
    """Let `categories(node)` be read in the place of one-hot rows."""
    readers = list(node.users)
    rows = insert(graph, node.next, f.categories, node, like=node)
    for reader in readers:
        reader.replace_input_with(node, rows)


def _order(node: Node, rank: int) -> list[int]:
    """Which dimension of its input each dimension of a reordering operator's result is."""
    name, order = operator_name(node), list(range(rank))
    if name == "permute":
        return [d % rank for d in positional(node)[1]]
    if name in {"t", "numpy_T"}:
        return order[::-1]
    first, second = (-1, -2) if name == "mT" else positional(node)[1:3]
    order[first], order[second] = order[second], order[first]
    return order


def _embedded(graph: Graph, node: Node, ids: Node, value: Any) -> Node:
    """The embedding of some ids, with what only reorders or joins them behind it.

    Args:
        value: the symbolic value of the result.
    """
    source = ids
    while operator_name(source) in UNCHANGED and is_integer(positional(source)[0]):
        source = positional(source)[0]
    name = operator_name(source)
    if name in TRANSPOSED and isinstance(value, Tensor):
        rank = value.dim() - 1
        order = _order(source, rank)
        inverse = [order.index(d) for d in range(rank)]
        inner = _embedded(graph, node, positional(source)[0], value.permute(*inverse, rank))
        return _made(graph, node, aten.permute.default, inner, [*order, rank], value=value)
    sizes = [n if isinstance(n, int) else -1 for n in value.shape] if isinstance(value, Tensor) else []
    if name in RESHAPED and sizes.count(-1) == 1 and is_integer(positional(source)[0]):
        shape = fake_value(positional(source)[0]).shape
        inner = _embedded(graph, node, positional(source)[0], value.new_empty(*shape, value.shape[-1]))
        return _made(graph, node, aten.reshape.default, inner, sizes, value=value)
    if name in {"cat", "concat", "concatenate"} and isinstance(value, Tensor):
        given = arguments(source)
        parts, dim = given["tensors"], int(given["dim"]) % (value.dim() - 1)
        shapes = [(*fake_value(p).shape, value.shape[-1]) for p in parts]
        embedded = [_embedded(graph, node, p, value.new_empty(s)) for p, s in zip(parts, shapes, strict=True)]
        return _made(graph, node, aten.cat.default, embedded, dim, value=value)
    if source is arguments(node)["indices"]:
        return node
    new = changed(graph, node, node, like=node, indices=source)
    new.meta["val"] = value
    return new


def _made(graph: Graph, before: Node, function: Any, *args: Any, value: Any) -> Node:
    node = insert(graph, before, function, *args, like=before)
    node.meta["val"] = value
    return node


def _is_one_hot(node: Node, ids: Ids) -> bool:
    """A float cast of `one_hot(ids)`, or ones that were put where the ids say."""
    if operator_name(node) == "scatter":
        base, _, indices, value = (*positional(node), None)[:4]
        return isinstance(value, (int, float)) and not ids.varies(base) and bool(ids.of(indices))
    source = positional(node)[0]
    while isinstance(source, Node) and operator_name(source) in {*UNCHANGED, "transpose", "permute", "reshape"}:
        source = positional(source)[0]
    if not isinstance(source, Node):
        return False
    if operator_name(source) == "eq":
        return len(ids.of(compared_with_all(source))) > 0 and sum(map(ids.varies, positional(source)[:2])) == 1
    return operator_name(source) == "one_hot" and bool(ids.of(positional(source)[0]))


BAG_MODES = ("sum", "mean", "max")


def _write_out_bag(graph: Graph, node: Node) -> None:
    """`embedding_bag` of ids (B, T), as an embedding (B, T, D) and a sum, mean or maximum over T.

    A bag with offsets of its own, or with a padding id, stays what it is.
    """
    given = arguments(node)
    flat, offsets = given["indices"], given["offsets"]
    rows = [user for user in node.users if operator_name(user) == "getitem" and positional(user)[1] == 0]
    whole = operator_name(flat) in {"reshape", "view"} and operator_name(offsets) == "arange"
    ids = positional(flat)[0] if whole else flat
    shape = fake_value(ids).shape
    if len(rows) != 1 or len(shape) != 2 or given["padding_idx"] is not None or given["scale_grad_by_freq"]:
        return
    (row,), value = rows, fake_value(rows[0])
    embedded = _made(
        graph, node, aten.embedding.default, given["weight"], ids, value=value.new_empty(*shape, value.shape[-1])
    )
    weights = given["per_sample_weights"]
    if isinstance(weights, Node):
        by_bag = positional(weights)[0] if operator_name(weights) in {"reshape", "view"} else weights
        column = _made(
            graph, node, aten.unsqueeze.default, by_bag, -1, value=fake_value(by_bag).reshape(*shape).unsqueeze(-1)
        )
        embedded = _made(graph, node, aten.mul.Tensor, embedded, column, value=fake_value(embedded))
    how = {"sum": aten.sum.dim_IntList, "mean": aten.mean.dim, "max": aten.amax.default}[BAG_MODES[given["mode"]]]
    row.replace_all_uses_with(_made(graph, node, how, embedded, [1], value=value))
