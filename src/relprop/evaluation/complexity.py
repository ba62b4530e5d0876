"""How much an explanation asks of its reader: on how few places relevance lies. It says nothing of being right."""

from __future__ import annotations

import torch
from torch import Tensor


def entropy(at_places: Tensor) -> Tensor:
    """`−Σ_p a_p log a_p` with `a_p = |R_p| / Σ_q |R_q|`, (B,), in nats (Bhatt et al. 2020). 0 to log of the places.

    Args:
        at_places: signed relevance, (B, *places).

    Returns:
        NaN for samples without relevance.
    """
    shares = _shares(at_places)
    return entropy_of_shares(shares)


def entropy_of_shares(shares: Tensor) -> Tensor:
    """`−Σ_p a_p log a_p` of each row, with `0 log 0 = 0`, (B,)."""
    terms: Tensor = torch.special.xlogy(shares, shares)
    return -terms.sum(1)


def gini(at_places: Tensor) -> Tensor:
    """Gini index of `|R_p|`, (B,) (Chalasani et al. 2020): 0 if all are alike, nearly 1 if one has everything.

    `Σ_k (2k − n − 1) |R|_(k) / (n Σ_p |R_p|)`, `|R|_(k)` in ascending order, k from 1 to n.

    Args:
        at_places: signed relevance, (B, *places).

    Returns:
        NaN for samples without relevance.
    """
    shares = _shares(at_places).sort(1).values
    n = shares.shape[1]
    k = torch.arange(1, n + 1, dtype=shares.dtype, device=shares.device)
    return (shares * (2 * k - n - 1)).sum(1) / n


def effective_complexity(at_places: Tensor, share: float = 0.9) -> Tensor:
    """The fewest places that hold `share` of all `|R_p|`, over the number of places, (B,).

    Nguyen and Martínez (2020) count what lies above a threshold; a share of the whole does not depend on the scale.

    Args:
        at_places: signed relevance, (B, *places).
        share: of the sum of magnitudes.

    Returns:
        NaN for samples without relevance.
    """
    shares = _shares(at_places).sort(1, descending=True).values
    enough = (shares.cumsum(1) < share * (1 - 1e-12)).sum(1) + 1
    found = enough.clamp(max=shares.shape[1]).double() / shares.shape[1]
    return found.masked_fill(shares.isnan().any(1), torch.nan)


def _shares(at_places: Tensor) -> Tensor:
    flat = at_places.double().flatten(1).abs()
    return flat / flat.sum(1, keepdim=True)
