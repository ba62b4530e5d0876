"""What counts as a constant although data flows into it: named inputs, and straight-through estimators."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers import Gradient
from relprop.errors import InputError


class Quantized(nn.Module):
    """A vector-quantized code, by the straight-through estimator in one of its spellings."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spelling, self.encoder = spelling, nn.Linear(5, 4, bias=False)
        self.codebook, self.head = nn.Parameter(torch.randn(7, 4)), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        nearest = (z.unsqueeze(1) - self.codebook).square().sum(-1).argmin(1)
        q = self.codebook[nearest]
        if self.spelling == "sum":
            z = z + (q - z).detach()
        elif self.spelling == "difference":
            z = z - (z - q).detach()
        elif self.spelling == "data":
            z = z + (q - z).data
        else:
            z = q - z.detach() + z
        return self.head(z)


@pytest.mark.parametrize("spelling", ["sum", "difference", "data", "in line"])
def test_a_straight_through_estimator_is_input_times_its_gradient(spelling: str) -> None:
    torch.manual_seed(1)
    model, x = Quantized(spelling).double().eval(), torch.randn(3, 5, dtype=torch.float64)
    a = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(a)[:, 1].sum(), a)
    assert gradient.any()
    expl = LRP(model, normalize_output=False)(x, target=1, audit=True)
    assert_close(expl.relevance, x * gradient, rtol=1e-6, atol=1e-9)
    assert expl.ledger.imbalance < 1e-7
    kept = sum(expl.ledger.sinks.values())
    assert expl.ledger.input + kept == pytest.approx(float(expl.output[:, 1].sum()), rel=1e-6)


def test_what_is_detached_elsewhere_is_read_as_data() -> None:
    """A linear probe on detached features has something to explain."""

    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.backbone, self.head = nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.backbone(x).detach())

    model, x = Probe().eval(), torch.randn(2, 5)
    expected = x * (model.head.weight[1] @ model.backbone.weight).detach()
    assert_close(LRP(model, normalize_output=False)(x, target=1).relevance, expected, rtol=1e-4, atol=1e-6)


class GraphConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, features: Tensor, adjacency: Tensor, positions: Tensor) -> Tensor:
        return self.head(F.relu(adjacency @ self.first(features) + positions).mean(1))


def graphs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    shapes = (2, 5, 4), (2, 5, 5), (2, 5, 6)
    features, adjacency, positions = (torch.randn(*s, dtype=torch.float64) for s in shapes)
    return features, adjacency.abs(), positions


@pytest.mark.parametrize("constant", ["adjacency", ("adjacency", "positions")])
def test_an_input_that_is_held_constant_leaves_its_share_to_the_others(constant: str | tuple[str, ...]) -> None:
    model, inputs = GraphConvolution().double().eval(), graphs()
    expl = LRP(model, normalize_output=False, constant=constant)(*inputs, target=1, audit=True)
    leaves = [t.clone().requires_grad_() for t in inputs]
    model(*leaves)[:, 1].sum().backward()
    expected = [(t * leaf.grad).detach() for t, leaf in zip(inputs, leaves, strict=True)]
    assert_close(expl.by_input["features"], expected[0], rtol=1e-6, atol=1e-9)
    assert not expl.by_input["adjacency"].any()
    if constant == "adjacency":
        assert_close(expl.by_input["positions"], expected[2], rtol=1e-6, atol=1e-9)
    else:
        assert not expl.by_input["positions"].any()
        assert expl.ledger.sinks["positions"] == pytest.approx(float(expected[2].sum()), rel=1e-6)
    assert expl.ledger.imbalance < 1e-7


def test_analyzers_of_one_model_hold_their_own_constants() -> None:
    model, inputs = GraphConvolution().double().eval(), graphs()
    before = LRP(model)(*inputs, target=1)
    LRP(model, constant="adjacency")(*inputs, target=1)
    after = LRP(model)(*inputs, target=1)
    assert before.by_input["adjacency"].any()
    assert_close(after.by_input["adjacency"], before.by_input["adjacency"], rtol=1e-12, atol=0)


def test_ids_that_are_held_constant_are_a_sink_with_the_name_of_their_table() -> None:
    class Tagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words, self.tags, self.head = nn.Embedding(9, 4), nn.Embedding(5, 4), nn.Linear(4, 3, bias=False)

        def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
            return self.head((self.words(ids) + self.tags(kinds)).sum(1))

    model, ids, kinds = Tagged().eval(), torch.tensor([[1, 2]]), torch.tensor([[3, 4]])
    expl = LRP(model, normalize_output=False, constant=["kinds"])(ids, kinds, target=1, audit=True)
    assert list(expl.by_input) == ["ids"]
    kept = float((model.tags(kinds) * model.head.weight[1]).detach().sum())
    assert expl.ledger.sinks["tags"] == pytest.approx(kept, rel=1e-4)


def test_a_constant_that_is_no_input_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"constant='edges'.*features, adjacency, positions"):
        LRP(GraphConvolution().double(), constant=("edges",))(*graphs())


def test_gradients_leave_out_what_is_held_constant() -> None:
    model, inputs = GraphConvolution().double().eval(), graphs()
    by_input = Gradient(model, constant="adjacency")(*inputs, target=1).by_input
    assert not by_input["adjacency"].any()
    assert by_input["features"].any()


@pytest.mark.parametrize(
    "make",
    [
        lambda h: torch.full_like(h, 0.1),
        lambda h: h.new_full(h.shape, 0.1),
        lambda h: h.new_full((1,), 0.1),
        lambda h: h.new_ones(3) / 10,
        lambda h: h.new_empty(3).fill_(0.1),
    ],
)
def test_what_only_takes_a_shape_of_data_is_a_constant(make):
    class Floored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner, self.out = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            return self.out(torch.maximum(h, make(h)))

    x = torch.randn(5, 4)
    expl = LRP(Floored(), normalize_output=False)(x, target=1, audit=True)
    expected = Gradient(Floored(), normalize_output=False)(x, target=1).relevance * x
    torch.testing.assert_close(expl.relevance, expected, rtol=1e-4, atol=1e-6)
    assert expl.ledger.imbalance < 1e-6
