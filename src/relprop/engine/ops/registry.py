"""The operator table: which family an ATen operator belongs to.

A family decides how relevance goes back through its operators. Adding an operator is one row, here through
`register` from the family's own file, or by a user through `relprop.register_op`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from relprop.engine.graph.graph import Node, info, is_floating, operator_name, target_name
from relprop.engine.ops.units import Unit
from relprop.errors import RelpropError

Sign = Callable[[Node, Sequence[bool]], bool]
"""(node, non-negativity of each data argument) -> is the result provably non-negative."""


@dataclass(frozen=True)
class Op:
    """One operator: its family, how signs go through it, and what the family wants to know (`options`)."""

    name: str
    family: str
    nonneg: Sign
    options: Any = None


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


FRESH = {"linear", "scale", "add", "normalize", *(f"conv{kind}{d}d" for kind in ("", "_transpose") for d in (1, 2, 3))}
"""Operators whose result shares memory with nothing else."""

LIKE_ANOTHER = {"expand_as", "view_as", "reshape_as", "type_as"}
"""Operators that look at their second argument only for its shape or dtype."""

_TABLE: dict[str, Op] = {}


def register(names: str | Iterable[str], family: str, *, nonneg: Sign = never, options: Any = None) -> None:
    """Enter operators (space-separated names) into the table."""
    for name in names.split() if isinstance(names, str) else names:
        _TABLE[name] = Op(name, family, nonneg, options)


def lookup(node: Node) -> Op | None:
    """The table's row for a node, None if no family explains the operator."""
    if isinstance(node.target, Unit):
        return Op(operator_name(node), node.target.family, never)
    return _TABLE.get(operator_name(node)) if node.op == "call_function" else None


def known_operators() -> dict[str, Op]:
    """A copy of the table, by operator name."""
    return dict(_TABLE)


def register_op(operator: Any, *, like: str | None = None, family: str | None = None) -> None:
    """Teach relprop an operator that its table does not have.

    Args:
        operator: an operator (`torch.ops.mylib.myop`), or its name as the error table shows it (`"mylib.myop"`).
        like: an operator already in the table that it behaves like, such as `"relu"`, `"reshape"` or `"avg_pool2d"`.
        family: instead of `like`: `"activation"` (elementwise, relevance passes), `"movement"` (values are only moved),
            `"affine"` (linear in its one data input, without a weight that rules could modify), `"max"`, or
            `"source"` (relevance stops there).

    Holds for the whole process, for models captured afterwards.

    Raises:
        RelpropError: neither or both of `like` and `family` are given, or one of them is unknown.

    Examples:
        >>> import relprop as rp
        >>> rp.register_op("mylib.swish", like="silu")
    """
    name = operator if isinstance(operator, str) else target_name(operator)
    if (like is None) == (family is None):
        raise RelpropError(f"register_op({name!r}): give either like=<operator> or family=<family>.")
    if like is not None:
        if like not in _TABLE:
            raise RelpropError(f"register_op({name!r}): like={like!r} is not in the operator table.")
        model = _TABLE[like]
        _TABLE[name] = Op(name, model.family, model.nonneg, model.options)
        return
    allowed = ("activation", "movement", "affine", "max", "source")
    if family not in allowed:
        raise RelpropError(f"register_op({name!r}): family={family!r} is none of {', '.join(allowed)}.")
    register([name], family)
