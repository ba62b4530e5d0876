"""Averages by exponentials of scores that are divided after they were summed, in one piece or block by block.

    Σ_j w_j exp(s_j) v_j / (Σ_j w_j exp(s_j) + δ)                  -> Σ_j W_j v_j
    (a N + Σ_j exp(s_j − m) v_j) / (a D + Σ_j exp(s_j − m))        -> the same over all blocks, where N / D is an
                                                                      average itself, and a = exp(m' − m)
    exp(s) / (exp(s) + exp(t))                                     -> W_s
    C (exp(s) v) / (C exp(s)),  cumsum(exp(s) v) / cumsum(exp(s))  -> Σ_j W_ij v_j,  C no data
    scatter_add(exp(s) v) / scatter_add(exp(s))                    -> scatter_add(W v)

with `W = weights_of_exponentials` over everything that the divisor sums, by a product with ones too, or is a mean of.
The second form is attention as it is computed without ever holding all scores (Milakov and Gimelshein 2018, Dao et al.
2022), and the state of a model whose past decays (RWKV, Peng et al. 2023); the fourth is an attention-free
transformer's (Zhai et al. 2021). Exponents are added up along the way; what all of them have in common cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Node, fake_value
from relprop.engine.rewrites.blocks import MOST, Block, alone, block_of, blocks_of, bounded, factors, times
from relprop.engine.rewrites.exponents import Exponent, Term, in_common
from relprop.engine.rewrites.placed import AXIS, Placed
from relprop.engine.rewrites.rewriting import (
    arguments,
    called,
    is_data,
    is_made_of_zeros,
    positional,
    rank_of,
    sizes_of,
)
from relprop.engine.rewrites.sums_of_exponentials import Total, alike, is_a, sum_of_places
from relprop.engine.rewrites.weights import weighted, weights_from, weights_of
from relprop.engine.rewrites.written_out import Writer, aten

SENT = ("scatter_add", "index_add")
"""Sums over the places of an index."""


def average(write: Writer, above: Node, below: Any) -> Node | None:
    """What takes the place of a quotient, if it is an average by exponentials; None if it is none.

    Raises:
        TooManyBlocks: it may be one, of more than `MOST` blocks.
    """
    if not (isinstance(below, Node) and is_data(below)):
        return None
    whole = Placed(write.node, tuple(range(rank_of(write.node))))
    numerator = whole.operand(above).core
    divisor, added, least = bounded(whole.operand(below))
    if is_a(numerator.node, "matmul") and is_a(divisor.node, "matmul") and not is_data(positional(divisor.node)[0]):
        return _mixed(write, numerator, divisor, added, least)
    if is_a(numerator.node, "cumsum") and is_a(divisor.node, "cumsum"):
        return _running(write, numerator, divisor, added, least)
    if is_a(numerator.node, *SENT):
        return _of_places(write, numerator, whole.operand(below))
    blocks = blocks_of(write, numerator, divisor, Exponent(), MOST)
    if not blocks or not any(b.exponent.has_data for b in blocks):
        return None
    return _written(write, blocks, added, least)


def share(write: Writer, node: Node) -> Node | None:
    """`exp(a − log(exp(a) + exp(b)))` as the weight of a; None where the node is no such exponential."""
    difference = positional(node)[0]
    if not is_a(difference, "sub", "subtract") or arguments(difference).get("alpha", 1) != 1:
        return None
    whole = Placed(node, tuple(range(rank_of(node))))
    x, total = positional(difference)[:2]
    if not (isinstance(x, Node) and isinstance(total, Node)) or not is_a(whole.operand(total).core.node, "logaddexp"):
        return None
    core = whole.operand(total).core
    both = [core.operand(a) for a in positional(core.node)[:2]]
    own = next((i for i, value in enumerate(both) if value.equals(whole.operand(x))), None)
    if own is None:
        return None
    exponents = [Exponent(((1.0, value.core),)) for value in (both[own], both[1 - own])]
    blocks = [Block(whole, exponent, None, None if i else (None, alone)) for i, exponent in enumerate(exponents)]
    return _written(write, blocks, 0.0, None)


# The average, written anew.


def _written(write: Writer, blocks: list[Block], added: float, least: float | None) -> Node | None:
    """One softmax over all blocks, and what it weighs."""
    blocks = sorted(blocks, key=lambda b: b.weighed is None)
    model = next((b for b in blocks if b.weighed is not None and AXIS in b.terms.where), None)
    layout = (*range(rank_of(write.node)), AXIS) if model is None else model.terms.where
    axis = layout.index(AXIS)
    common = in_common([b.exponent for b in blocks])
    if all(len(b.exponent.without(common).terms) == 0 for b in blocks):  # all have one score, which has all the weight
        common = [term for term in common if term[0] < 0]
    exponents = [b.exponent.without(common) for b in blocks]
    if len({e.number for e in exponents}) == 1:
        exponents = [replace(e, number=0.0) for e in exponents]
    scores = _scores(write, exponents, model, layout)
    if scores is None:
        return None
    kept = _kept(write, blocks, scores, layout)
    held = _held(write, common, layout)
    if (common and held is None) or (kept is None and any(b.weight is not None for b in blocks)):
        return None
    x = _joined(write, scores, axis)
    weights = weights_from(write, x, held, kept, Total((axis,), added=added, least=least))
    weighing = [b.weighed for b in blocks if b.weighed is not None]
    if len(weighing) < len(blocks):
        count = sum(_size(x, axis) for x in scores[: len(weighing)])
        weights = write(aten.slice.Tensor, weights, axis, 0, count)
    values = [v for v, _ in weighing if v is not None]
    if len(weighing) == 1 and not values:
        return write(aten.squeeze.dim, weights, axis)
    if len(values) < len(weighing):
        return None
    if len(blocks) == 1 and model is not None:
        return weighing[0][1](write, weights, values[0].node)
    sizes = [_size(x, axis) for x in scores[: len(values)]]
    joined = _weighted_values(write, weights, values, sizes, model, layout)
    return joined or _part_by_part(write, weights, [b for b in blocks if b.weighed is not None], sizes, layout)


def _scores(
    write: Writer, exponents: list[Exponent], model: Block | None, layout: tuple[int, ...]
) -> list[Node] | None:
    """The exponents of each block, of one size but along the dimension that is summed; None where that can't be."""
    axis = layout.index(AXIS)
    found = [e.written(write, layout) for e in exponents]
    if found[0] is None or any(x is None and (e.terms or e.number) for x, e in zip(found, exponents, strict=True)):
        return None
    first = found[0]
    if model is not None and sizes_of(first) != sizes_of(model.terms.node):
        first = write(aten.expand_as.default, first, model.terms.node)
    sizes, scores = _but(axis, sizes_of(first)), [first]
    for x in found[1:]:
        if x is None or _but(axis, sizes_of(x)) != sizes:
            zeros = write(aten.zeros_like.default, write(aten.slice.Tensor, first, axis, 0, 1))
            x = zeros if x is None else write(aten.add.Tensor, x, zeros)
        scores.append(x)
    fits = all(_but(axis, sizes_of(x)) == sizes and isinstance(fake_value(x).shape[axis], int) for x in scores)
    return scores if fits or len(scores) == 1 else None


