"""Whether numbers in tensors have changed, where nobody counts: fused optimizers and `.data` raise no version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

WHOLE = 1 << 16
"""Numbers that are all compared; of tensors that have more together, only some of each are."""

SOME = 32
"""Numbers of one tensor that are compared then."""

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Sample:
    """Some numbers of each of a few tensors: views, read together, so that a look costs microseconds."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        readable = [t.detach() for t in tensors if _is_readable(t)]
        some = None if sum(map(_span, readable)) <= WHOLE else SOME
        groups: dict[Any, list[Tensor]] = {}
        for tensor in readable:
            groups.setdefault((tensor.device, tensor.dtype), []).append(_view(tensor, some))
        self._views = list(groups.values())

    def read(self) -> list[Tensor]:
        """One tensor for each device and dtype."""
        with torch.no_grad():
            return [torch.cat(views) for views in self._views]


class State:
    """Which tensors there are, and some of their numbers: equal where nothing has changed."""

    def __init__(self, identities: Any, numbers: Sequence[Tensor]) -> None:
        self.identities, self.numbers = identities, numbers

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, State)
            and self.identities == other.identities
            and all(map(torch.equal, self.numbers, other.numbers))
        )

    __hash__ = None  # type: ignore[assignment]


class Sums:
    """A sum over the bits of each tensor, for a look at all numbers now and then."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Tensor]] = {}

    def differ(self, tensors: Iterable[Tensor]) -> bool:
        """Whether a tensor has other numbers than when it was last looked at, under the same version."""
        found = {id(t): (identity(t), _sum(t)) for t in tensors if _is_readable(t)}
        known, self._known = self._known, found
        return any(
            known[key][0] == name and not torch.equal(known[key][1], total)
            for key, (name, total) in found.items()
            if key in known
        )


def identity(tensor: Tensor) -> tuple[Any, ...]:
    """What differs when a tensor is another one, or was written to in the eyes of autograd."""
    version = 0 if tensor.is_inference() else tensor._version
    return id(tensor), version, tensor.data_ptr(), tensor.device, tensor.dtype


def _is_readable(tensor: Tensor) -> bool:
    """A plain tensor in memory."""
    plain = type(tensor) in (Tensor, nn.Parameter) and not isinstance(tensor, FakeTensor)
    return plain and tensor.layout is torch.strided and tensor.numel() > 0 and tensor.device.type != "meta"


def _span(tensor: Tensor) -> int:
    """How many numbers of its storage a tensor reaches over."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _view(tensor: Tensor, some: int | None) -> Tensor:
    """Numbers of a tensor's memory in one dimension, all or `some` at about equal distances."""
    span = _span(tensor)
    # The distance is no divisor of the span, so that not all numbers come from one column of a matrix.
    step = 1 if some is None else max(1, int(span / (some + 0.618)))
    return tensor.as_strided((1 + (span - 1) // step,), (step,), tensor.storage_offset())


def _sum(tensor: Tensor) -> Tensor:
    plain = tensor.detach()
    bits = plain if plain.is_complex() else plain.view(BITS[plain.element_size()])
    return bits.sum(dtype=bits.dtype)  # in a wider type it would be a copy
