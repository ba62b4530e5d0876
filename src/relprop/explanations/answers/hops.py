"""What of an answer's relevance on its own earlier tokens leads back to the prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relprop.errors import InputError


@dataclass(frozen=True)
class Hops:
    """Relevance that was led back from the answer's own tokens to those before them.

    Attributes:
        prompt: tokens of the prompt, P of them.
        answer: tokens of the answer, A of them.
        hops: relevance of the prompt by the number of the answer's tokens that it came over, (H + 1, P).
        left: relevance that tokens of the answer still have, (A,): those that do not hand on, that no token spoke for,
            or that more hops would reach.
    """

    prompt: list[str]
    answer: list[str]
    hops: Float[Tensor, "H P"]
    left: Float[Tensor, " A"]

    @property
    def relevance(self) -> Float[Tensor, " P"]:
        """Of the prompt, over all ways."""
        return self.hops.sum(0)

    def top(self, n: int = 5) -> list[tuple[str, float]]:
        """The n tokens of the prompt with the most relevance.

        Args:
            n: how many.
        """
        order = self.relevance.argsort(descending=True, stable=True)[:n].tolist()
        return [(self.prompt[i], float(self.relevance[i])) for i in order]

    def __repr__(self) -> str:
        shares = ", ".join(f"{float(r):.3g}" for r in self.hops.sum(1))
        return f"Hops({len(self.prompt)} tokens of prompt, by hop {shares}; left {float(self.left.sum()):.3g})"


def led_back(
    matrix: Float[Tensor, "A T"], start: Float[Tensor, " T"], through: Tensor, limit: int | None, signed: bool
) -> tuple[Float[Tensor, "H P"], Float[Tensor, " A"]]:
    """Hand relevance of the answer's tokens on to what they were taken from, hop by hop.

    With shares `S_tj = R_tj⁺ / Σ_k R_tk⁺`, or `R_tj / Σ_k R_tk` if signed, a hop is `r_j ← Σ_t r_t S_tj`. A token came
    after all those that its row has relevance on, so that at most A hops lead everything to the prompt, where
    `r_P + r_A (1 − S_AA)⁻¹ S_AP` arrives: what was there at the start, neither more nor less. What a word of several
    tokens has on itself goes where its rest goes.

    Args:
        matrix: relevance for each token of the answer.
        start: relevance to lead back, of prompt and answer.
        through: which of the answer's tokens hand on, (A,) bool.
        limit: how many hops, or None for as many as there are.
        signed: shares with their signs.
    """
    A, P = len(matrix), matrix.shape[1] - len(matrix)
    rows = matrix.clone() if signed else matrix.clamp(min=0)
    rows[:, P:].diagonal().zero_()
    sums = rows.sum(1, keepdim=True)
    hands_on = through & (sums[:, 0] != 0)
    shares = torch.where(hands_on[:, None], rows / torch.where(sums == 0, 1.0, sums), 0.0)
    waiting, left, found = start[P:].clone(), torch.zeros_like(start[P:]), [start[:P].clone()]
    while limit is None or len(found) <= limit:
        left += torch.where(hands_on, 0.0, waiting)
        waiting = torch.where(hands_on, waiting, 0.0)
        if not waiting.any() or len(found) > A:
            break
        arrived = waiting @ shares
        found.append(arrived[:P])
        waiting = arrived[P:]
    return torch.stack(found), left + waiting


def check_hops(limit: int | None) -> None:
    """Refuse a number of hops that is none."""
    if limit is not None and limit < 0:
        raise InputError(f"hops={limit}: give 0 or more, or None for all of them.")
