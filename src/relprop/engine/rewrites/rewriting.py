"""What every graph rewrite works with: reading calls, inserting and replacing them.

What is inserted or read anew is analyzed at once, so that a graph's flags (`NodeInfo.data`, `static`, ...) hold between
rewrites without another pass over it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace as with_fields
from functools import cache
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch

from relprop.engine.graph.graph import Graph, Node, data_inputs, fake_value, info, operator_name
from relprop.engine.ops.analysis import analyze_operator
from relprop.engine.ops.registry import lookup


@runtime_checkable
class Rewrite(Protocol):
    """A graph as one that computes the same. Best a frozen dataclass, so that it prints and compares.

    The graph that comes back is the one to go on with. It may be the one that was given, changed: whoever calls a
    rewrite gives that one away.
    """

    def __call__(self, graph: Graph) -> Graph: ...


Lowering = Callable[[Graph, Node], Node | None]
"""(graph, node) -> what takes the node's place, None to leave it."""


def called(node: Node) -> Callable[..., Any]:
    """The function that an operator's node calls."""
    assert callable(node.target)
    return node.target


def positional(node: Node) -> tuple[Any, ...]:
    """A call's positional arguments as they are; `arguments` has them by name."""
    return node.args


def arguments(node: Node) -> dict[str, Any]:
    """A call's arguments by name, defaults included."""
    names, defaults = _parameters(node.target)
    return defaults | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


@cache
def _parameters(target: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of a function's positional parameters, and its defaults."""
    if isinstance(target, torch._ops.OpOverload):
        known = target._schema.arguments
        defaults = {a.name: a.default_value for a in known if a.has_default_value()}
        return tuple(a.name for a in known if not a.kwarg_only), defaults
    parameters = inspect.signature(target).parameters.values()
    names = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
    return names, {p.name: p.default for p in parameters if p.default is not p.empty}


def is_data(value: Any) -> TypeGuard[Node]:
    """An argument that relevance may flow to."""
    return isinstance(value, Node) and info(value).data


def sizes_of(node: Node) -> list[str]:
    """Sizes, also those that are symbols, as what can be compared without a guard."""
    return [str(n) for n in fake_value(node).shape]


def rank_of(node: Node) -> int:
    """How many dimensions a node's value has."""
    return len(fake_value(node).shape)


def is_made_of_zeros(value: Any) -> bool:
    """A tensor of zeros, which the model makes."""
    return isinstance(value, Node) and operator_name(value) in {"zeros", "zeros_like", "new_zeros"}


def insert(
    graph: Graph,
    before: Node,
    function: Callable[..., Any],
    *args: Any,
    like: Node | None = None,
    **kwargs: Any,
) -> Node:
    """A call of `function` ahead of `before`, known as part of the same module.

    Args:
        like: a node whose value has the same shape and dtype. What carries relevance needs one.
    """
    with graph.fx.inserting_before(before):
        node = graph.fx.call_function(function, args, kwargs)
    node.meta["relprop"] = with_fields(info(before), entry="")
    if like is not None:
        node.meta["val"] = fake_value(like)
    analyze_operator(node)
    return node


def changed(graph: Graph, before: Node, node: Node, *, like: Node, **changes: Any) -> Node:
    """The call of `node` once more, ahead of `before`, with some of its arguments changed."""
    names, defaults = _parameters(node.target)
    own = dict(zip(names, node.args, strict=False)) | dict(node.kwargs) | changes
    given = max((i for i, name in enumerate(names) if name in own), default=-1) + 1
    args = [own.pop(name) if name in own else defaults[name] for name in names[:given]]
    return insert(graph, before, called(node), *args, *node.args[len(names) :], like=like, **own)


def replace(graph: Graph, node: Node, new: Node) -> None:
    """Let everything that reads `node` read `new`, and erase `node` with all that only it has read."""
    readers = list(node.users)
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    unread = [node]
    while unread:
        dead = unread.pop()
        if dead.op == "call_function" and not dead.users:
            unread.extend(dead.all_input_nodes)
            graph.fx.erase_node(dead)
    refresh(readers)


def refresh(nodes: Iterable[Node]) -> None:
    """Analyze operators again whose inputs have changed, and what reads them as far as that makes a difference."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.op == "call_function":
            before = info(node)
            analyze_operator(node)
            if info(node) != before:
                waiting.extend(node.users)


def unmoved(node: Node) -> Node:
    """What a node was before it was only moved and cast."""
    while (op := lookup(node)) is not None and op.family == "movement" and len(data_inputs(node)) == 1:
        (node,) = data_inputs(node)
    return node
