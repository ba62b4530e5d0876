"""Captum's class form: an object with `attribute(inputs, target=..., additional_forward_args=..., ...)`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from relprop.analyzers.analyzer import Analyzer
from relprop.analyzers.lrp import LRP
from relprop.analyzers.modules import name_of
from relprop.engine.layers.select import INPUT
from relprop.errors import InputError, TargetError
from relprop.explanations.explanation import Explanation
from relprop.targets import TargetLike
from relprop.targets.output import as_target
from relprop.targets.positions import Positions

CaptumTarget = TargetLike | list[int] | list[tuple[int, ...]]
"""int, tuple, (B,) integers, and in a list one for each sample. Beyond Captum's: whatever may be a target."""

Layer = str | nn.Module


def captum(analyzer: Analyzer, layer: Layer | Sequence[Layer] | None = None) -> CaptumAttribution:
    """An analyzer in Captum's class form, for `captum.attr.NoiseTunnel`, `captum.metrics` and code written for Captum.

    Args:
        analyzer: any analyzer.
        layer: a module of the model, or several in a list, whose relevance is wanted instead of the inputs'.

    Raises:
        InputError: the analyzer is none, or finds no relevance of layers.

    Examples:
        >>> import torch
        >>> from relprop import LRP
        >>> from relprop.analyzers.adapters import captum
        >>> method = captum(LRP(torch.nn.Linear(3, 2, bias=False)))
        >>> relevance, delta = method.attribute(torch.rand(4, 3), target=[0, 1, 1, 0], return_convergence_delta=True)
        >>> relevance.shape, bool(delta.abs().max() < 1e-5)
        (torch.Size([4, 3]), True)
    """
    return CaptumAttribution(analyzer, layer)


def _as_logged(method: Any) -> Any:
    """Captum's own methods are wrapped by its logging; its NoiseTunnel calls what is inside, `__wrapped__`."""

    @wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **kwargs)

    return called


class CaptumAttribution:
    """What `captum` makes of an analyzer; it has the interface of `captum.attr.Attribution`.

    Attributes:
        analyzer: the analyzer.
        forward_func: its model.
        layer: the modules whose relevance is returned, if any.
    """

    def __init__(self, analyzer: Analyzer, layer: Layer | Sequence[Layer] | None = None) -> None:
        if not isinstance(analyzer, Analyzer):
            raise InputError(
                f"captum() takes an analyzer, such as LRP(model, composite), got {type(analyzer).__name__}."
            )
        if layer is not None and not isinstance(analyzer, LRP):
            raise InputError(f"{type(analyzer).__name__} finds relevance of inputs alone; for layers take LRP.")
        self.analyzer, self.layer = analyzer, layer
        self.forward_func = analyzer._source
        self._names = [name_of(self.forward_func, each) for each in _listed(layer)]

    @property
    def multiplies_by_inputs(self) -> bool:
        """Relevance is a share of the output, and no derivative."""
        return self.analyzer.multiplies_by_inputs

    def has_convergence_delta(self) -> bool:
        """LRP keeps books."""
        return isinstance(self.analyzer, LRP)

    @classmethod
    def get_name(cls) -> str:
        """As Captum names its methods."""
        return "Captum Attribution"

    @_as_logged
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        *,
        baselines: Any = None,
        target: CaptumTarget = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        **options: Any,
    ) -> Any:
        """Relevance of the inputs, or of the layers.

        Args:
            inputs: the model's leading inputs, whose relevance is returned: a tensor for a tensor, a tuple for a tuple.
            baselines: of analyzers that have a reference, `IntegratedGradients` and `InterpolationAugmentation`, and of
                `Occlusion` what fills a part: a number or a tensor, or a tuple with one for each input.
            target: an int; a tuple, which indexes one sample's output; a list or a tensor of integers, one for each
                sample; a list of tuples, one for each sample; or whatever else may be a target.
            additional_forward_args: the model's other positional inputs: one, or a tuple of them.
            return_convergence_delta: also return, (B,), the relevance that started less what is returned: what sinks
                kept, by the books, and what the additional inputs got.
            attribute_to_layer_input: relevance of the input of the layers, not of their output.
            **options: of the analyzer's call.

        Raises:
            InputError, TargetError: before any work on the model.
        """
        several = isinstance(inputs, (tuple, list))
        given = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
        if return_convergence_delta and not self.has_convergence_delta():
            raise InputError(f"{type(self.analyzer).__name__} keeps no books, so there is no delta: take LRP.")
        more = () if additional_forward_args is None else additional_forward_args
        more = more if isinstance(more, tuple) else (more,)
        analyzer = self.analyzer if baselines is None else _with_reference(self.analyzer, baselines)
        spoken = as_target(captum_target(target), analyzer._classes)
        names = [f"{name}{INPUT}" if attribute_to_layer_input else name for name in self._names]
        if names:
            options = {"layers": names} | options
        expl = analyzer(*given, *more, target=spoken, **options)
        found = [_of_layer(expl, name) for name in names] if names else _of_inputs(expl, given, self.forward_func)
        if names:
            several = isinstance(self.layer, (list, tuple))
            result: Any = found if several else found[0]
        else:
            result = tuple(found) if several else found[0]
        if not return_convergence_delta:
            return result
        assert expl.amount is not None
        started = spoken.started(expl.amount, analyzer._normalize_output)
        deltas = [_missing(started, [r]) for r in found] if names else [_missing(started, found)]
        return result, deltas if names and several else deltas[0]


