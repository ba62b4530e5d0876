"""Occlusion: what the output loses without a part of the input."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from relprop.analyzers.gradient import Function, FunctionAnalyzer
from relprop.analyzers.sampling import Reference, held, references
from relprop.errors import InputError
from relprop.targets import Seed

Window = tuple[slice, ...]
PICTURE_PATCH = 8


class Occlusion(FunctionAnalyzer):
    """`R_p = y(x) − y(x without p)` for each part p, spread evenly over its entries (Zeiler & Fergus 2014).

    Parts of pictures (B, C, H, W) are squares, with all channels, and so in all inputs of four dimensions and more; of
    sequences (B, T, D), such as embeddings of tokens, positions; of (B, F) features. Where parts overlap, an entry has
    the mean over those that it is in. It is measured in units of what is explained, whatever `normalize_output` is.

    Args:
        patch: how long a part is in each dimension that parts run along. None: 8 of pictures, 1 of others.
        stride: from one part to the next. None: the patch, so that parts do not overlap.
        fill: what takes the place of a part: a number, a tensor that broadcasts to the input, such as the embedding of
            a mask token (D,), or one for each of several inputs.
        dims: the dimensions that parts run along, `(2,)` of signals (B, C, T). None: those above.
        chunk: parts that go through the model together, where the captured program takes any batch.
        options: those of `Analyzer`.

    Examples:
        >>> import torch
        >>> from relprop.analyzers import Occlusion
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 2.0)
        >>> Occlusion(model)(torch.tensor([[1.0, 2.0, 3.0]])).relevance
        tensor([[2., 4., 6.]])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        patch: int | None = None,
        stride: int | None = None,
        fill: Reference = 0.0,
        dims: Sequence[int] | None = None,
        chunk: int = 32,
        **options: Any,
    ) -> None:
        for name, number in (("patch", patch), ("stride", stride), ("chunk", chunk)):
            if number is not None and number < 1:
                raise InputError(f"Occlusion takes {name} >= 1, got {number}.")
        if patch is not None and stride is not None and stride > patch:
            raise InputError(f"Occlusion with stride={stride} and patch={patch} would leave gaps: stride <= patch.")
        super().__init__(model, **options)
        self.patch, self.stride, self.fill, self.dims, self.chunk = patch, stride, fill, dims, chunk

    def relevance(self, function: Function, inputs: Sequence[Tensor], seed: Seed) -> Sequence[Tensor]:
        output = function(inputs)
        target, fills = held(seed, output).target, references(self.fill, inputs)
        at_once = self._at_once(function)

        def lost(given: Sequence[Tensor], times: int) -> Sequence[Tensor]:
            """What goes of the amount, (B,), with each of so many stacked batches."""
            return [target.change(output, z) for z in function(given, times).chunk(times)]

        found = []
        for i, (x, fill) in enumerate(zip(inputs, fills, strict=True)):
            total, count = torch.zeros_like(x), torch.zeros_like(x)
            for windows in _several(self.windows(x), at_once):
                given = [y.repeat(len(windows), *[1] * (y.dim() - 1)) for y in inputs]
                stacked = given[i].reshape(len(windows), *x.shape)
                for k, window in enumerate(windows):
                    stacked[k][window] = fill[window]
                for window, change in zip(windows, lost(given, len(windows)), strict=True):
                    part = total[window]
                    part += (change / part[0].numel()).reshape(-1, *[1] * (x.dim() - 1))
                    count[window] += 1
            found.append(total / count)
        return found

    def windows(self, x: Tensor) -> Iterator[Window]:
        """The parts of an input, as what indexes it.

        Raises:
            InputError: it has no dimension that parts could run along.
        """
        dims = self._dims(x)
        patch = self.patch or (PICTURE_PATCH if x.dim() > 3 else 1)
        stride = self.stride or patch
        places = [range(0, x.shape[d], stride) for d in dims]
        for starts in itertools.product(*places):
            window = [slice(None)] * x.dim()
            for d, start in zip(dims, starts, strict=True):
                window[d] = slice(start, start + patch)
            yield tuple(window)

    def _dims(self, x: Tensor) -> Sequence[int]:
        if self.dims is not None:
            dims = [d % x.dim() for d in self.dims if -x.dim() <= d < x.dim()]
            if len(dims) < len(self.dims) or 0 in dims or not dims:
                raise InputError(f"dims={tuple(self.dims)}: an input {tuple(x.shape)} has no such dimensions of parts.")
            return dims
        if x.dim() < 2:
            raise InputError(
                f"Occlusion finds no parts in an input of shape {tuple(x.shape)}: it takes (B, F) and more."
            )
        return range(2, x.dim()) if x.dim() > 3 else (1,)

    def _at_once(self, function: Function) -> int:
        return self.chunk if self.chunk > 1 and all(function.stacks(n) for n in (2, self.chunk)) else 1


def _several(windows: Iterator[Window], count: int) -> Iterator[list[Window]]:
    while several := list(itertools.islice(windows, count)):
        yield several
