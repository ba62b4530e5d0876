"""Fused attention: operands as nodes of their own, and boolean masks that are made ready once."""

from __future__ import annotations

from typing import Any

import torch

from relprop.engine.graph.graph import Graph, Node, fake_value
from relprop.engine.graph.masks import attend, ready_mask
from relprop.engine.rewrites.rewriting import arguments, changed, insert

aten = torch.ops.aten
OPERANDS = ("query", "key", "value")
POSITIONAL = (*OPERANDS, "attn_mask", "dropout_p", "is_causal")


def lower_attention(graph: Graph, node: Node) -> Node | None:
    """Queries, keys and values as nodes of their own, where one node serves as several; and a boolean mask ready."""
    given = arguments(node)
    operands = {name: given[name] for name in OPERANDS}
    if len(set(operands.values())) < len(OPERANDS):
        operands = {name: insert(graph, node, aten.alias.default, x, like=x) for name, x in operands.items()}
    mask = given["attn_mask"]
    if isinstance(mask, Node) and getattr(fake_value(mask), "dtype", None) == torch.bool:
        return _under(graph, node, given | operands, mask)
    return None if operands["query"] is given["query"] else changed(graph, node, node, like=node, **operands)


def _under(graph: Graph, node: Node, given: dict[str, Any], mask: Node) -> Node:
    """The same under a mask that is made ready ahead of the first attention that reads it."""
    dtype = fake_value(given["query"]).dtype
    found = [reader for reader in mask.users if reader.target is ready_mask and reader.args[1] == dtype]
    ready = found[0] if found else insert(graph, node, ready_mask, mask, dtype, like=mask)
    args = [ready if name == "attn_mask" else given[name] for name in POSITIONAL]
    return insert(graph, node, attend, *args, like=node, scale=given["scale"], enable_gqa=given["enable_gqa"])
