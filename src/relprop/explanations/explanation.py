"""What an analyzer returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from relprop.errors import ImageError
from relprop.explanations.ledger import Ledger
from relprop.explanations.origin import Origin
from relprop.explanations.positions import PositionForm, relevance_of_positions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Explanation:
    """Relevance of a model's inputs for one target. In a notebook it shows itself.

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
        places: relevance that positions kept, (B, T, D), by module and what kept it, if `positions=True` was given.
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
    places: Mapping[str, Tensor] = field(default_factory=dict)
    ledger: Ledger | None = None
    _outputs: Callable[[], Any] | None = field(default=None, repr=False)
    _amount: Callable[[], Tensor] | None = field(default=None, repr=False)
    _explains: Callable[[], str] | None = field(default=None, repr=False)
    origin: Origin | None = field(default=None, repr=False, compare=False)

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

    @cached_property
    def given(self) -> Mapping[str, Tensor]:
        """The inputs that were explained, by name, token ids among them. They are no copies."""
        return {} if self.origin is None else self.origin.given()

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """What to say to get it again: analyzer, composite, options, model, versions."""
        return {} if self.origin is None else self.origin.settings()

    @cached_property
    def classes(self) -> Sequence[str] | None:
        """Names of the model's outputs, where the analyzer knows them."""
        return None if self.origin is None else self.origin.classes

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """`by_input`, by its earlier name."""
        return self.by_input

    def __getstate__(self) -> dict[str, Any]:
        known = {"output": self.output, "amount": self.amount, "explains": self.explains}
        known |= {"given": self.given, "settings": self.settings, "classes": self.classes}
        kept = {name: value for name, value in self.__dict__.items() if name != "_png"}
        return kept | known | {"_outputs": None, "_amount": None, "_explains": None, "origin": None}

    def positions(self, form: PositionForm = "signed") -> Float[Tensor, "B T"]:
        """Relevance of each position: what rotary positions, tables that were added, and `position_ids` have of it.

        Rotary positions have some under `AttnLRP(rope="half")`; all of it but that of `position_ids` is noted in calls
        with `positions=True`. With `k` the modules where positions enter, `f` what keeps it there, such as cosines and
        sines, and `d` its features:

            signed  R_t = Σ_k Σ_f Σ_d R_kftd      positive  Σ_k Σ_d (Σ_f R_kftd)⁺      absolute  Σ_k Σ_f |Σ_d R_kftd|

        Args:
            form: `"signed"` conserves; `"positive"` is Eq. 11 of PA-LRP (Bakish et al. 2025), and `"absolute"` what its
                published code computes.

        Raises:
            InputError: no position has relevance, they belong to sequences of several lengths, or an unknown form.
        """
        return relevance_of_positions(self.places, self.by_input, form)

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
                "expl.plot() draws signals, volumes, rows and tokens; relprop.heatmaps.heatmap one map (H, W)."
            )
        return heatmap(relevance, **options)

    def plot(self, samples: int | Sequence[int] | None = None, **options: Any) -> Figure:
        """A matplotlib figure in the form that suits the input: picture, volume, curves, tokens, or bars.

        Args:
            samples: which of the batch, by number; None: the first four.
            **options: those of `relprop.figures.plot`, such as `kind`, `names`, `picture`, `layer`, `shared`.

        Raises:
            ImageError: the relevance has no form of its own, or a name or number does not fit.
            MissingExtraError: matplotlib is missing.
        """
        from relprop.explanations.figures import plot

        return plot(self, samples, **options)

    def show(self, samples: int | Sequence[int] | None = None, **options: Any) -> None:
        """Show it here and now: in the notebook, in a window where matplotlib has one, or else in the terminal.

        Args:
            samples: as in `plot`.
            **options: as in `plot`.

        Raises:
            ImageError, MissingExtraError: as `plot` does.
        """
        from relprop.explanations.notebook import show

        show(self, samples, options)

    def report(
        self,
        path: str | Path,
        samples: int | Sequence[int] | None = None,
        *,
        targets: Sequence[Any] | None = None,
        pictures: Sequence[Any] | None = None,
        names: Sequence[Any] | None = None,
        headings: Sequence[str] | None = None,
        title: str | None = None,
        layers: bool = True,
        trust: bool = True,
        kind: str | None = None,
    ) -> None:
        """Write a page about it that works offline: classes to switch and contrast, layers, sinks, whether to trust it.

        Classes, layers, ledger and checks are asked of the analyzer and its model now; an explanation from a file shows
        what it has.

        Args:
            path: of the file, which is written whole or not at all.
            samples: which of the batch, by number; None: the first four.
            targets: other classes to switch to; None: those with the largest outputs.
            pictures: shown in the place of the inputs, one for each sample.
            names: of tokens, features or channels; for tokens also a list for each sample of the batch.
            headings: of the samples; None: their numbers.
            title: of the page; None: the analyzer and the model.
            layers: step through all layers.
            trust: occlude the input, shuffle the weights, check the books: some hundred forward passes for each sample.
            kind: as in `plot`.

        Raises:
            ImageError: the relevance has no form of its own, or there are more or fewer pictures or headings.
            TargetError: there is no such class.
            MissingExtraError: Pillow or matplotlib is missing.
            RelpropError: the file cannot be written.
        """
        from relprop.explanations.figures.plot import chosen
        from relprop.explanations.report import items_of, save_report

        items = items_of(self, chosen(self, samples), pictures, headings, names)
        save_report(path, items, title, targets=targets, layers=layers, trust=trust, kind=kind)

    def save(self, path: str | Path, *, inputs: bool = True) -> None:
        """Write it as a safetensors file: all tensors, and target, ledger and settings as JSON in the metadata.

        Args:
            path: of the file, which is written whole or not at all.
            inputs: also what was explained.

        Raises:
            ArtifactError: the file cannot be written, or the output holds what is no tensor.
            MissingExtraError: safetensors is missing.

        Examples:
            >>> import torch
            >>> from relprop import LRP, Explanation
            >>> expl = LRP(torch.nn.Linear(3, 2))(torch.rand(1, 3))
            >>> expl.save("linear.safetensors")
            >>> torch.equal(Explanation.load("linear.safetensors").relevance, expl.relevance)
            True
        """
        from relprop.explanations.saved import save

        save(self, path, inputs=inputs)

    @staticmethod
    def load(path: str | Path) -> Explanation:
        """What `save` wrote, on the CPU. Nothing in the file is run.

        Args:
            path: of the file.

        Raises:
            ArtifactError: there is no such file, it is torn, or of something else.
            MissingExtraError: safetensors is missing.
        """
        from relprop.explanations.saved import load

        return load(path, Explanation)

    @cached_property
    def _png(self) -> bytes | None:
        from relprop.explanations.notebook import png

        return png(self)

    def _repr_png_(self) -> bytes | None:
        return self._png

    def _repr_html_(self) -> str | None:
        from relprop.explanations.notebook import explanation_html

        return explanation_html(self, self._png)

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
