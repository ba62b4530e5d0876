"""The captured model as data: an ATen operator graph, the live tensors it reads, and what each node is.

Nodes are `torch.fx` nodes. What relprop knows about one of them sits in `node.meta["relprop"]` as a `NodeInfo`,
and is read through the small functions of this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph as FxGraph
from torch.fx import Node
from torch.utils import _pytree as pytree

from relprop.engine.graph.operators import part

__all__ = ["Graph", "Node", "NodeInfo", "info", "operator_name", "shape_of", "where_is"]


@dataclass(frozen=True)
class NodeInfo:
    """Where a node comes from and what flows through it.

    Attributes:
        path: dotted path of the innermost module that the node belongs to, `""` for the root; of a parameter its name.
        call: how many times that module had been called before (a module may be used twice).
        module_type: class of that module.
        aliases: paths of modules whose output this node also is (a batch norm fused into it).
        absorbed: paths of modules that are now a part of it, without an output of their own (a norm in front of it);
            `""` for operators that are no module.
        operator: name of the captured operator that it is, or is a part of.
        origin: name of that operator's node.
        entry: name of the input whose token ids the node embeds; relevance is read there.
        data: relevance may flow through it: a floating point tensor that depends on an input's values.
        static: depends on parameters and constants only, so its value is computed once.
        nonneg: the graph proves that the value is never negative.
        masked: entries may be infinite, since a mask was added to it or filled in, or padding.
    """

    path: str = ""
    call: int = 0
    module_type: type[nn.Module] | None = None
    aliases: tuple[str, ...] = ()
    absorbed: tuple[str, ...] = ()
    operator: str = ""
    origin: str = ""
    entry: str = ""
    data: bool = False
    static: bool = False
    nonneg: bool = False
    masked: bool = False


@dataclass
class Graph:
    """A model, captured for one input signature.

    Attributes:
        fx: the operators in order of execution.
        tensors: the live tensor behind each parameter, buffer or constant placeholder, by node name.
        in_spec: how positional and keyword inputs flatten; one placeholder per leaf, in this order.
        out_spec: how the model's output unflattens.
        module_types: class of each module, by path.
        tried: sets of open sizes that may be 1 together: there the program was seen to return what the model does.
        written: paths of the parameters that the model's own forward writes to.
        held: parameters and buffers whose numbers have become part of the program, and what they were.
    """

    fx: FxGraph
    tensors: dict[str, Tensor]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    module_types: Mapping[str, type[nn.Module]] = field(default_factory=dict)
    tried: set[frozenset[Any]] = field(default_factory=set)
    written: frozenset[str] = frozenset()
    held: tuple[tuple[Tensor, Tensor], ...] = ()
    _inputs: list[Node] | None = field(default=None, init=False, repr=False, compare=False)

    def settle(self) -> None:
        """Nobody changes its inputs any more: what every call asks of them is looked up once."""
        self._inputs = self.inputs

    @property
    def is_stale(self) -> bool:
        """Numbers that have become part of the program are others now."""
        return any(not torch.equal(now, then) for now, then in self.held)

    @property
    def nodes(self) -> Sequence[Node]:
        """All nodes, in order of execution."""
        return list(self.fx.nodes)

    @property
    def inputs(self) -> list[Node]:
        """Placeholders of the user's inputs, in the order of `in_spec`."""
        if self._inputs is not None:
            return list(self._inputs)
        return [n for n in self.fx.nodes if n.op == "placeholder" and n.name not in self.tensors]

    @property
    def output(self) -> Node:
        """The node that collects the outputs."""
        return self.fx.output_node()

    @property
    def outputs(self) -> list[Any]:
        """The flat outputs: nodes, or constants."""
        return list(self.output.args[0])  # type: ignore[arg-type]

    def serves(self, leaves: Sequence[Any]) -> bool:
        """Whether the captured program is that of the model for inputs of these sizes, by the guards of the export.

        Export sets the sizes 0 and 1 apart without a guard, so these must have been tried.
        """
        ones = self.sizes_of_one(leaves)
        return self.fits(leaves) and (not ones or ones in self.tried)

    def fits(self, leaves: Sequence[Any]) -> bool:
        """The same, but for sizes of 1."""
        sizes: dict[Any, int] = {}
        guards: list[Any] = []
        for node, leaf in zip(self.inputs, leaves, strict=True):
            if not isinstance(leaf, Tensor):
                continue
            for known, size in zip(fake_value(node).shape, leaf.shape, strict=True):
                if isinstance(known, int):
                    if known != size:
                        return False
                    continue
                guards = known.node.shape_env.guards
                symbol = known.node.expr
                if symbol.is_number and int(symbol) != size:
                    return False  # the export has fixed the size after all
                if symbol.is_Symbol and sizes.setdefault(symbol, size) != size:
                    return False  # two inputs that were captured with one size have different ones
        return not any(guard.expr.subs(sizes) == False for guard in guards)  # noqa: E712  (sympy expressions)

    def sizes_of_one(self, leaves: Sequence[Any]) -> frozenset[Any]:
        """Symbols of the sizes that the export left open and that are 1 in these inputs."""
        return frozenset(symbol for symbol, size in self.open_sizes(leaves).items() if size == 1)

    def batch_symbol(self) -> Any:
        """Symbol of the first tensor's first dimension; None where it is fixed."""
        shapes = [v.shape for v in map(fake_value, self.inputs) if isinstance(v, Tensor) and v.dim()]
        size = shapes[0][0] if shapes else 1
        return None if isinstance(size, int) or not size.node.expr.is_Symbol else size.node.expr

    def examples(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword inputs of the sizes at which the model was captured, filled with zeros."""
        args, kwargs = pytree.tree_unflatten(self.example_leaves(), self.in_spec)
        return tuple(args), dict(kwargs)

    def example_leaves(self) -> list[Any]:
        """The same, one for each of `inputs`."""
        return [_zeros_like(fake_value(node)) for node in self.inputs]

    def open_sizes(self, leaves: Sequence[Any]) -> dict[Any, Any]:
        """Symbol of each size that the export left open -> its size in these inputs."""
        sizes: dict[Any, Any] = {}
        for node, leaf in zip(self.inputs, leaves, strict=True):
            if isinstance(leaf, Tensor):
                for known, size in zip(fake_value(node).shape, leaf.shape, strict=True):
                    if not isinstance(known, int) and known.node.expr.is_Symbol:
                        sizes.setdefault(known.node.expr, size)
        return sizes

    def shape_at(self, node: Node, leaves: Sequence[Any]) -> tuple[int | None, ...]:
        """The shape that a node's value has for some inputs; None for sizes that do not follow from theirs."""
        sizes, found = self.open_sizes(leaves), list[int | None]()
        for size in fake_value(node).shape:
            if isinstance(size, int):
                found.append(size)
                continue
            expression: Any = size.node.expr
            number = sizes.get(expression)  # to substitute takes ten times as long
            number = expression.subs(sizes) if number is None else number
            found.append(int(number) if isinstance(number, int) or number.is_number else None)
        return tuple(found)

    def conditions(self) -> list[Any]:
        """What the export asked of the sizes that it left open, as sympy expressions of their symbols."""
        values = [fake_value(node) for node in self.inputs]
        known: list[Any] = [s for v in values if isinstance(v, Tensor) for s in v.shape if not isinstance(s, int)]
        return [guard.expr for guard in known[0].node.shape_env.guards] if known else []

    def copy(self) -> Graph:
        """A graph of its own, whose nodes have the same names and what is known of them."""
        fx, copies = FxGraph(), dict[Node, Node]()
        for node in self.fx.nodes:
            copies[node] = fx.node_copy(node, copies.__getitem__)
            copies[node].meta = dict(node.meta)
            copies[node].name = node.name  # torch.fx renames what is called as a function of Python is, such as `input`
        return replace(self, fx=fx)

    def operators(self) -> Iterator[Node]:
        """The nodes that compute something, in order of execution."""
        return (n for n in self.fx.nodes if n.op == "call_function")

    def __str__(self) -> str:
        lines = []
        for node in self.fx.nodes:
            if node.op == "call_function":
                args = ", ".join(str(a) for a in node.args)
                lines.append(f"{node.name} = {operator_name(node)}({args})  # {where_is(node)} {shape_of(node)}")
        return "\n".join(lines)


def info(node: Node) -> NodeInfo:
    """What relprop knows about `node`."""
    known: NodeInfo | None = node.meta.get("relprop")
    return known if known is not None else NodeInfo()


def annotate(node: Node, **changes: Any) -> None:
    """Update some fields of a node's `NodeInfo`."""
    node.meta["relprop"] = replace(info(node), **changes)


def is_random(node: Node) -> bool:
    """The operator draws numbers, so that running it again gives others.

    Fused attention does not, though PyTorch says so of it: what drops weights out is written out (`written_out`).
    """
    if node.target is torch.ops.aten.scaled_dot_product_attention.default:
        return False
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def operator_name(node: Node) -> str:
    """`conv2d` for `aten.conv2d.default`, `mylib.myop` for a custom operator, a plain function's name otherwise."""
    if node.op != "call_function":
        return node.op
    return target_name(node.args[0] if node.target is part else node.target)


def target_name(target: Any) -> str:
    """An operator as tables and errors name it: `aten.relu` is `relu`, `mylib::swish` is `mylib.swish`."""
    if isinstance(target, torch._ops.OpOverload):
        target = target.overloadpacket
    if isinstance(target, torch._ops.OpOverloadPacket):
        namespace, _, name = target._qualified_op_name.partition("::")
        return name if namespace in {"aten", "prims"} else f"{namespace}.{name}"
    return str(getattr(target, "__name__", target))


def where_is(node: Node) -> str:
    """A node's module path for messages: `features.0 (Conv2d)`, or `the model itself (Net)` at the root."""
    known = info(node)
    kind = known.module_type.__name__ if known.module_type else "?"
    return f"{known.path} ({kind})" if known.path else f"the model itself ({kind})"


def fake_value(node: Node) -> Any:
    """The symbolic value that the export recorded: dtype, device and (partly symbolic) shape."""
    return node.meta.get("val")


def is_open(size: Any) -> bool:
    """The export serves any size of this dimension."""
    return not isinstance(size, int) and not size.node.expr.is_number


def _zeros_like(value: Any) -> Any:
    """A real tensor for a symbolic one; anything else is what it is."""
    if not isinstance(value, Tensor):
        return value
    sizes = [size if isinstance(size, int) else int(size.node.hint) for size in value.shape]
    return torch.zeros(sizes, dtype=value.dtype, device=value.device)


def shape_of(node: Node) -> tuple[int | None, ...] | None:
    """Shape with None for dynamic dimensions; None where the node's value is no tensor."""
    value = fake_value(node)
    if not isinstance(value, Tensor):
        return None
    return tuple(int(s) if isinstance(s, int) else None for s in value.shape)


def is_floating(node: Node) -> bool:
    """The value is a floating point tensor, or several values of which one is."""
    value = fake_value(node)
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(v, Tensor) and v.dtype.is_floating_point for v in values)


