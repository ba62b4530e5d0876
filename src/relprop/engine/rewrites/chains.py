"""What modules say of themselves without a capture: chains of them, and batch norms that a neighbour can take in."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from relprop.engine.graph.scripted import is_script, module_type
from relprop.engine.rewrites.fusing import Fusable, pads


def is_sequential(model: nn.Module) -> bool:
    """A chain of nested `nn.Sequential`, whose order of execution needs no capture."""
    if type(model) is not nn.Sequential:
        return not list(model.children()) and type(model).__module__.startswith("torch.nn.")
    return all(is_sequential(m) for m in model.children())


def is_leaf(module: nn.Module) -> bool:
    """A module without modules in it; what computes its weights, a parametrization, is none."""
    return all(name == "parametrizations" for name, _ in module.named_children())


def is_torchs(module: nn.Module) -> bool:
    """A module of PyTorch's own, whose forward is known."""
    return plain_type(module).__module__.startswith("torch.nn.")


def plain_type(module: nn.Module) -> type[nn.Module]:
    """Its class before its weights were parametrized, which makes a subclass of each module, or it was scripted."""
    return module_type(module) if is_script(module) else type_before_parametrizations(module)


def fusable(layer: nn.Module) -> Fusable | None:
    """What a layer says of itself to `fusing`; None if it is no such layer."""
    if isinstance(layer, nn.Linear):
        return Fusable(layer.in_features, layer.out_features)
    if not isinstance(layer, nn.modules.conv._ConvNd):
        return None
    borders = pads(layer.padding)
    return Fusable(layer.in_channels, layer.out_channels, layer.transposed, layer.groups, borders)


def fixed_channels(norm: nn.Module) -> int | None:
    """Number of channels of a batch norm with fixed statistics; None if it is none."""
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:
        return None
    return norm.num_features


def takers(chain: Sequence[nn.Module]) -> list[int | None]:
    """For each module of a chain the position of the layer that takes it in, if it is a batch norm next to one."""
    found: list[int | None] = []
    last, before = 0, None
    for i, module in enumerate(chain):
        size = fixed_channels(module)
        behind = fusable(chain[i + 1]) if i + 1 < len(chain) else None
        if size is not None and before is not None and before.takes_behind(size):
            found.append(last)
            continue
        found.append(i + 1 if size is not None and behind is not None and behind.takes_in_front(size) else None)
        last, before = i, fusable(module)
    return found