def _held(write: Writer, common: Sequence[Term], layout: tuple[int, ...]) -> Node | None:
    """What is taken off all exponents, as a constant; None where that is nothing, or has other dimensions."""
    shift = Exponent(tuple((-c, value) for c, value in common)).written(write, layout)
    return None if shift is None else write(f.hold, shift)


def _but(axis: int, sizes: list[str]) -> list[str]:
    return sizes[:axis] + sizes[axis + 1 :]


def _size(x: Node, axis: int) -> int:
    return int(fake_value(x).shape[axis])


def _joined(write: Writer, parts: list[Node], axis: int) -> Node:
    return parts[0] if len(parts) == 1 else write(aten.cat.default, parts, axis)


def _kept(write: Writer, blocks: list[Block], scores: list[Node], layout: tuple[int, ...]) -> Node | None:
    """What exponentials are multiplied with; None where nothing is, or where it has other dimensions."""
    given = [b.weight for b in blocks]
    if all(weight is None for weight in given):
        return None
    parts = []
    for weight, x in zip(given, scores, strict=True):
        laid = write(aten.ones_like.default, x) if weight is None else weight.laid_out(write, layout)
        if laid is None:
            return None
        parts.append(laid if len(given) == 1 else write(aten.expand_as.default, laid, x))
    return _joined(write, parts, layout.index(AXIS))


def _weighted_values(
    write: Writer, weights: Node, values: list[Placed], sizes: list[int], model: Block | None, layout: tuple[int, ...]
) -> Node | None:
    """The sum over all blocks, as one of them that is a sum has it; None where values have other sizes than weights."""
    where, weigh = layout, None
    if model is not None and model.weighed is not None and model.weighed[0] is not None:
        where, weigh = model.weighed[0].where, model.weighed[1]
    axis = where.index(AXIS)
    laid = [v for v in (value.laid_out(write, where) for value in values) if v is not None]
    others = {tuple(_but(axis, sizes_of(v))) for v in laid}
    if len(laid) < len(values) or len(others) > 1 or [sizes_of(v)[axis] for v in laid] != [str(n) for n in sizes]:
        return None
    joined = _joined(write, laid, axis)
    if weigh is not None:
        return weigh(write, weights, joined)
    return write(aten.sum.dim_IntList, times(write, weights, joined), [axis])


