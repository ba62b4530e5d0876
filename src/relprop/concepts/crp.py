"""Concept Relevance Propagation: what of a layer's features explains, and where in the input (Achtibat et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.analyzers.analyzer import in_one
from relprop.analyzers.lrp import LRP
from relprop.analyzers.options import Conditions, Options, Paths
from relprop.concepts.explanation import ConceptExplanation
from relprop.concepts.features import Features
from relprop.concepts.groups import Channels, Concepts, Group
from relprop.engine.graph.signature import Inputs
from relprop.engine.program.condition import Arrived, Choice, Condition
from relprop.errors import InputError
from relprop.targets import TargetLike


class CRP:
    """Relevance of a layer's features: `R_i = Σ_j (z_ij / z_j) 1[j in feature] R_j` below the layer, for each feature.

    The relevance of all features adds up to what passes the layer. All are computed on one forward pass, with one set
    of denominators, and relevance comes down to the layer once.

    Args:
        lrp: the analyzer: its rules, its output.
        layer: whose output has the features, by name or by its number in the table; or `Concepts(layer, group)`.
        features: which ones: `TopNFeatures(n)`, `IndexedFeatures(i, ...)`.
        group: what a feature is. None: `Channels()`.
        paths: what becomes of relevance on ways that pass by the layer: `"through"` takes it away, so that only the
            feature's is left; `"all"` keeps it beside every feature.

    Raises:
        InputError: it is none of these.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from relprop import LRP
        >>> from relprop.concepts import CRP, TopNFeatures
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        >>> crp = CRP(LRP(model), layer=0, features=TopNFeatures(2))
        >>> concepts = crp(torch.rand(5, 1, 4, 4), target=1)
        >>> concepts.relevance.shape, concepts.features.shape
        (torch.Size([2, 5, 1, 4, 4]), torch.Size([2, 5]))
    """

    def __init__(
        self,
        lrp: LRP,
        layer: str | int | Concepts,
        features: Features,
        *,
        group: Group | None = None,
        paths: Paths = "through",
    ) -> None:
        if isinstance(layer, Concepts):
            group = layer.group if group is None else group
            layer = layer.layer
        if not isinstance(lrp, LRP):
            raise InputError(
                f"CRP takes an LRP analyzer, got {type(lrp).__name__}: CRP(LRP(model, ...), layer, features)."
            )
        if not isinstance(features, Features):
            raise InputError(f"features={features!r}: give TopNFeatures(n) or IndexedFeatures(i, ...).")
        if not isinstance(layer, (str, int)):
            raise InputError(f"layer={layer!r}: give a layer's name, or its number in the analyzer's table.")
        if group is not None and (not isinstance(group, Group) or group.members):
            raise InputError(f"group={group!r}: give what a feature is, such as Channels() or Heads(12).")
        self.lrp, self.layer, self.features = lrp, layer, features
        self.group, self.options = Channels() if group is None else group, Options(paths=paths)

    def __call__(
        self,
        *args: Any,
        target: TargetLike = None,
        conditions: Conditions = None,
        chunk: int | None = None,
        **kwargs: Any,
    ) -> ConceptExplanation:
        """Explain a batch by the features.

        Args:
            *args: the model's inputs.
            **kwargs: those that have names.
            target: as for `LRP`.
            conditions: at other layers, as for `LRP`; a feature has to pass these, too.
            chunk: features at a time. None: few on a CPU, by their tokens; all on other devices.

        Raises:
            InputError, TargetError: before any work on the model.
        """
        return self._explained((args, kwargs), target, conditions, chunk)

    def explain(
        self, inputs: Tensor | Sequence[Any] | Mapping[str, Any], target: TargetLike = None, **options: Any
    ) -> ConceptExplanation:
        """The call, with the model's inputs in one object: a tensor, a tuple, or a dict of keyword inputs.

        Args:
            inputs: the model's inputs.
            target: as in a call.
            **options: as in a call.
        """
        return self._explained(in_one(inputs), target, options.pop("conditions", None), options.pop("chunk", None))

    def _explained(
        self, inputs: Inputs, target: TargetLike, conditions: Conditions, chunk: int | None
    ) -> ConceptExplanation:
        choice = _Selection(self.group, self.features)
        under: list[Conditions] = [{**(conditions or {}), self.layer: _Place(choice, i)} for i in range(choice.length)]
        parts = tuple(self.lrp.ask(inputs, [target] * len(under), self.options, under, chunk=chunk))
        if choice.scores is None:
            raise InputError(f"No relevance comes to layer {self.layer!r}, so none of its features has any.")
        return ConceptExplanation(self.layer, self.group, choice.chosen, choice.scores, parts)

    def __repr__(self) -> str:
        return f"CRP({type(self.lrp).__name__}(...), {self.layer!r}, {self.features!r}, group={self.group!r})"


class _Selection:
    """The features of one call, chosen where relevance comes to the layer."""

    def __init__(self, group: Group, features: Features) -> None:
        self.group, self.features = group, features
        self.length = features.length
        self.scores: Float[Tensor, "B f"] | None = None
        self.chosen: Int[Tensor, "n B"] = torch.empty(0, 0, dtype=torch.long)

    def at(self, arrived: Arrived) -> Int[Tensor, "n B"]:
        """The features, given the layer's relevance."""
        if self.scores is None:
            self.scores = self.group.scores(arrived).detach()
            self.chosen = self.features.choose(self.scores)
        return self.chosen


@dataclass(frozen=True)
class _Place:
    """The concept at one place among the chosen."""

    selection: _Selection
    place: int

    def check(self, shape: Sequence[int]) -> None:
        self.selection.features.check(self.selection.group.count(shape))

    def condition(self) -> Condition:
        selection = self.selection
        return Choice(lambda arrived: selection.group.keep(selection.at(arrived)[self.place][:, None]))
