"""A captured program made functional.

`relu_(x)` becomes `relu(x)`, and whoever read `x` later reads the result; a write to a slice, `x[:, 1:] = y`, becomes
`slice_scatter(x, y)`. Where the written tensor is another kind of view, or has views that are read later, the whole
program is functionalized by PyTorch instead, which is slower.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph as FxGraph
from torch.fx import Node

from relprop.engine.graph.regions import AUTOCAST
from relprop.engine.graph.written_out import write_out_attention

ASSERTIONS = ("_assert", "sym_constrain_range")


@dataclass
class _Memory:
    """One piece of memory: the nodes that are names of all of it, those that are views into it, and the last write."""

    whole: list[Node] = field(default_factory=list)
    views: list[Node] = field(default_factory=list)
    fresh: bool = True
    written: Node | None = None


def make_functional(exported: ExportedProgram) -> ExportedProgram:
    """The program without writes into memory, with every mask that it draws, and views that work in any memory format.

    Where the graph alone does not tell how, PyTorch functionalizes the program, which takes as long as the export.
    """
    write_out_attention(exported.graph)
    draw_masks(exported.graph)
    if not in_place_to_functional(exported.graph):
        exported = exported.run_decompositions({})
        in_place_to_functional(exported.graph)  # its assertions go
    replace_operators(exported.graph)
    return exported


def in_place_to_functional(graph: FxGraph) -> bool:
    """Replace every in-place operator by its functional form, and drop assertions.

    Returns:
        Whether that was possible. If not, the graph is as it was, and must be functionalized otherwise.
    """
    if any(_is_below_aten(node) for node in graph.nodes) or not _walk(graph, apply=False):
        return False
    return _walk(graph, apply=True)


def _is_below_aten(node: Node) -> bool:
    """A node of functorch (`vmap`), or a region under autocast: PyTorch resolves it to plain operators."""
    function = node.op == "call_function" and not isinstance(node.target, torch._ops.OperatorBase)
    return node.target is AUTOCAST or (function and "functorch" in getattr(node.target, "__module__", ""))


def _walk(graph: FxGraph, *, apply: bool) -> bool:
    """Go through the graph in order of execution, and rename, or only see whether that were possible."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    memory: dict[Node, _Memory] = {}
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and name.startswith(ASSERTIONS):
            if apply:
                graph.erase_node(node)
        elif _writes(node):
            if not _can_be_renamed(node, memory, order):
                return False
            _rename(node, memory, order, apply=apply)
        elif node.op == "call_function" and (owner := _seen_through(node)) is not None:
            memory[node] = memory[owner]
            (memory[node].whole if _is_dropout_off(node) else memory[node].views).append(node)
        else:
            memory[node] = _Memory(whole=[node], fresh=node.op == "call_function")
    return True


aten = torch.ops.aten

INSTEAD = {
    aten.empty.memory_format: aten.zeros.default,
    aten.empty_like.default: aten.zeros_like.default,
    aten.new_empty.default: aten.new_zeros.default,
    aten.zero.default: aten.zeros_like.default,
    aten.fill.Scalar: aten.full_like.default,
    aten.fill.Tensor: aten.copy.default,
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten._sparse_mm.default: aten.mm.default,
    aten._sparse_addmm.default: aten.addmm.default,
}
"""Memory that a model fills part by part starts at zero: what happens to lie there may be NaN, even times 0. What fills
memory makes a constant. A view takes its strides from the model's run, where another memory format may come along.
Sparse tensors that a model holds have been written out."""


SCATTER = {aten.slice.Tensor: aten.slice_scatter.default, aten.select.int: aten.select_scatter.default}
"""What puts a slice back into what it is a slice of."""


def replace_operators(graph: FxGraph) -> None:
    """Put the operators of `INSTEAD` in place of others."""
    for node in graph.nodes:
        if node.target in INSTEAD:
            node.target = INSTEAD[node.target]
            if node.target is aten.zeros.default:
                node.kwargs = {k: v for k, v in node.kwargs.items() if k != "memory_format"}


