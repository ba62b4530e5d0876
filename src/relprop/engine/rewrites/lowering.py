"""Captured operators rewritten to relprop's own few, so that every rule meets the part that it speaks of.

    batch_norm (fixed statistics)      -> scale
    layer_norm, group_norm, ...        -> normalize, scale
    products and quotients by a constant -> scale;  scale + constant -> scale with a bias
    additions and subtractions         -> add with coefficients;  addmm -> linear
    operators with several results     -> part

Each is an equivalence, always done, whether or not the user asks for canonization.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, ancestors, fake_value, info, is_floating, operator_name, shape_of
from relprop.engine.ops.analysis import analyze_inputs, analyze_operator, remove_dead
from relprop.engine.ops.registration import teach
from relprop.engine.ops.registry import TAUGHT
from relprop.engine.ops.statistic import is_statistic
from relprop.engine.rewrites.attention import lower_attention
from relprop.engine.rewrites.complex_pairs import as_pairs
from relprop.engine.rewrites.exponentials import read_exponentials
from relprop.engine.rewrites.ids import embed_ids_as_given
from relprop.engine.rewrites.norms import NORMS
from relprop.engine.rewrites.recurrent import KINDS, unroll, unroll_cell
from relprop.engine.rewrites.rewriting import (
    Lowering,
    arguments,
    changed,
    insert,
    is_data,
    is_made_of_zeros,
    positional,
    sizes_of,
)
from relprop.engine.rewrites.solutions import SOLUTIONS
from relprop.engine.rewrites.strided import read_in_windows
from relprop.engine.rewrites.written_out import write_out

aten = torch.ops.aten


def lower(graph: Graph) -> Graph:
    """Analyze and rewrite every operator, in order of execution: what it reads has been rewritten already."""
    analyze_inputs(embed_ids_as_given(as_pairs(write_out(read_exponentials(teach(graph))))))
    for node in list(graph.operators()):
        analyze_operator(node)
        rewrite = REWRITES.get(operator_name(node)) if TAUGHT not in node.meta else None
        carries = info(node).data or any(info(a).data for a in node.all_input_nodes)
        if rewrite is not None and carries:
            new = rewrite(graph, node)
            if new is not None:
                node.replace_all_uses_with(new)
    return remove_dead(graph)


def _mul(graph: Graph, node: Node) -> Node | None:
    return _product_of(graph, node, *node.args[:2])


def _product_of(graph: Graph, node: Node, x: Any, other: Any) -> Node:
    if is_data(x) and is_data(other):
        return insert(graph, node, f.product, *_factors(x), *_factors(other), like=node)
    if not is_data(x):
        x, other = other, x
    return insert(graph, node, f.scale, x, _constant(graph, node, other), None, like=node)


def _factors(node: Node) -> tuple[Node, ...]:
    """The factors of a product that only the next product reads: `(x * y) * z` is one product of three."""
    inner = operator_name(node) == "product" and len(node.users) == 1
    return positional(node) if inner else (node,)


def _pow(graph: Graph, node: Node) -> Node | None:
    """Powers that are 0 at 0 stay; the others are not, and those with a negative exponent divide."""
    base, exponent = node.args[:2]
    if not isinstance(exponent, (int, float)):
        return insert(graph, node, f.power, base, exponent, like=node)
    if exponent == 0:
        ones = insert(graph, node, aten.ones_like.default, base)
        ones.meta["val"] = fake_value(node)
        return ones
    if exponent > 0:
        return None
    statistic = insert(graph, node, f.negative_power, node.args[0], exponent)
    statistic.meta["val"] = fake_value(node)
    return statistic


def _nan_to_num(graph: Graph, node: Node) -> Node | None:
    """What takes the place of a missing value is a constant."""
    x = positional(node)[0]
    if operator_name(x) in {"softmax", "_softmax"}:
        return None
    filled = insert(graph, node, f.hold, changed(graph, node, node, like=node), like=node)
    finite = insert(graph, node, aten.isfinite.default, x)
    return insert(graph, node, aten.where.self, finite, x, filled, like=node)


def _div(graph: Graph, node: Node) -> Node | None:
    quotient = _quotient_of(graph, node, *node.args[:2])
    rounded = {"floor": aten.floor.default, "trunc": aten.trunc.default}.get(str(node.kwargs.get("rounding_mode")))
    return quotient if rounded is None else insert(graph, node, rounded, quotient, like=node)


def _of_first(graph: Graph, node: Node) -> Node | None:
    """Functions of `x` and, like a divisor, of `y`: where both are data, `y` counts as a constant."""
    x, y = node.args[:2]
    if not (is_data(x) and is_data(y) and x is not y):
        return None
    return changed(graph, node, node, like=node, other=insert(graph, node, f.hold, y, like=y))


def _quotient_of(graph: Graph, node: Node, x: Any, other: Any) -> Node:
    """A divisor made of data is a statistic, such as a norm, and counts as a constant (LN-rule)."""
    divisor = _constant(graph, node, other)
    inverse = insert(graph, node, f.reciprocal, divisor, like=divisor if is_floating(divisor) else None)
    if is_data(x):
        relative = is_statistic(x) and isinstance(divisor, Node) and x in ancestors(divisor)
        signal = insert(graph, node, f.hold, x, like=x) if relative else x  # a norm over a mean of norms is a constant
        return insert(graph, node, f.scale, signal, inverse, None, like=node)
    statistic = insert(graph, node, f.scale, inverse, _constant(graph, node, x), None)
    statistic.meta["val"] = fake_value(node)
    return statistic


def _neg(graph: Graph, node: Node) -> Node | None:
    return insert(graph, node, f.scale, node.args[0], insert(graph, node, f.scalar, -1.0), None, like=node)


def _constant(graph: Graph, node: Node, value: Any) -> Node:
    return insert(graph, node, f.scalar, value) if is_number(value) else value


def is_number(value: Any) -> TypeGuard[Any]:
    """No tensor: a Python number, or one that the program computes, such as a size or the `item()` of a weight."""
    return not isinstance(value, Node) or isinstance(fake_value(value), (int, float, torch.SymInt, torch.SymFloat))


def _add(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    other, alpha = _times(graph, node, given["other"], given.get("alpha", 1))
    return _sum_of(graph, node, [given["self"], other], [1, alpha])


def _sub(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    other, alpha = _times(graph, node, given["other"], given.get("alpha", 1))
    return _sum_of(graph, node, [given["self"], other], [1, -alpha])


def _rsub(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    taken_off, alpha = _times(graph, node, given["self"], given.get("alpha", 1))
    return _sum_of(graph, node, [given["other"], taken_off], [1, -alpha])


def _addcmul(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    product = _product_of(graph, node, given["tensor1"], given["tensor2"])
    product, value = _times(graph, node, product, given["value"])
    return _sum_of(graph, node, [given["self"], product], [1, value])


def _addcdiv(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    quotient = _quotient_of(graph, node, given["tensor1"], given["tensor2"])
    quotient, value = _times(graph, node, quotient, given["value"])
    return _sum_of(graph, node, [given["self"], quotient], [1, value])


def _times(graph: Graph, node: Node, x: Any, factor: Any) -> tuple[Any, float]:
    """A summand and its coefficient, which is a number that is known now."""
    return (_product_of(graph, node, x, factor), 1) if isinstance(factor, Node) else (x, factor)


def _lerp(graph: Graph, node: Node) -> Node | None:
    """`x + w (y − x)`."""
    x, y, weight = node.args[:3]
    difference = insert(graph, node, f.add, y, x, like=node, coefficients=(1, -1))
    return _sum_of(graph, node, [x, _product_of(graph, node, difference, weight)], [1, 1])


def _glu(graph: Graph, node: Node) -> Node | None:
    """`a · sigmoid(b)` of the two halves of a tensor."""
    given = arguments(node)
    x, dim = given["self"], int(given["dim"])
    size = (shape_of(node) or ())[dim]
    if size is None:
        return None
    signal, gate = (
        insert(graph, node, aten.slice.Tensor, x, dim, start, start + size, like=node) for start in (0, size)
    )
    return insert(graph, node, f.product, signal, insert(graph, node, aten.sigmoid.default, gate, like=node), like=node)


def _index_add(graph: Graph, node: Node) -> Node | None:
    """`index_add` and `scatter_add` onto a tensor as one onto zeros, and a sum."""
    start = positional(node)[0]
    if is_made_of_zeros(start):
        return None
    zeros = insert(graph, node, aten.zeros_like.default, start)
    added = changed(graph, node, node, like=node, self=zeros)
    return _sum_of(graph, node, [start, added], [1, 1])


def _copy(graph: Graph, node: Node) -> Node | None:
    """`copy(target, x)`, left behind by an assignment to a slice: x, shaped and typed like the target."""
    target, x = node.args[:2]
    cast = insert(graph, node, aten.type_as.default, x, target, like=node)
    return insert(graph, node, aten.expand_as.default, cast, target, like=node)


def _weighted_by_data(graph: Graph, node: Node) -> Node | None:
    """A layer whose weight is data is a product; its bias is added after it."""
    given = arguments(node)
    weight, bias = given["weight"], given["bias"]
    if not (info(weight).data and isinstance(bias, Node)):
        return None
    product = changed(graph, node, node, like=node, bias=None)
    trailing = len(shape_of(weight) or ()) - 2
    if trailing:
        shape = [-1, *[1] * trailing]
        bias = insert(graph, node, aten.reshape.default, bias, shape, like=bias if info(bias).data else None)
    return _sum_of(graph, node, [product, bias], [1, 1])


def _sum_of(graph: Graph, node: Node, summands: Sequence[Any], coefficients: Sequence[float]) -> Node:
    summands = [_constant(graph, node, s) if isinstance(s, Node) else s for s in summands]
    merged = _into_bias(graph, node, summands, coefficients)
    return merged or insert(graph, node, f.add, *summands, like=node, coefficients=tuple(coefficients))


def _into_bias(graph: Graph, node: Node, summands: Sequence[Any], coefficients: Sequence[float]) -> Node | None:
    """`scale(x, w) + b` and `linear(x, W) + b` as one layer with a bias, where nobody else reads the product."""
    products = [s for s in summands if is_data(s)]
    if len(products) != 1 or tuple(coefficients) != (1, 1) or shape_of(products[0]) != shape_of(node):
        return None
    product = products[0]
    (constant,) = [s for s in summands if s is not product] or [None]
    mergeable = operator_name(product) in {"scale", "linear"} and len(product.users) == 1
    if not mergeable or arguments(product)["bias"] is not None:
        return None
    if not isinstance(constant, Node) or not info(constant).static or not _is_shift_of(product, constant):
        return None
    return changed(graph, node, product, like=node, bias=constant)


def _is_shift_of(product: Node, constant: Node) -> bool:
    """A bias shaped like the layer's: per output feature for `linear`, per channel or feature for `scale`.

    Behind a scale by one number an added matrix is no bias: it may be a mask, of minus infinity.
    """
    shape, whole = shape_of(constant), shape_of(product) or ()
    if shape is None:
        return False
    if operator_name(product) == "linear":
        return len(shape) == 1 and shape[0] == whole[-1]
    weight = positional(product)[1]
    alike = isinstance(weight, Node) and shape_of(weight) == shape
    return len(shape) < len(whole) and (alike or sum(size != 1 for size in shape) <= 1)


def _baddbmm(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    summand, left, right = given["self"], given["batch1"], given["batch2"]
    product = insert(graph, node, aten.bmm.default, left, right, like=node)
    return _sum_of(graph, node, [summand, product], [given["beta"], given["alpha"]])


def _addmm(graph: Graph, node: Node) -> Node | None:
    bias, x, weight = node.args[:3]
    if not (is_data(x) and isinstance(weight, Node) and info(weight).static) or node.kwargs:
        product = insert(graph, node, aten.mm.default, x, weight, like=node)
        given = arguments(node)
        return _sum_of(graph, node, [bias, product], [given["beta"], given["alpha"]])
    transposed = insert(graph, node, aten.t.default, weight)
    return insert(graph, node, aten.linear.default, x, transposed, bias, like=node)


def _matmul(graph: Graph, node: Node) -> Node | None:
    """`x @ W` with a constant matrix W as a linear layer."""
    x, weight = node.args[:2]
    if not (is_data(x) and isinstance(weight, Node) and info(weight).static):
        return None
    if len(shape_of(weight) or ()) != 2 or len(shape_of(x) or ()) < 2:
        return None
    transposed = insert(graph, node, aten.t.default, weight)
    return insert(graph, node, aten.linear.default, x, transposed, None, like=node)


def _one_of_several(graph: Graph, node: Node) -> Node | None:
    """`operator(...)[i]` as an operator with one result."""
    source, index = node.args
    if not isinstance(source, Node) or not isinstance(source.target, torch._ops.OpOverload) or not is_floating(node):
        return None
    if operator_name(source) == "broadcast_tensors" and isinstance(index, int):
        return _one_of_broadcast(graph, node, positional(source)[0], index)
    if operator_name(source) in {"var_mean", "std_mean"} and index == 1:
        given = arguments(source)
        return insert(graph, node, aten.mean.dim, given["self"], given["dim"], given["keepdim"], like=node)
    return insert(graph, node, f.part, source.target, index, *source.args, like=node, **source.kwargs)


def _one_of_broadcast(graph: Graph, node: Node, tensors: Any, index: Any) -> Node | None:
    """One of several tensors that are broadcast together: the others only lend their shape."""
    x: Node = tensors[index]
    full = sizes_of(node)
    if sizes_of(x) == full:
        return x
    if all(isinstance(n, int) for n in fake_value(node).shape):
        return insert(graph, node, aten.expand.default, x, tuple(fake_value(node).shape), like=node)
    largest = next((t for t in tensors if sizes_of(t) == full), None)
    return None if largest is None else insert(graph, node, aten.expand_as.default, x, largest, like=node)


def _real(graph: Graph, node: Node) -> Node | None:
    """`fft(x).real` as one operator without complex numbers in between."""
    transform = node.args[0]
    assert isinstance(transform, Node)
    if not operator_name(transform).startswith("fft_") or not is_floating(transform.all_input_nodes[0]):
        return None
    return insert(graph, node, f.real_part, transform.target, *transform.args, like=node, **transform.kwargs)


def _slice(graph: Graph, node: Node) -> Node | None:
    """`x[:]`, which `x[:, 0]` begins with, is `x`."""
    source = node.args[0]
    whole = node.args[2:] in ((), (0,), (0, torch.iinfo(torch.int64).max))
    return source if whole and isinstance(source, Node) and source.op == "call_function" else None


OF_FIRST = ("atan2", "arctan2", "remainder", "fmod", "floor_divide", "copysign")

REWRITES: dict[str, Lowering] = {
    **NORMS,
    "mul": _mul,
    "multiply": _mul,
    "div": _div,
    "divide": _div,
    "true_divide": _div,
    **dict.fromkeys(OF_FIRST, _of_first),
    "neg": _neg,
    "negative": _neg,
    "pow": _pow,
    "nan_to_num": _nan_to_num,
    "scaled_dot_product_attention": lower_attention,
    "add": _add,
    "subtract": _sub,
    "sub": _sub,
    "rsub": _rsub,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    "glu": _glu,
    "copy": _copy,
    "index_add": _index_add,
    "scatter_add": _index_add,
    "linear": _weighted_by_data,
    **{f"conv{kind}{d}d": _weighted_by_data for kind in ("", "_transpose") for d in (1, 2, 3)},
    "addmm": _addmm,
    "as_strided": read_in_windows,
    "baddbmm": _baddbmm,
    "matmul": _matmul,
    "mm": _matmul,
    "real": _real,
    "slice": _slice,
    "getitem": _one_of_several,
    **SOLUTIONS,
    **dict.fromkeys(KINDS, unroll),
    **{f"{kind}_cell": unroll_cell for kind in KINDS},
}
