"""A model and example inputs -> a `Graph`, by `torch.export`. The model itself is not touched."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from relprop.engine.graph import quantized, recurrent, scripted, trial
from relprop.engine.graph.export import LOCK, Inputs, Open, explain_failure, export, quiet
from relprop.engine.graph.functional import make_functional
from relprop.engine.graph.graph import Graph, NodeInfo, fake_value, operator_name
from relprop.engine.graph.hints import what_helps
from relprop.engine.graph.known import hold_numbers, holds_sparse, needs_values
from relprop.engine.graph.outputs import as_records
from relprop.engine.graph.regions import inline_regions
from relprop.engine.graph.shadow import check_modules, shadow_of, trial_of
from relprop.engine.graph.signature import varying_dims
from relprop.errors import CaptureError, InputError


def capture(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Graph:
    """Export a model for one input signature, with a dynamic batch dimension where the model allows it.

    The model is exported in eval mode, through a copy of its modules that shares all parameters and buffers. The
    program is tried on these inputs, or their first sample: it must return what the model returns, through values of
    the recorded shapes.

    Args:
        model: any module that `torch.export` (non-strict) can capture.
        args, kwargs: example inputs; the batch dimension of tensors is their first.

    Raises:
        InputError: the model itself fails on these inputs.
        CaptureError: `torch.export` failed; the message says what it said and at which line of the model. Or no
            program returns what the model does.
    """
    given: Inputs = (tuple(args), dict(kwargs or {}))
    check_modules(model)
    with LOCK, quiet():
        failed: Exception | None = None
        errors: list[Exception] = []
        differs = ""
        for inputs, opened in _attempts(model, given, errors):
            try:
                graph = _captured(shadow_of(model), inputs, opened)
            except CaptureError:
                raise
            except Exception as error:
                later = failed is not None and inputs is given and opened != "known"
                failed = failed if later else error
                errors.append(error)
                continue
            differs = _difference(graph, model, given)
            if not differs:
                return graph
        _own_output(model, given)  # or `InputError`
        if differs:
            raise CaptureError(_says_other(model, differs))
        assert failed is not None
        raise CaptureError(explain_failure(model, failed)) from failed


def departs(graph: Graph, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """How a program that was captured earlier differs from the model as it is now; empty where it does not.

    Raises:
        InputError: the model itself fails on these inputs.
    """
    given: Inputs = (tuple(args), dict(kwargs))
    check_modules(model)
    with LOCK, quiet():
        return trial.difference(graph, pytree.tree_leaves(given), _own_output(model, given, graph.written))


def _attempts(model: nn.Module, given: Inputs, failed: Sequence[Exception]) -> Iterator[tuple[Inputs, Open]]:
    """Inputs to export with, and the sizes to leave open, from what serves most calls to what serves only this one."""
    tensors = [t for t in pytree.tree_leaves(given) if isinstance(t, Tensor) and t.dim()]
    if {t.shape[0] for t in tensors} == {1}:
        # Export fixes a dimension whose example has size 1, so a single sample is repeated, unless the model minds.
        yield _repeated(given), "sequence"
    yield given, "sequence"
    if any(len(varying_dims(t)) > 1 for t in tensors):
        yield given, "batch"  # for models whose code fixes the length of sequences
    yield given, "none"
    if failed and (needs_values(failed[-1]) or holds_sparse(model)):
        yield given, "known"


def _repeated(given: Inputs) -> Inputs:
    def twice(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.dim() else leaf

    doubled: Inputs = pytree.tree_map(twice, given)
    return doubled


def _captured(shadow: nn.Module, inputs: Inputs, opened: Open) -> Graph:
    shadow.register_forward_hook(lambda _module, _inputs, output: as_records(output))
    held = hold_numbers(shadow) if opened == "known" else []
    exported = export(shadow, inputs, opened)
    inline_regions(exported.graph_module)
    exported = make_functional(exported)
    recurrent.restore(exported.graph)
    quantized.restore(exported.graph)
    return replace(_to_graph(exported, shadow), held=tuple((t, t.detach().clone()) for t in held))


def _own_output(model: nn.Module, given: Inputs, written: Collection[str] = ()) -> list[Any]:
    """What the model returns, which writes to these parameters; `InputError` where it does not take these inputs."""

    def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        return trial.own_output(trial_of(model, written), args, kwargs)

    try:
        return call(*given)
    except Exception as error:
        tensors = [t for t in pytree.tree_leaves(given) if isinstance(t, Tensor)]
        raise InputError(
            f"{type(model).__name__} itself fails on inputs of shape {', '.join(str(tuple(t.shape)) for t in tensors)} "
            f"(first dimension: batch): {_said(error)}{what_helps(model, *given, error, call)}"
        ) from error


def _said(error: Exception) -> str:
    """What a model said, as a sentence."""
    text = f"{type(error).__name__}: {error}".rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _difference(graph: Graph, model: nn.Module, given: Inputs) -> str:
    """How the program differs from the model; empty where it does not.

    One sample shows it, and shows whether the model sets a batch of one apart, as the export does. Where the model
    does, or other sizes are 1, the program is tried on all that was given.
    """
    leaves, spec = pytree.tree_flatten(given)
    symbol = graph.batch_symbol()
    if symbol is not None and graph.fits(leaves) and not graph.sizes_of_one(leaves):
        first = [_first_of(symbol, node, leaf) for node, leaf in zip(graph.inputs, leaves, strict=True)]
        try:
            if not _tried(graph, model, pytree.tree_unflatten(first, spec)):
                return ""
        except InputError:
            pass  # the model takes no single sample
    return _tried(graph, model, given)


def _tried(graph: Graph, model: nn.Module, given: Inputs) -> str:
    """How the program differs from the model here; if it does not, the graph remembers which sizes were 1."""
    leaves = pytree.tree_leaves(given)
    if not graph.fits(leaves):
        return "the program was captured for other sizes"
    if any(node.op == "get_attr" for node in graph.nodes):
        return ""  # it calls graphs, which no rule explains: to be refused by their name
    said = trial.difference(graph, leaves, _own_output(model, given, graph.written))
    if not said:
        graph.tried.add(graph.sizes_of_one(leaves))
    return said


def _first_of(symbol: Any, node: Any, leaf: Any) -> Any:
    known = fake_value(node)
    if not isinstance(leaf, Tensor):
        return leaf
    for dim, size in enumerate(known.shape):
        if not isinstance(size, int) and size.node.expr == symbol:
            leaf = leaf.narrow(dim, 0, 1)
    return leaf


def _says_other(model: nn.Module, differs: str) -> str:
    return (
        f"The program that torch.export captured of {type(model).__name__} does not compute what the model computes on "
        f"the same inputs: {differs}. Look in forward for what depends on more than inputs and parameters: numbers "
        "drawn by Python or numpy, counters, caches, torch.compiler.is_exporting(), `if` on values of tensors."
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
    output = graph.output_node()
    keep = [
        value
        for value, spec in zip(output.args[0], signature.output_specs, strict=True)
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    output.args = (tuple(keep),)
    types = {name: scripted.module_type(module) for name, module in model.named_modules()}
    opaque = {name for name, module in model.named_modules() if scripted.is_script(module)}
    for node in graph.nodes:
        origin = _origin(node.meta.get("nn_module_stack"), types)
        if origin.path in opaque:
            inner = scripted.path_of(names[n.name] for n in node.all_input_nodes if n.name in names)
            origin = replace(origin, path=inner, module_type=types[inner]) if inner and inner in types else origin
        path = names.get(node.name, origin.path)
        node.meta["relprop"] = replace(origin, path=path, operator=operator_name(node), origin=node.name)
    assert exported.call_spec.in_spec is not None
    assert exported.call_spec.out_spec is not None
    # by name: torch 2.6 has no such kind
    written = frozenset(str(s.target) for s in signature.output_specs if s.kind.name == "PARAMETER_MUTATION")
    in_spec, out_spec = exported.call_spec.in_spec, exported.call_spec.out_spec
    return Graph(graph, tensors, in_spec, out_spec, types, written=written)


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
