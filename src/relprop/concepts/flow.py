"""Attribution graphs: how relevance flows from concepts to those of the layer below (Achtibat et al. 2023).

`R_(g ← f) = Σ_(j∈g) R_j(x | f)`: what comes to the lower concept g of the relevance that passes the upper concept f. No
threshold, no normalization: what a concept sends to those that are shown, to those that are not, and what never comes
to the next layer add up to its relevance.

Of a prompt, `Tokens()` and `PerToken(Neurons())` are concepts of single positions; `tokens=` says what stands there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relprop.analyzers.analyzer import in_one
from relprop.analyzers.lrp import LRP
from relprop.analyzers.options import Conditions, Options
from relprop.concepts.graph import AttributionGraph
from relprop.concepts.groups import Blocks, Channels
from relprop.concepts.nodes import TARGET, Concept, Prompt
from relprop.concepts.references import check_layer
from relprop.engine.graph.graph import Node, ancestors, info
from relprop.engine.graph.signature import Inputs, batch_size
from relprop.engine.program.condition import Stop
from relprop.errors import InputError
from relprop.explanations.explanation import Explanation
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
    tokens: Sequence[str] | None = None,
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
        chunk: concepts at a time. None: few on a CPU, by their tokens; all on other devices.
        tokens: how each token of a prompt is written. Of a language model, with the module of its embeddings as the
            lowest layer, the graph goes down to them.

    Raises:
        InputError: several samples; layers that do not lie below each other; more or fewer tokens than positions.

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
    nodes = lrp.nodes(inputs, list(groups))
    _check_order(dict(zip(groups, nodes, strict=True)))
    prompt = None if tokens is None else _prompt(tokens, inputs, dict(zip(groups, nodes, strict=True)))
    return _Flow(lrp, inputs, target, groups, widths, conditions or {}, chunk, prompt).graph()


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
    prompt: Prompt | None
    numbers: dict[Concept, int] = field(default_factory=dict)

    def graph(self) -> AttributionGraph:
        names, given = list(self.groups), self.conditions
        options = Options(names, True, None, given, names, paths="through" if given else "all")
        whole = next(self.lrp.ask(self.inputs, [self.target], options))
        assert whole.ledger is not None
        root = self._root(whole)
        scores = {name: self._sums(name, whole.layers[name]) for name in names}
        shapes = {name: whole.layers[name].shape for name in names}
        levels: list[tuple[Concept, ...]] = [(root,)]
        for name, width in zip(names, self.widths, strict=True):
            levels.append(self._strongest(name, scores[name], width, shapes[name]))
        relevance = {c: float(scores[c.layer][self.numbers[c]]) for level in levels[1:] for c in level}
        entries = {name: self.groups[name].entries(whole.activations[name])[0] for name in names}
        activation = {c: float(entries[c.layer][self.numbers[c]].max()) for c in relevance}
        relevance[root] = whole.ledger.output
        reached = {root: scores[names[0]]} | self._reached(levels)
        edges: dict[tuple[Concept, Concept], float] = {}
        hidden, lost = {}, {}
        for level, below in pairwise(levels):
            for c in level:
                flow = {lower: float(reached[c][self.numbers[lower]]) for lower in below}
                edges |= {(c, lower): amount for lower, amount in flow.items()}
                total = float(reached[c].double().sum())
                hidden[c], lost[c] = total - sum(flow.values()), relevance[c] - total
        return AttributionGraph(tuple(levels), relevance, activation, edges, hidden, lost, self.prompt)

    def _root(self, whole: Explanation) -> Concept:
        """What is explained; of logits at every position of a prompt (1, T, K) the entry, and at which position."""
        number = -1 if whole.target is None else int(whole.target[0])
        if self.prompt is None:
            return Concept(TARGET, number)
        logits, length = _logits(whole.output), len(self.prompt.tokens)
        if logits is None or logits.dim() != 3 or number < 0:
            return Concept(TARGET, number, length - 1)
        position, entry = divmod(number, logits.shape[-1])
        return Concept(TARGET, entry, position + length - logits.shape[1])

    def _reached(self, levels: Sequence[Sequence[Concept]]) -> dict[Concept, Tensor]:
        """Relevance of all features of the next layer under each concept, but for the target and the last layer's."""
        names = list(self.groups)
        upper = [c for level in levels[1:-1] for c in level]
        if not upper:
            return {}
        below = dict(pairwise(names))
        under = [self._through(c, below[c.layer]) for c in upper]
        options = Options(names[1:], paths="through")
        found = self.lrp.ask(self.inputs, [self.target] * len(upper), options, under, chunk=self.chunk)
        return {c: self._sums(below[c.layer], e.layers[below[c.layer]]) for c, e in zip(upper, found, strict=True)}

    def _through(self, c: Concept, below: str) -> Conditions:
        """Relevance that passes a concept, down to the next layer: what becomes of it there is not asked."""
        kept = self.groups[c.layer].keep(torch.tensor([[self.numbers[c]]]))
        return {**self.conditions, c.layer: kept, below: Stop()}

    def _strongest(
        self, layer: str, scores: Float[Tensor, " n"], width: int, shape: Sequence[int]
    ) -> tuple[Concept, ...]:
        order = scores.abs().argsort(descending=True, stable=True)[:width].tolist()
        found = {Concept(layer, *self.groups[layer].place(number, shape)): number for number in order}
        self.numbers.update(found)
        return tuple(found)

    def _sums(self, name: str, relevance: Tensor) -> Float[Tensor, " n"]:
        return self.groups[name].sums(relevance.detach())[0].cpu()


def _logits(output: Any) -> Tensor | None:
    """The logits among what a language model returned."""
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    return found if isinstance(found, Tensor) else None


def _prompt(tokens: Sequence[str], inputs: Inputs, layers: Mapping[str, Node]) -> Prompt:
    """What positions stand for: ids by the input of integers that has as many, embeddings by the operator."""
    args, kwargs = inputs
    several = [x for x in (*kwargs.values(), *args) if isinstance(x, Tensor) and x.dim() == 2]
    if several and all(x.shape[1] != len(tokens) for x in several):
        raise InputError(f"tokens= names {len(tokens)}, and the prompt has {several[0].shape[1]}.")
    ids = kwargs.get("input_ids", next((x for x in several if not x.is_floating_point()), None))
    embeddings = [name for name, node in layers.items() if info(node).entry]
    return Prompt(tuple(tokens), () if ids is None else tuple(ids[0].tolist()), embeddings[-1] if embeddings else "")


def _check_order(layers: Mapping[str, Node]) -> None:
    """Raise `InputError` unless each layer feeds the one before it."""
    for (upper, above), (lower, below) in pairwise(layers.items()):
        if above is below or below not in ancestors(above):
            raise InputError(f"{lower!r} does not feed {upper!r}: name the layers from the output down, along one way.")
