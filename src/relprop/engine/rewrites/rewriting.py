"""What every graph rewrite works with: inserting operators, and reading a captured operator's arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from relprop.engine.graph.graph import Graph, Node, annotate, fake_value, info

Rewrite = Callable[[Graph, Node], Node | None]
"""(graph, node) -> what takes the node's place, None to leave it."""


def insert(
    graph: Graph,
    before: Node,
    function: Callable[..., Any],
    *args: Any,
    like: Node | None = None,
    **kwargs: Any,
) -> Node:
    """A call of `function` ahead of `before`, known as part of the same module; a data node if it is `like` one."""
    with graph.fx.inserting_before(before):
        node = graph.fx.call_function(function, args, kwargs)
    node.meta["relprop"] = replace(info(before), entry="")
    arguments = node.all_input_nodes
    annotate(node, static=all(info(a).static for a in arguments), data=False, nonneg=False)
    if like is not None:
        node.meta["val"] = fake_value(like)
        annotate(node, data=True)
    return node


def arguments(node: Node) -> dict[str, Any]:
    """A captured operator's arguments by name, defaults included."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    bound = {a.name: a.default_value for a in target._schema.arguments if a.has_default_value()}
    bound |= {a.name: value for a, value in zip(target._schema.arguments, node.args, strict=False)}
    return bound | dict(node.kwargs)
