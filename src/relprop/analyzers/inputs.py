"""Options of a call that must not be taken for inputs of the model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from torch import nn

from relprop.errors import InputError


def ambiguous_names(model: nn.Module, options: Iterable[str]) -> frozenset[str]:
    """Options that the model has an input of the same name for."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(p.name for p in parameters if p.kind in kinds) & frozenset(options)


def refuse_ambiguous(given: Iterable[str], ambiguous: frozenset[str], model: nn.Module) -> None:
    """Raise `InputError` for options that may be meant as inputs of the model."""
    for name in given:
        if name in ambiguous:
            raise InputError(
                f"{type(model).__name__} has an input of its own that is called {name!r}, so {name}= may mean either. "
                f"Give the inputs in one object instead: explain((x, ...), {name}=...) or "
                f"explain({{'x': x, {name!r}: ...}}, {name}=...), where {name}= is the analyzer's."
            )
