"""What a source of models is: how its specifications look, and how a model is made from one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from relprop.models.loaded import LoadedModel
from relprop.models.spec import Spec


@dataclass(frozen=True)
class Source:
    """Where models come from.

    Attributes:
        name: what `Spec.source` says. form: how a specification looks, for the reader of a message.
        read: a specification's text as a `Spec`, or None where it is of another source.
        load: the model that a `Spec` names.
        about: where that is, for people.
        names: all specifications that it knows without weights, if they can be listed.
    """

    name: str
    form: str
    read: Callable[[str], Spec | None]
    load: Callable[[Spec], LoadedModel]
    about: str = ""
    names: Callable[[], list[str]] | None = None


def read_named(source: str) -> Callable[[str], Spec | None]:
    """Reads `SOURCE:NAME[@WEIGHTS]`."""

    def read(text: str) -> Spec | None:
        head, colon, rest = text.partition(":")
        name, at, weights = rest.partition("@")
        fits = head == source and bool(colon) and bool(name) and bool(at) == bool(weights)
        return Spec(source, name, weights or None) if fits else None

    return read
