"""What users teach relprop about operators: for the whole process, or for one analyzer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import torch

from relprop.engine.graph.graph import Graph, operator_name, target_name
from relprop.engine.ops import registry
from relprop.engine.ops.registry import TAUGHT, Op, alone, function_of, nowhere
from relprop.engine.ops.step import Step
from relprop.engine.ops.tables import Registration
from relprop.errors import RelpropError

OF_FAMILY = {
    "activation": Op("activation", local=alone),
    "movement": Op("movement", infinite="inherits"),
    "affine": Op("affine"),
    "max": Op("max", infinite="inherits"),
    "source": Op("source"),
}
"""The rows that `register_op` makes of a family alone."""


def register_op(operator: Any, *, like: Any = None, family: str | None = None, step: Any = None) -> Registration:
    """Teach relprop an operator, or how relevance goes back through one that it knows.

    Args:
        operator: an operator (`torch.ops.mylib.myop`), or its name as the error table shows it (`"mylib.myop"`).
        like: an operator already in the table that it behaves like, such as `"relu"`, `"reshape"` or `"avg_pool2d"`.
        family: instead of `like`: `"activation"` (elementwise, relevance passes), `"movement"` (values are only moved),
            `"affine"` (linear in its one data input, without a weight that rules could modify), `"max"`, or
            `"source"` (relevance stops there).
        step: how relevance goes back, whatever the rule: a subclass of `relprop.engine.ops.Step`. Alone, or with one of
            the others, which then says what else there is to know.

    Holds for the whole process, for models captured afterwards, until the entry is removed; `LRP(..., operators=...)`
    says the same for one analyzer.

    Returns:
        The entry: `.remove()` takes it back, and it serves as a context manager.

    Raises:
        RelpropError: neither of `like`, `family` and `step` is given, both of the first two are, or one is unknown.

    Examples:
        >>> import relprop as rp
        >>> rp.register_op("mylib.swish", like="silu")
        Registration(mylib.swish)
        >>> with rp.register_op("mylib.sort_rows", family="movement"):
        ...     pass  # explain a model that has it
    """
    row = own_row(operator, like=like, family=family, step=step)
    return Registration(registry._TABLE, row.name, row)


def own_row(operator: Any, *, like: Any = None, family: str | None = None, step: Any = None) -> Op:
    """The row of an operator that a user teaches.

    Raises:
        RelpropError: as in `register_op`.
    """
    name = name_of(operator)
    row = _described(name, like, family, step)
    if step is None:
        return replace(row, name=name, own=True, fresh=False)
    check_step(name, step)
    return replace(row, name=name, own=True, fresh=False, local=nowhere, step=step)


def _described(name: str, like: Any, family: str | None, step: Any) -> Op:
    """What `like` or `family` says of an operator."""
    if (like is None) == (family is None) and (like is not None or step is None):
        raise RelpropError(
            f"register_op({name!r}): give either like=<operator> or family=<family>, or how relevance goes back "
            "through it, step=<subclass of relprop.engine.ops.Step>."
        )
    if like is not None:
        model = registry._TABLE.get(known := name_of(like))
        if model is None:
            near = get_close_matches(known, registry._TABLE, n=3)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise RelpropError(
                f"register_op({name!r}): like={known!r} is not in the operator table, which docs/operators.md shows."
                f"{hint} Or say what it is: family={', '.join(map(repr, OF_FAMILY))}, or step=."
            )
        return replace(model, like=model.like or known)
    if family is None:
        return Op("")
    if family not in OF_FAMILY:
        raise RelpropError(f"register_op({name!r}): family={family!r} is none of {', '.join(OF_FAMILY)}.")
    return OF_FAMILY[family]


def check_step(name: str, step: object) -> None:
    """Raise a `RelpropError` where a step could not serve any node."""
    if not (isinstance(step, type) and issubclass(step, Step)):
        raise RelpropError(
            f"register_op({name!r}): step={step!r} is no class of steps; derive one from relprop.engine.ops.Step and "
            "give the class itself."
        )
    if step.pull is Step.pull:
        raise RelpropError(
            f"register_op({name!r}): {step.__name__} does not say how relevance goes back; define "
            "pull(self, message, tape), which gives a pair (source, Message) for each of self.sources."
        )


def name_of(operator: Any) -> str:
    """`relu` for `torch.ops.aten.relu` and `"aten::relu"`, `mylib.swish` for an operator of another library."""
    operator = getattr(operator, "_opoverload", operator)  # what torch.library.custom_op made
    if isinstance(operator, str):
        namespace, found, name = operator.partition("::")
        return operator if not found else name if namespace in {"aten", "prims"} else f"{namespace}.{name}"
    if isinstance(operator, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return target_name(operator)
    raise RelpropError(
        f"{operator!r} is no operator: give torch.ops.<namespace>.<name>, or its name as the error table shows it. "
        "A class of modules goes to register_module."
    )


def own_rows(operators: Mapping[Any, Any] | None) -> dict[str, Op]:
    """The rows that one analyzer has beside the table, by the operators' names.

    Args:
        operators: operator or its name -> the name of one that it behaves like, a subclass of `Step`, or an `Op`.

    Raises:
        RelpropError: as in `register_op`.

    Examples:
        >>> from relprop.engine.ops import Op
        >>> from relprop.engine.ops.registration import own_rows
        >>> {name: row.family for name, row in own_rows({"mylib.swish": "silu", "mylib.pick": Op("max")}).items()}
        {'mylib.swish': 'activation', 'mylib.pick': 'max'}
    """
    return {name_of(operator): _row_of(operator, what) for operator, what in (operators or {}).items()}


def registered_rows() -> tuple[Op, ...]:
    """The rows that are registered for the whole process."""
    return tuple(op for op in registry._TABLE.values() if op.own)


def _row_of(operator: Any, what: Any) -> Op:
    if not isinstance(what, Op):
        return own_row(operator, **({"like": what} if isinstance(what, str) else {"step": what}))
    name = name_of(operator)
    known = what.own or what == registry._TABLE.get(what.name)
    if what.step is None and what.family not in OF_FAMILY and not known:
        raise RelpropError(f"Op of {name!r}: family={what.family!r} is none of {', '.join(OF_FAMILY)}; or give a step.")
    if what.step is not None:
        check_step(name, what.step)
    return replace(what, name=name, own=True)


def teach(graph: Graph, operators: Mapping[Any, Any] | None = None) -> Graph:
    """Write what users said of operators into the graph's nodes, where `lookup` finds it before the table.

    Args:
        operators: those of one analyzer, see `own_rows`; then come those of the process. What a node was taught stays.
    """
    rows = own_rows(operators)
    for node in graph.operators():
        if TAUGHT not in node.meta:
            name = operator_name(node)
            row = rows.get(name) or registry._TABLE.get(name)
            if row is not None and row.own:
                node.meta[TAUGHT] = function_of(node), row
    return graph
