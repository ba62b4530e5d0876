"""The one stabilizer: keeps denominators away from zero, by sign, at zero, and in every dtype."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Stabilizer = float | Callable[[Tensor], Tensor]
"""A number ε, or a function that maps a denominator `z` to a stabilized one."""

STABILIZER = 1e-9
"""ε where a rule names no other."""


def stabilize(
    z: Float[Tensor, "*shape"], stabilizer: Stabilizer, *, sign: int = 0, overwrite: bool = False
) -> Float[Tensor, "*shape"]:
    """`z + ε·sign(z)` with `sign(0) = +1`, so that the result is never smaller than ε in magnitude.

    Args:
        z: denominator, any shape.
        stabilizer: ε, or a callable that is applied instead. An ε below the smallest normal number of `z.dtype`
            is raised to it, so that a division by it stays finite.
        sign: 1 or -1 where `z >= 0` or `z <= 0` is known, which saves looking at it. (Of `z = 0` it is the sign then.)
        overwrite: `z` may hold the result afterwards, which saves memory.
    """
    if callable(stabilizer):
        return stabilizer(z)
    epsilon = max(float(stabilizer), torch.finfo(z.dtype).tiny)
    if sign:
        return z.add_(sign * epsilon) if overwrite else z + sign * epsilon
    side = z.detach() if z.requires_grad else z  # a sign has no derivative
    side = side + 0.0  # -0.0 + 0.0 is 0.0
    signed = torch.copysign(z.new_full((), epsilon), side)  # where() is many times slower on CPUs
    return z.add_(signed) if overwrite else signed.add_(z)
