"""What is on a page, in the order in which it is shown: values that the template reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relprop.explanations.report.checks import Trust


@dataclass(frozen=True)
class Bar:
    """A name with an amount; `share` of the longest bar, from -1 to 1."""

    name: str
    amount: float
    share: float
    note: str = ""


@dataclass(frozen=True)
class Field:
    """A token on its colours, for light pages and dark ones: ground and ink of each."""

    text: str
    amount: float
    light: tuple[str, str]
    dark: tuple[str, str]


@dataclass(frozen=True)
class Picture:
    """Pictures that lie on each other, as PNG files in base64: one alone, or what was seen, both, the heatmap."""

    files: Sequence[str]
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Panel:
    """Relevance for one class, or at one layer: as a picture, as bars, or as tokens.

    Attributes:
        label: the class or the layer.
        value: what is explained, in words, with its amount.
        total: relevance that is in it.
        limit: relevance with the full colour.
    """

    label: str
    value: str
    total: float
    limit: float
    picture: Picture | None = None
    bars: Sequence[Bar] = ()
    tokens: Sequence[Field] = ()


@dataclass(frozen=True)
class Sample:
    """One input: its name, panels for classes and layers, the sinks of its ledger, and whether it can be trusted."""

    name: str
    panels: Sequence[Panel]
    layers: Sequence[Panel]
    sinks: Sequence[Bar]
    books: str
    trust: Trust | None
