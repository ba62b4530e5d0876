"""Artifacts as ONNX: operators that have no ONNX form are spelled out, what is left is refused by name."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from relprop.errors import ArtifactError, MissingExtraError

aten = torch.ops.aten


def check_installed() -> None:
    """Raises `MissingExtraError` where a package that torch.onnx needs is missing."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"ONNX needs {' and '.join(missing)}: pip install 'relprop[onnx]'. A .pt2 file needs neither."
        )


def spelled_out(exported: ExportedProgram) -> ExportedProgram:
    """The program without the derivatives that ONNX does not have.

    Raises:
        ArtifactError: PyTorch could not rewrite it.
    """
    table = {**torch.export.default_decompositions(), **DECOMPOSITIONS}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain: ExportedProgram = exported.run_decompositions(table)
            return plain
    except Exception as error:
        raise ArtifactError(_refusal(error)) from error


def save(exported: ExportedProgram, path: Path, names: Sequence[str], notes: dict[str, str]) -> None:
    """Write an ONNX model.

    Args:
        names: of the outputs, in order. notes: go into the model's metadata.

    Raises:
        ArtifactError: names the operator that has no ONNX form.
    """
    taken = {spec.arg.name for spec in exported.graph_signature.input_specs}
    names = [f"{name}_out" if name in taken else name for name in names]  # ONNX has one space of names
    try:
        with _quiet():  # optimize=False: onnxscript takes a stabilizer of 1e-9 for zero, and `z + 1e-9` for z
            model = torch.onnx.export(exported, dynamo=True, output_names=names, verbose=False, optimize=False)
    except Exception as error:
        raise ArtifactError(_refusal(error)) from error
    assert model is not None
    model.model.metadata_props.update(notes)
    model.save(path)
    if any(file != path for file in path.parent.iterdir()):
        raise ArtifactError("The model is too large for one ONNX file (2 GB): export to a .pt2 file instead.")


def output_names(found: dict[str, Any], relevance: Sequence[str]) -> list[str]:
    """A name for each flat result: `output`, `relevance`, `target`; `relevance.NAME` where there are several."""
    flat, _ = pytree.tree_flatten_with_path(found)
    names = []
    for path, _ in flat:
        keys = [str(getattr(key, "key", getattr(key, "idx", ""))) for key in path]
        if keys[0] == "relevance" and len(keys) > 1:
            keys[1] = relevance[int(keys[1])]
        names.append(".".join(keys))
    return names


def _refusal(error: BaseException) -> str:
    chain: BaseException | None = error
    said = str(error)
    while chain is not None:
        said += f"\n{chain}"
        chain = chain.__cause__
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>", said)
    if missing:
        return (
            f"The operator {missing[1]}.{missing[2]} of this program has no ONNX form: export to a .pt2 file instead."
        )
    reason = re.search(r"^<class '[^']*'>: (.*)$", said, re.MULTILINE)
    why = reason[1] if reason else (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"torch.onnx could not convert this program ({why}): export to a .pt2 file instead."


@contextlib.contextmanager
def _quiet() -> Any:
    """torch.onnx prints what it does."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# What the reverse pass takes and ONNX does not have, in operators that it has.


def convolution_backward(
    s: Tensor, x: Tensor, w: Tensor, bias_sizes: Any, stride: list[int], padding: list[int], dilation: list[int],
    transposed: bool, output_padding: list[int], groups: int, mask: list[bool],
) -> Any:  # fmt: skip
    """`Wᵀ s`: a convolution's adjoint is the transposed convolution with the same weight, and the other way round."""
    if mask[1] or mask[2]:
        return NotImplemented
    extra = [0] * len(stride)
    if not transposed:
        for i in range(len(stride)):
            smallest = (s.shape[i + 2] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (w.shape[i + 2] - 1) + 1
            extra[i] = x.shape[i + 2] - smallest
    return aten.convolution(s, w, None, stride, padding, dilation, not transposed, extra, groups), None, None


def max_pool_backward(
    s: Tensor, x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, indices: Tensor
) -> Tensor:
    """Each entry goes to where its maximum came from."""
    return x.new_zeros(x.shape).flatten(-2).scatter_add(-1, indices.flatten(-2), s.flatten(-2)).reshape(x.shape)


def avg_pool_backward(
    s: Tensor, x: Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil: bool, include_pad: bool,
    divisor: int | None,
) -> Any:  # fmt: skip
    """A transposed convolution with equal weights, channel by channel."""
    if ceil or (any(padding) and not include_pad) or x.dim() != 4:
        return NotImplemented
    stride = list(stride) or list(kernel)
    w = s.new_full((1, 1, *kernel), 1 / (divisor or kernel[0] * kernel[1]))
    extra = [x.shape[i + 2] - ((s.shape[i + 2] - 1) * stride[i] - 2 * padding[i] + kernel[i]) for i in (0, 1)]
    flat = s.reshape(-1, 1, *s.shape[2:])
    c = aten.convolution(flat, w, None, stride, padding, [1, 1], True, extra, 1)
    return c.reshape(x.shape)


def copysign(size: Tensor, z: Tensor) -> Tensor:
    """`|size|` with the sign of `z`, which is no −0."""
    return torch.where(z < 0, -size.abs(), size.abs())


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.convolution_backward.default: convolution_backward,
    aten.max_pool2d_with_indices_backward.default: max_pool_backward,
    aten.avg_pool2d_backward.default: avg_pool_backward,
    aten.copysign.Tensor: copysign,
}
