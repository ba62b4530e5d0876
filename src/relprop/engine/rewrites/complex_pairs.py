"""Complex numbers made of data as pairs of real numbers, (..., 2), of which each carries relevance of its own.

    complex, view_as_complex, view_as_real -> nothing but a pair
    real, imag, abs                        -> one of the pair; the root of the sum of squares
    fft_*, stft, istft, products, sums     -> a linear map between pairs, or a product where both factors are data
    movement                               -> movement of pairs

So rotary positions and Fourier layers are what they are to real numbers. Anything else is refused as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, fake_value, info, is_floating, operator_name
from relprop.engine.ops.analysis import analyze, remove_dead
from relprop.engine.ops.registry import TAUGHT, op_of
from relprop.engine.rewrites.rewriting import arguments, called, insert, is_data, positional
from relprop.engine.rewrites.written_out import Writer

aten = torch.ops.aten
LINEAR = {"mul", "multiply", "matmul", "mm", "bmm", "einsum", "sum", "mean", "neg", "conj", "_conj", "conj_physical"}
Pairs = dict[Node, Node]


def as_pairs(graph: Graph) -> Graph:
    """Replace complex numbers that depend on data; a graph without any stays as it is."""
    if not any(_is_complex(node) for node in graph.operators()):
        return graph
    analyze(graph)
    pairs: Pairs = {}
    for node in list(graph.operators()):
        involved = _is_complex(node) or any(a in pairs for a in node.all_input_nodes)
        if not (involved and info(node).data) or TAUGHT in node.meta or _is_read_as_real(node):
            continue
        new = _in_pairs(Writer(graph, node), node, pairs)
        if new is not None and _is_complex(node):
            pairs[node] = new
        elif new is not None:
            node.replace_all_uses_with(new)
    return remove_dead(graph)


def _is_complex(node: Node) -> bool:
    value = fake_value(node)
    return isinstance(value, Tensor) and value.is_complex()


def _is_read_as_real(node: Node) -> bool:
    """A transform of real numbers of which only the real part is read has an operator of its own."""
    name, readers = operator_name(node), list(node.users)
    if name == "real":
        return _is_read_as_real(node.all_input_nodes[0])
    of_real = name.startswith("fft_") and is_floating(node.all_input_nodes[0])
    return of_real and bool(readers) and all(operator_name(reader) == "real" for reader in readers)


def _in_pairs(write: Writer, node: Node, pairs: Pairs) -> Node | None:
    """What gives the node's value as pairs, or as it is where it is real; None where nothing does."""
    name, first = operator_name(node), node.all_input_nodes[0]
    if name == "view_as_complex":
        return first
    if name == "complex":
        return _joined(write, *node.args[:2])
    if name == "view_as_real":
        return pairs.get(first)
    if name in {"real", "imag"} and first in pairs and not _is_complex(node):
        return write(aten.select.int, pairs[first], -1, int(name == "imag"))
    if name == "abs" and first in pairs:
        return write(aten.sqrt.default, write(aten.sum.dim_IntList, write(aten.square.default, pairs[first]), [-1]))
    if name == "copy":
        whole, part = (_pair_of(write, a, pairs) for a in node.args[:2])
        return None if whole is None or part is None else write(aten.expand_as.default, part, whole)
    if name in {"add", "sub"} and not node.kwargs:
        summands = [_pair_of(write, a, pairs) or _pair_of_number(write, a, first, pairs) for a in node.args[:2]]
        return None if None in summands else write(called(node), *summands)
    if name in {"slice_scatter", "select_scatter"}:
        return _placed(write, node, pairs)
    divides = name in {"div", "true_divide"} and not is_data(positional(node)[1]) and not node.kwargs
    if name in LINEAR or divides or _is_transform(node):
        return _run_on_pairs(write, f.complex_linear, node, pairs)
    moves = op_of(node).family == "movement" and not op_of(node).by_value
    return _run_on_pairs(write, f.complex_moved, node, pairs) if moves else None


def _is_transform(node: Node) -> bool:
    name = operator_name(node)
    return (name.startswith("fft_") or name in {"stft", "istft"}) and op_of(node).family == ""


def _joined(write: Writer, real: Any, imaginary: Any) -> Node:
    """Two real numbers as one pair, which broadcast."""
    return write(aten.stack.default, [write(aten.add.Tensor, a, write(aten.zeros_like.default, b))
                                      for a, b in ((real, imaginary), (imaginary, real))], -1)  # fmt: skip


def _placed(write: Writer, node: Node, pairs: Pairs) -> Node | None:
    """A slice put in place, of pairs as it is of numbers: of complex ones PyTorch has no derivative of it."""
    given = arguments(node)
    whole, part = (_pair_of(write, given.pop(name), pairs) for name in ("self", "src"))
    dim = given.pop("dim") % len(fake_value(node).shape)
    return None if whole is None or part is None else write(called(node), whole, part, dim, *given.values())


def _pair_of(write: Writer, argument: Any, pairs: Pairs) -> Node | None:
    """A summand as pairs: a real one has no imaginary part."""
    if not isinstance(argument, Node):
        return None
    if not _is_complex(argument):
        zeros = write(aten.zeros_like.default, argument)
        return write(aten.stack.default, [argument, zeros], -1) if is_floating(argument) else None
    known = pairs.get(argument)
    return write(aten.view_as_real.default, argument) if known is None and not info(argument).data else known


def _pair_of_number(write: Writer, number: Any, like: Node, pairs: Pairs) -> Node | None:
    """A number that is added to `like`, as a pair of its shape."""
    if not isinstance(number, (int, float, complex)):
        return None
    part = write(aten.select.int, pairs[like], -1, 0) if like in pairs else like
    parts = [write(aten.full_like.default, part, each) for each in (complex(number).real, complex(number).imag)]
    return None if _is_complex(part) else write(aten.stack.default, parts, -1)


def _run_on_pairs(write: Writer, function: Any, node: Node, pairs: Pairs) -> Node | None:
    """The node's own function on pairs; None where a complex argument made of data is none."""
    leaves, spec = pytree.tree_flatten((tuple(node.args), dict(node.kwargs)))
    which = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Node) and leaf in pairs)
    if any(is_data(a) and _is_complex(a) and a not in pairs for a in leaves):
        return None
    args, kwargs = pytree.tree_unflatten([pairs[a] if i in which else a for i, a in enumerate(leaves)], spec)
    if _is_complex(node):
        return write(function, node.target, which, args, kwargs)
    return insert(write.graph, node, function, node.target, which, args, kwargs, like=node)
