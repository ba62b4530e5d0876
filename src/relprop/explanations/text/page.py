"""A page of explained sentences for the browser: one file of HTML that needs no other file and no script."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template

from relprop.errors import InputError
from relprop.explanations.files import replacing
from relprop.explanations.shown import visible
from relprop.explanations.text.colours import BLUE, NIGHT, RED, WHITE, css, mix, readable
from relprop.explanations.text.pieces import Piece, label, word_numbers
from relprop.explanations.text.sentence import ExplainedText, spaced


def page(sentences: Sequence[ExplainedText], title: str = "Relevance of tokens", *, shared: bool = False) -> str:
    """A page that shows sentences, as HTML that needs no other file and no script.

    Args:
        sentences: one section each, in this order.
        title: of the page; it may hold any characters.
        shared: one scale for all sentences, so that colours compare between them.

    Raises:
        InputError: there are no sentences.
    """
    if not sentences:
        raise InputError("there are no sentences to put on a page")
    limit = max(each.limit for each in sentences) if shared else None
    body = "\n".join(_section(each, each.limit if limit is None else limit) for each in sentences)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escaped(title)}</title>\n<style>{style()}</style>\n<h1>{_escaped(title)}</h1>\n{body}\n</html>\n"
    )


def save_page(
    path: str | Path, sentences: Sequence[ExplainedText], title: str = "Relevance of tokens", *, shared: bool = False
) -> None:
    """Write `page` to a file, whole or not at all.

    Raises:
        InputError: there are no sentences.
        RelpropError: the file cannot be written.
    """
    text = page(sentences, title, shared=shared)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, "utf-8")


def _section(explained: ExplainedText, limit: float) -> str:
    words = word_numbers(explained.pieces)
    totals: dict[int, float] = {}
    for word, r in zip(words, explained.relevance, strict=True):
        totals[word] = totals.get(word, 0.0) + r
    spans = []
    for (space, piece, r), word in zip(spaced(explained), words, strict=True):
        whole = f"\nits word {totals[word]:+.4g}" if words.count(word) > 1 else ""
        spans.append(_escaped(space) + _span(piece, r, limit, f"{visible(piece.token)}  {r:+.4g}{whole}"))
    notes = "".join(f'<p class="note">{_escaped(note)}</p>' for note in explained.notes)
    heading = f"<h2>{_escaped(explained.title)}</h2>" if explained.title else ""
    return (
        f'<section>{heading}<p class="text" dir="auto">{"".join(spans)}{_escaped(explained.rest)}</p>'
        f'<div class="legend"><span>{-limit:.3g} against</span><i></i><span>for {limit:+.3g}</span></div>'
        f"{notes}{_table(explained)}</section>"
    )


def _span(piece: Piece, r: float, limit: float, tip: str) -> str:
    colours = colours_of(r, limit)
    kind = ' class="special"' if piece.special else ""
    return f'<span{kind} style="{colours}" data-tip="{_escaped(tip)}">{_escaped(label(piece))}</span>'


def colours_of(r: float, limit: float) -> str:
    """The style of a token with relevance `r`, by day and by night; `limit` gets the full colour."""
    light, dark = mix(WHITE, r, limit), mix(NIGHT, r, limit)
    return f"--l:{css(light)};--f:{css(readable(light))};--d:{css(dark)};--g:{css(readable(dark))}"


def _table(explained: ExplainedText) -> str:
    rows = "".join(
        f"<tr><td>{_escaped(label(p))}</td><td>{_escaped(p.token)}</td><td>{r:+.4g}</td></tr>"
        for p, r in zip(explained.pieces, explained.relevance, strict=True)
    )
    head = "<tr><th>text</th><th>token</th><th>relevance</th></tr>"
    return f"<details><summary>All numbers</summary><table>{head}{rows}</table></details>"


def _escaped(text: str) -> str:
    return html.escape(visible(text), quote=True)


@cache
def style() -> str:
    """The style sheet of pages of text."""
    text = (resources.files("relprop.explanations.text") / "page.css").read_text("utf-8")
    return Template(text).substitute(red=css(RED), blue=css(BLUE), night=css(NIGHT))
