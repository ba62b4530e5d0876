"""A language model's answer, explained token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from relprop.errors import InputError
from relprop.explanations.pairs import matrix_of_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ExplainedAnswer:
    """Relevance of every token of prompt and answer for every token of the answer.

    Attributes:
        prompt: tokens of the prompt, P of them.
        answer: tokens of the answer, A of them.
        relevance: (A, P + A), in units of the logit; 0 from the token itself on, which the model had not seen.
        explained: the amount of each row, (A,): the token's logit, or its difference to the contrast's.
        probability: of each token of the answer, (A,).
        entropy: of the distribution that each token was taken from, in nats, (A,).
    """

    prompt: list[str]
    answer: list[str]
    relevance: Float[Tensor, "A T"]
    explained: Float[Tensor, " A"]
    probability: Float[Tensor, " A"]
    entropy: Float[Tensor, " A"]

    def span(self, start: int = 0, stop: int | None = None) -> Float[Tensor, " T"]:
        """Relevance for several tokens of the answer together, the sum of their rows; that of the whole by default.

        Args:
            start: the first of them.
            stop: the one behind the last.

        Raises:
            InputError: there is no such token.
        """
        rows = self.relevance[start:stop]
        if not len(rows):
            last = len(self.answer) - 1
            raise InputError(f"span({start}, {stop}): the answer has {last + 1} tokens, 0 to {last}.")
        return rows.sum(0)

    def top(self, token: int, n: int = 5) -> list[tuple[str, float]]:
        """The n tokens with the most relevance for one token of the answer.

        Args:
            token: which, from the end if negative.
            n: how many.
        """
        row, words = self.relevance[token], [*self.prompt, *self.answer]
        order = row.argsort(descending=True, stable=True)[:n].tolist()
        return [(words[i], float(row[i])) for i in order]

    def plot(self) -> Figure:
        """The matrix: a row for each token of the answer, a column for each token that it may come from.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return matrix_of_words(self.relevance, self.answer, [*self.prompt, *self.answer], "relevance for the logit")

    def __repr__(self) -> str:
        return f"ExplainedAnswer({len(self.prompt)} tokens of prompt, answer {''.join(self.answer)!r})"


def shown(pieces: Sequence[str]) -> list[str]:
    """Tokens as people read them: a space, not the mark that stands for it in a vocabulary."""
    return [piece.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n") for piece in pieces]
