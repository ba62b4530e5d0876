"""The operator table: what each ATen operator is.

An operator's family decides how relevance goes back through it; whatever else relprop knows of it is a field of its row
too. Adding an operator is one row, here through `register` from the family's own file, or by a user through
`relprop.register_op`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from relprop.engine.graph.graph import Node, info, is_floating, operator_name
from relprop.engine.graph.operators import part
from relprop.engine.ops.units import Unit

Sign = Callable[[Node, Sequence[bool]], bool]
"""(node, non-negativity of each data argument) -> is the result provably non-negative."""

Local = Callable[[Node, int], bool]
"""(node, d) -> is each position of the result's dimension d computed from the same position of what the node reads."""

Infinite = Literal["never", "inherits", "makes"]
"""May entries of the result be infinite: no; where those of a data input may; or wherever the model puts a number."""


def never(node: Node, args: Sequence[bool]) -> bool:
    """Nothing is known of the sign of what comes out."""
    return False


def always(node: Node, args: Sequence[bool]) -> bool:
    """What comes out is never negative."""
    return True


def inherits(node: Node, args: Sequence[bool]) -> bool:
    """Non-negative when every data argument is, and every other floating point argument."""
    others = [a for a in node.all_input_nodes if not info(a).data and (info(a).static or is_floating(a))]
    return bool(args) and all(args) and all(info(a).nonneg for a in others)


def nowhere(node: Node, dim: int) -> bool:
    """Not local, or not known to be."""
    return False


def everywhere(node: Node, dim: int) -> bool:
    """Local, whatever its arguments."""
    return True


def alone(node: Node, dim: int) -> bool:
    """An elementwise function is local where nothing broadcasts against its input."""
    return len(node.all_input_nodes) == 1


@dataclass(frozen=True)
class Op:
    """One row: what relprop knows of an operator. Whatever is not stated is the cautious answer.

    Attributes:
        family: how relevance goes back through it; `""` where only `step` says so.
        name: as errors show it.
        step: an own `Step`, in place of the family's.
        options: what the family itself wants to know, such as `Affine` or `Activation`.
        nonneg: how signs go through it.
        local: whether it treats each position of a sequence by itself.
        positions: how many of its leading arguments have positions then; None: all.
        fresh: its result shares memory with nothing else.
        reshapes: it keeps the order of the entries.
        like_another: it looks at its second argument only for its shape or dtype.
        fills: its result may hold entries that come from no data input.
        infinite: whether its result may hold infinite entries.
        by_value: it places values by what they are.
        same_ids: token ids are what they were behind it.
        bilinear: it is affine with a constant operand, and a product of two factors without one.
        convolves: over how many dimensions it is a convolution; 0: it is none.
        gate: 2: a function onto shares between 0 and 1, which weigh what they multiply; 1: another activation, as gates
            have it; 0: no gate; None: whatever its input is, which it only puts elsewhere.
        layers: the groups of layers that it makes a layer of, such as `"ConvLayer"`.
        like: the operator after which a user taught it.
        own: a user taught it, so no rewrite takes it apart.
    """

    family: str
    name: str = ""
    step: Any = None
    options: Any = None
    nonneg: Sign = never
    local: Local = nowhere
    positions: int | None = None
    fresh: bool = False
    reshapes: bool = False
    like_another: bool = False
    fills: bool = False
    infinite: Infinite = "never"
    by_value: bool = False
    same_ids: bool = False
    bilinear: bool = False
    convolves: int = 0
    gate: Literal[0, 1, 2] | None = 0
    layers: tuple[str, ...] = ()
    like: str = ""
    own: bool = False


UNKNOWN = Op("")
"""The row of an operator that is not in the table."""

OF_UNIT = {"unit": Op("unit"), "activation": Op("activation", local=alone)}
"""The rows of several operators run as one, by family."""

_TABLE: dict[str, Op] = {}


def register(names: str | Iterable[str], family: str, **facts: Any) -> None:
    """Enter operators (space-separated names) into the table.

    Args:
        facts: fields of `Op`.
    """
    for name in names.split() if isinstance(names, str) else names:
        _TABLE[name] = Op(family, name, **facts)


TAUGHT = "relprop_op"
"""Where a node keeps (function, row), if a user taught the operator."""


def lookup(node: Node) -> Op | None:
    """The table's row for a node, None if no family explains the operator."""
    if node.op != "call_function":
        return None
    function, taught = node.meta.get(TAUGHT, (None, None))
    if taught is not None and function is function_of(node):  # rewrites copy what is known of a node to others
        return taught  # type: ignore[no-any-return]
    if isinstance(node.target, Unit):
        return OF_UNIT[node.target.family]
    return _TABLE.get(operator_name(node))


def op_of(node: Node) -> Op:
    """The same, `UNKNOWN` where there is none."""
    return lookup(node) or UNKNOWN


def function_of(node: Node) -> Any:
    """What a node runs, also where it takes one of several results."""
    return node.args[0] if node.target is part else node.target


def known_operators() -> dict[str, Op]:
    """A copy of the table, by operator name."""
    return dict(_TABLE)
