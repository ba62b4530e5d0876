"""Targets for models that return an embedding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def similarity_to(other: Tensor) -> Callable[[Tensor], Tensor]:
    """A target for an embedding `u`: its cosine similarity with the embedding `other`, as a sum over dimensions.

    `R_d = u_d v_d / (‖u‖ ‖v‖)`: lengths and the other embedding (D,) or (1, D) count as constants.
    """
    v = torch.nn.functional.normalize(other.detach(), dim=-1)

    def target(u: Tensor) -> Tensor:
        return u * v / _length(u)

    return target


def embedding_length(u: Tensor) -> Tensor:
    """A target for an embedding `u`: its length, `R_d = u_d² / ‖u‖`."""
    return u * u / _length(u)


def _length(u: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
    return length.clamp(min=torch.finfo(u.dtype).tiny)
