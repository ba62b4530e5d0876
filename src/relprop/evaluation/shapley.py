"""Shapley values, exactly: what few groups contribute, over all their subsets. A truth to hold explanations against."""

from __future__ import annotations

from math import factorial

import torch
from torch import Tensor

from relprop.errors import InputError
from relprop.evaluation.occlusion import Occluder

MOST = 14
"""Groups: the model is asked 2 to their power times."""


def shapley_values(occluder: Occluder) -> Tensor:
    """`φ_g = Σ_{S not with g} |S|! (n − |S| − 1)! / n! · [f(S ∪ g) − f(S)]`, (B, n) (Shapley 1953).

    f(S) is the tracked value with the groups in S left and all others filled, so that `Σ_g φ_g` is the value of the
    whole input less that of nothing.

    Args:
        occluder: the model, its inputs, groups and fill.

    Raises:
        InputError: too many groups, or not the same number in each sample.
    """
    n = int(occluder.sizes.max())
    if n > MOST or int(occluder.sizes.min()) != n:
        raise InputError(f"Exact Shapley values need at most {MOST} groups, as many in each sample; there are {n}.")
    samples = len(occluder.sizes)
    subsets = torch.arange(2**n)[:, None].bitwise_right_shift(torch.arange(n)).bitwise_and(1).bool()
    rows = torch.arange(samples).repeat_interleave(len(subsets))
    hidden = ~subsets.repeat(samples, 1)
    pairs = zip(torch.split(hidden, occluder.batch), torch.split(rows, occluder.batch), strict=True)
    values = torch.cat([occluder.without(h, r) for h, r in pairs]).reshape(samples, -1)
    size = subsets.sum(1)
    order = torch.tensor([factorial(k) * factorial(n - k - 1) / factorial(n) for k in range(n)] + [0.0])
    found = []
    for g in range(n):
        without = torch.arange(2**n)[~subsets[:, g]]
        gain = values[:, without + 2**g] - values[:, without]
        found.append((gain * order.double()[size[without]]).sum(1))
    return torch.stack(found, 1)
