"""What there is: rules, composites, models."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields

import relprop.rules as known_rules
from relprop.composites.names import TABLE
from relprop.errors import RelpropError
from relprop.models.sources import sources
from relprop.rules import Rule


@dataclass(frozen=True)
class KnownRule:
    """A rule's name, its parameters with their defaults, and the first line of what it says of itself."""

    name: str
    parameters: str
    about: str


@dataclass(frozen=True)
class KnownComposite:
    """A composite's name on the command line, what it is for, and what it is."""

    name: str
    kinds: str
    about: str


@dataclass(frozen=True)
class KnownModel:
    """What `--model` takes, and where it comes from."""

    name: str
    source: str


def rules_known() -> list[KnownRule]:
    """All rules that a composite may give."""
    base = {"Rule", "AffineRule", "FunctionRule"}
    classes = [getattr(known_rules, name) for name in known_rules.__all__ if name.endswith("Rule") and name not in base]
    return [KnownRule(rule.__name__, _parameters(rule), _first(rule)) for rule in classes]


def _parameters(rule: type[Rule]) -> str:
    shown = [str(p) for p in inspect.signature(rule).parameters.values() if p.name not in ("stabilizer", "bias")]
    names = {f.name for f in fields(rule)}
    return ", ".join(text.partition(":")[0] + _default(text) for text in shown if text.partition(":")[0] in names)


def _default(text: str) -> str:
    _, equals, default = text.partition(" = ")
    return f"={default}" if equals else ""


def _first(value: object) -> str:
    """The first sentence of a docstring."""
    text = inspect.getdoc(value) or ""
    return " ".join(text.partition("\n\n")[0].split())


def composites_known() -> list[KnownComposite]:
    """All composites that have a name on the command line."""
    return [KnownComposite(row.name, " and ".join(row.kinds), row.about) for row in TABLE]


def models_known(part: str | None = None) -> list[KnownModel]:
    """How models are named, or those that have a part in their names, of the sources that are installed."""
    if part is None:
        return [KnownModel(source.form, source.about) for source in sources()]
    found = []
    for source in sources():
        try:
            names = source.names() if source.names is not None else []
        except RelpropError:  # it is not installed
            continue
        found += [KnownModel(name, source.about) for name in names if part.casefold() in name.casefold()]
    return found
