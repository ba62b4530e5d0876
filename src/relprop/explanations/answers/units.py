"""Tokens that are looked at together: words, sentences, spans that somebody gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from relprop.errors import InputError
from relprop.explanations.text.pieces import Piece, word_numbers

Unit = Literal["tokens", "words", "sentences"]
Spans = Sequence[tuple[int, int]]
IDEOGRAPHIC = "\u3002\uff01\uff1f"  # 。, and the wide forms of ! and ?
ENDS = frozenset(".!?…" + IDEOGRAPHIC)
"""What a sentence ends with, before a space or the end; and a new line ends it."""
CLOSING = "\"'”\u2019)]»"


def units_of(pieces: Sequence[Piece], prompt: int, by: Unit | Spans) -> list[tuple[int, int]]:
    """Where each unit starts and where it stops, (start, stop); together they are all tokens.

    Special tokens are units of their own in words and sentences, and none reaches from the prompt into the answer.

    Args:
        pieces: of prompt and answer.
        prompt: how many of them are the prompt's.
        by: a name, or spans of tokens; those outside of all spans stay alone.

    Raises:
        InputError: there is no such unit, or spans overlap, are empty, or lie on both sides of the answer's start.
    """
    if by == "tokens":
        return [(i, i + 1) for i in range(len(pieces))]
    if isinstance(by, str) and by not in ("words", "sentences"):
        raise InputError(f'units are "tokens", "words", "sentences" or a list of spans (start, stop), not {by!r}.')
    if not isinstance(by, str):
        return _given(len(pieces), prompt, by)
    starts = _words(pieces) if by == "words" else _sentences(pieces)
    cuts = [i for i in range(len(pieces)) if i == prompt or starts[i] or _apart(pieces, i)]
    return list(zip(cuts, [*cuts[1:], len(pieces)], strict=True))


def merged(pieces: Sequence[Piece], units: Spans) -> list[Piece]:
    """One piece for each unit."""
    found = []
    for start, stop in units:
        first, *others = pieces[start:stop]
        text = first.text + "".join(piece.before + piece.text for piece in others)
        token = "".join(piece.token for piece in pieces[start:stop])
        found.append(Piece(token, text, first.before, first.special and not others))
    return found


def summed(values: Float[Tensor, "... T"], units: Spans) -> Float[Tensor, "... U"]:
    """What the tokens of each unit have together."""
    return torch.stack([values[..., start:stop].sum(-1) for start, stop in units], -1)


def _apart(pieces: Sequence[Piece], i: int) -> bool:
    return i == 0 or pieces[i].special or pieces[i - 1].special


def _words(pieces: Sequence[Piece]) -> list[bool]:
    numbers = word_numbers(pieces)
    return [i == 0 or numbers[i] != numbers[i - 1] for i in range(len(pieces))]


def _sentences(pieces: Sequence[Piece]) -> list[bool]:
    """A piece begins one where the text before it ends one; spaces and closing quotes belong to what they follow."""
    begins, ended = [], False
    for piece in pieces:
        text = piece.text.strip()
        goes_on = not text or (not piece.before and text[0] in CLOSING)
        begins.append(ended and not goes_on)
        if "\n" in piece.before + piece.text:
            ended = True
        elif text:
            ended = (text.rstrip(CLOSING) or text)[-1] in ENDS or (ended and goes_on)
    return [begin and _spaced(pieces, i) for i, begin in enumerate(begins)]


def _spaced(pieces: Sequence[Piece], i: int) -> bool:
    """Not inside of `3.5` or `e.g.`: there is a space, or the mark is of a script that has none."""
    last = "".join(piece.text for piece in pieces[max(0, i - 2) : i])
    return bool(pieces[i].before) or last[-1:].isspace() or (last and last[-1] in IDEOGRAPHIC) or "\n" in last


def _given(length: int, prompt: int, spans: Spans) -> list[tuple[int, int]]:
    found, at = [], 0
    for start, stop in sorted((int(start), int(stop)) for start, stop in spans):
        if not 0 <= start < stop <= length:
            raise InputError(f"span ({start}, {stop}): prompt and answer have {length} tokens, 0 to {length - 1}.")
        if start < at:
            raise InputError(f"span ({start}, {stop}) overlaps the one before it.")
        if start < prompt < stop:
            raise InputError(f"span ({start}, {stop}) lies on both sides of token {prompt}, where the answer starts.")
        found += [(i, i + 1) for i in range(at, start)] + [(start, stop)]
        at = stop
    return found + [(i, i + 1) for i in range(at, length)]
