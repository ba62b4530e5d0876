"""Models that weigh values by exponentials of scores, as each test spells it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import CPLRP, AttnLRP, EpsilonPlusFlat, ResLRP

DTYPE = torch.float64
COMPOSITES = {
    "attnlrp": AttnLRP(),
    "distribute": AttnLRP(softmax="distribute"),
    "ignore": AttnLRP(softmax="ignore"),
    "half": AttnLRP(attention="half"),
    "cp": CPLRP(),
    "reslrp": ResLRP(),
    "flat": EpsilonPlusFlat(),
}


class Averaged(nn.Module):
    """An average (B, H) of values (B, T, H) by scores (B, T, H)."""

    def __init__(self, average: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.values, self.scores, self.out = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)
        self.average = average
        self.to(DTYPE).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.average(self.scores(x), self.values(x)))


class Pooled(Averaged):
    """Attention over the tokens of a sample, whose weights `weigh` makes of scores (B, T, H)."""

    def __init__(self, weigh: Callable[[Tensor], Tensor]) -> None:
        super().__init__(lambda scores, values: (weigh(scores) * values).sum(1))


def largest(x: Tensor) -> Tensor:
    return x.amax(1, keepdim=True)


def over(terms: Tensor, total: Tensor) -> Tensor:
    return terms / total


def kept(x: Tensor) -> Tensor:
    """What is not the last token."""
    return torch.arange(x.shape[1])[None, :, None].expand_as(x) < x.shape[1] - 1


def masked(x: Tensor) -> Tensor:
    return x.masked_fill(~kept(x), float("-inf")).softmax(1)


def stable(x: Tensor) -> Tensor:
    return (x - x.max(1, keepdim=True)[0]).exp()


def explained(weigh: Callable[[Tensor], Tensor], composite: str, x: Tensor) -> Tensor:
    lrp = LRP(Pooled(weigh), COMPOSITES[composite], normalize_output=False)
    expl = lrp(x, target=1, audit=True)
    assert expl.ledger.imbalance < 1e-9
    return expl.relevance


def sequences(tokens: int = 5) -> Tensor:
    """(B, T, C)."""
    return torch.randn(2, tokens, 4, dtype=DTYPE, generator=torch.Generator().manual_seed(1))
