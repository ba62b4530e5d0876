"""Fused attention that drops weights out, written out, so that the mask that it draws is a value of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph as FxGraph
from torch.fx import Node
from torch.fx.node import map_arg

aten = torch.ops.aten
FUSED = aten.scaled_dot_product_attention.default


def write_out_attention(graph: FxGraph) -> None:
    """Put products, a softmax and a dropout in the place of every fused attention with dropout in it.

    The fused kernel keeps its mask to itself, and would draw another one in the next pass.
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is FUSED and _drops(node):
            with graph.inserting_before(node):
                node.replace_all_uses_with(_written_out(graph, node))
            graph.erase_node(node)


def _drops(node: Node) -> bool:
    p = _given(node)["dropout_p"]
    return isinstance(p, (int, float)) and p > 0


def _given(node: Node) -> dict[str, Any]:
    known = FUSED._schema.arguments
    defaults = {a.name: a.default_value for a in known if a.has_default_value()}
    return defaults | dict(zip((a.name for a in known), node.args, strict=False)) | dict(node.kwargs)


def _written_out(graph: FxGraph, node: Node) -> Node:
    """`dropout(softmax(q kᵀ · scale + mask)) v`."""
    given = _given(node)
    q, k, v, mask = (given[name] for name in ("query", "key", "value", "attn_mask"))

    def call(target: Any, *args: Any, **kwargs: Any) -> Node:
        made = graph.call_function(target, args, kwargs)
        made.meta.update(node.meta, val=target(*map_arg(args, _value), **map_arg(kwargs, _value)))
        return made

    if given["enable_gqa"]:
        repeats = [_value(q).shape[-3] // _value(x).shape[-3] for x in (k, v)]
        k, v = (call(aten.repeat_interleave.self_int, x, n, -3) for x, n in zip((k, v), repeats, strict=True))
    scale = _value(q).shape[-1] ** -0.5 if given["scale"] is None else given["scale"]
    scores = call(aten.mul.Tensor, call(aten.matmul.default, q, call(aten.transpose.int, k, -2, -1)), scale)
    if given["is_causal"]:
        seen = call(aten.tril.default, call(aten.ones_like.default, scores, dtype=torch.bool))
        scores = call(aten.masked_fill.Scalar, scores, call(aten.logical_not.default, seen), -torch.inf)
    if mask is not None and _value(mask).dtype == torch.bool:
        scores = call(aten.masked_fill.Scalar, scores, call(aten.logical_not.default, mask), -torch.inf)
    elif mask is not None:
        scores = call(aten.add.Tensor, scores, mask)
    weights = call(aten.softmax.int, scores, -1)
    return call(aten.matmul.default, call(aten.dropout.default, weights, given["dropout_p"], True), v)


def _value(node: Node) -> Any:
    return node.meta["val"]
