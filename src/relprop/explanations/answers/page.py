"""A page of explained answers for the browser: one file of HTML that needs no other file and no server."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from relprop.errors import InputError
from relprop.explanations.files import replacing
from relprop.explanations.pages import rendered
from relprop.explanations.shown import visible
from relprop.explanations.text.colours import BLUE, NIGHT, RED, WHITE
from relprop.explanations.text.page import colours_of, style
from relprop.explanations.text.pieces import Piece, label

DIGITS = 4
FRAME = 520
"""Height of the page in a notebook, in pixels."""


@dataclass(frozen=True)
class Shown:
    """What a page shows of an answer.

    Attributes:
        title: above it.
        pieces: tokens of prompt and answer, T of them.
        prompt: how many are the prompt's, P.
        relevance: A rows of T numbers.
        explained: the amounts, A of them.
        probability: of each token of the answer.
        entropy: of its distribution, in nats.
        against: what each was explained against, or None.
        units: by name, where each unit starts and stops.
        notes: lines below it.
    """

    title: str
    pieces: Sequence[Piece]
    prompt: int
    relevance: Sequence[Sequence[float]]
    explained: Sequence[float]
    probability: Sequence[float]
    entropy: Sequence[float]
    against: Sequence[str | None]
    units: Mapping[str, Sequence[tuple[int, int]]]
    notes: Sequence[str] = ()


def page(answers: Sequence[Shown], title: str) -> str:
    """Answers, one section each, as HTML that needs no other file.

    Without scripts, prompts are coloured by the relevance for their whole answers.

    Args:
        answers: in this order.
        title: of the page; it may hold any characters.

    Raises:
        InputError: there are no answers, or relevance is not finite.
    """
    if not answers:
        raise InputError("there are no answers to put on a page")
    for each in answers:
        _check(each)
    colours = {"red": RED, "blue": BLUE, "white": WHITE, "night": NIGHT}
    return rendered(
        "answer.html",
        title=visible(title),
        style=style() + _file("answer.css"),
        script=_file("answer.js"),
        sections=[_section(each) for each in answers],
        data={"answers": [_data(each) for each in answers], "colours": colours},
    )


def save_page(path: str | Path, answers: Sequence[Shown], title: str) -> None:
    """Write `page` to a file, whole or not at all.

    Args:
        path: where to.
        answers: in this order.
        title: of the page.

    Raises:
        InputError: there are no answers, or relevance is not finite. RelpropError: the file cannot be written.
    """
    text = page(answers, title)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, "utf-8")


def framed(text: str) -> str:
    """A page as a part of another one, such as a notebook, whose styles and scripts do not meet its own."""
    source = html.escape(text, quote=True)
    look = f"width:100%;height:{FRAME}px;border:0"
    return f'<iframe title="Explained answer" sandbox="allow-scripts" style="{look}" srcdoc="{source}"></iframe>'


def _check(shown: Shown) -> None:
    for i, row in enumerate(shown.relevance):
        if not all(math.isfinite(r) for r in row):
            token = shown.pieces[shown.prompt + i].token
            raise InputError(f"the relevance for {token!r} is NaN or infinite; another composite may help.")


def _section(shown: Shown) -> dict[str, Any]:
    """The whole answer's relevance, for who runs no scripts."""
    totals = [math.fsum(column) for column in zip(*shown.relevance, strict=True)]
    limit = max((abs(r) for r, p in zip(totals, shown.pieces, strict=True) if not p.special), default=0.0)
    tokens = [
        {
            "before": before,
            "label": label(piece),
            "special": piece.special,
            "style": colours_of(r, limit),
            "tip": f"{visible(piece.token)}  {r:+.4g}",
        }
        for piece, before, r in zip(shown.pieces, _spaces(shown), totals, strict=True)
    ]
    notes = [visible(note) for note in shown.notes]
    P = shown.prompt
    return {"title": visible(shown.title), "prompt": tokens[:P], "answer": tokens[P:], "notes": notes, "limit": limit}


def _data(shown: Shown) -> dict[str, Any]:
    spaces = _spaces(shown)
    pieces = [[b, label(p), visible(p.token), int(p.special)] for p, b in zip(shown.pieces, spaces, strict=True)]
    columns = zip(shown.explained, shown.probability, shown.entropy, strict=True)
    return {
        "prompt": shown.prompt,
        "pieces": pieces,
        "relevance": [[_short(r) for r in row] for row in shown.relevance],
        "steps": [[_short(number) for number in step] for step in columns],
        "against": [None if other is None else visible(other) for other in shown.against],
        "units": [[name, [list(unit) for unit in units]] for name, units in shown.units.items()],
    }


def _spaces(shown: Shown) -> list[str]:
    """What stands before each piece: its spaces, and the lines that a token of nothing but new lines makes."""
    lines = ["", *("\n" * p.text.count("\n") if not p.text.strip() else "" for p in shown.pieces[:-1])]
    spaces = [line + visible(piece.before) for line, piece in zip(lines, shown.pieces, strict=True)]
    for first in (0, shown.prompt):
        spaces[first] = ""
    return spaces


def _short(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")


def _file(name: str) -> str:
    return (resources.files("relprop.explanations.pages") / name).read_text("utf-8")
