"""Concept vectors: directions in activations that tell samples with a concept from those without, and their removal."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from relprop.errors import InputError


def pattern_vector(
    activations: Float[Tensor, "B C *places"], has_concept: Bool[Tensor, " B"]
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """The direction that activations move in when the concept is there (pattern CAV, Pahde et al. 2022).

    `v = cov(a, t) / var(t)` of activations averaged over places, divided by its length. A classifier's weights, which
    are what CAVs are elsewhere, also turn away from what else differs; the pattern does not.

    Args:
        activations: of a layer, (B, C, ...).
        has_concept: which samples have it.

    Returns:
        v, (C,), of length 1, and the mean activation of the samples without the concept, (C,).

    Raises:
        InputError: all samples have it, or none, or there is no difference.
    """
    t = torch.as_tensor(has_concept, device=activations.device)
    if t.shape != activations.shape[:1] or bool(t.all()) or not bool(t.any()):
        raise InputError(
            f"{int(t.sum())} of {len(activations)} samples have the concept: give some with, some without."
        )
    a = activations.detach().flatten(2).mean(2) if activations.dim() > 2 else activations.detach()
    t = t.to(a.dtype)
    covariance = ((a - a.mean(0)) * (t - t.mean())[:, None]).mean(0)
    length = covariance.norm()
    if not float(length) > 0:
        raise InputError("Activations are the same with and without the concept: take another layer.")
    return covariance / length, a[t == 0].mean(0)


class ProjectOut(nn.Module):
    """Moves activations to where samples without the concept are: `a - v vᵀ (a - z)` (P-ClArC, Anders et al. 2022).

    Put it behind the layer: `model.layer = nn.Sequential(model.layer, ProjectOut(v, z))`. Nothing is trained.

    Args:
        vector: v, (C,), of length 1.
        clean: z, (C,): the mean activation without the concept.
    """

    def __init__(self, vector: Float[Tensor, " C"], clean: Float[Tensor, " C"]) -> None:
        super().__init__()
        self.vector: Tensor
        self.amount: Tensor
        self.register_buffer("vector", vector.detach().clone())
        self.register_buffer("amount", (vector @ clean).detach().clone())

    def forward(self, a: Float[Tensor, "B C *places"]) -> Float[Tensor, "B C *places"]:
        moved: Tensor = a.movedim(1, -1)
        found: Tensor = (moved - ((moved @ self.vector) - self.amount)[..., None] * self.vector).movedim(-1, 1)
        return found
