"""Preparing a model: without its output softmax, canonized, flattened. Each returns a new model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop.engine.graph import operators as f
from relprop.engine.graph.capture import capture
from relprop.engine.graph.graph import Graph, info
from relprop.engine.graph.run import evaluate
from relprop.engine.graph.shadow import copy_modules
from relprop.engine.graph.signature import signature_of
from relprop.engine.rewrites.canonical import canonical
from relprop.engine.rewrites.chains import absorbable, fusable, is_sequential
from relprop.engine.rewrites.softmax import SOFTMAX, strip_graph
from relprop.errors import ModelError


class Scale(nn.Module):
    """`x * weight + bias`, broadcast: the learned part of a normalization, on its own."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=bias.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        z = x * self.weight
        return z if self.bias is None else z + self.bias

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, bias={self.bias is not None}"


class WithoutSoftmax(nn.Module):
    """A model whose output softmax, wherever it is computed, is left out.

    What `strip_softmax` returns for a model that is no chain of `nn.Sequential`. It runs the model's captured graph up
    to the softmax.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._graphs: dict[Any, list[Graph]] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        known = self._graphs.setdefault(signature_of(args, kwargs), [])
        leaves = pytree.tree_leaves((args, kwargs))
        graph = next((g for g in known if g.serves(leaves)), None)
        if graph is None:
            graph = strip_graph(capture(self.model, args, kwargs))
            known.append(graph)
        return evaluate(graph, leaves)


def strip_softmax(model: nn.Module) -> nn.Module:
    """The model without the softmax (or log-softmax) that its output ends in, so that logits are explained.

    Nested `nn.Sequential` stay what they are, less their last layer. Any other model is wrapped; the wrapper leaves out
    a softmax at the output, module or functional, and `LRP` takes it like any model.
    """
    if not is_sequential(model):
        return model if isinstance(model, WithoutSoftmax) else WithoutSoftmax(copy_modules(model))
    stripped = copy_modules(model)
    parent: nn.Module = stripped
    while isinstance(parent, nn.Sequential) and len(parent) and isinstance(parent[-1], nn.Sequential):
        parent = parent[-1]
    if isinstance(parent, nn.Sequential) and len(parent) and isinstance(parent[-1], SOFTMAX):
        del parent[-1]
    return stripped


def flatten_model(model: nn.Module) -> nn.Module:
    """One `nn.Sequential` in place of nested ones. Other models have no order to flatten and are returned as a copy."""
    flat = copy_modules(model)
    if type(model) is not nn.Sequential:
        return flat
    return nn.Sequential(*_unnest(flat))


def _unnest(model: nn.Module) -> list[nn.Module]:
    if type(model) is not nn.Sequential:
        return [model]
    return [leaf for child in model for leaf in _unnest(child)]


def canonize(model: nn.Module, example_inputs: Sequence[Any] | None = None) -> nn.Module:
    """An equivalent model in the form that LRP's papers speak of: batch norms fused, LayerNorms split.

    A batch norm is fused, exactly, into the convolution, transposed convolution or linear layer in front of it, or into
    a convolution or linear layer behind it that pads nothing. A LayerNorm becomes its normalization followed by a
    `Scale`. Nested `nn.Sequential` are flattened on the way.

    `LRP` does the same on the captured graph by itself; this is for looking at the result, or working on with it.

    Args:
        example_inputs: positional inputs. Needed for a model that is no chain of `nn.Sequential`, since only its graph
            tells what follows what.

    Raises:
        ModelError: the model is no chain and there are no `example_inputs`.
    """
    if is_sequential(model):
        return nn.Sequential(*_canonical_chain(_unnest(copy_modules(model))))
    if example_inputs is None:
        raise ModelError(
            f"canonize({type(model).__name__}): only the graph tells which batch norm follows which layer, so give "
            "example_inputs=(x,). LRP(model) canonizes by itself."
        )
    canonical_model = copy_modules(model)
    for layer, norm, behind in _fused_pairs(model, example_inputs):
        modules = canonical_model.get_submodule(layer), model.get_submodule(norm)
        canonical_model.set_submodule(layer, fuse(*modules) if behind else absorb(*reversed(modules)))
        canonical_model.set_submodule(norm, nn.Identity())
    for name, module in list(canonical_model.named_modules()):
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            canonical_model.set_submodule(name, nn.Sequential(*split(module)))
    return canonical_model


def _canonical_chain(leaves: list[nn.Module]) -> list[nn.Module]:
    chain: list[nn.Module] = []
    for module in leaves:
        if chain and fusable(chain[-1], module):
            chain[-1] = fuse(chain[-1], module)
        elif chain and absorbable(chain[-1], module):
            chain[-1] = absorb(chain[-1], module)
        elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            chain.extend(split(module))
        else:
            chain.append(module)
    return chain


def fuse(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """`layer` with the batch norm's scale and shift in its weight and bias."""
    scaling, shift = scale_and_shift(norm)
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
    assert weight is not None
    groups = layer.groups if isinstance(layer, nn.modules.conv._ConvNd) else 1
    return _with_parameters(
        layer,
        f.fused_weight(weight.detach(), scaling, 1 if transposed else 0, groups),
        f.fused_bias(None if bias is None else bias.detach(), scaling, shift),
    )


def absorb(norm: nn.Module, layer: nn.Module) -> nn.Module:
    """`layer` with the scale and shift of the batch norm in front of it in its weight and bias."""
    scaling, shift = scale_and_shift(norm)
    groups = layer.groups if isinstance(layer, nn.modules.conv._ConvNd) else 1
    weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
    assert weight is not None
    return _with_parameters(
        layer,
        f.weight_of_scaled(weight.detach(), scaling, groups),
        f.bias_of_shifted(weight.detach(), None if bias is None else bias.detach(), shift, groups),
    )


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """`γ/σ` and `β − μγ/σ` of a batch norm, shape (C,) each."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scaling = f.batch_norm_weight(norm.weight, norm.running_var, norm.eps).detach()
    return scaling, f.batch_norm_bias(norm.bias, norm.running_mean, scaling).detach()


def _with_parameters(layer: nn.Module, weight: Tensor, bias: Tensor) -> nn.Module:
    changed = copy.copy(layer)
    changed._parameters = dict(layer._parameters)
    changed.weight, changed.bias = nn.Parameter(weight), nn.Parameter(bias)
    return changed


def split(norm: nn.LayerNorm) -> tuple[nn.LayerNorm, Scale]:
    """A LayerNorm as its normalization and its learned scale."""
    plain = nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)
    return plain.train(norm.training), Scale(norm.weight, norm.bias)


def _fused_pairs(model: nn.Module, example_inputs: Sequence[Any]) -> list[tuple[str, str, bool]]:
    """(layer, batch norm, norm is behind the layer) that the graph shows to follow each other, each called once."""
    graph = canonical(capture(model, example_inputs))
    used: dict[str, int] = {}
    whole: dict[str, int] = {}
    for node in graph.operators():
        if info(node).data:
            used[info(node).path] = used.get(info(node).path, 0) + 1
        for norm in info(node).absorbed:
            whole[norm] = whole.get(norm, 0) + 1
    pairs = [(info(n).path, norm, True) for n in graph.operators() for norm in info(n).aliases]
    pairs += [(info(n).path, norm, False) for n in graph.operators() for norm in info(n).absorbed]
    return [(layer, norm, behind) for layer, norm, behind in pairs if used[layer] == 1 and whole.get(norm, 1) == 1]