def data_inputs(node: Node) -> tuple[Node, ...]:
    """The inputs of a node that relevance may flow to, each once, in order."""
    return tuple(n for n in node.all_input_nodes if info(n).data)


def other_inputs(node: Node) -> frozenset[Node]:
    """The inputs of a node that are neither data nor constants: shapes, masks, indices made on the way."""
    return frozenset(n for n in node.all_input_nodes if not info(n).data and not info(n).static)


def ancestors(node: Node) -> set[Node]:
    """A node and all that it is computed from."""
    found, waiting = {node}, [node]
    while waiting:
        new = [n for n in waiting.pop().all_input_nodes if n not in found]
        found.update(new)
        waiting.extend(new)
    return found


def constant_name(node: Node) -> str:
    """What a constant is called as a sink.

    `position_embeddings` for what an embedding or a parameter of that name gave, or an input that is held constant;
    `constant` for anything else.
    """
    names = {path.rpartition(".")[2] for path in constant_paths(node)}
    return names.pop() if len(names) == 1 else "constant"


def constant_paths(node: Node) -> set[str]:
    """Names of the parameters and held inputs, and paths of the embeddings, that a constant is computed from."""
    waiting, seen, found = [node], {node}, set()
    while waiting:
        current = waiting.pop()
        if operator_name(current) == "embedding":
            weight = current.args[0]
            found.add(info(current).path or (info(weight).path if isinstance(weight, Node) else ""))
        elif current.op == "placeholder":
            found.add(info(current).path)
        elif operator_name(current) == "hold" and current.all_input_nodes[0].op == "placeholder":
            found.add(current.all_input_nodes[0].name)
        else:
            waiting.extend(n for n in current.all_input_nodes if n not in seen)
            seen.update(waiting)  # paths through a graph are many times its nodes
    return found - {""}
