"""AttnLRP as *modified gradients* (Achtibat et al. 2024), an oracle that shares no code with relprop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def logits(model: nn.Module, **inputs: Any) -> Tensor:
    output = model(**inputs)
    found: Tensor = output if isinstance(output, Tensor) else output.logits
    return found


class _Reweighted(torch.autograd.Function):
    """`y` as it is; the gradient arrives at `x` multiplied by `factor`."""

    @staticmethod
    def forward(context: Any, x: Tensor, y: Tensor, factor: Tensor) -> Tensor:
        context.save_for_backward(factor)
        return y.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = context.saved_tensors
        return gradient * factor, None, None


def divided(x: Tensor, by: float) -> Tensor:
    return _Reweighted.apply(x, x.detach(), torch.tensor(1.0 / by, dtype=x.dtype)) if x.requires_grad else x


def identity_rule(function: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    x0 = x.detach()
    y = function(x0, *args, **kwargs)
    return _Reweighted.apply(x, y, torch.where(x0 == 0, 0.0, y / x0))


class ModifiedGradients(TorchFunctionMode):
    """While it is entered, autograd computes AttnLRP: the relevance of any leaf x is `x * x.grad`."""

    ACTIVATIONS = (F.silu, F.gelu, F.relu, torch.relu, torch.tanh, Tensor.tanh, F.tanh)
    PRODUCTS = (torch.mul, Tensor.mul, Tensor.__mul__, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm)

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.ACTIVATIONS and args[0].requires_grad:
            self.seen.add("activation")
            return identity_rule(func, *args, **kwargs)
        if func in (torch.rsqrt, Tensor.rsqrt):
            self.seen.add("norm")
            return func(*args, **kwargs).detach()
        if func is F.layer_norm:
            self.seen.add("norm")
            return layer_norm(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self.seen.add("attention")
            q, k, v = args[:3]
            return func(divided(q, 4), divided(k, 4), divided(v, 2), *args[3:], **kwargs)
        if func is F.multi_head_attention_forward:
            self.seen.add("attention")
            return multi_head_attention(*args, **kwargs), None
        if func in self.PRODUCTS and all(isinstance(a, Tensor) and a.requires_grad for a in args[:2]):
            self.seen.add("product")
            return func(*(divided(a, 2) for a in args[:2]), *args[2:], **kwargs)
        return func(*args, **kwargs)


def layer_norm(x: Tensor, shape: Any, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    assert len(shape) == 1
    std = (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt().detach()
    return (x - x.mean(-1, keepdim=True)) / std * weight + bias


def multi_head_attention(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`nn.MultiheadAttention` on itself, (T, B, D), written out."""
    _, _, _, heads, weight, bias = args[:6]
    out_weight, out_bias = args[10:12]
    qkv = F.linear(x, weight, bias).chunk(3, dim=-1)
    q, k, v = (t.reshape(*t.shape[:2], heads, -1).permute(1, 2, 0, 3) for t in qkv)  # (B, H, T, D / H)
    scores = divided(q, 2) @ divided(k, 2).transpose(-1, -2) / q.shape[-1] ** 0.5
    mixed = divided(scores.softmax(-1), 2) @ divided(v, 2)
    return F.linear(mixed.permute(2, 0, 1, 3).flatten(2), out_weight, out_bias)


def by_modified_gradients(
    model: nn.Module, target: Any, mode: ModifiedGradients | None = None, **inputs: Any
) -> Tensor:
    """Relevance at the token embeddings, for relevance 1 at the target."""
    frozen = copy.deepcopy(model).requires_grad_(False)
    leaves: list[Tensor] = []

    def as_leaf(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    frozen.get_input_embeddings().register_forward_hook(as_leaf)
    with mode or ModifiedGradients():
        index = (target,) if isinstance(target, int) else target
        chosen = logits(frozen, **inputs)[(slice(None), *index)]
    (gradient,) = torch.autograd.grad(chosen.sum(), leaves)
    return leaves[0].detach() * gradient / chosen.detach().reshape(-1, 1, 1)
