"""Which features of a layer are looked at: given ones, or those with the most relevance."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.errors import InputError


class Features(ABC):
    """Chooses features of a layer, for each sample."""

    @property
    @abstractmethod
    def length(self) -> int:
        """How many it chooses."""

    @abstractmethod
    def check(self, available: int) -> None:
        """Raise `InputError` where a layer with so many features does not have them."""

    @abstractmethod
    def choose(self, scores: Float[Tensor, "B f"]) -> Int[Tensor, "n B"]:
        """The numbers of the features, given each one's relevance."""


class IndexedFeatures(Features):
    """These features, the same for every sample; one that is named twice comes twice.

    Args:
        *indices: numbers of features, from 0.

    Raises:
        InputError: none, or one that is no such number.
    """

    def __init__(self, *indices: int) -> None:
        if not indices or not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in indices):
            raise InputError(f"IndexedFeatures{indices}: give numbers of features, from 0.")
        self.indices = indices

    @property
    def length(self) -> int:
        return len(self.indices)

    def check(self, available: int) -> None:
        wrong = [i for i in self.indices if i >= available]
        if wrong:
            raise InputError(f"feature {wrong[0]} is out of range: the layer has {available}, 0 to {available - 1}.")

    def choose(self, scores: Float[Tensor, "B f"]) -> Int[Tensor, "n B"]:
        return torch.tensor(self.indices, device=scores.device)[:, None].expand(-1, scores.shape[0])

    def __repr__(self) -> str:
        return f"IndexedFeatures({', '.join(map(str, self.indices))})"


class TopNFeatures(Features):
    """The n features with the most relevance of each sample, signed, the most first; of equal ones the lower number.

    A place in this order is a rank: of two samples it may be two features.

    Args:
        n: how many.

    Raises:
        InputError: n is not positive.
    """

    def __init__(self, n: int) -> None:
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise InputError(f"TopNFeatures({n!r}): give how many features, at least 1.")
        self.n = n

    @property
    def length(self) -> int:
        return self.n

    def check(self, available: int) -> None:
        if self.n > available:
            raise InputError(f"TopNFeatures({self.n}): the layer has {available} features only.")

    def choose(self, scores: Float[Tensor, "B f"]) -> Int[Tensor, "n B"]:
        return scores.sort(dim=1, descending=True, stable=True).indices[:, : self.n].T

    def __repr__(self) -> str:
        return f"TopNFeatures({self.n})"
