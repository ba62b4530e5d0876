"""What a page says on whether an explanation can be trusted, and who is asked for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from relprop.explanations.drawable import Drawable

Verdict = Literal["passes", "fails", "open"]


@dataclass(frozen=True)
class Finding:
    """One question, and what came out.

    Attributes:
        question: as a reader would ask it.
        verdict: `"passes"`, `"fails"`, or `"open"` where it was not measured or decides nothing.
        said: the answer, with its numbers.
    """

    question: str
    verdict: Verdict
    said: str


@dataclass(frozen=True)
class Curve:
    """A line of the plot of occlusion: the tracked output, `x` of the input hidden.

    Attributes:
        name: of the method, and in which order parts were hidden.
        kind: `"own"`, `"random"`, or `"centre"`: the line's colour.
        x: fractions, from 0 to 1.
        y: of each of them the output.
    """

    name: str
    kind: Literal["own", "random", "centre"]
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Trust:
    """Findings and curves of one sample's explanation."""

    findings: Sequence[Finding] = field(default_factory=tuple)
    curves: Sequence[Curve] = field(default_factory=tuple)


Check = Callable[[Drawable, int], Trust]
"""An explanation and which of its samples -> what is to be said of it."""

CHECKS: list[Check] = []


def register_check(check: Check) -> Check:
    """Ask a function of each explanation that a page is about, from now on. It may be used as a decorator.

    Args:
        check: an explanation and which of its samples -> findings and curves.

    Returns:
        The same function.
    """
    if check not in CHECKS:
        CHECKS.append(check)
    return check


def trust_of(explanation: Drawable, sample: int) -> Trust:
    """What all checks say together.

    Args:
        explanation: of a batch.
        sample: which of it.
    """
    found = [check(explanation, sample) for check in CHECKS]
    return Trust([f for each in found for f in each.findings], [c for each in found for c in each.curves])
