"""Layers: what the rows of a table are, and what composites assign rules to.

A layer is one call of a leaf module (a convolution, a ReLU, a batch norm), or one functional operator outside of any
leaf module (a residual addition, `F.relu`). Functional reshaping is no layer: relevance just moves through it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from relprop.engine.graph.graph import Graph, Node, data_inputs, info, operator_name
from relprop.engine.graph.scripted import is_script
from relprop.engine.layers.kinds import JOINED, PASSING, LayerType, ModuleType, type_matches
from relprop.engine.ops import lookup
from relprop.engine.ops.analysis import needs_rule
from relprop.engine.ops.product import is_product
from relprop.engine.ops.registry import op_of
from relprop.engine.ops.units import unit_of
from relprop.engine.rewrites.chains import is_leaf, is_sequential, is_torchs, plain_type, takers


@dataclass(frozen=True)
class Layer:
    """One row.

    Attributes:
        name: module path; for a functional operator the path of the module it is called in, a colon, and the operator.
        index: position among the layers in order of execution: (i,), or one number per level of nesting.
        label: how the row shows the layer.
        module_type: class of the module; None for a functional operator.
        operators: names of the captured operators that it consists of, and of those that they were taught after. Empty
            before a capture.
        nodes: its data operators. Empty before a capture, and for modules that leave none (`nn.Identity`).
        fused_into: name of the layer that it became a part of.
    """

    name: str
    index: tuple[int, ...]
    label: str
    module_type: type[nn.Module] | None
    operators: frozenset[str] = frozenset()
    nodes: tuple[Node, ...] = field(default=(), repr=False)
    fused_into: str | None = None

    @property
    def row(self) -> str:
        """`name: label`; a functional operator's name says it all."""
        if ":" in self.name:
            return self.name
        return f"{self.name}: {self.label}" if self.name else self.label

    @property
    def passes(self) -> bool:
        """Relevance goes through unchanged, whatever the rule."""
        return PASSING.matches(self.module_type, self.operators)

    def is_a(self, kind: LayerType) -> bool:
        """Of a module class, consisting of an operator, or in a group of both."""
        return type_matches(kind, self.module_type, self.operators)


def layers_of_modules(model: nn.Module, *, flatten: bool = True, fuse: bool = True) -> list[Layer]:
    """The leaf modules in order of registration, which for nested `nn.Sequential` is that of execution.

    Args:
        flatten: number the layers through, instead of per container.
        fuse: mark batch norms that canonization fuses into the layer before them.
    """
    leaves = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if is_leaf(module) and ".parametrizations." not in f".{name}."
    ]
    rows = [Layer(name, (), describe(module), plain_type(module)) for name, module in leaves]
    if fuse and is_sequential(model):
        rows = _mark_fused(rows, [m for _, m in leaves])
    return number(rows, flatten)


def layers_of_graph(graph: Graph, reached: Iterable[Node], model: nn.Module, *, flatten: bool = True) -> list[Layer]:
    """The layers of a captured model, in order of execution."""
    rows = _rows(graph, set(reached), dict(model.named_modules()))
    if is_sequential(model):
        rows = _by_module(model, rows)
    return number(rows, flatten)


def number(rows: Sequence[Layer], flatten: bool) -> list[Layer]:
    """Give each row its index: its position, or its position at every level of the module tree."""
    if flatten:
        return [replace(row, index=(i,)) for i, row in enumerate(rows)]
    positions: dict[tuple[str, ...], dict[str, int]] = {}
    numbered = []
    for row in rows:
        path, _, operator = row.name.partition(":")
        parts = [*(path.split(".") if path else []), *([":" + operator] if operator else [])] or [""]
        index = []
        for depth, name in enumerate(parts):
            siblings = positions.setdefault(tuple(parts[:depth]), {})
            index.append(siblings.setdefault(name, len(siblings)))
        numbered.append(replace(row, index=tuple(index)))
    return numbered


def describe(module: nn.Module) -> str:
    """`Conv2d(3, 8, kernel_size=(3, 3))`: the module's own repr, where it has one line."""
    kind, own = plain_type(module), type(module)
    if is_script(module) and kind is not own:  # says nothing of itself but its name
        return kind.__name__
    shown = repr(module)
    if "\n" not in shown:
        return shown
    return f"{kind.__name__}({module.extra_repr()})" if kind is not own else kind.__name__


