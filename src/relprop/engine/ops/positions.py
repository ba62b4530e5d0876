"""Relevance that positions keep, place by place, if it is asked for: what turned or was added to the tokens there.

Rotary positions multiply, `x · cos + rot(x) · sin`, and keep something under a rule that gives it to them; added ones,
learned or computed, keep their part of the sum as all constants do.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from relprop.engine.graph.graph import Node, constant_name, info, operator_name, shape_of
from relprop.engine.ops.analysis import only_masks
from relprop.engine.ops.tape import Tape

TURNS = ("cos", "sin")


def place_turned(tape: Tape, product: Node, factor: Node, kept: Tensor) -> None:
    """Note what the factor of a rotated product keeps.

    Args:
        kept: per entry of the product, (B, ..., D), or of pairs (B, ..., D, 2).
    """
    value: Tensor = tape.values[factor]
    kept = kept.sum(-1) if value.is_complex() else kept
    tape.place(f"{info(product).path}:{_called(factor)}", product, by_position(kept, value))


def place_added(tape: Tape, total: Node, constant: Any, amount: Tensor, kept: Tensor) -> None:
    """Note what a constant keeps that was added to tokens (B, T, D), if it tells positions apart.

    Args:
        constant: what was added.
        amount: its value.
        kept: per entry of the sum.
    """
    if tape.positions is None or kept.dim() != 3:
        return
    if not isinstance(constant, Node) or not _of_places(constant) or only_masks(constant):
        return
    if bool((amount != amount.narrow(-2, 0, 1)).any()):  # such as token types are the same everywhere
        tape.place(f"{info(total).path}:{constant_name(constant)}", total, kept)


def by_position(kept: Tensor, factor: Tensor) -> Float[Tensor, "B T D"]:
    """Summed over all dimensions but samples, positions and features.

    Positions are where the factor, which broadcasts against it, is neither of samples nor of features and not of size
    1; of tokens without samples (T, heads, D) they are the first dimension.
    """
    shape = (1,) * (kept.dim() - factor.dim()) + tuple(factor.shape)
    inner = [d for d in range(1, kept.dim() - 1) if shape[d] != 1]
    if not inner and shape[0] != 1:
        kept, inner = kept[None], [1]
    of_positions = inner[-1] if inner else kept.dim() - 2
    beside = [d for d in range(1, kept.dim() - 1) if d != of_positions]
    return kept.sum(beside) if beside else kept


def _of_places(constant: Node) -> bool:
    """Neither a number, nor the same for all positions, nor for all features."""
    shape = shape_of(constant) or ()
    return len(shape) > 1 and shape[-1] != 1 and shape[-2] != 1


def _called(factor: Node) -> str:
    """`cos` or `sin`, whichever is nearer among what a factor is computed from; of a table of both `rotary`."""
    waiting, seen = [factor], {factor}
    while waiting:
        node = waiting.pop(0)
        if operator_name(node) in TURNS:
            return operator_name(node)
        waiting += [n for n in node.all_input_nodes if n not in seen]
        seen.update(waiting)
    return "rotary"
