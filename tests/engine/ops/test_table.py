"""What the operator table states of operators, held against the operators themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, GlobalTypeMap, ProductLayer
from relprop.engine.ops.activation import Activation
from relprop.engine.ops.registry import Op, alone, always, everywhere, known_operators
from relprop.rules import ProductRule

TABLE = known_operators()
X = torch.tensor([[-2.5, -1.0, -0.25], [0.5, 1.0, 3.0]], dtype=torch.float64)

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "clamp": (-1.0, 1.0),
    "clip": (-1.0, 1.0),
    **dict.fromkeys(("remainder", "fmod", "floor_divide"), (0.7,)),
    **dict.fromkeys(("atan2", "arctan2", "copysign"), (torch.tensor(0.7, dtype=torch.float64),)),
    "clamp_min": (-0.5,),
    "clamp_max": (0.5,),
    "dropout": (0.5, False),
    "alpha_dropout": (0.5, False),
    "feature_dropout": (0.5, False),
    "native_dropout": (0.5, False),
    "pow": (2.0,),
    "prelu": (torch.tensor(0.25, dtype=torch.float64),),
    "threshold": (0.1, 20.0),
    "view": ((3, 2),),
    "_unsafe_view": ((3, 2),),
    "reshape": ((3, 2),),
    "unflatten": (1, (3, 1)),
    "unsqueeze": (0,),
    "to": (torch.float32,),
    "_to_copy": (),
    "type_as": (torch.zeros(1),),
    "view_as": (torch.zeros(3, 2),),
    "reshape_as": (torch.zeros(3, 2),),
    "expand_as": (torch.zeros(4, 2, 3),),
    "linear": (torch.ones(4, 3, dtype=torch.float64),),
}
"""What operators take beside X."""


def call(name: str, x: Tensor) -> Tensor:
    operator = getattr(torch.ops.aten, name)
    result = operator(x, *ARGUMENTS.get(name, ()))
    return result[0] if isinstance(result, (tuple, list)) else result


def stating(fact: Callable[[Op], Any], family: str | None = None) -> list[str]:
    """Names of PyTorch's operators whose row states a fact."""
    rows = [op for op in TABLE.values() if fact(op) and family in (None, op.family)]
    return [op.name for op in rows if hasattr(torch.ops.aten, op.name)]


@pytest.mark.parametrize("name", stating(lambda op: op.reshapes))
def test_what_reshapes_keeps_the_order_of_the_entries(name: str) -> None:
    assert torch.equal(call(name, X).flatten().double(), X.flatten())


@pytest.mark.parametrize("name", stating(lambda op: op.like_another))
def test_of_another_only_shape_and_dtype_are_read(name: str) -> None:
    (other,) = ARGUMENTS[name]
    operator = getattr(torch.ops.aten, name)
    assert torch.equal(operator(X, other), operator(X, torch.full_like(other, torch.nan)))


@pytest.mark.parametrize("name", stating(lambda op: op.family == "activation"))
def test_activations_are_what_their_rows_say(name: str) -> None:
    """Elementwise; 0 at 0 where there is a factored form; of the sign, and with the range of a gate, that is stated."""
    op, y = TABLE[name], call(name, X)
    assert op.local in (alone, everywhere)
    assert_close(y[:, 1:].nan_to_num(), call(name, X[:, 1:]).nan_to_num())
    assert isinstance(op.options, Activation)
    if op.options.ratio != "none":
        assert not call(name, torch.zeros(2, 2, dtype=torch.float64)).any()
    if op.options.ratio == "mask":
        assert torch.equal(y, torch.where(y != 0, X, 0))
    if op.options.ratio == "identity":
        assert torch.equal(y, X)
    if op.nonneg is always:
        assert bool((y.nan_to_num() >= 0).all())
    if op.gate == 2:
        assert bool(((y >= 0) & (y <= 1)).all())


CONVOLUTIONS = stating(lambda op: op.convolves)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_slide_over_as_many_dimensions_as_stated(name: str) -> None:
    d = TABLE[name].convolves
    operator = getattr(torch.ops.aten, name)
    assert operator(torch.rand(2, 3, *[5] * d), torch.rand(3, 3, *[1] * d)).dim() == d + 2
    for wrong in {1, 2, 3} - {d}:
        with pytest.raises(RuntimeError):
            operator(torch.rand(2, 3, *[5] * wrong), torch.rand(3, 3, *[1] * wrong))


@pytest.mark.parametrize("name", ["linear", *CONVOLUTIONS])
def test_fresh_results_share_memory_with_nothing(name: str) -> None:
    op, d = TABLE[name], TABLE[name].convolves
    x, w = torch.rand(1, 1, *[1] * d), torch.ones(1, 1, *[1] * d)  # even where they change nothing
    y = getattr(torch.ops.aten, name)(x, w)
    assert op.fresh
    assert torch.equal(x, y)
    assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def test_what_may_fill_in_is_no_mere_reshaping() -> None:
    """Facts that exclude each other: entries that are all moved in order, and entries that come from nowhere."""
    for op in TABLE.values():
        assert not (op.reshapes and (op.fills or op.by_value)), op
        assert op.infinite != "makes" or op.fills, op
        assert not op.own, op
        assert op.positions is None or op.local is not None, op


class Gated(nn.Module):
    """A signal and a gate that has gone some way since its sigmoid."""

    def __init__(self, way: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * self.way(y.sigmoid())


WAYS = {
    "as it is": lambda gate: gate,
    "contiguous": lambda gate: gate.t().contiguous().t().contiguous(),
    "chunk": lambda gate: gate.chunk(1, 1)[0],
    "cast": lambda gate: gate.to(torch.float64).to(torch.float32),
    "flip": lambda gate: gate.flip(1).flip(1),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_gate_stays_one_wherever_it_is_moved(way: str) -> None:
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    composite = Composite(GlobalTypeMap({ProductLayer: ProductRule("signal")}))
    R_x, R_y = LRP(Gated(WAYS[way]), composite, normalize_output=True)(x, y, target=1).relevance
    assert_close(R_x.sum(1), torch.ones(2), rtol=1e-6)
    assert not R_y.any()
