"""Whether what counts as important is: the model's output while groups of the input are occluded in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from relprop.errors import InputError
from relprop.evaluation.fills import Constant, Fill
from relprop.evaluation.groups import Groups, hidden_by
from relprop.evaluation.subject import Subject

ERASED = (0.01, 0.05, 0.10, 0.20, 0.50)
"""Parts of the input that comprehensiveness and sufficiency average over."""


ZERO = Constant(0.0)


@dataclass(frozen=True, eq=False)
class Curves:
    """The tracked value of each sample while it is occluded, from the whole input to nothing of it.

    Attributes:
        fractions: of groups that are occluded, (T + 1,), from 0 to 1.
        mif: most influential first, (B, T + 1).
        lif: least influential first, (B, T + 1).
        random: in random order, mean over orders, (B, T + 1), if asked for.
    """

    fractions: Tensor
    mif: Tensor
    lif: Tensor
    random: Tensor | None = None

    @cached_property
    def srg(self) -> Tensor:
        """Symmetric relevance gain `AUC(LIF) − AUC(MIF)`, (B,) (Blücher et al. 2024). 0 in expectation if random."""
        return self.area(self.lif) - self.area(self.mif)

    @property
    def relative_srg(self) -> Tensor:
        """`SRG / (f(x) − f(nothing))`, (B,), to compare models; NaN where the whole input is not above none of it."""
        span = self.mif[:, 0] - self.mif[:, -1]
        return (self.srg / span).masked_fill(span <= 0, torch.nan)

    @property
    def mrg(self) -> Tensor:
        """`AUC(random) − AUC(MIF)`, (B,)."""
        return self.area(self._random) - self.area(self.mif)

    @property
    def lrg(self) -> Tensor:
        """`AUC(LIF) − AUC(random)`, (B,)."""
        return self.area(self.lif) - self.area(self._random)

    @property
    def abpc(self) -> Tensor:
        """Area between the curves `mean_t [f(x_LIF^t) − f(x_MIF^t)]`, (B,)."""
        return (self.lif - self.mif).mean(1)

    @property
    def aopc(self) -> Tensor:
        """Area over the MIF curve `mean_t [f(x) − f(x_MIF^t)]`, (B,) (Samek et al. 2017)."""
        return (self.mif[:, :1] - self.mif).mean(1)

    @property
    def deletion(self) -> Tensor:
        """`AUC(MIF)`, (B,): the most important are deleted first. Lower is better (Petsiuk et al. 2018)."""
        return self.area(self.mif)

    @property
    def insertion(self) -> Tensor:
        """`AUC(LIF)`, (B,): read from its end, the most important are inserted first. Higher is better."""
        return self.area(self.lif)

    def area(self, curve: Tensor) -> Tensor:
        """Area under a curve over the occluded fraction, by trapezoids, (B,)."""
        return torch.trapezoid(curve, self.fractions.to(curve), dim=1)

    @property
    def _random(self) -> Tensor:
        if self.random is None:
            raise InputError("These curves have no random order: give occlusion(..., orders=n).")
        return self.random


@dataclass(frozen=True, eq=False)
class Occluder:
    """A subject, the groups that are occluded, and what takes their place; all orders are asked of it.

    Args:
        subject: the model and its inputs.
        groups: what is occluded together.
        fill: what takes its place.
        steps: how many of the curves' points lie behind the first one; at most the number of groups.
        batch: inputs that the model is given at once.
        seed: of random orders, and of the order of groups with the same relevance.
    """

    subject: Subject
    groups: Groups
    fill: Fill = ZERO
    steps: int = 25
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise InputError(f"steps={self.steps} and batch={self.batch} must be at least 1.")

    @cached_property
    def labels(self) -> Tensor:
        """Of the subject's input, (B or 1, *places)."""
        return self.groups.labels(self.subject.x)

    @cached_property
    def _present(self) -> Tensor:
        """Which groups each sample has, (B, groups)."""
        return ~self._means(torch.zeros(self.labels.shape[1:], dtype=torch.float64)).isnan()

    def _means(self, at_places: Tensor) -> Tensor:
        """Means over each group of a number for each place (*places), (B, groups); NaN where there is none."""
        labels = self.labels.cpu().flatten(1)
        flat = at_places.flatten().expand_as(labels)
        sums = flat.new_zeros(len(flat), int(labels.max()) + 1)
        sizes = sums.scatter_add(1, labels, torch.ones_like(flat))
        return (sums.scatter_add(1, labels, flat) / sizes).expand(len(self.subject), -1)

    @cached_property
    def sizes(self) -> Tensor:
        """How many groups each sample has, (B,)."""
        return self._present.sum(1)

    @cached_property
    def fractions(self) -> Tensor:
        """From 0 to 1, (T + 1,)."""
        return torch.linspace(0, 1, min(self.steps, int(self.sizes.max())) + 1, dtype=torch.float64)

    @cached_property
    def _prepared(self) -> Tensor:
        return self.fill.prepared(self.subject.x)

    @cached_property
    def _model(self) -> Callable[..., object]:
        return self.fill.model(self.subject.model)

    def ranks(self, relevance: Tensor) -> Tensor:
        """0 for a sample's most relevant group, (B, groups). Ties are broken at random."""
        return self._ranks(self.groups.scores(relevance, self.labels).cpu())

    def random_ranks(self, number: int) -> Tensor:
        """The same for the `number`-th random order, another one for each sample."""
        generator = torch.Generator().manual_seed(self.seed + 1 + number)
        return self._ranks(torch.rand(self._present.shape, generator=generator).masked_fill(~self._present, torch.nan))

    def _ranks(self, scores: Tensor) -> Tensor:
        shuffled = torch.randperm(scores.shape[1], generator=torch.Generator().manual_seed(self.seed))
        scores = scores.nan_to_num(-torch.inf)[:, shuffled]
        return shuffled[scores.argsort(dim=1, descending=True, stable=True)].argsort(1)

    def curve(self, ranks: Tensor, fractions: Tensor | None = None, *, least_first: bool = False) -> Tensor:
        """The tracked value while groups are occluded in the order of their ranks, (B, fractions).

        Args:
            ranks: (B, groups).
            fractions: of groups that are occluded, each rounded to whole groups. None: those of the curves.
            least_first: occlude from the other end.
        """
        fractions = self.fractions if fractions is None else fractions
        if least_first:
            ranks = self.sizes[:, None] - 1 - ranks  # negative for groups that a sample lacks, which hide nothing
        counts = (fractions[None] * self.sizes[:, None]).round().long()
        rows, points = torch.meshgrid(torch.arange(len(ranks)), torch.arange(len(fractions)), indexing="ij")
        pairs = zip(torch.split(rows.flatten(), self.batch), torch.split(points.flatten(), self.batch), strict=True)
        found = [self.without(ranks[row] < counts[row, point, None], row) for row, point in pairs]
        return torch.cat(found).reshape(len(ranks), len(fractions))

    def without(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """The tracked value of samples `rows` (N,) without the groups `hidden` (N, groups), (N,), on the CPU."""
        x, labels = self.subject.x, self.labels
        rows, hidden = rows.to(x.device), hidden.to(x.device)
        places = hidden_by(hidden, labels if len(labels) == 1 else labels[rows])
        filled = self.fill(x[rows], self.groups.spread(places, x), self._prepared[rows])
        return self.subject.values(filled, rows, self._model).cpu()

    def curves(self, ranks: Tensor, random: Tensor | None = None) -> Curves:
        """Both ways through an order of the groups."""
        return Curves(self.fractions, self.curve(ranks), self.curve(ranks, least_first=True), random)

    def random_curve(self, orders: int) -> Tensor:
        """Mean over some random orders, (B, T + 1)."""
        return torch.stack([self.curve(self.random_ranks(k)) for k in range(orders)]).mean(0)

    def erased(self, ranks: Tensor, parts: Sequence[float] = ERASED) -> Mapping[str, Tensor]:
        """Comprehensiveness and sufficiency, (B,) each (DeYoung et al. 2020), means over parts k of the input.

        - `comprehensiveness = mean_k [f(x) − f(x without its top k)]`: higher is better
        - `sufficiency = mean_k [f(x) − f(only its top k)]`: lower is better
        """
        k = torch.tensor(parts, dtype=torch.float64)
        whole = self.curve(ranks, torch.zeros(1, dtype=torch.float64))
        without = self.curve(ranks, k)
        alone = self.curve(ranks, 1 - k, least_first=True)
        return {"comprehensiveness": (whole - without).mean(1), "sufficiency": (whole - alone).mean(1)}


def occlusion(
    subject: Subject, relevance: Tensor, groups: Groups, fill: Fill = ZERO, *, orders: int = 0, **options: int
) -> Curves:
    """Curves of one explanation; `evaluate` makes those of several, with tables.

    Args:
        subject: the model and its inputs.
        relevance: of the input that is occluded.
        groups: what is occluded together.
        fill: what takes its place.
        orders: random orders that the curve `random` averages; 0: none.
        **options: `steps`, `batch`, `seed` of `Occluder`.
    """
    occluder = Occluder(subject, groups, fill, **options)
    random = occluder.random_curve(orders) if orders else None
    return occluder.curves(occluder.ranks(relevance), random)
