"""An entry of the zoo: a model with random weights of a sensible scale, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, dict[str, Tensor]]


@dataclass(frozen=True)
class Entry:
    """One row of the zoo.

    Attributes:
        library, name: where the architecture comes from, and what it is called there.
        build: makes the model and one batch of inputs by name (`x`: the positional one).
        target: what is explained, None for each sample's largest output.
        output: which of the model's outputs, None for the one that an analyzer takes by itself.
    """

    library: str
    name: str
    build: Callable[[], Built]
    target: Any = None
    output: str | None = None

    def __call__(self) -> Built:
        """The model in eval mode with this zoo's weights, and its inputs."""
        torch.manual_seed(0)
        model, inputs = self.build()
        model = model.eval()
        randomize(model)
        settle(model, inputs)
        return model, inputs


def randomize(model: nn.Module) -> None:
    """Random weights of a sensible scale: about 1 in, about 1 out, and norms that scale and shift."""
    torch.manual_seed(1)
    held: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) not in held and parameter.is_floating_point():
                    held.add(id(parameter))
                    _randomize_parameter(module, name, parameter)


def _randomize_parameter(module: nn.Module, name: str, parameter: Tensor) -> None:
    kind = type(module).__name__
    if "Norm" in kind and name == "weight":
        # Gemma's norms scale by 1 + weight: there weights are made at 0.
        centre = 1.0 if parameter.abs().max() > 0.5 else 0.0
        parameter.uniform_(centre - 0.5, centre + 0.5)
    elif "bias" in name and parameter.dim() == 1:
        if name == "bias":
            parameter.normal_(0.0, 0.1)
    elif name == "weight" and parameter.dim() >= 2:
        embeds = isinstance(module, nn.Embedding)
        fan_in = parameter[0].numel()
        parameter.normal_(0.0, 0.5 if embeds else (1.6 if "Conv" in kind and fan_in > 1 else 1.0) / fan_in**0.5)
    elif parameter.dim() >= 2 and "A_log" not in name:
        parameter.normal_(0.0, parameter.shape[-1] ** -0.5)
    elif parameter.abs().max() < 0.1:  # layer scales and gains that start at almost nothing
        parameter.uniform_(0.5, 1.5)


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def settle(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Give batch norms the statistics of random inputs, as after training."""
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    if norms:
        with torch.no_grad():
            call(model, {k: torch.cat([v, _random_like(v)]) for k, v in inputs.items()})
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _random_like(x: Tensor) -> Tensor:
    return torch.randn_like(x) if x.is_floating_point() else x


def call(function: Callable[..., Any], inputs: Mapping[str, Tensor], **options: Any) -> Any:
    """Call a model or an analyzer: `x` is positional, the rest goes by name."""
    named = {k: v for k, v in inputs.items() if k != "x"}
    return function(*([inputs["x"]] if "x" in inputs else []), **named, **options)
