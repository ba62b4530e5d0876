"""Whether an explanation depends on what the model has learned: it must change when the weights are shuffled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relprop.errors import InputError
from relprop.evaluation.complexity import entropy_of_shares


def randomized(model: nn.Module, modules: Sequence[str] | None = None, *, seed: int = 0) -> nn.Module:
    """A copy whose parameters are shuffled: each keeps its values, at other places.

    So every parameter is random and of its own scale, those too that no `reset_parameters` knows, such as the input
    projection of `nn.MultiheadAttention`, position embeddings, and the weights of an RMS norm. Buffers stay.

    Args:
        model: it is not changed.
        modules: paths of the modules whose own parameters are shuffled. None: all.
        seed: of the permutations; that of a parameter does not depend on what else is shuffled.

    Raises:
        InputError: the model has no such module.
    """
    found = deepcopy(model)
    known = dict(found.named_modules())
    missing = sorted(set(modules or ()) - set(known))
    if missing:
        raise InputError(f"The model has no modules {missing}; model.named_modules() lists those that there are.")
    chosen = set(known if modules is None else modules)
    with torch.no_grad():
        for number, (name, parameter) in enumerate(found.named_parameters()):  # shared ones are listed once
            if name.rpartition(".")[0] in chosen:
                generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    return found


def modules_from_below(model: nn.Module, call: Callable[[nn.Module], Any]) -> list[str]:
    """Paths of the modules with parameters of their own, in the order in which they first run; then those that do not.

    Args:
        model: it is not changed.
        call: runs the model that it is given.
    """
    copy, order = deepcopy(model).eval(), list[str]()
    own = {name: m for name, m in copy.named_modules() if next(m.parameters(recurse=False), None) is not None}
    for name, module in own.items():
        module.register_forward_pre_hook(lambda *_, name=name: None if name in order else order.append(name))
    with torch.no_grad():
        call(copy)
    return order + [name for name in own if name not in order]


@dataclass(frozen=True, eq=False)
class Randomization:
    """Similarity to the explanation of the trained model, while more and more modules are shuffled from below.

    Attributes:
        modules: paths, in the order in which they are shuffled.
        similarity: rank correlation with the trained model's relevance, (modules, B). The first row is with one module
            shuffled; the trained model's 1 is not among them.
    """

    modules: Sequence[str]
    similarity: Tensor

    @property
    def mean(self) -> Tensor:
        """Over modules, (B,). Lower is better."""
        return self.similarity.mean(0)


def bottom_up(
    explain: Callable[[nn.Module], Tensor], model: nn.Module, modules: Sequence[str], *, seed: int = 0
) -> Randomization:
    """Randomize cumulatively, from the input on (Adebayo et al. 2018; from below as in Binder et al. 2023).

    From above, what lower layers leave in an explanation stays, and makes methods that read activations look
    insensitive.

    Args:
        explain: a model -> its relevance (B, ...), of the same targets each time.
        model: it is not changed.
        modules: in the order in which they are shuffled: `modules_from_below`.
        seed: of the permutations.
    """
    trained = explain(model)
    found = [explain(randomized(model, modules[: k + 1], seed=seed)) for k in range(len(modules))]
    return Randomization(modules, torch.stack([rank_correlation(trained, r) for r in found]))


def emprt(trained: Tensor, random: Tensor, bins: int = 100) -> Tensor:
    """`(H(R_random) − H(R)) / H(R)`, (B,), of a wholly shuffled model (eMPRT, Hedström et al. 2024). Higher is better.

    H is the entropy of a histogram of `R_p / √mean R²`: the more a map looks like noise, the larger.

    Args:
        trained: signed relevance of the model, (B, *places).
        random: of the shuffled model.
        bins: of the histogram, between the smallest and the largest value.

    Returns:
        NaN where relevance of the trained model has one value only.
    """
    before = histogram_entropy(trained, bins)
    return (histogram_entropy(random, bins) - before) / before.masked_fill(before == 0, torch.nan)


def histogram_entropy(at_places: Tensor, bins: int = 100) -> Tensor:
    """Entropy of the histogram of each sample's entries over their root mean square, (B,), in nats."""
    flat = at_places.double().flatten(1)
    flat = flat / flat.square().mean(1, keepdim=True).sqrt().clamp(min=1e-300)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    which = ((flat - low) / (high - low).clamp(min=1e-300) * bins).long().clamp(max=bins - 1)
    counts = flat.new_zeros(len(flat), bins).scatter_add(1, which, torch.ones_like(flat))
    shares = counts / flat.shape[1]
    return entropy_of_shares(shares)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's, of each sample, (B,): Pearson's correlation of ranks, those of equal entries averaged.

    Args:
        a: (B, ...).
        b: the same shape.

    Returns:
        0 where one of them has the same value everywhere.
    """
    x, y = (_ranks(each.double().flatten(1)) for each in (a, b))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    x, y = (F.normalize(each, dim=1, eps=1e-300) for each in (x, y))
    return (x * y).sum(1)


def _ranks(flat: Tensor) -> Tensor:
    """Of each row's entries, from 0, those of equal entries averaged."""
    ordered = flat.sort(1).values
    first = torch.searchsorted(ordered, flat.contiguous(), right=False)
    return (first + torch.searchsorted(ordered, flat.contiguous(), right=True) - 1).double() / 2
