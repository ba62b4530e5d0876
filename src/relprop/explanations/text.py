"""Relevance of tokens, read as text: coloured words in the terminal, and a page for the browser.

    explained = ExplainedText.of(tokenizer, text, expl.relevance[0].sum(-1), title="similarity 0.63")
    rich.print(explained.rich())
    save_page("cat.html", [explained])

Evidence for the target is red and evidence against it is blue, equal amounts have equal strength, and zero is the
neutral colour. The sentence is shown as it was written, where the tokenizer knows which characters a token stands for.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.style import Style
from rich.text import Text
from torch import Tensor

from relprop.errors import InputError

RGB = tuple[int, int, int]
PAPER: RGB = (247, 247, 247)  # zero relevance in the terminal, whatever the terminal's own background
WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)
NIGHT: RGB = (24, 26, 31)
RED: RGB = (178, 24, 43)
BLUE: RGB = (33, 102, 172)
NOTHING = "·"  # shown for a token without characters of its own, such as the second half of an emoji


@dataclass(frozen=True)
class Piece:
    """One token, as part of a sentence.

    Attributes:
        token: its name in the vocabulary, such as `##ill` or `Ġcat`.
        text: the characters it stands for; empty where an earlier token shows them already.
        before: characters between the previous piece and this one, mostly a space or nothing.
        special: it is no part of the sentence, such as `[CLS]` or `<s>`.
    """

    token: str
    text: str
    before: str = ""
    special: bool = False


@dataclass(frozen=True)
class ExplainedText:
    """A sentence's pieces with the relevance of each, (T,).

    Args:
        title: what is explained.
        notes: lines below the sentence.
        rest: characters behind the last piece.

    Raises:
        InputError: another number of relevances than of pieces, or relevance that is not finite.

    Examples:
        >>> from relprop.explanations.text import ExplainedText
        >>> tokens = ["[CLS]", "the", "windows", "##ill", "[SEP]"]
        >>> explained = ExplainedText.of_tokens(tokens, [0.0, 0.1, 0.5, -0.2, 0.0], special=["[CLS]", "[SEP]"])
        >>> explained.words()
        [('the', 0.1), ('windowsill', 0.3)]
        >>> str(explained.rich())
        '[CLS] the windowsill [SEP]'
    """

    pieces: tuple[Piece, ...]
    relevance: tuple[float, ...]
    title: str = ""
    notes: tuple[str, ...] = ()
    rest: str = ""

    def __post_init__(self) -> None:
        if not self.pieces:
            raise InputError("there are no tokens to show")
        if len(self.pieces) != len(self.relevance):
            raise InputError(
                f"there are {len(self.pieces)} tokens but relevance for {len(self.relevance)}; it must be of the same "
                "sentence, with the same special tokens and without padding"
            )
        wrong = [p.token for p, r in zip(self.pieces, self.relevance, strict=True) if not math.isfinite(r)]
        if wrong:
            raise InputError(f"the relevance of {len(wrong)} tokens is NaN or infinite, first of {wrong[0]!r}")

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        text: str,
        relevance: Tensor | Sequence[float],
        *,
        title: str = "",
        notes: Sequence[str] = (),
    ) -> ExplainedText:
        """The sentence `text` as a Hugging Face tokenizer splits it, with special tokens."""
        pieces, rest = pieces_of(tokenizer, text)
        return cls(tuple(pieces), _numbers(relevance), title, tuple(notes), rest)

    @classmethod
    def of_tokens(
        cls,
        tokens: Sequence[str],
        relevance: Tensor | Sequence[float],
        *,
        special: Collection[str] = (),
        title: str = "",
        notes: Sequence[str] = (),
    ) -> ExplainedText:
        """A sentence put together from the names of its tokens; `special` says which are no part of it."""
        return cls(tuple(join_tokens(tokens, special)), _numbers(relevance), title, tuple(notes))

    @property
    def limit(self) -> float:
        """`max |R|`, which gets the full colour."""
        return max(abs(r) for r in self.relevance)

    def words(self) -> list[tuple[str, float]]:
        """Each word with the relevance of its pieces added up; special tokens are no words."""
        sums: dict[int, list[float]] = {}
        texts: dict[int, str] = {}
        for piece, r, word in zip(self.pieces, self.relevance, word_numbers(self.pieces), strict=True):
            if not piece.special:
                sums.setdefault(word, []).append(r)
                texts[word] = texts.get(word, "") + piece.text
        return [(texts[word] or NOTHING, math.fsum(parts)) for word, parts in sums.items()]

    def top(self, number: int = 3) -> list[tuple[str, float]]:
        """The words with the most relevance, the largest first."""
        return sorted(self.words(), key=lambda pair: -pair[1])[:number]

    def rich(self, limit: float | None = None) -> Text:
        """Coloured text for the terminal.

        Args:
            limit: relevance with the full colour; `max |R|` by default. One for all makes sentences comparable.
        """
        limit = self.limit if limit is None else limit
        paper = _style(PAPER)
        shown = Text()
        for space, piece, r in _spaced(self):
            background = mix(PAPER, r, limit)
            shown.append(visible(space), paper)
            shown.append(label(piece), _style(background, dim=piece.special))
        shown.append(visible(self.rest), paper)
        return shown


# From a tokenizer's output to pieces.


def pieces_of(tokenizer: Any, text: str) -> tuple[list[Piece], str]:
    """The pieces of a sentence, special tokens included, and what is left of it behind them.

    With the offsets of a fast tokenizer, `before` and `text` of all pieces and the rest are the sentence itself.
    """
    if not getattr(tokenizer, "is_fast", False):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        return join_tokens(tokens, _special_tokens(tokenizer)), ""
    encoded = tokenizer(text, return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    special = _special_tokens(tokenizer)
    pieces, cursor = [], 0
    for token, (start, end) in zip(tokens, encoded["offset_mapping"], strict=True):
        if token in special:
            cursor, before = (end, text[cursor:start]) if start < end else (cursor, "")
            pieces.append(Piece(token, text[start:end] or token, before, special=True))
            continue
        start = max(start, cursor)
        own = text[start:end]
        if own.strip():  # spaces around a token belong between the pieces
            start += len(own) - len(own.lstrip())
            own = own.strip()
        pieces.append(Piece(token, own, text[cursor:start]))
        cursor = start + len(own)
    return pieces, text[cursor:]


def join_tokens(tokens: Sequence[str], special: Collection[str] = ()) -> list[Piece]:
    """Pieces from the names of tokens alone, by the marks of WordPiece `##`, SentencePiece `▁` or BPE `Ġ`, `</w>`."""
    marked = any(token[:1] in ("▁", "Ġ") for token in tokens)
    closed = any(token.endswith("</w>") for token in tokens)
    pieces: list[Piece] = []
    starts = False  # the sentence's first piece has nothing before it
    for token in tokens:
        if token in special:
            pieces.append(Piece(token, token, special=True))
            continue
        if marked:
            own = token.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n")
            space = own[: len(own) - len(own.lstrip())] if own.strip() else ""
            own = own.strip() or own
            space = space if starts else ""
        elif closed:
            own, space = token.removesuffix("</w>"), " " if starts and pieces[-1].token.endswith("</w>") else ""
        else:
            own, space = token.removeprefix("##") or token, " " if starts and not _continues(token) else ""
        starts = True
        pieces.append(Piece(token, own, space))
    return pieces


def _continues(token: str) -> bool:
    return token.startswith("##") and len(token) > 2


def _special_tokens(tokenizer: Any) -> set[str]:
    """Special tokens but for the unknown one, which stands for characters of the sentence."""
    unknown = getattr(tokenizer, "unk_token", None)
    others = set(tokenizer.all_special_tokens)
    named = {getattr(tokenizer, f"{name}_token", None) for name in ("bos", "eos", "pad", "cls", "sep", "mask")}
    return others - ({unknown} - named)


def word_numbers(pieces: Sequence[Piece]) -> list[int]:
    """Which word each piece belongs to: letters and digits that follow each other without a space are one."""
    numbers: list[int] = []
    last = ""  # the character that the word so far ends with
    for piece in pieces:
        same = bool(numbers) and not piece.special and not piece.before and bool(last)
        if same and piece.text:
            same = _of_a_word(last) and _of_a_word(piece.text[0])
        numbers.append(numbers[-1] if same else len(set(numbers)))
        last = "" if piece.special else piece.text[-1:] or last
    return numbers


def _of_a_word(character: str) -> bool:
    """A letter, digit or accent; not of the scripts without spaces, where every token stands for itself."""
    wide = unicodedata.east_asian_width(character) == "W"
    return unicodedata.category(character)[0] in "LNM" and not wide


def _numbers(relevance: Tensor | Sequence[float]) -> tuple[float, ...]:
    if isinstance(relevance, Tensor):
        if relevance.dim() != 1:
            raise InputError(
                f"tokens have one relevance each, shape (T,), not {tuple(relevance.shape)}; of one sample, add up the "
                "embedding dimensions: expl.relevance[0].sum(-1)"
            )
        relevance = relevance.detach().double().tolist()
    return tuple(float(r) for r in relevance)


# Colours.


def mix(ground: RGB, r: float, limit: float) -> RGB:
    """The colour of relevance `r`: from `ground` at zero to red at `limit` and blue at `-limit`."""
    share = min(1.0, abs(r) / limit) if limit > 0 else 0.0
    full = RED if r > 0 else BLUE
    red, green, blue = (round(g + share * (f - g)) for g, f in zip(ground, full, strict=True))
    return red, green, blue


def readable(background: RGB) -> RGB:
    """Black or white, whichever has more contrast."""
    return max((BLACK, WHITE), key=lambda colour: contrast(colour, background))


def contrast(a: RGB, b: RGB) -> float:
    """The contrast ratio of two colours by WCAG 2, from 1 to 21; text wants 4.5."""
    dark, light = sorted((_luminance(a), _luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: RGB) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _style(background: RGB, dim: bool = False) -> Style:
    front, back = ("rgb({},{},{})".format(*colour) for colour in (readable(background), background))
    return Style(color=front, bgcolor=back, dim=dim or None, italic=dim or None)


# What both ways of showing share.


def label(piece: Piece) -> str:
    """What is shown for a piece: never nothing."""
    if piece.text and not piece.text.strip():
        return "".join("⏎" if character == "\n" else "␣" for character in piece.text)
    return visible(piece.text) or NOTHING


def visible(text: str) -> str:
    """Control characters as their pictures, so that no text can steer the terminal; lines stay lines."""
    return "".join(
        chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else "␡" if 127 <= ord(c) < 160 else c for c in text
    )


def _spaced(explained: ExplainedText) -> list[tuple[str, Piece, float]]:
    """Each piece with what goes before it: special tokens that were put in stand apart."""
    rows, apart = [], False
    for i, (piece, r) in enumerate(zip(explained.pieces, explained.relevance, strict=True)):
        space = piece.before or (" " if i and (piece.special or apart) else "")
        rows.append((space, piece, r))
        apart = piece.special
    return rows


# The page.

_CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #111; --soft: #5c6068; --line: #d8dae0;
  --red: RED; --blue: BLUE }
body { margin: 2rem auto; max-width: 52rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
h1, h2, td { overflow-wrap: anywhere } h1 { font-size: 1.3rem } h2 { font-size: 1rem; margin: 2.5rem 0 .5rem }
.text { font-size: 1.15rem; line-height: 2.1; white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0 }
.text span { position: relative; border-radius: 3px; padding: .15em 0 }
.special { opacity: .6; font-size: .75em; font-style: italic }
.text span:hover, .text span:focus { outline: 2px solid var(--ink) }
.text span:hover::after { content: attr(data-tip); position: absolute; left: 0; top: 1.9em; z-index: 1; opacity: 1;
  background: var(--ink); color: var(--paper); padding: .3em .6em; border-radius: 4px;
  font: 13px/1.4 system-ui, sans-serif;
  white-space: pre; pointer-events: none }
.legend { display: flex; align-items: center; gap: .6rem; color: var(--soft); font-size: .8rem;
  font-variant-numeric: tabular-nums }
.legend i { flex: 0 0 12rem; height: .7rem; border: 1px solid var(--line);
  background: linear-gradient(to right, var(--blue), var(--paper), var(--red)) }
.note { color: var(--soft); font-size: .85rem; margin: .3rem 0 }
details { font-size: .85rem; margin-top: .5rem } summary { cursor: pointer; color: var(--soft) }
table { border-collapse: collapse; margin-top: .4rem } th, td { text-align: left; padding: .1rem 1rem .1rem 0;
  border-bottom: 1px solid var(--line) } td:last-child, th:last-child { text-align: right;
  font-variant-numeric: tabular-nums }
.text span { background: var(--l); color: var(--f) }
@media (prefers-color-scheme: dark) { :root { --paper: NIGHT; --ink: #f2f2f2; --soft: #a4a9b3; --line: #3a3d45 }
  .text span { background: var(--d); color: var(--g) } }
"""


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
    css = _CSS.replace("RED", _css(RED)).replace("BLUE", _css(BLUE)).replace("NIGHT", _css(NIGHT))
    body = "\n".join(_section(each, each.limit if limit is None else limit) for each in sentences)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escaped(title)}</title>\n<style>{css}</style>\n<h1>{_escaped(title)}</h1>\n{body}\n</html>\n"
    )


