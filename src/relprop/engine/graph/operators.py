"""relprop's own operators: what captured ones are rewritten to, so that each rule sees the part it speaks of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def scale(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x * weight + bias`, broadcast: batch norm with fixed statistics, learned scales, products with constants."""
    z = x * weight
    return z if bias is None else z + bias


def add(*summands: Tensor | float, coefficients: Sequence[float]) -> Tensor:
    """`Σ_k coefficients[k] * summands[k]`, broadcast."""
    total: Any = None
    for x, k in zip(summands, coefficients, strict=True):
        share = x if k == 1 else x * k
        total = share if total is None else total + share
    assert isinstance(total, Tensor)
    return total


def product(*factors: Tensor) -> Tensor:
    """`Π_k factors[k]`, broadcast. One operator whatever the association, so that the answer does not depend on it."""
    z = factors[0]
    for factor in factors[1:]:
        z = z * factor
    return z


def at(x: Tensor, dim: int, position: int | Tensor) -> Tensor:
    """`x` at one position of a dimension, which stays, with size 1. A position in a tensor is not negative."""
    if isinstance(position, Tensor):
        return x.index_select(dim, position.reshape(1))
    return x.narrow(dim, position % x.shape[dim], 1)


def hold(x: Tensor) -> Tensor:
    """`x`, counted as a constant."""
    return x


def categories(rows: Tensor) -> Tensor:
    """Ids as rows of zeros with a one, where their relevance is read."""
    return rows


def negative_power(x: Tensor, exponent: float) -> Tensor:
    """`x ** exponent` with a negative exponent: the inverse of a statistic."""
    return x**exponent


def normalize(x: Tensor, dims: Sequence[int], groups: int, eps: float, centre: bool = True) -> Tensor:
    """`(x − mean) / sqrt(var + eps)` over `dims`, or over each of `groups` channel groups where `groups > 0`."""
    return normalize_with_statistics(x, dims, groups, eps, centre)[0]


def normalize_with_statistics(
    x: Tensor, dims: Sequence[int], groups: int, eps: float, centre: bool = True
) -> tuple[Tensor, Tensor]:
    """`normalize`, and `1 / sqrt(var + eps)` of `group(x, groups)`, with its dimensions kept."""
    grouped = group(x, groups)
    mean, rstd = statistics(grouped, dims, eps, centre)
    centred = grouped - mean if centre else grouped
    return (centred * rstd).reshape(x.shape).to(x.dtype), rstd


def group(x: Tensor, groups: int) -> Tensor:
    """(B, C, ...) -> (B, G, C/G * ...) for group and instance norms; half precision is widened."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return wide.reshape(x.shape[0], groups, -1) if groups else wide


def statistics(x: Tensor, dims: Sequence[int], eps: float, centre: bool = True) -> tuple[Tensor, Tensor]:
    """Mean and `1 / sqrt(var + eps)` over `dims` (without centring: 0 and the root of the mean square)."""
    dims = tuple(dims)
    mean = x.mean(dims, keepdim=True) if centre else x.new_zeros(())
    variance = (x - mean).square().mean(dims, keepdim=True)
    return mean, torch.rsqrt(variance + eps)


def part(function: Callable[..., Any], index: int, *args: Any, **kwargs: Any) -> Tensor:
    """One result of an operator that returns several: `function(*args)[index]`."""
    result: Tensor = function(*args, **kwargs)[index]
    return result


def real_part(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
    """The real part of a Fourier transform of real numbers, which is a linear map between real numbers."""
    result: Tensor = function(*args, **kwargs).real
    return result


def extreme_of_places(src: Tensor, zeros: Tensor, dim: int, index: Tensor, kind: str) -> Tensor:
    """The largest (`"amax"`) or smallest of the entries that `index` sends to a place; 0 where it sends none."""
    return zeros.scatter_reduce(dim, index, src, kind, include_self=False)


def sum_of_places(values: Tensor, zeros: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """The sum of the values that `indices` send to a place; 0 where they send none."""
    total: Tensor = torch.ops.aten.index_put.default(zeros, indices, values, True)
    return total


def weights_of_exponentials(
    x: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    dims: Sequence[int],
    index: Tensor | None,
    zeros: Tensor | None,
    added: float | Tensor,
    least: float | None,
) -> Tensor:
    """`w exp(x − m) / max(Σ w exp(x − m) + δ, least)`: a softmax as models spell it out.

    Args:
        shift: m, constant within each sum.
        weight: w, or a mask of what counts.
        dims, index, zeros: what sums run over, see `total_within`.
        added: δ.
    """
    terms = (x if shift is None else x - shift).exp()
    if weight is not None:
        terms = terms.where(weight, 0) if weight.dtype == torch.bool else terms * weight
    total = total_within(terms, dims, index, zeros) + added
    return terms / (total if least is None else total.clamp_min(least))


def shifted_exponential(x: Tensor, shift: Tensor, base: float) -> Tensor:
    """`base ** (x − m)`: the exponential of x over that of m, where that of x alone would overflow."""
    return ((x - shift) * math.log(base)).exp()


def total_within(x: Tensor, dims: Sequence[int], index: Tensor | None = None, zeros: Tensor | None = None) -> Tensor:
    """For each entry the sum that it belongs to: over `dims`, or of what `index` sends to one place of zeros."""
    if index is None or zeros is None:
        return x.sum(tuple(dims), keepdim=True)
    return zeros.scatter_add(dims[0], index, x).gather(dims[0], index)


def power(base: Tensor | float, exponent: Tensor | float) -> Tensor:
    """`base ** exponent` where it is not known to be 0 at 0: `2 ** x`, `x ** 0`."""
    return torch.pow(base, exponent)  # type: ignore[arg-type]


def complex_linear(
    function: Callable[..., Any], which: Sequence[int], args: Sequence[Any], kwargs: dict[str, Any]
) -> Tensor:
    """A function that is linear in complex numbers, on pairs of real ones, (..., 2).

    Args:
        which: positions of the pairs among the flat arguments.
    """
    leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
    for i in which:
        leaves[i] = torch.complex(leaves[i][..., 0], leaves[i][..., 1])
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    result: Tensor = function(*args, **kwargs)
    return torch.view_as_real(result.resolve_conj()) if result.is_complex() else result


def complex_moved(
    function: Callable[..., Any], which: Sequence[int], args: Sequence[Any], kwargs: dict[str, Any]
) -> Tensor:
    """The same of a function that only places complex numbers elsewhere."""
    return complex_linear(function, which, args, kwargs)


def strided(x: Tensor, lead: int, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Each entry of `x`'s first `lead` dimensions, contiguous, read at `Σ_d i_d · stride[d]` for each `i < size`."""
    positions = torch.zeros((), dtype=torch.long, device=x.device)
    for n, step in zip(size, stride, strict=True):
        positions = positions[..., None] + step * torch.arange(n, device=x.device)
    kept = x.shape[:lead]
    return x.reshape(*kept, -1).index_select(lead, positions.reshape(-1)).reshape(*kept, *size)