def _rows(graph: Graph, reached: set[Node], modules: Mapping[str, nn.Module]) -> list[Layer]:
    units = _single_operator_modules(graph, reached, modules)
    groups: dict[tuple[str, int, str], list[Node]] = {}
    for node in graph.operators():
        key = _row_key(node, modules, units) if node in reached and needs_rule(node) else None
        if key is not None:
            groups.setdefault(key, []).append(node)
    rows, repeated = [], Counter[tuple[str, str]]()
    for (path, call, origin), nodes in groups.items():
        operator = info(nodes[0]).operator
        module = modules[path] if not origin else None
        if origin:  # a name of its own for each: add, add_1, add_2
            label = f"{operator}_{repeated[path, operator]}" if repeated[path, operator] else operator
            repeated[path, operator] += 1
            name = f"{path}:{label}"
        else:
            label, name = describe(modules[path]), path + (f"@{call}" if call else "")
        kinds = [n for n in nodes if not _moves(n)] or nodes  # a layer that also reshapes is of its operator's kind
        operators = frozenset(name for n in kinds for name in (info(n).operator, op_of(n).like) if name)
        if any(op_of(n).convolves and is_product(n) for n in kinds):
            operators = frozenset({"mul"})  # a convolution whose kernel is data is a product of two
        if any(operator_name(n) == "add" and len(data_inputs(n)) > 1 for n in kinds):
            operators |= {JOINED}
        rows.append(Layer(name, (), label, _type_of_row(module, modules.get(path), operator), operators, tuple(nodes)))
    return _with_fused(rows, modules)


def _type_of_row(module: nn.Module | None, around: nn.Module | None, operator: str) -> ModuleType:
    """The class of a row's module.

    An operator inside of a subclass of PyTorch's own layer is that layer, where it does what the layer does: the
    convolution of a convolution that also pads and activates.
    """
    if module is not None:
        return plain_type(module)
    if around is None or not is_leaf(around):
        return None
    bases = [b for b in type(around).__mro__ if b.__module__.startswith("torch.nn.modules.") and b is not nn.Module]
    return plain_type(around) if any(type_matches(operator, b, frozenset()) for b in bases) else None


def _row_key(node: Node, modules: Mapping[str, nn.Module], units: set[tuple[str, int]]) -> tuple[str, int, str] | None:
    """Which row a node belongs to: (module path, call, "") or (path, call, origin); None for mere reshaping."""
    known = info(node)
    module = modules.get(known.path)
    if unit_of(node) is not None:
        return known.path, known.call, ""
    if module is not None and is_leaf(module) and (is_torchs(module) or (known.path, known.call) in units):
        return known.path, known.call, ""
    return None if _moves(node) else (known.path, known.call, known.origin)


def _single_operator_modules(
    graph: Graph, reached: set[Node], modules: Mapping[str, nn.Module]
) -> set[tuple[str, int]]:
    """Calls of users' leaf modules that do one thing, reshaping not counted: the module is the layer then."""
    counts: dict[tuple[str, int], int] = {}
    for node in graph.operators():
        if node in reached:
            key = info(node).path, info(node).call
            counts[key] = counts.get(key, 0) + (not _moves(node))
    return {key for key, n in counts.items() if n <= 1 and key[0] in modules and is_leaf(modules[key[0]])}


def _moves(node: Node) -> bool:
    op = lookup(node)
    return op is not None and op.family == "movement"


def _with_fused(rows: list[Layer], modules: Mapping[str, nn.Module]) -> list[Layer]:
    """Put a row for each fused batch norm next to the layer that it is now a part of."""
    seen: set[str] = set()

    def fused(paths: Iterable[str], row: Layer) -> list[Layer]:
        new = [path for path in paths if path and path in modules and is_leaf(modules[path]) and path not in seen]
        seen.update(new)
        known = [(path, modules[path]) for path in new]
        return [Layer(p, (), describe(m), plain_type(m), frozenset({"batch_norm"}), (), row.name) for p, m in known]

    result = []
    for row in rows:
        result += fused([path for node in row.nodes for path in info(node).absorbed], row)
        result.append(row)
        result += fused([path for node in row.nodes for path in info(node).aliases], row)
    return result


def _mark_fused(rows: list[Layer], modules: Sequence[nn.Module]) -> list[Layer]:
    return [
        row if taker is None else replace(row, fused_into=rows[taker].name)
        for row, taker in zip(rows, takers(modules), strict=True)
    ]


def _by_module(model: nn.Module, rows: list[Layer]) -> list[Layer]:
    """All leaf modules of a chain, also those that leave no operator behind."""
    captured = {row.name: row for row in rows}
    plain = layers_of_modules(model, fuse=False)
    known = [captured.get(row.name, row) for row in plain]
    extra = [row for row in rows if row.name not in {p.name for p in plain}]
    return known + extra