def _part_by_part(
    write: Writer, weights: Node, blocks: list[Block], sizes: list[int], layout: tuple[int, ...]
) -> Node | None:
    """The sum of what each block weighs, where the values of one are no more values of another."""
    axis, start, total = layout.index(AXIS), 0, None
    for block, size in zip(blocks, sizes, strict=True):
        value, weigh = block.weighed or (None, times)
        own: Node | None = write(aten.slice.Tensor, weights, axis, start, start + size)
        if AXIS not in block.terms.where and own is not None:
            one = Placed(write(aten.squeeze.dim, own, axis), tuple(w for w in layout if w != AXIS))
            own = one.laid_out(write, range(rank_of(write.node)))
        elif block.terms.where != layout:
            return None
        if own is None or value is None:
            return None
        part = weigh(write, own, value.node)
        total = part if total is None else write(aten.add.Tensor, total, part)
        start += size
    return total


# Averages of one block, of which a matrix or an index says what is averaged.


def _mixed(write: Writer, above: Placed, below: Placed, added: float, least: float | None) -> Node | None:
    """`C (e v) / (C e)`: every entry of C weighs one of the exponentials."""
    (matrix, product), (again, divisor) = positional(above.node)[:2], positional(below.node)[:2]
    if is_data(matrix) or not alike(matrix, again) or rank_of(product) < 2 or above.where[-2:] != below.where[-2:]:
        return None
    columns = (*above.where[len(above.where) - rank_of(product) : -2], AXIS, above.where[-1])
    rows = Placed(matrix, (*above.where[len(above.where) - rank_of(matrix) : -1], AXIS))
    layout = (*above.where[:-1], AXIS, above.where[-1])
    total = Total((layout.index(AXIS),), added=added, least=least)
    return _of_rows(write, rows, Placed(product, columns), Placed(divisor, columns), layout, total)


def _running(write: Writer, above: Placed, below: Placed, added: float, least: float | None) -> Node | None:
    """`cumsum(e v) / cumsum(e)`: the same with a triangle of ones."""
    (product, d), (divisor, e) = positional(above.node)[:2], positional(below.node)[:2]
    d, e, size = d % rank_of(product), e % rank_of(divisor), fake_value(product).shape[d]
    row = above.where[d]
    if row != below.where[e] or not isinstance(size, int) or above.node.kwargs or below.node.kwargs:
        return None
    ones = write(aten.new_ones.default, product, [size, size])
    rows = Placed(write(aten.tril.default, ones), (row, AXIS))
    columns, of_divisor = (tuple(AXIS if w == row else w for w in part.where) for part in (above, below))
    layout = (*above.where[: d + 1], AXIS, *above.where[d + 1 :])
    total = Total((d + 1,), added=added, least=least)
    return _of_rows(write, rows, Placed(product, columns), Placed(divisor, of_divisor), layout, total)


def _of_rows(
    write: Writer, rows: Placed, product: Placed, divisor: Placed, layout: tuple[int, ...], total: Total
) -> Node | None:
    """One average for each row of a matrix, which weighs the exponentials."""
    found = block_of(write, divisor, Exponent(), None)
    for terms, values in factors(product):
        if found is None or found.weight is not None or not terms.equals(found.terms) or not is_data(terms.node):
            continue
        common = in_common([found.exponent])
        score = found.exponent.without(common).written(write, layout)
        held = _held(write, common, layout)
        kept, laid = rows.laid_out(write, layout), values.laid_out(write, layout)
        if score is None or kept is None or laid is None or (common and held is None):
            return None
        score = write(aten.add.Tensor, score, write(aten.zeros_like.default, kept))
        weights = weights_from(write, score, held, kept, total)
        return write(aten.sum.dim_IntList, times(write, weights, laid), list(total.dims))
    return None


def _of_places(write: Writer, above: Placed, below: Placed) -> Node | None:
    """Averages of what an index sends to each place."""
    zeros, dim, sent, source = positional(above.node)[:4]
    dim %= rank_of(above.node)
    if not is_made_of_zeros(zeros) or arguments(above.node).get("alpha", 1) != 1:
        return None
    for terms, values in factors(Placed(source, (*above.where[:dim], AXIS, *above.where[dim + 1 :]))):
        core = terms.core
        of_divisor = tuple(AXIS if w == above.where[dim] else w for w in below.core.where)
        if weighted(core.node) is None or of_divisor != core.where or AXIS not in core.where:
            continue
        total = sum_of_places(write, below.core.node, core.where.index(AXIS), sent, core.node)
        weights = None if total is None else weights_of(write, core.node, total)
        laid = None if weights is None else Placed(weights, core.where).laid_out(write, terms.where)
        if laid is not None:
            return write(called(above.node), zeros, dim, sent, times(write, laid, values.node))
    return None
