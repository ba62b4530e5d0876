"""Captum's methods as functions (model, inputs, target) -> relevance, for `evaluate` and `contest`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relprop.errors import InputError, MissingExtraError
from relprop.evaluation.groups import Groups
from relprop.evaluation.subject import Inputs, at_rows, output_of
from relprop.targets import Target

STEPS = 32
"""Points of the integrals, samples of the means, and of perturbations eight times as many."""


class Amount(nn.Module):
    """The amount that a target speaks of, (N,), of one input; Captum calls it without a target of its own.

    Args:
        model: what is explained.
        inputs: of the model; those that are not asked about stay as they are.
        key: name or number of the one that is.
        target: of each of the B samples.
        output: which output of the model is explained.
    """

    def __init__(
        self, model: nn.Module, inputs: Inputs, key: str | int, target: Target, output: str | int | None
    ) -> None:
        super().__init__()
        self.model, self._target, self._output = model, target, output
        self._named = isinstance(inputs, Mapping)
        given = inputs.items() if isinstance(inputs, Mapping) else enumerate(_listed(inputs))
        self._inputs, self._key = dict(given), key

    @property
    def x(self) -> Tensor:
        """The input that is asked about, (B, ...)."""
        x = self._inputs[self._key]
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            raise InputError(f"Captum's methods need floating point numbers; the input {self._key!r} has none.")
        return x

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """(N, ...), made of the samples `rows`, (N,) -> (N,)."""
        batch = len(self.x)
        whole = {
            k: v[rows] if isinstance(v, Tensor) and v.dim() and len(v) == batch else v for k, v in self._inputs.items()
        }
        whole[self._key] = x
        found = self.model(**{str(k): v for k, v in whole.items()}) if self._named else self.model(*whole.values())
        return at_rows(self._target, rows, batch).amount(output_of(found, self._output))


def _listed(inputs: Any) -> list[Any]:
    return [inputs] if isinstance(inputs, Tensor) else list(inputs)


@dataclass(frozen=True)
class Asked:
    """What a method of Captum's is asked.

    Attributes:
        amount: the function that is explained.
        x: its input, (B, ...).
        rows: its second argument, (B,).
        labels: groups of the input's places that are perturbed together, broadcasting to x.
        batch: inputs that the model is given at once.
    """

    amount: Amount
    x: Tensor
    rows: Tensor
    labels: Tensor
    batch: int

    def by(self, method: Any, **options: Any) -> Tensor:
        """Its answer."""
        found: Tensor = method.attribute(self.x, additional_forward_args=self.rows, **options)
        return found

    @property
    def layer(self) -> nn.Module:
        """The last convolution, as the model has them registered."""
        found = [m for m in self.amount.modules() if isinstance(m, nn.modules.conv._ConvNd)]
        if not found:
            raise InputError("the model has no convolution, whose channels it would weigh")
        return found[-1]


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise MissingExtraError("Captum's methods need captum: pip install captum") from error
    return captum.attr


def _grad_cam(attr: Any, a: Asked) -> Tensor:
    small = a.by(attr.LayerGradCam(a.amount, a.layer), relu_attributions=True)
    if small.dim() != a.x.dim():
        raise InputError(f"a map {tuple(small.shape)} cannot be laid over an input {tuple(a.x.shape)}")
    large = F.interpolate(small, a.x.shape[2:], mode={3: "linear", 4: "bilinear"}[a.x.dim()])
    return large.expand_as(a.x) / a.x.shape[1]


def _occlusion(attr: Any, a: Asked) -> Tensor:
    if a.x.dim() == 2:
        size = max(1, a.x.shape[1] // 64)
        return a.by(attr.Occlusion(a.amount), sliding_window_shapes=(size,), strides=(size,))
    if a.x.dim() != 4:
        return a.by(attr.Occlusion(a.amount), sliding_window_shapes=(1, *a.x.shape[2:]))
    side = max(2, min(a.x.shape[2:]) // 8)
    window, strides = (a.x.shape[1], side, side), (a.x.shape[1], side // 2, side // 2)
    return a.by(attr.Occlusion(a.amount), sliding_window_shapes=window, strides=strides)


METHODS: Mapping[str, Callable[[Any, Asked], Tensor]] = {
    "Saliency": lambda attr, a: a.by(attr.Saliency(a.amount)),
    "InputXGradient": lambda attr, a: a.by(attr.InputXGradient(a.amount)),
    "IntegratedGradients": lambda attr, a: a.by(
        attr.IntegratedGradients(a.amount), n_steps=STEPS, internal_batch_size=max(a.batch, len(a.x))
    ),
    "GradientShap": lambda attr, a: a.by(
        attr.GradientShap(a.amount), baselines=torch.zeros_like(a.x[:1]), n_samples=STEPS // 4, stdevs=0.1
    ),
    "NoiseTunnel": lambda attr, a: a.by(
        attr.NoiseTunnel(attr.InputXGradient(a.amount)), nt_samples=STEPS, nt_samples_batch_size=1, stdevs=0.3
    ),
    "GuidedBackprop": lambda attr, a: a.by(attr.GuidedBackprop(a.amount)),
    "Deconvolution": lambda attr, a: a.by(attr.Deconvolution(a.amount)),
    "DeepLift": lambda attr, a: a.by(attr.DeepLift(a.amount)),
    "LRP": lambda attr, a: a.by(attr.LRP(a.amount)),
    "LayerGradCam": _grad_cam,
    "GuidedGradCam": lambda attr, a: a.by(attr.GuidedGradCam(a.amount, a.layer)),
    "Occlusion": _occlusion,
    "FeatureAblation": lambda attr, a: a.by(attr.FeatureAblation(a.amount), feature_mask=a.labels),
    "ShapleyValueSampling": lambda attr, a: a.by(
        attr.ShapleyValueSampling(a.amount), feature_mask=a.labels, n_samples=STEPS // 8
    ),
    "KernelShap": lambda attr, a: a.by(
        attr.KernelShap(a.amount), feature_mask=a.labels, n_samples=8 * STEPS, perturbations_per_eval=1
    ),
    "Lime": lambda attr, a: a.by(attr.Lime(a.amount), feature_mask=a.labels, n_samples=8 * STEPS),
}
"""By their names in Captum, with its defaults but for what it has no default of."""

SLOW = ("ShapleyValueSampling", "KernelShap", "Lime")
"""They ask the model hundreds of times for each sample, one sample at a time."""


@dataclass(frozen=True)
class ByCaptum:
    """One of Captum's methods, as a function (model, inputs, target) -> relevance.

    It runs on a copy of the model, since some leave hooks behind where they fail.

    Attributes:
        name: of the method, one of `METHODS`.
        groups: what methods that perturb the input perturb together.
        key: name or number of the input that is asked about. None: the first.
        output: which output is explained.
        batch: inputs that the model is given at once.
        seed: of methods that draw numbers.
    """

    name: str
    groups: Groups
    key: str | int | None = None
    output: str | int | None = None
    batch: int = 64
    seed: int = 0

    def __call__(self, model: nn.Module, inputs: Inputs, target: Target) -> Tensor:
        """Relevance of the input that is asked about, (B, ...)."""
        attr = _captum()
        first = next(iter(inputs)) if isinstance(inputs, Mapping) else 0
        amount = Amount(deepcopy(model), inputs, first if self.key is None else self.key, target, self.output)
        for parameter in amount.parameters():
            parameter.requires_grad_(False)
        x = amount.x.detach()
        rows = torch.arange(len(x), device=x.device)
        spread = self.groups.spread(self.groups.labels(x), x).expand(len(x), *x.shape[1:])
        asked = Asked(amount, x, rows, spread, self.batch)
        with warnings.catch_warnings(), _drawing(self.seed), torch.enable_grad():
            warnings.simplefilter("ignore")  # of hooks on modules, which are those of a copy
            return METHODS[self.name](attr, asked).detach()


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Numbers of a seed, of PyTorch and of NumPy, which Captum asks both; the caller's go on as if nothing had been."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)
