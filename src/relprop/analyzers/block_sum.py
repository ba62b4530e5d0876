"""Relevance of a transformer's tokens where they come into its blocks, summed over blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relprop.analyzers.analyzer import Call
from relprop.analyzers.augmentation import Augmentation, Variants
from relprop.analyzers.lrp import LRP
from relprop.engine.layers.select import INPUT
from relprop.engine.program.question import Answer
from relprop.errors import InputError


class BlockSum(Augmentation):
    """`R_t = Σ_l Σ_d R_td` at the input of each block l: not of the tokens that came in, but of what they became.

    The readout of LibraGrad (Mehri et al. 2025), with relevance in the place of its gradients. Each block's is what is
    explained but for sinks behind it, so that the sum is several times that.

    Relevance has the input's shape: a token's is spread evenly over its embedding, or over the pixels of its patch.
    What stands before the patches, such as a class token, has no pixels, and is left out. `layers` of the explanation
    has each block's own, (B, T, D).

    Args:
        analyzer: LRP of a transformer, whose blocks all have the same tokens (B, T, D).
        blocks: names or globs of the blocks. None: the longest row of alike modules.

    Raises:
        InputError: the analyzer is no LRP, the model has no row of blocks, or its tokens do not fit the input.

    Examples:
        >>> import torch
        >>> from relprop import LRP
        >>> from relprop.analyzers import BlockSum
        >>> from relprop.composites import ResLRP
        >>> from relprop.models import demo
        >>> expl = BlockSum(LRP(demo.load_vit(), ResLRP()))(torch.rand(1, 3, 64, 64), target=4)
        >>> expl.relevance.shape, sorted(expl.layers)
        (torch.Size([1, 3, 64, 64]), ['blocks.0:input', 'blocks.1:input', 'blocks.2:input', 'blocks.3:input'])
    """

    def __init__(self, analyzer: LRP, blocks: str | Sequence[str] | None = None) -> None:
        if not isinstance(analyzer, LRP):
            raise InputError(
                f"BlockSum reads relevance at blocks: give LRP(model, ...), got {type(analyzer).__name__}."
            )
        super().__init__(analyzer)
        self._strip, self._output = analyzer._strip, analyzer._output
        self.blocks = blocks_of(analyzer.explained) if blocks is None else blocks

    def variants(self, inputs: Sequence[Tensor], batch: int) -> Variants:
        """The input as it is."""
        yield inputs, lambda relevance: relevance

    def answers(self, call: Call) -> Iterator[Answer]:
        """One answer for each target, all on one forward pass."""
        names = [self.blocks] if isinstance(self.blocks, str) else list(self.blocks)
        wanted = [name if name.endswith(INPUT) else f"{name}{INPUT}" for name in names]
        options = {**call.options, "options": replace(call.options["options"], layers=wanted)}
        for answer in self.analyzer.answers(replace(call, options=options)):
            tokens = _summed(answer.relevance)
            first, *others = answer.inputs
            spread = {first: spread_tokens(tokens, answer.inputs[first])}
            yield replace(answer, inputs=spread | {name: torch.zeros_like(answer.inputs[name]) for name in others})


def blocks_of(model: nn.Module) -> list[str]:
    """Paths of the longest row of alike modules with parts of their own, such as a transformer's blocks.

    Args:
        model: whose modules are looked at.

    Raises:
        InputError: there is no such row.
    """
    longest: list[str] = []
    for path, module in model.named_modules():
        row = dict(module.named_children()) if isinstance(module, (nn.ModuleList, nn.Sequential)) else {}
        alike = len({type(each) for each in row.values()}) == 1 and all(any(each.children()) for each in row.values())
        if alike and len(row) > max(1, len(longest)):
            longest = [f"{path}.{name}" if path else name for name in row]
    if not longest:
        raise InputError(
            f"{type(model).__name__} has no row of alike modules: name its blocks, BlockSum(lrp, 'encoder.block.*')."
        )
    return longest


def _summed(relevance: Mapping[str, Tensor]) -> Float[Tensor, "B T"]:
    shapes = {tuple(R.shape[:-1]) for R in relevance.values()}
    if len(shapes) != 1 or any(R.dim() != 3 for R in relevance.values()):
        raise InputError(
            f"BlockSum adds up tokens (B, T, D) that are the same in all blocks; they are {sorted(shapes)} here. Name "
            "the blocks of one stage."
        )
    return torch.stack([R.sum(-1) for R in relevance.values()]).sum(0)


def spread_tokens(tokens: Float[Tensor, "B T"], like: Tensor) -> Tensor:
    """Each token's relevance, evenly over the entries of the input that it stands for.

    Args:
        tokens: of the last T of them, what stands before is left out.
        like: relevance of the input: pictures (B, C, H, W), or (B, T, ...).

    Raises:
        InputError: the tokens are no patches of such a picture, or of another number than the input's.
    """
    if like.dim() == 4:
        _, C, H, W = like.shape
        rows, columns = _grid(tokens.shape[1], H, W)
        patches = tokens[:, -rows * columns :].reshape(-1, 1, rows, columns)
        height, width = H // rows, W // columns
        whole = patches.repeat_interleave(height, 2).repeat_interleave(width, 3)
        return (whole / (C * height * width)).expand_as(like).to(like.dtype)
    if like.dim() < 2 or like.shape[1] != tokens.shape[1]:
        raise InputError(f"The blocks have {tokens.shape[1]} tokens, and the input is {tuple(like.shape)}.")
    size = like[0, 0].numel()
    return (tokens / size).reshape(*tokens.shape, *[1] * (like.dim() - 2)).expand_as(like).to(like.dtype)


def _grid(length: int, H: int, W: int) -> tuple[int, int]:
    """Rows and columns of square patches that cover a picture, as many as go into so many tokens."""
    for count in range(length, 0, -1):
        rows = isqrt(count * H // W)
        if rows and count % rows == 0:
            columns = count // rows
            if H % rows == 0 and W % columns == 0 and H // rows == W // columns:
                return rows, columns
    raise InputError(f"{length} tokens hold no square patches of a picture of {H} x {W} pixels.")
