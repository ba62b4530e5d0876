"""Layers of bitsandbytes: weights of 4 bits are unpacked by operators, others are refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import EpsilonPlus
from relprop.engine.graph.run import OnTheFly
from relprop.errors import CaptureError

BLOCK, INNER = 8, 4


@dataclass
class State:
    """What bitsandbytes says of a packed tensor."""

    absmax: Tensor
    code: Tensor
    blocksize: int
    shape: torch.Size
    state2: State | None = None
    offset: Tensor | None = None


def entry(packed: Tensor, state: State, i: int) -> float:
    """One entry, by arithmetic: the even ones are in the upper half of a byte."""
    octet = int(packed.flatten()[i // 2])
    chosen = float(state.code[octet // 16 if i % 2 == 0 else octet % 16])
    scale, block = state.absmax, i // state.blocksize
    if state.state2 is None:
        return chosen * float(scale[block])
    inner = state.state2
    unpacked = float(inner.code[int(scale[block])]) * float(inner.absmax[block // inner.blocksize])
    return chosen * (unpacked + float(state.offset))


class Linear4bit(nn.Linear):
    """A layer that computes with its packed weight by a loop, which no capture could follow."""

    def __init__(self, into: int, out: int, *, nested: bool) -> None:
        super().__init__(into, out)
        count = into * out
        blocks = -(-count // BLOCK)
        inner = State(torch.rand(-(-blocks // INNER)), torch.linspace(-1, 1, 256), INNER, torch.Size([blocks]))
        scales = torch.randint(256, (blocks,), dtype=torch.uint8) if nested else torch.rand(blocks)
        shape = torch.Size([out, into])
        self.quant_state = State(scales, torch.randn(16), BLOCK, shape, inner if nested else None, torch.tensor(0.7))
        packed = torch.randint(256, ((count + 1) // 2, 1), dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.compute_dtype = None

    def unpacked(self) -> Tensor:
        entries = [entry(self.weight, self.quant_state, i) for i in range(self.quant_state.shape.numel())]
        return torch.tensor(entries).reshape(self.quant_state.shape)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.unpacked(), self.bias)


Linear4bit.__module__ = "bitsandbytes.nn.modules"


def network(nested: bool) -> tuple[nn.Module, nn.Module]:
    """A packed one, and the same in floats."""
    torch.manual_seed(0)
    packed = nn.Sequential(Linear4bit(7, 9, nested=nested), nn.ReLU(), Linear4bit(9, 3, nested=nested))
    plain = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 3))
    for i in (0, 2):
        plain[i].weight, plain[i].bias = nn.Parameter(packed[i].unpacked()), packed[i].bias
    return packed, plain


@pytest.mark.parametrize("memory", ["keep", "low"])
@pytest.mark.parametrize("nested", [False, True])
def test_packed_weights_explain_as_the_floats_that_they_stand_for(nested: bool, memory: str) -> None:
    packed, plain = network(nested)
    x = torch.rand(2, 7)
    lrp = LRP(packed, EpsilonPlus(), memory=memory)
    for target in (0, 2):
        found, expected = lrp(x, target=target), LRP(plain, EpsilonPlus())(x, target=target)
        assert_close(found.relevance, expected.relevance, rtol=1e-5)
        assert_close(found.output, packed(x), rtol=1e-5)


def test_with_little_memory_no_unpacked_weight_is_kept() -> None:
    packed, _ = network(nested=True)
    x = torch.rand(2, 7)
    for memory, count in (("keep", 0), ("low", 2)):
        lrp = LRP(packed, EpsilonPlus(), memory=memory)
        lrp(x, target=0)
        values = lrp._latest.program.constants.values().values()
        assert sum(isinstance(value, OnTheFly) for value in values) == count
        shapes = [tuple(v.shape) for v in values if isinstance(v, Tensor)]
        assert ((9, 7) in shapes) == (memory == "keep")


def test_weights_that_are_exchanged_are_followed() -> None:
    packed, _ = network(nested=False)
    x, lrp = torch.rand(2, 7), LRP(packed, EpsilonPlus(), memory="low")
    before = lrp(x, target=0).relevance
    with torch.no_grad():
        packed[0].weight.add_(17)
    after = lrp(x, target=0)
    assert (after.relevance - before).abs().max() > 1e-3
    assert_close(after.output, packed(x), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "says"), [("Linear8bitLt", "rounds its inputs to 8 bits"), ("Embedding4bit", "not known here")]
)
def test_what_cannot_be_followed_is_refused(name: str, says: str) -> None:
    kind = type(name, (nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})
    with pytest.raises(CaptureError, match=rf"1 \({name}\) .*{says}.*model\.dequantize\(\)"):
        LRP(nn.Sequential(nn.ReLU(), kind(3, 2)))(torch.rand(1, 3))


def test_the_library_itself() -> None:
    library = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    packed = nn.Sequential(
        library.nn.LinearNF4(64, 64), nn.ReLU(), library.nn.LinearFP4(64, 32, compress_statistics=False)
    )
    packed.load_state_dict(plain.state_dict())
    packed, x = packed.to("cpu"), torch.rand(2, 64)
    assert packed[0].weight.dtype == torch.uint8
    unpack = library.functional.dequantize_4bit
    with torch.no_grad():
        for i in (0, 2):
            plain[i].weight.copy_(unpack(packed[i].weight.data, packed[i].weight.quant_state))
    found, expected = LRP(packed, EpsilonPlus())(x, target=3), LRP(plain, EpsilonPlus())(x, target=3)
    assert_close(found.output, plain(x), rtol=1e-4)
    assert_close(found.relevance, expected.relevance, rtol=1e-4)
    packed[0].weight.quant_state.packing_format_for_cpu = True  # as it may be after the model's own call
    with pytest.raises(CaptureError, match="rearranged by bitsandbytes for this CPU"):
        LRP(packed, EpsilonPlus())(x[:1])
    eight = nn.Sequential(library.nn.Linear8bitLt(64, 4, has_fp16_weights=False)).to("cpu")
    with pytest.raises(CaptureError, match="rounds its inputs to 8 bits"):
        LRP(eight)(x)
