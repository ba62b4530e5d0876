"""A model and example inputs -> a `Graph`, by `torch.export`. The model itself is not touched."""

from __future__ import annotations

import contextlib
import copy
import inspect
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.nn.utils import rnn
from torch.utils import _pytree as pytree

from relprop import errors
from relprop.engine.graph.functional import empty_to_zeros, in_place_to_functional
from relprop.engine.graph.graph import Graph, NodeInfo, operator_name
from relprop.engine.graph.regions import inline_regions
from relprop.engine.graph.signature import varying_dims
from relprop.errors import CaptureError, InputError

LIBRARIES = tuple(str(Path(module.__file__).parent) for module in (torch, errors) if module.__file__)
"""Folders whose lines say nothing about the user's model."""


def capture(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Graph:
    """Export a model for one input signature, with a dynamic batch dimension where the model allows it.

    The model is exported in eval mode, through a copy of its modules that shares all parameters and buffers.

    Args:
        model: any module that `torch.export` (non-strict) can capture.
        args, kwargs: example inputs; the batch dimension of tensors is their first.

    Raises:
        CaptureError: `torch.export` failed; the message says what it said and at which line of the model.
    """
    kwargs = dict(kwargs or {})
    shadow = shadow_of(model)
    try:
        if _is_single_sample(args, kwargs):
            # Export fixes a dimension whose example has size 1, so a single sample is repeated, unless the model minds.
            with contextlib.suppress(CaptureError):
                graph = _captured(shadow, *_repeated(tuple(args), kwargs))
                if graph.serves(pytree.tree_leaves((tuple(args), kwargs))):
                    return graph
        return _captured(shadow, tuple(args), kwargs)
    except CaptureError:
        _check_that_it_runs(shadow, tuple(args), kwargs)
        raise


def _captured(shadow: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Graph:
    exported = _export(shadow, args, kwargs)
    inline_regions(exported.graph_module)
    if not in_place_to_functional(copy.deepcopy(exported.graph)):  # a trial, since it may fail half way
        exported = exported.run_decompositions({})
    in_place_to_functional(exported.graph)
    empty_to_zeros(exported.graph)
    return _to_graph(exported, shadow)


def shadow_of(model: nn.Module) -> nn.Module:
    """A copy of the module tree in eval mode that shares every parameter and buffer with the original."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(t.device.type == "meta" for t in tensors):
        raise CaptureError(
            "The model's parameters are on the 'meta' device, so they have no values to explain. Load weights first, "
            "for example with model.to_empty(device='cpu') followed by load_state_dict."
        )
    shadow = copy_modules(model).eval()
    for module in shadow.modules():
        config = getattr(module, "config", None)
        if config is not None and getattr(config, "use_cache", False) is True:
            config.use_cache = False  # caches for generation are no outputs that could be explained
    return shadow


def copy_modules(model: nn.Module) -> nn.Module:
    """A copy of the module tree that shares every parameter and buffer with the original."""
    tensors = [*model.parameters(), *model.buffers()]
    try:
        return copy.deepcopy(model, {id(t): t for t in tensors})
    except Exception as error:
        raise CaptureError(f"The model's modules cannot be copied ({type(error).__name__}: {error}).") from error


def _is_single_sample(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    leaves = pytree.tree_leaves((tuple(args), kwargs))
    return {t.shape[0] for t in leaves if isinstance(t, Tensor) and t.dim()} == {1}


def _repeated(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def twice(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.dim() else leaf

    doubled: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(twice, (args, kwargs))
    return doubled


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    try:
        return _export_dynamic(model, args, kwargs, sequence=True)
    except Exception as error:
        try:  # once more with only the batch dynamic, for models whose code fixes the length of sequences
            return _export_dynamic(model, args, kwargs, sequence=False)
        except Exception:
            raise CaptureError(explain_failure(model, error)) from error


def _export_dynamic(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, sequence: bool
) -> torch.export.ExportedProgram:
    def dynamic(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.dim():
            return None
        return dict.fromkeys(varying_dims(leaf) if sequence else (0,), torch.export.Dim.AUTO)

    shapes = pytree.tree_map(dynamic, (args, kwargs))
    combined = _by_parameter(model, shapes[0], shapes[1])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(model, args, kwargs, dynamic_shapes=combined, strict=False)


def _check_that_it_runs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise `InputError` where the model itself does not take these inputs."""
    shapes = [tuple(t.shape) for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} itself fails on inputs of shape {', '.join(map(str, shapes))} "
            f"(first dimension: batch): {type(error).__name__}: {error}"
        ) from error


def _by_parameter(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`dynamic_shapes` as export wants it: by name of the parameter, the inputs of `*args` nested."""
    signature = inspect.signature(model.forward)
    return dict(signature.bind_partial(*args).arguments) | dict(kwargs)


def explain_failure(model: nn.Module, error: BaseException) -> str:
    """What torch.export said, at which line of the model, and what usually helps."""
    said = str(error).strip().splitlines()
    lines = [
        f"torch.export could not capture {type(model).__name__}: {type(error).__name__}: {said[0] if said else ''}"
    ]
    lines += [f"  {line}" for line in said[1:6]]
    inside = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*LIBRARIES, "<"))]
    if inside:
        frame = inside[-1]
        lines.append(f"It happened at {frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}")
    if _packs_sequences(error):
        lines.append(
            "The model packs sequences (torch.nn.utils.rnn), which cannot be captured. Give the recurrent layer the "
            "padded batch instead, and read each sample's own last step: output[torch.arange(len(x)), lengths - 1]. "
            "The padding behind it gets no relevance. A bidirectional layer reads the padding first: explain samples "
            "of one length together."
        )
    lines.append(
        "What usually helps: check that model(*inputs) itself runs; replace Python `if` or `for` on tensor values by "
        "torch.where or torch.cond; keep .item() and numpy out of forward."
    )
    return "\n".join(lines)


def _packs_sequences(error: BaseException) -> bool:
    """A packed sequence was at hand, or was being made, where the error was raised."""
    return any(
        frame.f_code.co_filename == rnn.__file__
        or any(isinstance(v, rnn.PackedSequence) for v in frame.f_locals.values())
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def _to_graph(exported: torch.export.ExportedProgram, model: nn.Module) -> Graph:
    signature = exported.graph_signature
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for spec in signature.input_specs:
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            assert spec.target is not None
            tensors[spec.arg.name] = _find(exported, spec.target)
            names[spec.arg.name] = spec.target
        elif spec.kind is not InputKind.USER_INPUT:
            raise CaptureError(
                f"The model takes an input of kind {spec.kind.name}, which relprop cannot hold: {spec.target}."
            )
    graph = exported.graph
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    keep = [
        value
        for value, spec in zip(output.args[0], signature.output_specs, strict=True)
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    output.args = (tuple(keep),)
    types = {name: type(module) for name, module in model.named_modules()}
    for node in graph.nodes:
        origin = _origin(node.meta.get("nn_module_stack"), types)
        path = names.get(node.name, origin.path)
        node.meta["relprop"] = replace(origin, path=path, operator=operator_name(node), origin=node.name)
    assert exported.call_spec.in_spec is not None
    assert exported.call_spec.out_spec is not None
    return Graph(graph, tensors, exported.call_spec.in_spec, exported.call_spec.out_spec, types)


def _find(exported: torch.export.ExportedProgram, target: str) -> Tensor:
    tensor = exported.state_dict.get(target, exported.constants.get(target))
    assert isinstance(tensor, Tensor), f"torch.export names {target}, but does not hold it"
    return tensor


def _origin(stack: Mapping[str, tuple[str, Any]] | None, types: Mapping[str, type[nn.Module]]) -> NodeInfo:
    """Innermost module of a node. A second call of a module has `@1` behind its key."""
    known = [(key, path) for key, (path, _) in (stack or {}).items() if path in types]
    if not known:
        return NodeInfo(module_type=types.get(""))
    key, path = known[-1]
    call = key.rpartition("@")[2] if "@" in key else "0"
    return NodeInfo(path=path, call=int(call) if call.isdigit() else 0, module_type=types[path])
