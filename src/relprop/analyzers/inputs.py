"""What users call analyzers with: inputs in several forms, and options that must not be taken for inputs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from relprop.errors import InputError

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs of a model."""


def inputs_of(given: Sequence[Any] | Mapping[str, Any], name: str = "example_inputs") -> Inputs:
    """Positional inputs from a tuple, keyword inputs from a dict.

    Raises:
        InputError: it is something else.
    """
    if isinstance(given, Mapping):
        return (), dict(given)
    if isinstance(given, (tuple, list)):
        return tuple(given), {}
    kind = "a tensor" if isinstance(given, Tensor) else f"a {type(given).__name__}"
    raise InputError(
        f"{name} is {kind}; give the model's positional inputs as a tuple: (x,), or its keyword inputs as a dict."
    )


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
