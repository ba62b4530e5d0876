"""Input times gradient: what the 0-rule with absorbing biases gives on piecewise linear networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def input_times_gradient(scalar: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """`x ∂(Σ scalar)/∂x` for each input; shapes as the inputs have them."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    with torch.enable_grad():
        gradients = torch.autograd.grad(scalar(*leaves).sum(), leaves)
    return tuple(x.detach() * gradient for x, gradient in zip(inputs, gradients, strict=True))