def save_page(
    path: str | Path, sentences: Sequence[ExplainedText], title: str = "Relevance of tokens", *, shared: bool = False
) -> None:
    """Write `page` to a file, whole or not at all.

    Raises:
        InputError: there are no sentences.
        RelpropError: the file cannot be written.
    """
    from relprop.explanations.files import replacing

    text = page(sentences, title, shared=shared)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, "utf-8")


def _section(explained: ExplainedText, limit: float) -> str:
    words = word_numbers(explained.pieces)
    totals: dict[int, float] = {}
    for word, r in zip(words, explained.relevance, strict=True):
        totals[word] = totals.get(word, 0.0) + r
    spans = []
    for (space, piece, r), word in zip(_spaced(explained), words, strict=True):
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
    light, dark = mix(WHITE, r, limit), mix(NIGHT, r, limit)
    colours = f"--l:{_css(light)};--f:{_css(readable(light))};--d:{_css(dark)};--g:{_css(readable(dark))}"
    kind = ' class="special"' if piece.special else ""
    return f'<span{kind} style="{colours}" data-tip="{_escaped(tip)}">{_escaped(label(piece))}</span>'


def _table(explained: ExplainedText) -> str:
    rows = "".join(
        f"<tr><td>{_escaped(label(p))}</td><td>{_escaped(p.token)}</td><td>{r:+.4g}</td></tr>"
        for p, r in zip(explained.pieces, explained.relevance, strict=True)
    )
    head = "<tr><th>text</th><th>token</th><th>relevance</th></tr>"
    return f"<details><summary>All numbers</summary><table>{head}{rows}</table></details>"


def _escaped(text: str) -> str:
    return html.escape(visible(text), quote=True)


def _css(colour: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
