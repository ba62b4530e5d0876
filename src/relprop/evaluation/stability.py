"""Whether an explanation stays what it is when the input hardly changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.errors import InputError


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """`‖R(x + δ) − R(x)‖ / ‖R(x)‖` over draws of δ (Yeh et al. 2019).

    Attributes:
        changes: of each draw, (draws, B).
    """

    changes: Tensor

    @property
    def max(self) -> Tensor:
        """The largest, (B,)."""
        return self.changes.amax(0)

    @property
    def mean(self) -> Tensor:
        """The mean, (B,)."""
        return self.changes.mean(0)


def sensitivity(
    explain: Callable[[Tensor], Tensor], x: Tensor, *, radius: float = 0.02, draws: int = 10, seed: int = 0
) -> Sensitivity:
    """How much relevance changes near an input.

    Args:
        explain: inputs (B, ...) -> relevance, of the same targets each time.
        x: (B, ...), floating point.
        radius: δ is uniform in `±radius · (max x − min x)` of each sample.
        draws: how many δ.
        seed: of δ.

    Raises:
        InputError: x is no floating point, or radius or draws are not positive.
    """
    if not x.is_floating_point() or radius <= 0 or draws < 1:
        raise InputError(f"sensitivity needs floating point inputs, radius > 0, draws >= 1; got {x.dtype}.")
    generator = torch.Generator().manual_seed(seed)
    flat = x.flatten(1)
    reach = (radius * (flat.amax(1) - flat.amin(1))).reshape(-1, *[1] * (x.dim() - 1))
    relevance = explain(x).double().flatten(1)
    changes = []
    for _ in range(draws):
        delta = 2 * torch.rand(x.shape, generator=generator).to(x) - 1
        moved = explain(x + reach * delta).double().flatten(1)
        changes.append((moved - relevance).norm(dim=1) / relevance.norm(dim=1))
    return Sensitivity(torch.stack(changes))
