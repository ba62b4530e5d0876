"""Attribution graphs: how relevance flows from concepts to those of the layer below (Achtibat et al. 2023).

`R_(g ← f) = Σ_(j∈g) R_j(x | f)`: what comes to the lower concept g of the relevance that passes the upper concept f. No
threshold, no normalization: what a concept sends to those that are shown, to those that are not, and what never comes
to the next layer add up to its relevance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relprop.analyzers.analyzer import in_one
from relprop.analyzers.lrp import LRP
from relprop.analyzers.options import Conditions, Options
from relprop.concepts.graph import TARGET, AttributionGraph, Concept
from relprop.concepts.groups import Blocks, Channels
from relprop.concepts.references import check_layer
from relprop.engine.graph.graph import ancestors
from relprop.engine.graph.signature import Inputs, batch_size
from relprop.errors import InputError
from relprop.targets import TargetLike


def attribution_graph(
    lrp: LRP,
    x: Any,
    layers: Sequence[str] | Mapping[str, Blocks],
    *,
    target: TargetLike = None,
    width: int | Sequence[int] = 4,
    conditions: Conditions = None,
    chunk: int | None = None,
) -> AttributionGraph:
    """How one sample's relevance flows through concepts: the strongest of each layer, and what they send each other.

    All flow is computed on one forward pass, behind the one that finds the concepts.

    Args:
        lrp: the analyzer.
        x: one sample, (1, ...), or a dict of keyword inputs.
        layers: from the output down, each with what a concept of it is; names alone mean `Channels()`.
        target: as for `LRP`.
        width: concepts of each layer, by magnitude of relevance; several numbers: one for each layer.
        conditions: relevance passes these first, by no other way: `{layer: Channels(5)}` asks what one concept above
            is made of.
        chunk: concepts at a time. None: one on a CPU, all on other devices.

    Raises:
        InputError: several samples; layers that do not lie below each other.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from relprop import LRP
        >>> from relprop.concepts import attribution_graph
        >>> model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
        >>> attribution_graph(LRP(model), torch.rand(1, 5), ["3", "1"], target=0, width=[2, 3])
        AttributionGraph(3: 2, 1: 3; 8 edges)
    """
    groups = dict(layers) if isinstance(layers, Mapping) else {name: Channels() for name in layers}
    for layer, group in groups.items():
        check_layer(lrp, layer, group)
    inputs = in_one(x)
    if not groups or batch_size(*inputs) != 1:
        raise InputError("An attribution graph is of one sample, (1, ...), and of at least one layer.")
    widths = [width] * len(groups) if isinstance(width, int) else list(width)
    if len(widths) != len(groups) or not all(isinstance(w, int) and w > 0 for w in widths):
        raise InputError(f"width={width!r}: give how many concepts, or that for each of the {len(groups)} layers.")
    _check_order(lrp, inputs, list(groups))
    return _Flow(lrp, inputs, target, groups, widths, conditions or {}, chunk).graph()


@dataclass(frozen=True)
class _Flow:
    """What is asked."""

    lrp: LRP
    inputs: Inputs
    target: TargetLike
    groups: Mapping[str, Blocks]
    widths: Sequence[int]
    conditions: Mapping[Any, Any]
    chunk: int | None

    def graph(self) -> AttributionGraph:
        names, given = list(self.groups), self.conditions
        options = Options(names, True, None, given, names, paths="through" if given else "all")
        whole = next(self.lrp.ask(self.inputs, [self.target], options))
        assert whole.ledger is not None
        root = Concept(TARGET, -1 if whole.target is None else int(whole.target[0]))
        scores = {name: self._sums(name, whole.layers[name]) for name in names}
        levels = [(root,), *(_strongest(name, scores[name], w) for name, w in zip(names, self.widths, strict=True))]
        relevance = {c: float(scores[c.layer][c.feature]) for level in levels[1:] for c in level}
        activation = {
            c: float(self.groups[c.layer].entries(whole.activations[c.layer])[0, c.feature].max()) for c in relevance
        }
        relevance[root] = whole.ledger.output
        reached = {root: scores[names[0]]} | self._reached(levels)
        edges: dict[tuple[Concept, Concept], float] = {}
        hidden, lost = {}, {}
        for level, below in pairwise(levels):
            for c in level:
                flow = {lower: float(reached[c][lower.feature]) for lower in below}
                edges |= {(c, lower): amount for lower, amount in flow.items()}
                total = float(reached[c].double().sum())
                hidden[c], lost[c] = total - sum(flow.values()), relevance[c] - total
        return AttributionGraph(tuple(levels), relevance, activation, edges, hidden, lost)

    def _reached(self, levels: Sequence[Sequence[Concept]]) -> dict[Concept, Tensor]:
        """Relevance of all features of the next layer under each concept, but for the target and the last layer's."""
        names = list(self.groups)
        upper = [c for level in levels[1:-1] for c in level]
        if not upper:
            return {}
        under: list[Conditions] = [
            {**self.conditions, c.layer: self.groups[c.layer].keep(torch.tensor([[c.feature]]))} for c in upper
        ]
        options = Options(names[1:], paths="through")
        found = self.lrp.ask(self.inputs, [self.target] * len(upper), options, under, chunk=self.chunk)
        below = dict(pairwise(names))
        return {c: self._sums(below[c.layer], e.layers[below[c.layer]]) for c, e in zip(upper, found, strict=True)}

    def _sums(self, name: str, relevance: Tensor) -> Float[Tensor, " n"]:
        return self.groups[name].sums(relevance.detach())[0].cpu()


def _strongest(layer: str, scores: Float[Tensor, " n"], width: int) -> tuple[Concept, ...]:
    order = scores.abs().argsort(descending=True, stable=True)[:width]
    return tuple(Concept(layer, int(f)) for f in order)


def _check_order(lrp: LRP, inputs: Inputs, names: list[str]) -> None:
    """Raise `InputError` unless each layer feeds the one before it."""
    nodes = lrp.nodes(inputs, names)
    for (upper, above), (lower, below) in pairwise(zip(names, nodes, strict=True)):
        if above is below or below not in ancestors(above):
            raise InputError(f"{lower!r} does not feed {upper!r}: name the layers from the output down, along one way.")
