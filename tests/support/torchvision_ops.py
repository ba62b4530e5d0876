"""torchvision's compiled operators by PyTorch's own, where torchvision's C++ library cannot be loaded.

Slow, but of the same schemas and the same results, so that what relprop makes of these operators can be tested. Where
torchvision works, this does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from support.torchvision_shim import install as install_torchvision
from torch import Tensor

SCHEMAS = {
    "roi_align": "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
    "deform_conv2d": "(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
    "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
    "SymInt offset_groups, bool use_mask) -> Tensor",
}

_library: torch.library.Library | None = None


def install() -> bool:
    """Import torchvision and see to its operators; False where it is not installed."""
    global _library
    if not install_torchvision():
        return False
    if _library is None and not hasattr(torch.ops.torchvision, "roi_align"):
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name, schema in SCHEMAS.items():
            _library.define(name + schema)
            _define(name, {"roi_align": roi_align, "deform_conv2d": deform_conv2d}[name])
        _library.impl("nms", nms, "CPU")
    return True


def _define(name: str, function: Callable[..., Tensor]) -> None:
    """Values, shapes and derivatives of an operator, all from one function."""
    assert _library is not None
    full = f"torchvision::{name}"
    _library.impl(name, function, "CPU")
    torch.library.register_fake(full, SHAPES[name], lib=_library)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.inputs = inputs

    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        floating = [i for i, a in enumerate(ctx.inputs) if isinstance(a, Tensor)]
        with torch.enable_grad():
            leaves = {i: ctx.inputs[i].detach().requires_grad_() for i in floating}
            output = function(*(leaves.get(i, a) for i, a in enumerate(ctx.inputs)))
            found = torch.autograd.grad(output, list(leaves.values()), gradient, allow_unused=True)
        return tuple(dict(zip(leaves, found, strict=True)).get(i) for i in range(len(ctx.inputs)))

    torch.library.register_autograd(full, backward, setup_context=keep, lib=_library)


def roi_align(
    input: Tensor, rois: Tensor, spatial_scale: float, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Means of bilinear samples in the cells of boxes: (N, C, H, W), (K, 5) -> (K, C, height, width)."""
    cells = []
    for roi in rois:
        left, top, right, bottom = (roi[1:] * spatial_scale - (0.5 if aligned else 0.0)).unbind()
        wide, high = right - left, bottom - top
        if not aligned:
            wide, high = wide.clamp(min=1.0), high.clamp(min=1.0)
        ys = _points(top, high / height, height, sampling_ratio)
        xs = _points(left, wide / width, width, sampling_ratio)
        samples = _sampled(input[int(roi[0])], ys.reshape(-1), xs.reshape(-1))
        cells.append(samples.reshape(-1, *ys.shape, *xs.shape).mean((2, 4)))
    return torch.stack(cells) if cells else input.new_zeros(0, input.shape[1], height, width)


def _points(start: Tensor, size: Tensor, cells: int, ratio: int) -> Tensor:
    """Coordinates of the samples, (cells, samples)."""
    count = ratio if ratio > 0 else max(math.ceil(float(size)), 1)
    inside = (torch.arange(count, dtype=start.dtype) + 0.5) / count
    return start + size * (torch.arange(cells, dtype=start.dtype)[:, None] + inside)


def _sampled(x: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """(C, H, W) at a grid of points, (C, Y, X): up to one beyond the border as on it, 0 farther out."""
    rows, columns = _weights(ys, x.shape[1]), _weights(xs, x.shape[2])
    return torch.einsum("yh,chw,xw->cyx", rows, x, columns)


def _weights(points: Tensor, size: int) -> Tensor:
    """What each of `size` places gives to each point, (points, size): a tent of width 1 around the point."""
    kept = points.clamp(0, size - 1)
    tent = (1 - (kept[:, None] - torch.arange(size, dtype=points.dtype)).abs()).clamp(min=0)
    return tent * ((points >= -1) & (points <= size))[:, None]


def deform_conv2d(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor,
    bias: Tensor,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Tensor:
    """A convolution whose taps are shifted, and scaled by a mask: (N, C, H, W) -> (N, O, Y, X)."""
    n, channels, height, width = input.shape
    kernel_h, kernel_w = weight.shape[2:]
    out_h, out_w = offset.shape[2:]
    taps = []
    for tap in range(kernel_h * kernel_w):
        i, j = divmod(tap, kernel_w)
        shift = offset.reshape(n, offset_groups, kernel_h * kernel_w, 2, out_h, out_w)[:, :, tap]
        y = torch.arange(out_h, dtype=input.dtype)[:, None] * stride_h - pad_h + i * dilation_h + shift[:, :, 0]
        x = torch.arange(out_w, dtype=input.dtype) * stride_w - pad_w + j * dilation_w + shift[:, :, 1]
        grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1).flatten(0, 1)
        parts = input.reshape(n * offset_groups, channels // offset_groups, height, width)
        read = F.grid_sample(parts, grid, align_corners=True).reshape(n, offset_groups, -1, out_h, out_w)
        if use_mask:
            read = read * mask.reshape(n, offset_groups, -1, out_h, out_w)[:, :, tap, None]
        taps.append(read.reshape(n, groups, channels // groups, out_h, out_w))
    columns, split = torch.stack(taps, 3), weight.flatten(2).reshape(groups, -1, *weight.flatten(2).shape[1:])
    return torch.einsum("ngckyx,gock->ngoyx", columns, split).flatten(1, 2) + bias[:, None, None]


def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Boxes that no better one overlaps, best first."""
    left = torch.argsort(scores, descending=True, stable=True).tolist()
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if _overlap(dets[best], dets[i]) <= iou_threshold]
    return torch.tensor(kept, dtype=torch.long)


def _overlap(a: Tensor, b: Tensor) -> float:
    common = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
    return float(common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common))


SHAPES: dict[str, Callable[..., Tensor]] = {
    "roi_align": lambda x, rois, scale, height, width, *_: x.new_empty(rois.shape[0], x.shape[1], height, width),
    "deform_conv2d": lambda x, weight, offset, *_: x.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:]),
}