def draw_masks(graph: FxGraph) -> None:
    """Dropout that is on, `x · m`, with its mask `m = dropout(1)` as a value of its own, which every pass can read."""
    for node in list(graph.nodes):
        name = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
        if name.rstrip("_") not in DROPOUTS or len(node.args) < 3 or node.args[2] is not True or node.args[1] == 0:
            continue
        x = node.args[0]
        with graph.inserting_before(node):
            ones = graph.call_function(aten.ones_like.default, (x,))
            mask = graph.call_function(DROPOUTS[name.rstrip("_")], (ones, *node.args[1:]))
            node.target = aten.mul_.Tensor if name.endswith("_") else aten.mul.Tensor
            node.args = (x, mask)
        for new in (ones, mask):
            new.meta.update(node.meta, val=torch.empty_like(node.meta["val"]))


DROPOUTS = {"dropout": aten.dropout.default, "feature_dropout": aten.feature_dropout.default}


def _can_be_renamed(node: Node, memory: dict[Node, _Memory], order: dict[Node, int]) -> bool:
    """Nothing but later readers of the written tensor itself could see the write."""
    written = node.args[0]
    if not isinstance(written, Node) or _functional(node) is None:
        return False
    target = memory[written]
    read_later = any(order.get(r, -1) > order[node] for view in target.views for r in view.users)
    return target.fresh and not read_later and _slices(written, target, order) is not None


def _slices(written: Node, target: _Memory, order: dict[Node, int]) -> list[Node] | None:
    """The slices that lead from the whole to what is written, the first one first; None where it is another view."""
    found: list[Node] = []
    while written not in target.whole:
        source = written.args[0] if written.target in SCATTER else None
        late = target.written is None or order[written] > order[target.written]
        if not isinstance(source, Node) or not late:
            return None
        found.insert(0, written)
        written = source
    return found


def _rename(node: Node, memory: dict[Node, _Memory], order: dict[Node, int], *, apply: bool) -> None:
    """Give the result of a write a name of its own, which those read who read the memory later."""
    written: Node = node.args[0]  # type: ignore[assignment]
    target = memory[written]
    functional, slices = _functional(node), _slices(written, target, order) or []
    whole = node
    if apply and functional is not None:
        later = [(name, r) for name in target.whole for r in name.users if order.get(r, -1) > order[node]]
        node.args += _left_out(node, functional)
        node.target = functional
        whole = _put_back(node, slices)
        order[whole] = order[node]
        for name, reader in later:
            reader.replace_input_with(name, whole)
    (target.views if slices else target.whole).append(node)
    if whole is not node:
        target.whole.append(whole)
    target.written = node
    memory[node] = memory[whole] = target


def _put_back(node: Node, slices: list[Node]) -> Node:
    """The whole with a new value of its slice."""
    new = node
    for view in reversed(slices):
        source = view.args[0]
        assert isinstance(source, Node)
        assert isinstance(view.target, torch._ops.OpOverload)
        with node.graph.inserting_after(new):
            new = node.graph.call_function(SCATTER[view.target], (source, new, *view.args[1:]), dict(view.kwargs))
        new.meta.update(node.meta, val=source.meta["val"])
    return new


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
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    return next((found for found in overloads if _signature(found) == _signature(target)), None)


def _signature(target: torch._ops.OpOverload) -> list[tuple[str, str, bool]]:
    """Names and types of the arguments, by which the two forms of an operator are known to belong together."""
    return [(a.name, str(a.type), a.kwarg_only) for a in target._schema.arguments]


def _left_out(node: Node, functional: torch._ops.OpOverload) -> tuple[Any, ...]:
    """Arguments that only the writing form has defaults of, as `bernoulli_()` has."""
    assert isinstance(node.target, torch._ops.OpOverload)
    given, wanted = node.target._schema.arguments[len(node.args) :], functional._schema.arguments[len(node.args) :]
    return tuple(
        a.default_value for a, b in zip(given, wanted, strict=True) if a.has_default_value() > b.has_default_value()
    )


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
