"""What a target is: a frozen value that says what of an output is explained, and where relevance starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

Shape = Sequence[int | None]
"""Of one sample's output, (*output,); None for a size that the capture left open."""


class Target(ABC):
    """What of an output (B, *output) is explained. Subclass it, as a frozen dataclass, to make your own.

    `index` and `seed` are pure functions of the output, so that programs can be batched, compiled and exported.

    Attributes:
        knows_index: `index` follows from the output's shape alone.
        traceable: `index` and `seed` read no values of tensors into Python.
        for_one_batch: it holds something for each sample of one batch.
    """

    knows_index: ClassVar[bool] = False
    traceable: ClassVar[bool] = True
    for_one_batch: ClassVar[bool] = False

    def check(self, batch: int, shape: Shape) -> None:
        """Look for what is wrong before any work, as far as the sizes in `shape` are known.

        Raises:
            TargetError: the target selects nothing in an output (batch, *shape).
        """
        return

    def index(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"] | None:
        """The explained entry of each sample's flattened output; None where it is not one entry."""
        return None

    @abstractmethod
    def seed(
        self, output: Float[Tensor, "B *output"], index: Int[Tensor, " B"] | None, *, normalize: bool
    ) -> Float[Tensor, "B *output"]:
        """The relevance that the output starts with.

        Args:
            output: what is explained.
            index: what `index(output)` gave.
            normalize: start with 1 at the explained entry instead of with its value.
        """

    def at_position(self, shape: Shape) -> tuple[int, Target] | None:
        """Of an output (B, T, ...): the one position that it speaks of, and the same target in (B, 1, ...).

        Returns:
            None for a target that speaks of more than one.
        """
        return None


@dataclass(frozen=True)
class Seed:
    """A target, and how much relevance it starts with."""

    target: Target
    normalize: bool = True

    def __call__(
        self, output: Float[Tensor, "B *output"]
    ) -> tuple[Float[Tensor, "B *output"], Int[Tensor, " B"] | None]:
        """The relevance that the output starts with, and the index of the explained entry."""
        index = self.target.index(output)
        return self.target.seed(output, index, normalize=self.normalize), index
