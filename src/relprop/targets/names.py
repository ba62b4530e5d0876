"""Targets by the names of classes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from relprop.errors import TargetError


def resolve_target(text: str, classes: Sequence[str] | None, outputs: int) -> int:
    """The index of a class that was given by its index or its name.

    Raises:
        TargetError: no output has that index, or no class or several classes have that name.
    """
    if re.fullmatch(r"-?\d+", text):
        if not 0 <= int(text) < outputs:
            raise TargetError(f"target {text} is out of range: the model has {outputs} outputs, 0 to {outputs - 1}")
        return int(text)
    if classes is None:
        raise TargetError(f"target {text!r} is a name, but this model's classes have no names: give an index")
    found = [index for index, name in enumerate(classes) if name.casefold() == text.casefold()]
    if len(found) == 1:
        return found[0]
    if found:
        raise TargetError(f"{len(found)} classes are named {text!r}: give one of the indices {found}")
    close = difflib.get_close_matches(text, classes, n=4, cutoff=0.4)
    close += [name for name in classes if text.casefold() in name.casefold() and name not in close][: 4 - len(close)]
    raise TargetError(f"no class is named {text!r}; did you mean {' or '.join(close or classes[:4])}?")
