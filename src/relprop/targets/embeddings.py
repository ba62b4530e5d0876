"""Targets for models that return an embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relprop.errors import TargetError
from relprop.targets.target import Shape, Target


@dataclass(frozen=True, eq=False)
class Similarity(Target):
    """Of an embedding u: its cosine similarity with another one, `y = Σ_d s_d` with `s_d = u_d v_d / (‖u‖ ‖v‖)`.

    Lengths and the other embedding count as constants.

    Args:
        other: v, (D,) or (1, D), or (B, D) for each sample its own.
        dot: the scalar product instead, `s_d = u_d v_d`.
    """

    other: Float[Tensor, "*B D"]
    dot: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.other, Tensor) or not self.other.is_floating_point() or self.other.dim() not in (1, 2):
            raise TargetError("Similarity takes an embedding, a floating point tensor (D,), (1, D) or (B, D).")
        object.__setattr__(self, "other", self.other.detach())

    @property
    def for_one_batch(self) -> bool:
        """Embeddings of several samples belong to one batch."""
        return self.other.dim() == 2 and len(self.other) > 1

    def check(self, batch: int, shape: Shape) -> None:
        given = tuple(self.other.shape)
        if len(shape) != 1 or shape[0] not in (None, given[-1]) or (len(given) == 2 and given[0] not in (1, batch)):
            raise TargetError(
                f"an embedding of shape {given} is to be compared with outputs ({batch}, "
                f"{', '.join('?' if n is None else str(n) for n in shape)}); give (D,), (1, D) or ({batch}, D)."
            )
        if not self.other.isfinite().all() or not self.other.any(-1).all():
            raise TargetError("an embedding to compare with is all 0 or not finite, so it is similar to nothing.")

    def value(self, output: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        v = self.other.to(device=output.device, dtype=output.dtype)
        return output * v if self.dot else output * torch.nn.functional.normalize(v, dim=-1) / _length(output)

    def __str__(self) -> str:
        return f"the {'scalar product' if self.dot else 'cosine similarity'} with an embedding"


def embedding_length(u: Tensor) -> Tensor:
    """A target for an embedding `u`: its length, `R_d = u_d² / ‖u‖`."""
    return u * u / _length(u)


def _length(u: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
    return length.clamp(min=torch.finfo(u.dtype).tiny)
