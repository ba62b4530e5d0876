"""Options of a call that must not be taken for inputs of the model."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable

from torch import nn

from relprop.engine.graph.hints import parameters_of
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


def names_options(error: InputError, given: Iterable[str], model: nn.Module, options: Iterable[str]) -> InputError:
    """The error of a model that does not take a keyword, with the option that was meant by it.

    Args:
        error: what a call raised.
        given: its keywords.
        model: what does not take one of them.
        options: of the analyzer's call.
    """
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if found is None or found[1] not in set(given):
        return error
    known = sorted(options)
    close = difflib.get_close_matches(found[1], known, n=1, cutoff=0.6)
    helps = f"did you mean {close[0]}=? " if close else ""
    if found[1] in ("targets", "classes", "labels"):
        helps = "did you mean target=? For several targets on one forward pass, each(x, targets=[...]). "
    return InputError(
        f"{type(model).__name__} has no input {found[1]!r}, and the call no such option: {helps}"
        f"Inputs are {', '.join(parameters_of(model)) or 'unknown'}, options {', '.join(known)}."
    )
