"""A target at one position of a sequence: the same explanation, without the other positions' share of the work."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop import LRP
from relprop.composites import AttnLRP, Composite, EpsilonPlus, GlobalTypeMap
from relprop.engine.graph.graph import operator_name
from relprop.errors import TargetError
from relprop.rules import EpsilonRule, ZPlusRule

T, D, V = 5, 8, 11


class Block(nn.Module):
    """Attention and a gated feed-forward part around a residual stream, norms spelled out or not."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.norm, self.second = nn.LayerNorm(D), nn.Parameter(torch.rand(D) + 0.5)
        self.up, self.gate, self.down = nn.Linear(D, 12), nn.Linear(D, 12), nn.Linear(12, D)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.second.abs()
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    """Logits (B, T, V), and the hidden states before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.blocks = nn.Embedding(V, D), nn.ModuleList(Block() for _ in range(2))
        self.position = nn.Parameter(torch.randn(1, 16, D))
        self.last, self.head = nn.LayerNorm(D), nn.Linear(D, V)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        hidden = self.last(x + self.position[:, : ids.shape[1]])
        return self.head(hidden * 2.0), hidden


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Decoder().double().eval()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, V, (3, T), generator=torch.Generator().manual_seed(1))


COMPOSITES = {"attnlrp": AttnLRP(), "epsilon": Composite(EpsilonRule(0.1)), "plus": EpsilonPlus()}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("position", [-1, pytest.param(0, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_focused_equals_whole(model: nn.Module, ids: Tensor, composite: str, position: int, normalize: bool) -> None:
    lrp = LRP(model, COMPOSITES[composite], normalize_output=normalize)
    whole = lrp(ids, target=(position, 4), audit=True)  # the books want every position
    focused = lrp(ids, target=(position, 4))
    assert_close(focused.relevance, whole.relevance, rtol=1e-10)
    assert torch.equal(focused.target, whole.target)
    for a, b in zip(focused.output, whole.output, strict=True):
        assert_close(a, b, rtol=1e-12)
    assert_close(focused.output[0], model(ids)[0], rtol=1e-12)


def test_the_head_and_the_last_feed_forward_part_run_for_one_position(model: nn.Module, ids: Tensor) -> None:
    lrp = LRP(model, AttnLRP())
    lrp(ids, target=(-1, 4))
    program = lrp._latest.focused
    assert program is not None
    computed = [n for n in program.operators if operator_name(n) != "at"]
    one = [n.meta["relprop"].path for n in computed if _positions(n) == 1]
    assert {"head", "last", "blocks.1.down", "blocks.1.gate", "blocks.1.out"} <= set(one)
    assert not any(path.startswith("blocks.0") or path == "blocks.1.qkv" for path in one)
    every = {n.meta["relprop"].path for n in program.operators if operator_name(n) == "linear" and _positions(n) != 1}
    assert "head" not in every
    assert {n.meta["relprop"].path for n in program.later if operator_name(n) == "linear"} >= {"head"}


def _positions(node: object) -> object:
    value = node.meta["val"]
    return value.shape[1] if isinstance(value, Tensor) and value.dim() == 3 else None


def test_one_capture_serves_other_lengths_and_batches(model: nn.Module, ids: Tensor) -> None:
    lrp = LRP(model, AttnLRP())
    lrp(ids, target=(-1, 4))
    longer = torch.randint(0, V, (2, 9))
    assert_close(lrp(longer, target=(-2, 1)).relevance, lrp(longer, target=(-2, 1), audit=True).relevance, rtol=1e-10)


@pytest.mark.slow
def test_compiled_programs_run_for_one_position_too(model: nn.Module, ids: Tensor) -> None:
    """One graph serves all positions and lengths; outputs that nobody asks for are not in it."""
    lrp, compiled = LRP(model, AttnLRP()), LRP(model, AttnLRP()).compile(backend="aot_eager")
    for batch, position in ((ids, -1), (ids, 2), (torch.randint(0, V, (2, 9)), -3)):
        found, expected = compiled(batch, target=(position, 4)), lrp(batch, target=(position, 4))
        assert_close(found.relevance, expected.relevance, rtol=1e-10)
        assert torch.equal(found.target, expected.target)
        for a, b in zip(found.output, model(batch), strict=True):
            assert_close(a, b, rtol=1e-12)
    assert not compiled._compiler.failed
    ((traced, _),) = compiled._latest.compiled.values()
    assert traced.names.outputs == 0
    shapes = [getattr(n.meta.get("val"), "shape", ()) for n in traced.module.graph.nodes]
    logits = [shape for shape in shapes if len(shape) == 3 and shape[-1] == V]
    assert logits
    assert all(shape[1] == 1 for shape in logits)


def test_out_of_range_is_refused(model: nn.Module, ids: Tensor) -> None:
    lrp = LRP(model, AttnLRP())
    for target in ((T, 0), (-T - 1, 0), (0, V)):
        with pytest.raises(TargetError, match="out of range"):
            lrp(ids, target=target)


def test_layers_are_those_of_the_whole_sequence(model: nn.Module, ids: Tensor) -> None:
    found = LRP(model, AttnLRP())(ids, target=(-1, 4), layers="blocks.1.down").layers["blocks.1.down"]
    assert found.shape == (3, T, D)


def test_explanations_can_be_copied_and_pickled(model: nn.Module, ids: Tensor) -> None:
    explained = LRP(model, AttnLRP())(ids, target=(-1, 4))
    for again in (pickle.loads(pickle.dumps(explained)), copy.deepcopy(explained)):
        assert torch.equal(again.output[0], explained.output[0])
        assert torch.equal(again.relevance, explained.relevance)


class Pooled(nn.Module):
    """A class read off a sequence (B, T, D) in one way or another; perhaps hidden states are returned beside it."""

    def __init__(self, pool: Callable[[Tensor], Tensor], returns_hidden: bool) -> None:
        super().__init__()
        self.blocks, self.norm, self.head = nn.ModuleList(Block() for _ in range(2)), nn.LayerNorm(D), nn.Linear(D, 3)
        self.pool, self.returns_hidden = pool, returns_hidden

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x)
        hidden = self.norm(x)
        logits = self.head(self.pool(hidden))
        return (logits, hidden) if self.returns_hidden else logits


ONE_POSITION: dict[str, Callable[[Tensor], Tensor]] = {
    "first": lambda h: h[:, 0],
    "last": lambda h: h[:, -1],
    "a slice": lambda h: h[:, 2:3].flatten(1),
    "the end": lambda h: h[:, -1:, :].squeeze(1),
    "twice": lambda h: h[:, 1] * 2.0 + h[:, 1].tanh(),
}
MORE_POSITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda h: h.mean(1),
    "two": lambda h: h[:, 0] + h[:, 1],
    "a longer slice": lambda h: h[:, 1:3].sum(1),
    "features": lambda h: h[:, :, 0] @ torch.ones(T, D, dtype=h.dtype),
}


@pytest.mark.parametrize("composite", ["attnlrp", "epsilon", pytest.param("plus", marks=pytest.mark.slow)])
@pytest.mark.parametrize("pool", ONE_POSITION)
def test_what_reads_one_position_is_computed_for_that_one(pool: str, composite: str) -> None:
    torch.manual_seed(0)
    model = Pooled(ONE_POSITION[pool], returns_hidden=composite != "epsilon").double().eval()
    x = torch.randn(3, T, D, dtype=torch.float64)
    lrp = LRP(model, COMPOSITES[composite])
    trimmed, whole = lrp(x, target=1), lrp(x, target=1, audit=True)
    assert_close(trimmed.relevance, whole.relevance, rtol=1e-10)
    several = lrp.each(x, targets=[0, 1])
    assert_close(several[1].relevance, whole.relevance, rtol=1e-10)
    for a, b in zip(pytree.tree_leaves(trimmed.output), pytree.tree_leaves(model(x)), strict=True):
        assert_close(a, b, rtol=1e-12)
    program = lrp._latest.trimmed
    one = {n.meta["relprop"].path for n in program.operators if _positions(n) == 1}
    every = {n.meta["relprop"].path for n in program.operators if _positions(n) == T}
    assert {"norm", "blocks.1.down", "blocks.1.gate", "blocks.1.out"} <= one
    assert not {"norm", "blocks.1.down", "blocks.1.gate"} & every
    assert {"blocks.0.down", "blocks.1.qkv"} <= every


@pytest.mark.parametrize("pool", MORE_POSITIONS)
def test_what_reads_more_positions_is_computed_for_all(pool: str) -> None:
    lrp = LRP(Pooled(MORE_POSITIONS[pool], False).double(), AttnLRP())
    lrp(torch.randn(3, T, D, dtype=torch.float64), target=1)
    assert lrp._latest.trimmed is lrp._latest.program


def test_modified_weights_are_shared(model: nn.Module, ids: Tensor) -> None:
    """Whichever position is explained, there is one copy of them, and it follows the parameters."""
    lrp = LRP(model, Composite(GlobalTypeMap({nn.Linear: ZPlusRule()})))
    lrp(ids, target=(-1, 4), audit=True)
    prepared = lrp._latest
    made = dict(prepared.program.constants.modified)
    before = lrp(ids, target=(-1, 4)).relevance
    assert prepared.focused.constants.modified is prepared.program.constants.modified
    assert made
    assert all(prepared.program.constants.modified[key] is weight for key, weight in made.items())
    with torch.no_grad():
        model.head.weight.neg_()
        model.blocks[1].second.mul_(torch.linspace(1, 3, D))  # what is computed from it is another constant
    after = lrp(ids, target=(-1, 4)).relevance
    assert_close(after, lrp(ids, target=(-1, 4), audit=True).relevance, rtol=1e-10)
    assert not torch.allclose(before, after)


class Classifier(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)[:, :, None] * 1.0


def test_nothing_to_save_is_nothing_done() -> None:
    lrp = LRP(Classifier())
    x = torch.rand(2, 3)
    lrp(x, target=(1, 0))
    assert lrp._latest.focused is None
