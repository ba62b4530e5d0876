"""One pass of the model: which samples go together, and how the pass is filled up.

Kernels choose how they sum by the size of a batch, so that a sample's numbers depend, in their last digit, on how many
others there are, though not on which. So every pass has the same size, a sample has the same place in it whatever
happened before, and the places of samples that are missing hold copies of one that is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pass:
    """Samples that are explained together.

    Attributes:
        shard: number of the file that they belong to.
        first: number of the sample in the first place.
        wanted: numbers of those that are to be explained, ascending.
        last: no other pass of the shard comes behind it.
    """

    shard: int
    first: int
    wanted: tuple[int, ...]
    last: bool


def passes_of(shard: int, first: int, wanted: Sequence[int], size: int) -> Iterator[Pass]:
    """The passes in which wanted samples of a shard are explained.

    Args:
        shard: its number.
        first: number of its first sample.
        wanted: ascending.
        size: of a pass.
    """
    places: dict[int, list[int]] = {}
    for number in wanted:
        places.setdefault((number - first) // size, []).append(number)
    for i, (place, numbers) in enumerate(places.items(), 1):
        yield Pass(shard, first + place * size, tuple(numbers), i == len(places))


def filled(content: Mapping[int, Tensor], places: Sequence[int]) -> Tensor:
    """A batch of some places, (places, ...), with samples in theirs, and copies of the first in all others."""
    other = next(iter(content.values()))
    return torch.stack([content.get(place, other) for place in places])


def by_shape(content: Mapping[int, Tensor]) -> list[dict[int, Tensor]]:
    """The same, apart by shape, since only samples of one shape make a batch."""
    found: dict[torch.Size, dict[int, Tensor]] = {}
    for place, x in content.items():
        found.setdefault(x.shape, {})[place] = x
    return list(found.values())


@contextmanager
def repeatable() -> Iterator[None]:
    """CuDNN takes the same kernels each time, and none that sums in an order of its own."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