def round_to_steps(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, low: int, high: int) -> Tensor:
    """Fake quantization: `x / scale`, rounded and kept between `low` and `high` less the zero point, times `scale`.

    Args:
        axis: the dimension that scales and zero points belong to; -1 for one of each.
    """
    if axis >= 0:
        trailing = x.dim() - axis - 1
        scale, zero_point = as_channels(scale, trailing), as_channels(zero_point, trailing)
    steps = torch.round(x * (1 / scale) + zero_point).clamp(low, high)
    return ((steps - zero_point) * scale).to(x.dtype)


# Constants, computed once from parameters.


def scalar(value: float) -> Tensor:
    """A Python number as a 0-dimensional tensor, which never widens what it is multiplied with."""
    return torch.tensor(value, dtype=torch.float64)


def reciprocal(t: Tensor) -> Tensor:
    """`1 / t`."""
    return 1 / t


def batch_norm_weight(weight: Tensor | None, variance: Tensor, eps: float) -> Tensor:
    """`γ / sqrt(σ² + ε)`, shape (C,)."""
    rstd = torch.rsqrt(variance + eps)
    return rstd if weight is None else weight * rstd


def batch_norm_bias(bias: Tensor | None, mean: Tensor, scaling: Tensor) -> Tensor:
    """`β − μ γ / sqrt(σ² + ε)`, shape (C,)."""
    shift = -mean * scaling
    return shift if bias is None else bias + shift


def as_channels(t: Tensor, trailing: int) -> Tensor:
    """(C,) -> (C, 1, ..., 1), to broadcast along the channels of (B, C, ...)."""
    return t.reshape(-1, *[1] * trailing)


def as_tensor_of_shape(t: Tensor, shape: Sequence[int]) -> Tensor:
    """`t`, reshaped."""
    return t.reshape(tuple(shape))


def fused_weight(weight: Tensor, scaling: Tensor, channel_dim: int, groups: int = 1) -> Tensor:
    """A layer's weight with its outputs scaled, per output channel.

    Transposed convolutions keep their outputs in dimension 1, one group after another: `channel_dim=1`.
    """
    if channel_dim == 0:
        return weight * scaling.reshape(-1, *[1] * (weight.dim() - 1))
    per_group = scaling.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return (split * per_group).reshape(weight.shape)


def fused_bias(bias: Tensor | None, scaling: Tensor, shift: Tensor) -> Tensor:
    """The bias of a layer whose outputs are scaled and shifted: `scaling · b + shift`, shape (out,)."""
    return shift if bias is None else bias * scaling + shift


def weight_of_scaled(weight: Tensor, scaling: Tensor, groups: int) -> Tensor:
    """A layer's weight (out, in / groups, ...) with its inputs scaled, per input channel."""
    trailing = [1] * (weight.dim() - 2)
    per_group = scaling.reshape(groups, 1, -1, *trailing)
    return (weight.reshape(groups, -1, *weight.shape[1:]) * per_group).reshape(weight.shape)


def bias_of_shifted(weight: Tensor, bias: Tensor | None, shift: Tensor, groups: int) -> Tensor:
    """`b + W t`, shape (out,), for inputs shifted by `t` per channel."""
    per_group = shift.reshape(groups, 1, -1)
    taps = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    shifted = (taps.reshape(groups, -1, taps.shape[1]) * per_group).sum(2).reshape(-1)
    return shifted if bias is None else bias + shifted


def clip_at_threshold(x: Tensor, scaling: Tensor, shift: Tensor) -> Tensor:
    """`max(x, −t/s)` where `s > 0`, `min(x, −t/s)` where `s < 0`, so that `s · clip(x) + t = relu(s x + t)`."""
    trailing = x.dim() - 2
    threshold = as_channels(torch.where(scaling == 0, 0, -shift / scaling), trailing)
    return torch.where(as_channels(scaling >= 0, trailing), torch.maximum(x, threshold), torch.minimum(x, threshold))


def shift_behind_threshold(scaling: Tensor, shift: Tensor) -> Tensor:
    """What stays behind `clip_at_threshold`: `t`, or `relu(t)` where `s = 0`."""
    return torch.where(scaling == 0, shift.relu(), shift)
