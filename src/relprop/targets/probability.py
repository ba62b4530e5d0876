"""Probabilities of classes, without a softmax in the model: what of them the logits explain, and what no logit does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relprop.targets.output import TargetLike
from relprop.targets.rows import OfRow, entropy


@dataclass(frozen=True)
class LogProbability(OfRow):
    """`y = log p_t`, with `p = softmax(z)`.

    `s = z ∂y/∂z`, so `s_n = ([n = t] − p_n) z_n`. `Σ s = z_t − Σ p z = y + H(p)`, so the entropy is a sink,
    `"entropy"`, of −H(p).

    Args:
        target: one entry of each sample's output.
        dim: of the classes: the last, or 1 of maps (B, classes, H, W).
    """

    target: TargetLike = None
    dim: int = -1

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        row = self.row(output)
        return row.shares(row.entry.to(output.dtype) - row.z.softmax(1))

    def amount(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        row = self.row(output)
        return torch.where(row.entry, row.z.log_softmax(1), 0).sum(1)

    def sinks(self, output: Float[Tensor, "B *output"]) -> dict[str, Float[Tensor, " B"]]:
        return {"entropy": -entropy(self.row(output).z)}

    def __str__(self) -> str:
        return f"the log-probability of {self.target}"


@dataclass(frozen=True)
class Probability(OfRow):
    """`y = p_t`, with `p = softmax(z)`.

    `s = z ∂y/∂z`, so `s_n = p_t ([n = t] − p_n) z_n` (Iwana et al. 2019). `Σ s = p_t (log p_t + H(p))`; what is left of
    p_t is a sink, `"remainder"`.

    Args:
        target: one entry of each sample's output.
        dim: of the classes: the last, or 1 of maps (B, classes, H, W).
    """

    target: TargetLike = None
    dim: int = -1

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        row = self.row(output)
        p = row.z.softmax(1)
        return row.shares(self.amount(output).unsqueeze(1) * (row.entry.to(output.dtype) - p))

    def amount(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        row = self.row(output)
        return torch.where(row.entry, row.z.softmax(1), 0).sum(1)

    def sinks(self, output: Float[Tensor, "B *output"]) -> dict[str, Float[Tensor, " B"]]:
        row = self.row(output)
        p = torch.where(row.entry, row.z.softmax(1), 0).sum(1)
        log_p = torch.where(row.entry, row.z.log_softmax(1), 0).sum(1)
        return {"remainder": p * (1 - log_p - entropy(row.z))}

    def __str__(self) -> str:
        return f"the probability of {self.target}"
