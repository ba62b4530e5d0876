"""Preparing a model: without its output softmax, canonized, flattened. Each returns a new model."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import map_arg

from relprop.engine.graph.capture import capture
from relprop.engine.graph.graph import Graph, Node, info
from relprop.engine.graph.run import evaluate
from relprop.engine.graph.shadow import copy_modules
from relprop.engine.graph.signature import Inputs, inputs_of, signature_of
from relprop.engine.rewrites.batch_norm import FuseBatchNorm
from relprop.engine.rewrites.canonical import canonical
from relprop.engine.rewrites.chains import fusable, is_leaf, is_sequential, takers
from relprop.engine.rewrites.fusing import fixed_statistics
from relprop.engine.rewrites.rewriting import arguments, called
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
        key, leaves = signature_of(args, kwargs)
        known = self._graphs.setdefault(key, [])
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


def canonize(model: nn.Module, example_inputs: Sequence[Any] | Mapping[str, Any] | None = None) -> nn.Module:
    """An equivalent model in the form that LRP's papers speak of: batch norms fused, LayerNorms split.

    A batch norm is fused, exactly, into the convolution, transposed convolution or linear layer in front of it, or into
    a convolution or linear layer behind it that pads nothing. A LayerNorm becomes its normalization followed by a
    `Scale`. Nested `nn.Sequential` are flattened on the way.

    `LRP` does the same on the captured graph by itself; this is for looking at the result, or working on with it.

    Args:
        example_inputs: positional inputs as a tuple, or keyword inputs as a dict. Needed for a model that is no chain
            of `nn.Sequential`, since only its graph tells what follows what.

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
    for layer, norms, weight, bias in _fused_layers(model, inputs_of(example_inputs)):
        module = canonical_model.get_submodule(layer)
        canonical_model.set_submodule(layer, _with_parameters(module, weight, bias))
        for norm in norms:
            canonical_model.set_submodule(norm, nn.Identity())
    for name, module in list(canonical_model.named_modules()):
        if len(_parts(module)) > 1:
            canonical_model.set_submodule(name, nn.Sequential(*_parts(module)))
    return canonical_model


def _canonical_chain(leaves: list[nn.Module]) -> list[nn.Module]:
    chain = list(leaves)
    into = takers(leaves)
    for i, taker in enumerate(into):
        if taker is not None:
            chain[taker] = _with_norm(chain[taker], leaves[i], behind=taker < i)
    left = [module for module, taker in zip(chain, into, strict=True) if taker is None]
    return [part for module in left for part in _parts(module)]


def _parts(module: nn.Module) -> tuple[nn.Module, ...]:
    return split(module) if isinstance(module, nn.LayerNorm) and module.elementwise_affine else (module,)


def _with_norm(layer: nn.Module, norm: nn.Module, *, behind: bool) -> nn.Module:
    """`layer` with a batch norm behind or in front of it in its weight and bias."""
    kind = fusable(layer)
    assert kind is not None
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    statistics = norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps
    with torch.no_grad():
        fuse = kind.behind if behind else kind.in_front
        return _with_parameters(layer, *fuse(_call, layer.weight, layer.bias, fixed_statistics(_call, *statistics)))


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _with_parameters(layer: nn.Module, weight: Tensor, bias: Tensor) -> nn.Module:
    changed = copy.copy(layer)
    changed._parameters = dict(layer._parameters)
    changed.weight, changed.bias = nn.Parameter(weight), nn.Parameter(bias)
    return changed


def split(norm: nn.LayerNorm) -> tuple[nn.LayerNorm, Scale]:
    """A LayerNorm as its normalization and its learned scale."""
    plain = nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)
    return plain.train(norm.training), Scale(norm.weight, norm.bias)


def _fused_layers(model: nn.Module, example_inputs: Inputs) -> list[tuple[str, tuple[str, ...], Tensor, Tensor]]:
    """(layer, norms that are a part of it, weight, bias), as the graph fuses them, for modules that allow it.

    A module computes one thing wherever it is called: layer and norm are called once, and nothing else is in them.
    """
    graph = canonical(capture(model, *example_inputs), (FuseBatchNorm(),))
    data = [node for node in graph.operators() if info(node).data]
    own = Counter(info(node).path for node in data)
    taken = Counter(path for node in data for path in (*info(node).aliases, *info(node).absorbed))
    values: dict[Node, Any] = {}
    found = []
    for node in data:
        known = info(node)
        norms = (*known.aliases, *known.absorbed)
        whole = all(taken[n] == 1 and not own[n] and is_leaf(model.get_submodule(n)) for n in norms)
        if norms and whole and own[known.path] == 1 and _has_parameters(model.get_submodule(known.path)):
            given = arguments(node)
            weight, bias = (_constant(graph, given[name], values) for name in ("weight", "bias"))
            found.append((known.path, norms, weight, bias))
    return found


def _has_parameters(layer: nn.Module) -> bool:
    """A layer whose weight is its own, and not computed from others (as `torch.nn.utils.parametrizations` do)."""
    return fusable(layer) is not None and "weight" in layer._parameters


def _constant(graph: Graph, node: Node, values: dict[Node, Any]) -> Any:
    """The value of a node that is computed from parameters alone."""
    if node.op == "placeholder":
        return graph.tensors[node.name].detach()
    if node not in values:
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda n: _constant(graph, n, values))
        with torch.no_grad():
            values[node] = called(node)(*args, **kwargs)
    return values[node]
