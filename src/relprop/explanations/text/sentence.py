"""A sentence with the relevance of its pieces: its words, and as coloured text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rich.style import Style
from rich.text import Text
from torch import Tensor

from relprop.errors import InputError
from relprop.explanations.pages import rendered
from relprop.explanations.shown import visible
from relprop.explanations.text.colours import BLUE, PAPER, RED, RGB, WHITE, css, mix, readable
from relprop.explanations.text.pieces import NOTHING, Piece, join_tokens, label, pieces_of, word_numbers


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
        for space, piece, r in spaced(self):
            background = mix(PAPER, r, limit)
            shown.append(visible(space), paper)
            shown.append(label(piece), _style(background, dim=piece.special))
        shown.append(visible(self.rest), paper)
        return shown

    def _repr_html_(self) -> str:
        spans = [
            (
                visible(space),
                label(piece),
                css(mix(WHITE, r, self.limit)),
                css(readable(mix(WHITE, r, self.limit))),
                tip,
            )
            for (space, piece, r), tip in zip(spaced(self), self._tips(), strict=True)
        ]
        return rendered("sentence.html", explained=self, spans=spans, red=css(RED), blue=css(BLUE))

    def _tips(self) -> list[str]:
        return [f"{visible(p.token)}  {r:+.4g}" for p, r in zip(self.pieces, self.relevance, strict=True)]


def spaced(explained: ExplainedText) -> list[tuple[str, Piece, float]]:
    """Each piece with what goes before it: special tokens that were put in stand apart."""
    rows, apart = [], False
    for i, (piece, r) in enumerate(zip(explained.pieces, explained.relevance, strict=True)):
        space = piece.before or (" " if i and (piece.special or apart) else "")
        rows.append((space, piece, r))
        apart = piece.special
    return rows


def _numbers(relevance: Tensor | Sequence[float]) -> tuple[float, ...]:
    if isinstance(relevance, Tensor):
        if relevance.dim() != 1:
            raise InputError(
                f"tokens have one relevance each, shape (T,), not {tuple(relevance.shape)}; of one sample, add up the "
                "embedding dimensions: expl.relevance[0].sum(-1)"
            )
        relevance = relevance.detach().double().tolist()
    return tuple(float(r) for r in relevance)


def _style(background: RGB, dim: bool = False) -> Style:
    front, back = ("rgb({},{},{})".format(*colour) for colour in (readable(background), background))
    return Style(color=front, bgcolor=back, dim=dim or None, italic=dim or None)
