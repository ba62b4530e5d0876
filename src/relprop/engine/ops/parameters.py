"""Relevance of parameters: what went through each entry of a weight, what each entry of a bias or a constant kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from relprop.engine.graph.graph import Node, constant_name, constant_paths, fake_value, info, operator_name
from relprop.engine.ops.linear_maps import AffineMap, SumMap
from relprop.engine.ops.tape import Message, Tape


def name_of(reader: Node, parameter: Node, kind: str) -> str:
    """`<path of the layer>.<kind>`, or the parameter's own name where it is one of the layer's: `attn.in_proj_weight`.

    Args:
        kind: `"weight"` or `"bias"`. A weight that batch norms were fused into has no other name.
    """
    path, own = info(reader).path, constant_paths(parameter)
    prefix = f"{path}." if path else ""
    if len(own) == 1 and next(iter(own)).startswith(prefix):
        return own.pop()
    return prefix + kind


def name_of_constant(reader: Node, constant: Any) -> str:
    """The name of the one parameter, or the path of the one embedding, that a constant comes from.

    `<path of the layer>.constant` for any other.
    """
    own = constant_paths(constant) if isinstance(constant, Node) else set()
    if len(own) == 1:
        return own.pop()
    path = info(reader).path
    name = constant_name(constant) if own else "constant"
    return f"{path}.{name}" if path else name


def credit_weight(affine: AffineMap, tape: Tape, xs: Callable[[], list[Tensor]], w: Tensor | None, s: Tensor) -> None:
    """Note what went through each entry of a weight.

    Args:
        xs: the map's inputs as the rule has them. w: its weight, None for the weight as it is. s: what was sent back.
    """
    if tape.parameters is not None and affine.parameter is not None:
        name = name_of(affine.node, affine.parameter, "weight")
        tape.credit(name, affine.node, lambda: affine.through_weight(tape, xs(), w, s))


def credit_bias(affine: AffineMap, tape: Tape, kept: Callable[[], Tensor]) -> None:
    """Note what each entry of a bias kept, or the constants of a sum together.

    Args:
        kept: per entry of the map's outputs.
    """
    if tape.parameters is None:
        return
    if isinstance(affine, SumMap):
        constants = [constant for constant, _ in affine.constants]
        credit_constant(tape, affine.node, constants[0] if len(constants) == 1 else None, kept())
    elif affine.b is not None and info(affine.b).static:
        b, amount = affine.bias(tape), kept()
        assert b is not None
        own = amount.sum_to_size(affine.spread_bias(b, amount).shape).reshape(b.shape)
        tape.credit(name_of(affine.node, affine.b, "bias"), affine.node, lambda: affine.whole(own))


def credit_constant(tape: Tape, reader: Node, constant: Any, kept: Tensor) -> None:
    """Note what a constant kept. Of one that is the same for all samples it is the sum over them.

    Args:
        kept: per entry of the reader's value, or of the constant.
    """
    if isinstance(constant, Node):
        kept = kept.sum_to_size(tape.values[constant].shape)
        while operator_name(constant) == "expand":
            (constant, *_) = constant.args
            assert isinstance(constant, Node)
            kept = kept.sum_to_size(fake_value(constant).shape)
    else:
        kept = kept.sum()
    tape.credit(name_of_constant(reader, constant), reader, lambda: kept)


def credit_moved(tape: Tape, reader: Node, constant: Node, message: Message) -> None:
    """Note what lands on a constant that a movement placed beside data, such as a class token."""
    value = tape.value(constant)
    moved, pull = tape.derivative(lambda v: tape.evaluate(reader, {constant: v}), [value])
    (c,), (full,) = (pull(None if part is None else part.expand_as(moved)) for part in (message.c, message.R))
    kept = [part for part in (None if c is None else value * c, full) if part is not None]
    if kept:
        credit_constant(tape, reader, constant, sum(kept[1:], kept[0]))
