"""In-place operators made functional.

`relu_(x)` becomes `relu(x)`, and whoever read `x` later reads the result. Where the written tensor is a view, or has
views that are read later, the whole program is functionalized by PyTorch instead, which is slower.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.fx import Graph as FxGraph
from torch.fx import Node

ASSERTIONS = ("_assert", "sym_constrain_range")


@dataclass
class _Memory:
    """One piece of memory: the nodes that are names of all of it, and those that are views into it."""

    whole: list[Node] = field(default_factory=list)
    views: list[Node] = field(default_factory=list)
    fresh: bool = True


def in_place_to_functional(graph: FxGraph) -> bool:
    """Replace every in-place operator by its functional form.

    Returns:
        Whether that was possible. If not, the graph is left half rewritten and must be functionalized otherwise.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    memory: dict[Node, _Memory] = {}
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and name.startswith(ASSERTIONS):
            graph.erase_node(node)
        elif _writes(node):
            if not _rename(node, memory, order):
                return False
        elif node.op == "call_function" and (owner := _seen_through(node)) is not None:
            memory[node] = memory[owner]
            (memory[node].whole if _is_dropout_off(node) else memory[node].views).append(node)
        else:
            memory[node] = _Memory(whole=[node], fresh=node.op == "call_function")
    return True


ZEROS = {
    torch.ops.aten.empty.memory_format: torch.ops.aten.zeros.default,
    torch.ops.aten.empty_like.default: torch.ops.aten.zeros_like.default,
    torch.ops.aten.new_empty.default: torch.ops.aten.new_zeros.default,
}


def empty_to_zeros(graph: FxGraph) -> None:
    """Memory that a model fills part by part starts at zero: what happens to lie there may be NaN, even times 0."""
    for node in graph.nodes:
        if node.target in ZEROS:
            node.target = ZEROS[node.target]
            if node.target is torch.ops.aten.zeros.default:
                node.kwargs = {k: v for k, v in node.kwargs.items() if k != "memory_format"}


def _rename(node: Node, memory: dict[Node, _Memory], order: dict[Node, int]) -> bool:
    """Give the result of a write a name of its own, if nothing else could see the write."""
    written, functional = node.args[0], _functional(node)
    if not isinstance(written, Node) or functional is None:
        return False
    target = memory[written]
    read_later = any(order.get(r, -1) > order[node] for view in target.views for r in view.users)
    if not target.fresh or written not in target.whole or read_later:
        return False
    node.target = functional
    for name in target.whole:
        for reader in list(name.users):
            if order.get(reader, -1) > order[node]:
                reader.replace_input_with(name, node)
    target.whole.append(node)
    memory[node] = target
    return True


def _writes(node: Node) -> bool:
    """The operator writes to its first argument (random operators that only advance a generator do not)."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return any(a.alias_info is not None and a.alias_info.is_write for a in node.target._schema.arguments)


def _functional(node: Node) -> torch._ops.OpOverload | None:
    """`aten.relu.default` for `aten.relu_.default`; None if there is none, or if several arguments are written."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    namespace, _, name = target.overloadpacket._qualified_op_name.partition("::")
    writes = sum(a.alias_info is not None and a.alias_info.is_write for a in target._schema.arguments)
    if writes != 1 or not name.endswith("_"):
        return None
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    found = getattr(packet, target._overloadname, None)
    return found if isinstance(found, torch._ops.OpOverload) else None


def _seen_through(node: Node) -> Node | None:
    """The input that the result is, or is a view of, or may be; None where it has memory of its own.

    Operators made of others, such as `reshape`, return views without saying so in their schema; what they did in the
    export says it.
    """
    inputs = node.all_input_nodes
    shared = next((a for a in inputs if _storages(a) & _storages(node)), None)
    if shared is not None or not inputs:
        return shared
    target = node.target
    declared = not isinstance(target, torch._ops.OpOverload) or any(r.alias_info for r in target._schema.returns)
    return inputs[0] if declared or _is_dropout_off(node) else None


def _is_dropout_off(node: Node) -> bool:
    """Then it returns its input itself; in the export it is a copy, which PyTorch's functionalization believes."""
    return node.target is torch.ops.aten.dropout.default and bool(node.args[1] == 0 or not node.args[2])


def _storages(node: Node) -> set[int]:
    """The pieces of memory behind the values that the export recorded."""
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return {v.untyped_storage()._cdata for v in values if isinstance(v, torch.Tensor)}
