"""Checks before work starts: of the inputs, of the model's end, and that every operator has a rule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop.engine.graph.graph import Graph, Node, info, operator_name
from relprop.engine.ops.analysis import only_masks
from relprop.engine.rewrites.softmax import SOFTMAX, output_softmax
from relprop.errors import InputError, SoftmaxOutputError, UnexplainedError, warn


def check_inputs(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, finite: bool) -> bool:
    """Raise `InputError` for inputs that cannot be explained.

    Args:
        finite: also look at the values.

    Returns:
        Whether one of several inputs holds -inf, as masks do; what it is, the graph tells, see `check_masks`.
    """
    tensors = [leaf for leaf in pytree.tree_leaves((list(args), dict(kwargs))) if isinstance(leaf, Tensor)]
    if not tensors:
        raise InputError(_no_tensor((list(args), dict(kwargs))))
    floats = [t for t in tensors if t.is_floating_point()]
    ids = (torch.int64, torch.int32)  # token ids are explained at their embeddings
    if not floats and not any(t.dtype in ids for t in tensors):
        raise InputError(
            f"The input has dtype {tensors[0].dtype}; relevance needs floating point inputs, or token ids "
            "(torch.int64). Convert it, for pictures with x.float() / 255 and the model's normalization."
        )
    for t in tensors:
        if t.layout != torch.strided or t.is_nested:
            kind = "nested" if t.is_nested else f"sparse ({t.layout})"
            raise InputError(
                f"An input is {kind}. Give it as x.{'to_padded_tensor(0.0)' if t.is_nested else 'to_dense()'}; sparse "
                "tensors that the model itself holds may stay what they are."
            )
        if t.numel() == 0:
            raise InputError(f"An input has shape {tuple(t.shape)}: an empty batch has nothing to explain.")
    parameter = next(itertools.chain(model.parameters(), model.buffers()), None)
    if parameter is not None and parameter.device.type != "meta":
        _check_like(parameter, floats)
    masks = [check_finite(t, masks=len(tensors) > 1) for t in floats] if finite else []
    return any(masks)


def _no_tensor(given: Any) -> str:
    """What was given in the place of a tensor, and how to make one of it."""
    for leaf in pytree.tree_leaves(given):
        kind = type(leaf)
        if isinstance(leaf, np.ndarray):
            picture = leaf.dtype == np.uint8 and leaf.ndim == 3
            helps = (
                "relprop.models.Preprocess()(PIL.Image.fromarray(x)) makes one of a picture, with mean= and std= those "
                "that the model was trained with."
                if picture
                else f"Give torch.from_numpy(x){'' if leaf.dtype == np.float32 else '.float()'}."
            )
            return f"The input is a numpy array of shape {leaf.shape} and type {leaf.dtype}, not a tensor. {helps}"
        if kind.__module__.startswith("PIL."):
            return (
                "The input is a picture, not a tensor. relprop.models.Preprocess()(x) makes one of it, with mean= and "
                "std= those that the model was trained with."
            )
        if isinstance(leaf, (int, float)):
            return "The input is a list of numbers, not a tensor. Give torch.tensor(x), the batch first."
        if isinstance(leaf, str):
            return (
                "The input is text, not a tensor. Give what the model takes: lrp(**tokenizer(x, return_tensors='pt'))."
            )
        held = [name for name, value in getattr(leaf, "__dict__", {}).items() if isinstance(value, Tensor)]
        if held:
            return (
                f"The input is a {kind.__name__}, and what it holds is not seen as inputs: {', '.join(held)}. Explain "
                "a module whose forward takes these tensors and makes one of them."
            )
    return "There is no tensor among the inputs, so nothing to explain. Call lrp(x) with the model's input."


def check_finite(t: Tensor, *, masks: bool = False) -> bool:
    """Raise `InputError` for a tensor that holds NaN or infinite values.

    Args:
        t: an input.
        masks: -inf is let in, if there is nothing else beside numbers.

    Returns:
        Whether there is -inf in it.
    """
    if math.isfinite(t.detach().sum()):  # one cheap pass; a sum may overflow where no value does
        return False
    bad = int((~torch.isfinite(t)).sum())
    if not bad or (masks and int((t == -torch.inf).sum()) == bad):
        return bad > 0
    raise InputError(
        f"An input of shape {tuple(t.shape)} holds {bad} values that are NaN or infinite. "
        "Where the model itself fills what is missing, checks=False lets them in; they get no relevance."
    )


def check_masks(graph: Graph, leaves: Sequence[Any]) -> None:
    """Raise `InputError` for -inf in an input that does more than to mask what a softmax reads."""
    for node, leaf in zip(graph.inputs, leaves, strict=True):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and not only_masks(node):
            check_finite(leaf)


def _check_like(parameter: Tensor, floats: Sequence[Tensor]) -> None:
    # A model may cast its input by itself, so of dtypes it is asked itself, when it is captured.
    for t in floats:
        if t.device != parameter.device:
            raise InputError(
                f"The input is on {t.device}, the model on {parameter.device}. "
                f"Move one: x.to({str(parameter.device)!r})."
            )


def check_samples(shape: Sequence[int | None], batch: int) -> int:
    """How many samples an output of a shape has: its first dimension.

    Args:
        shape: of the explained output.
        batch: the first dimension of the inputs.

    Raises:
        InputError: the output has no dimension for the batch.
    """
    if not shape or (len(shape) == 1 and shape[0] is not None and shape[0] != batch):
        raise InputError(
            f"The explained output has shape {tuple(shape)} for inputs of batch size {batch}: it has lost its batch "
            "dimension, so samples cannot be told apart. Explain one sample at a time, or keep the dimension in "
            "forward: squeeze(dim), flatten(1), mean(1). If the input itself lacks it: x[None]."
        )
    return batch if shape[0] is None else shape[0]


def check_last_module(model: nn.Module) -> None:
    """Refuse a chain that ends in a softmax, before any input is seen."""
    last = model
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    if isinstance(last, SOFTMAX):
        raise SoftmaxOutputError(_softmax_message(type(last).__name__))


def check_output(output: Node) -> None:
    """Refuse a captured output that comes from a softmax."""
    softmax = output_softmax(output)
    if softmax is not None:
        raise SoftmaxOutputError(_softmax_message(operator_name(softmax)))


def _softmax_message(what: str) -> str:
    return (
        f"The model ends in a softmax ({what}). Probabilities mix the evidence for all classes, so explain the logits: "
        "LRP(relprop.strip_softmax(model))."
    )


def check_explained(nodes: Iterable[Node]) -> None:
    """Refuse operators that no rule explains, with a table of them."""
    missing = list(nodes)
    if not missing:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("operator", "module", "module type", "node"):
        table.add_column(column, no_wrap=True)
    for node in missing:
        known = info(node)
        kind = known.module_type.__name__ if known.module_type else ""
        table.add_row(operator_name(node), known.path or "(root)", kind, node.name)
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(table)
    operators = sorted({operator_name(n) for n in missing})
    raise UnexplainedError(
        f"Relevance would reach {len(missing)} operator(s) that no rule explains:\n\n{capture.get()}\n"
        f"Next step: relprop.register_op({operators[0]!r}, like=...) if it behaves like a known operator, or "
        "relprop.register_module(ModuleType, rule=...) to treat the module that it is in as one layer."
    )


def warn_if_training(model: nn.Module) -> bool:
    """Say that modules in training mode are explained as in evaluation mode; whether there are any."""
    differs = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    if not any(getattr(m, "training", False) for m in model.modules()):
        return False
    modules = [name or "the model" for name, m in model.named_modules() if isinstance(m, differs) and m.training]
    if modules:
        warn(
            f"{len(modules)} module(s) of the model, such as {modules[0]}, are in training mode, where they behave "
            "differently. The model is explained as in evaluation mode; model.eval() says so explicitly."
        )
    return bool(modules)
