"""The outputs that compete with an entry: the row of classes that it is in."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from relprop.errors import TargetError
from relprop.targets.output import Entry, TargetLike, entry_of
from relprop.targets.target import Shape, Target


@dataclass(frozen=True)
class Row:
    """Of each sample the outputs along the dimension of classes, through one entry.

    Attributes:
        z: (B, K), their values.
        entry: (B, K), True at the entry.
        places: (B, K), their numbers in the flattened output.
    """

    z: Float[Tensor, "B K"]
    entry: Bool[Tensor, "B K"]
    places: Int[Tensor, "B K"]
    shape: torch.Size

    @classmethod
    def through(cls, output: Float[Tensor, "B *output"], index: Int[Tensor, " B"], dim: int) -> Row:
        """The row along a dimension of the output.

        Args:
            output: what is explained.
            index: the entry of each sample's flattened output.
            dim: of the classes.
        """
        dim %= output.dim()
        size, stride = output.shape[dim], prod(output.shape[dim + 1 :])
        k = torch.arange(size, device=output.device)
        own = (index.unsqueeze(1) // stride) % size
        places = index.unsqueeze(1) + (k - own) * stride
        return cls(output.reshape(output.shape[0], -1).gather(1, places), k == own, places, output.shape)

    @property
    def target(self) -> Float[Tensor, " B"]:
        """The entry's value."""
        return torch.where(self.entry, self.z, 0).sum(1)

    @property
    def others(self) -> Float[Tensor, "B K"]:
        """The values, with −∞ at the entry."""
        return self.z.masked_fill(self.entry, -torch.inf)

    def spread(self, s: Float[Tensor, "B K"]) -> Float[Tensor, "B *output"]:
        """Numbers of the row, in the shape of the output, with 0 elsewhere."""
        blank = s.new_zeros(self.shape).reshape(self.shape[0], -1)
        return blank.scatter(1, self.places, s).reshape(self.shape)

    def shares(self, g: Float[Tensor, "B K"]) -> Float[Tensor, "B *output"]:
        """`s = g z`, 0 where g is, so that outputs that are masked with −∞ get nothing."""
        return self.spread(torch.where(g == 0, 0, g * self.z))


class OfRow(Target):
    """Targets that compare an entry with the other classes.

    Subclasses have the fields `target` and `dim`.
    """

    target: TargetLike
    dim: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", entry_of(self.target, type(self).__name__))

    @property
    def chosen(self) -> Entry:
        """The entry."""
        return cast(Entry, self.target)

    def check(self, batch: int, shape: Shape) -> None:
        super().check(batch, shape)
        rank = len(shape) + 1
        if not -rank < self.dim < rank or self.dim == 0:
            raise TargetError(
                f"{self}: an output of {rank} dimensions has no classes in dim={self.dim}; dimension 0 is the batch."
            )
        size = shape[self.dim - 1 if self.dim > 0 else self.dim]
        if size == 1:
            raise TargetError(
                f"{self}: dimension {self.dim} of the output has one entry, so there is no other class. Give dim=, the "
                "dimension of the classes, or explain the entry itself."
            )

    def row(self, output: Float[Tensor, "B *output"]) -> Row:
        """The entry's row."""
        index = self.chosen.index(output)
        assert index is not None
        return Row.through(output, index, self.dim)

    def at_position(self, shape: Shape) -> tuple[int, Target] | None:
        found = self.chosen.at_position(shape)
        if found is None or self.dim % (len(shape) + 1) == 1:
            return None
        position, target = found
        return position, self._with({"target": target})


def log_sum(z: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """`log Σ_k exp z_k`."""
    return torch.logsumexp(z, 1)


def entropy(z: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """`H(p) = −Σ p_k log p_k` of `p = softmax(z)`."""
    log_p = torch.log_softmax(z, 1)
    p = log_p.exp()
    return -torch.where(p == 0, 0, p * log_p).sum(1)
