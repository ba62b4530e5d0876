"""What an analyzer returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from relprop.errors import ImageError
from relprop.explanations.ledger import Ledger


@dataclass(frozen=True)
class Explanation:
    """Relevance of a model's inputs for one target.

    Attributes:
        relevance: shaped like the input, (B, ...), and for token ids like their embeddings, (B, T, D); a tuple if there
            are several inputs.
        target: index of the explained output per sample, (B,), flat over one sample's output; None for a function.
        by_input: relevance by name of the input; a second embedding of one input has `@1` behind its name.
        layers: relevance at the output of modules, by name, if `layers=` was given.
        activations: values at the output of modules, by name, if `activations=` was given.
        parameters: relevance of parameters, by name, if `parameters=True` was given.
        coefficients: `c` of `R = a · c` at the output of modules, by name, if `coefficients=` was given.
        edges: relevance that a module sent to another, by `"read -> reader"`, if `edges=` was given.
        ledger: who kept relevance, if `audit=True` was given.
    """

    relevance: Tensor | tuple[Tensor, ...]
    target: Tensor | None
    by_input: Mapping[str, Tensor] = field(default_factory=dict)
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    coefficients: Mapping[str, Tensor] = field(default_factory=dict)
    edges: Mapping[str, Tensor] = field(default_factory=dict)
    ledger: Ledger | None = None
    _outputs: Callable[[], Any] | None = field(default=None, repr=False)
    _amount: Callable[[], Tensor] | None = field(default=None, repr=False)
    _explains: Callable[[], str] | None = field(default=None, repr=False)

    @cached_property
    def explains(self) -> str:
        """What is explained, in words. Said when it is asked for, since it may name values on another device."""
        return "" if self._explains is None else self._explains()

    @cached_property
    def output(self) -> Any:
        """What the model returned. For a target at one position of a sequence the other positions are computed now."""
        return None if self._outputs is None else self._outputs()

    @cached_property
    def amount(self) -> Tensor | None:
        """The number that is explained, (B,), before `normalize_output`: inputs and sinks sum to it."""
        return None if self._amount is None else self._amount()

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """`by_input`, by its earlier name."""
        return self.by_input

    def __getstate__(self) -> dict[str, Any]:
        known = {"output": self.output, "amount": self.amount, "explains": self.explains}
        return self.__dict__ | known | {"_outputs": None, "_amount": None, "_explains": None}

    def heatmap(self, **options: Any) -> Any:
        """Relevance (B, C, H, W) as pictures: a PIL image for each sample, in a list. Of several inputs the first.

        Args:
            options: those of `relprop.explanations.heatmaps.heatmap`, such as `reduce`, `cmap`, `size`.

        Raises:
            ImageError: the input was no batch of pictures.
            MissingExtraError: Pillow or matplotlib is missing.
        """
        from relprop.explanations.heatmaps import heatmap

        relevance = self.relevance if isinstance(self.relevance, Tensor) else self.relevance[0]
        if relevance.dim() != 4:
            raise ImageError(
                f"Relevance of shape {tuple(relevance.shape)} is no batch of pictures (B, C, H, W). "
                "relprop.explanations.heatmaps.heatmap draws one map (H, W), relprop.explanations.text tokens."
            )
        return heatmap(relevance, **options)

    def __repr__(self) -> str:
        shapes = (
            self.relevance.shape if isinstance(self.relevance, Tensor) else [tuple(r.shape) for r in self.relevance]
        )
        known = [
            f"relevance={tuple(shapes)}",
            f"target={self.target.tolist() if self.target is not None else self.explains or None}",
        ]
        known += [f"layers={len(self.layers)}"] if self.layers else []
        known += [f"ledger: imbalance {self.ledger.imbalance:.1e}"] if self.ledger is not None else []
        return f"Explanation({', '.join(known)})"
