"""Boolean masks of fused attention, made ready for the kernel once, for all layers that read them.

PyTorch makes T × S numbers of a boolean mask in every call, which autograd keeps for every layer, and computes what the
mask hides. A causal mask need not be there at all: a word stands for it, and the kernel leaves out what is hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Causal:
    """Each position reads itself and what is in front of it, nothing else."""


Ready = Tensor | Causal


def ready_mask(mask: Tensor, dtype: torch.dtype) -> Ready:
    """A mask (..., T, S), True where something is read, as `attend` takes it: 0 there and -inf elsewhere, or `Causal`.

    Args:
        mask: no data. Its dimensions that only repeat something have size 1 in the result.
        dtype: of the queries.
    """
    for dim in range(mask.dim() - 2):
        if mask.shape[dim] > 1 and mask.stride(dim) == 0:
            mask = mask.narrow(dim, 0, 1)
    if _is_causal(mask):
        return Causal()
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Ready,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` under a mask that was made ready."""
    mask = None if isinstance(attn_mask, Causal) else attn_mask.to(query.dtype)
    causal = is_causal or mask is None
    return F.scaled_dot_product_attention(
        query, key, value, mask, dropout_p, causal, scale=scale, enable_gqa=enable_gqa
    )


attend.__name__ = "scaled_dot_product_attention"  # it is that operator to tables, composites and messages


def _is_causal(mask: Tensor) -> bool:
    """Whether it is, by its values; False while a program is traced, where it has none."""
    if type(mask) is not Tensor or mask.shape[-2] != mask.shape[-1]:
        return False
    allowed = torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).tril_()
    return bool((mask == allowed).all())
