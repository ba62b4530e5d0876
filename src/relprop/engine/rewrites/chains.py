"""What modules say of themselves without a capture: chains of them, and batch norms that a neighbour can take in."""

from __future__ import annotations

from torch import nn


def is_sequential(model: nn.Module) -> bool:
    """A chain of nested `nn.Sequential`, whose order of execution needs no capture."""
    if type(model) is not nn.Sequential:
        return is_leaf(model) and is_torchs(model)
    return all(is_sequential(m) for m in model.children())


def is_leaf(module: nn.Module) -> bool:
    """A module without modules in it."""
    return not list(module.children())


def is_torchs(module: nn.Module) -> bool:
    """A module of PyTorch's own, whose forward is known."""
    return type(module).__module__.startswith("torch.nn.")


def fusable(layer: nn.Module, norm: nn.Module) -> bool:
    """A batch norm with fixed statistics behind a layer whose outputs it normalizes one by one."""
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:
        return False
    if not isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
        return False
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return outputs == norm.num_features


def absorbable(norm: nn.Module, layer: nn.Module) -> bool:
    """A batch norm with fixed statistics in front of a layer that pads nothing."""
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:
        return False
    if isinstance(layer, nn.Linear):
        return layer.in_features == norm.num_features
    unpadded = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return (
        isinstance(layer, unpadded)
        and layer.in_channels == norm.num_features
        and (layer.padding == "valid" or (not isinstance(layer.padding, str) and not any(layer.padding)))
    )
