"""The type checker that is on while tests run: beartype, with ints welcome where floats are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

INSIDE = ["relprop.engine", "relprop.explanations.ledger", "relprop.rules", "relprop.targets"]
"""Packages and modules that are checked."""

MADE_BY_USERS = ("relprop.rules", "relprop.targets")
"""Their constructors say themselves what is wrong, and are tested with wrong arguments."""

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def typechecked(function: Callable[..., Any]) -> Callable[..., Any]:
    if function.__name__ == "__init__" and function.__module__.startswith(MADE_BY_USERS):
        return function
    wrapped: Callable[..., Any] = checked(function)
    return wrapped
