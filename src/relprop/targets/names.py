"""Targets by the names of classes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from relprop.errors import TargetError

MOST = 8
"""Classes that an error offers."""


def resolve_target(text: str, classes: Sequence[str] | None, outputs: int) -> int:
    """The index of a class that was given by its index, its name, or words of its name that no other class has.

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
    parts = found or _by_part(text, classes)
    if len(parts) == 1:
        return parts[0]
    if found:
        raise TargetError(f"{len(found)} classes are named {text!r}: give one of the indices {found}")
    if parts:
        some = ", ".join(f"{classes[i]!r} ({i})" for i in parts[:MOST])
        more = f", and {len(parts) - MOST} more" if len(parts) > MOST else ""
        raise TargetError(
            f"{text!r} is a part of {len(parts)} class names: {some}{more}. Give one of them, or its number."
        )
    within = [name for name in classes if text.casefold() in name.casefold()]
    close = difflib.get_close_matches(text, classes, n=4, cutoff=0.4)
    close = list(dict.fromkeys([*within[:4], *close]))[:4]
    raise TargetError(f"no class is named {text!r}; did you mean {' or '.join(close or classes[:4])}?")


def _by_part(text: str, classes: Sequence[str]) -> list[int]:
    """Classes with these words in their name: `cat` is a part of `tiger cat`, and not of `catamaran`."""
    words = re.compile(rf"(?<!\w){re.escape(text.strip().casefold())}(?!\w)")
    return [index for index, name in enumerate(classes) if text.strip() and words.search(name.casefold())]
