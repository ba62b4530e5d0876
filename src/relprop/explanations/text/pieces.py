"""A sentence's pieces: from a tokenizer's output, or from the names of tokens alone."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from relprop.explanations.shown import visible

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


def pieces_of(tokenizer: Any, text: str) -> tuple[list[Piece], str]:
    """The pieces of a sentence, special tokens included, and what is left of it behind them.

    With the offsets of a fast tokenizer, `before` and `text` of all pieces and the rest are the sentence itself.
    """
    if not getattr(tokenizer, "is_fast", False):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        return join_tokens(tokens, special_tokens(tokenizer)), ""
    encoded = tokenizer(text, return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    special = special_tokens(tokenizer)
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


def special_tokens(tokenizer: Any) -> set[str]:
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


def label(piece: Piece) -> str:
    """What is shown for a piece: never nothing."""
    if piece.text and not piece.text.strip():
        return "".join("⏎" if character == "\n" else "␣" for character in piece.text)
    return visible(piece.text) or NOTHING
