"""Relevance at a transformer's blocks, summed, against the blocks' own."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP, evaluate
from relprop.analyzers import BlockSum, Gradient
from relprop.analyzers.block_sum import blocks_of, spread_tokens
from relprop.composites import CPLRP, ResLRP
from relprop.errors import InputError
from relprop.models import demo

PICTURES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Sequence(nn.Module):
    """Tokens (B, T, D) through three residual blocks, pooled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(3))
        self.head = nn.Linear(4, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean(1))


def test_tokens_of_a_sequence_are_the_sums_over_its_blocks() -> None:
    x = torch.rand(2, 5, 4, dtype=torch.float64)
    lrp = LRP(Sequence(), normalize_output=False)
    names = [f"blocks.{i}:input" for i in range(3)]
    each = lrp(x, target=1, layers=names)
    found = BlockSum(lrp)(x, target=1)
    expected = sum(each.layers[name].sum(-1) for name in names)
    assert_close(found.relevance.sum(-1), expected)
    assert_close(found.relevance, expected[..., None].expand(-1, -1, 4) / 4)
    assert sorted(found.layers) == names
    assert_close(found.output, each.output)
    assert_close(found.amount, each.amount)
    one = BlockSum(lrp, "blocks.2")(x, target=1)
    assert_close(one.relevance.sum(-1), each.layers["blocks.2:input"].sum(-1))


def test_patches_of_a_picture_and_no_class_token() -> None:
    lrp = LRP(demo.load_vit(), CPLRP())
    found = BlockSum(lrp)(PICTURES, target=4)
    tokens = sum(found.layers[f"blocks.{i}:input"].sum(-1) for i in range(4))
    assert tokens.shape == (2, 65)
    patches = found.relevance.unflatten(2, (8, 8)).unflatten(4, (8, 8)).sum((1, 3, 5))
    assert_close(patches.flatten(1), tokens[:, 1:], rtol=1e-5)
    assert found.relevance.shape == PICTURES.shape


def test_it_is_evaluated_as_any_analyzer() -> None:
    lrp = LRP(demo.load_vit(), ResLRP())
    scores = evaluate({"input": lrp, "blocks": BlockSum(lrp)}, PICTURES, 4, ["srg"], baselines=(), steps=4)
    assert scores.mean("blocks", "srg") != scores.mean("input", "srg")
    other = demo.load_vit()
    with torch.no_grad():
        other.classifier.weight.mul_(-1)
    twin = BlockSum(lrp).on(other)
    assert_close(twin(PICTURES, target=4).relevance, BlockSum(LRP(other, ResLRP()))(PICTURES, target=4).relevance)


def test_where_blocks_are() -> None:
    assert blocks_of(Sequence()) == ["blocks.0", "blocks.1", "blocks.2"]
    assert blocks_of(demo.load_vit()) == [f"blocks.{i}" for i in range(4)]


def test_grids_of_patches() -> None:
    like = torch.zeros(1, 3, 4, 8)
    found = spread_tokens(torch.arange(3.0)[None], like)  # a class token, and two squares of 4 x 4
    assert found[0, 0, 0].tolist() == pytest.approx([1 / 48] * 4 + [2 / 48] * 4)
    whole = spread_tokens(torch.arange(1.0, 33.0)[None], like)  # one for each pixel
    assert_close(whole.sum(1), torch.arange(1.0, 33.0).reshape(1, 4, 8), rtol=1e-6)


def test_refusals() -> None:
    wrong = {
        "give LRP": lambda: BlockSum(Gradient(Sequence())),
        "no row of alike modules": lambda: BlockSum(LRP(nn.Linear(3, 2))),
        "matches no module": lambda: BlockSum(LRP(Sequence()), "layers.*")(torch.rand(1, 5, 4, dtype=torch.float64)),
        "5 tokens, and the input is": lambda: spread_tokens(torch.rand(1, 5), torch.rand(1, 6, 2)),
        "no square patches": lambda: spread_tokens(torch.rand(1, 1), torch.rand(1, 1, 5, 7)),
        "the same in all blocks": lambda: BlockSum(LRP(Sequence()), ["blocks.0", "head"])(
            torch.rand(1, 5, 4, dtype=torch.float64)
        ),
    }
    for message, call in wrong.items():
        with pytest.raises(InputError, match=message):
            call()
