"""Token ids as the characters that they stand for, in the place where they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from relprop.explanations.text.pieces import Piece, join_tokens, special_tokens

WINDOW = 8
"""Tokens before one that decide how it is written; a character has fewer bytes than that."""
BROKEN = "�"


def pieces_of_ids(tokenizer: Any, ids: Sequence[int]) -> list[Piece]:
    """A piece for each id; `before` and `text` of all of them are the decoded text.

    A character that several tokens make stands with the first of them, and the others have no text.

    Args:
        tokenizer: knows `convert_ids_to_tokens`, and mostly `decode`.
        ids: of a text or of what a model said, special tokens included.
    """
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]
    special = special_tokens(tokenizer) if hasattr(tokenizer, "all_special_tokens") else frozenset[str]()
    if _has_no_decoder(tokenizer):
        return join_tokens(tokens, special)
    texts = _decoded(tokenizer, ids, tokens, special) if hasattr(tokenizer, "decode") else shown(tokens)
    return [_piece(token, text, token in special) for token, text in zip(tokens, texts, strict=True)]


def shown(tokens: Sequence[str]) -> list[str]:
    """Names of tokens as people read them: a space, not the mark that stands for it in a vocabulary."""
    return [token.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n") for token in tokens]


def written(piece: Piece) -> str:
    """A piece with the space before it, as it stands in the text."""
    return piece.before + piece.text


def _has_no_decoder(tokenizer: Any) -> bool:
    """A fast tokenizer that was made without one: it joins the names of tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and backend.decoder is None


def _piece(token: str, text: str, special: bool) -> Piece:
    own = text.lstrip(" ")
    if special or not own:  # a token of spaces alone is its spaces
        return Piece(token, text, "", special)
    return Piece(token, own, text[: len(text) - len(own)])


def _decoded(tokenizer: Any, ids: Sequence[int], tokens: Sequence[str], special: Collection[str]) -> list[str]:
    def decode(part: Sequence[int]) -> str:
        text: str = tokenizer.decode(list(part), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    texts = [""] * len(ids)
    done = 0  # tokens whose characters are whole
    for i, token in enumerate(tokens):
        if token in special:
            texts[i], done = token, i + 1
            continue
        start = max(0, done - WINDOW)
        known, now = decode(ids[start:done]), decode(ids[start : i + 1])
        new = now[len(known) :] if now.startswith(known) else decode(ids[done : i + 1])
        if new.endswith(BROKEN) and i + 1 - done < WINDOW and i + 1 < len(ids):
            continue  # the next token brings the rest of the character
        texts[done], done = new, i + 1
    return texts