def _listed(layer: Layer | Sequence[Layer] | None) -> list[Layer]:
    if layer is None:
        return []
    return [layer] if isinstance(layer, (str, nn.Module)) else list(layer)


def captum_target(given: CaptumTarget) -> TargetLike:
    """A target as Captum takes it: in a list one for each sample, and a tensor of one number for all.

    Raises:
        TargetError: a list holds something else than integers, or tuples of one length.
    """
    if isinstance(given, Tensor) and given.numel() == 1 and not given.is_floating_point():
        return int(given)
    if not isinstance(given, list):
        return given
    rows = [row if isinstance(row, tuple) else (row,) for row in given]
    whole = all(isinstance(i, int) and not isinstance(i, bool) for row in rows for i in row)
    if not rows or not whole or len({len(row) for row in rows}) != 1 or len({type(row) for row in given}) != 1:
        raise TargetError(
            f"target={given!r}: in a list, Captum's form, give an int, or a tuple of indices, for each sample."
        )
    if isinstance(given[0], int):
        return torch.tensor(given)
    return Positions(torch.tensor(rows))


def _with_reference(analyzer: Analyzer, baselines: Any) -> Analyzer:
    """The same analyzer, but for what it compares inputs with."""
    name = next((name for name in ("reference", "fill") if hasattr(analyzer, name)), None)
    if name is None:
        raise InputError(
            f"{type(analyzer).__name__} compares the input with nothing, so it takes no baselines. "
            "IntegratedGradients, InterpolationAugmentation and Occlusion do."
        )
    changed = copy.copy(analyzer)
    setattr(changed, name, baselines)
    return changed


def _of_inputs(expl: Explanation, given: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
    """Relevance of the leading inputs: of floating point ones by their order, among others by their names."""
    if all(x.is_floating_point() for x in given):
        return list(expl.by_input.values())[: len(given)]
    names = list(inspect.signature(model.forward).parameters)[: len(given)]
    missing = [name for name in names if name not in expl.by_input]
    if missing or len(names) < len(given):
        raise InputError(
            f"There is no relevance of {', '.join(missing) or 'some inputs'}, only of {', '.join(expl.by_input)}: give "
            "what is neither floating point nor embedded as additional_forward_args."
        )
    return [expl.by_input[name] for name in names]


def _of_layer(expl: Explanation, name: str) -> Tensor:
    if name not in expl.layers:
        raise InputError(f"layer: relevance does not come to the module {name!r}.")
    return expl.layers[name]


def _missing(started: Tensor, relevance: Sequence[Tensor]) -> Tensor:
    arrived = [r.reshape(r.shape[0], -1).sum(1) for r in relevance]
    return started - sum(arrived[1:], arrived[0])
