"""Models that make sizes and branches out of tensors that no data flows into."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.errors import CaptureError


class Network(nn.Module):
    """Pairs of positions, each a linear layer's input; a subclass says how many there are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("width", torch.tensor(2), persistent=False)
        self.layer, self.head = nn.Linear(2, 4), nn.Linear(4, 3)

    def pairs(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.pairs(x)).relu().mean(1))


class DividedByFunction(Network):
    """As Longformer counts its chunks."""

    def pairs(self, x: Tensor) -> Tensor:
        count = torch.div(x.size(1), 2, rounding_mode="trunc")
        return x.view(x.size(0), count, 2)


class SizeFromBuffer(Network):
    """As EnCodec works out its padding."""

    def pairs(self, x: Tensor) -> Tensor:
        missing = (torch.ceil(x.shape[-1] / self.width) * self.width).long() - x.shape[-1]
        if missing > 0:
            x = nn.functional.pad(x, (0, missing))
        return x.view(x.shape[0], -1, 2)


class BranchOnOwnMask(Network):
    """As many models look whether a mask that they have made themselves masks anything."""

    def pairs(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        if not mask.all().item():
            x = x.masked_fill(~mask, 0.0)
        return super().pairs(x)


class CastsItsLayer(Network):
    """As routers of experts see to it that they compute in float32; here nothing changes."""

    def pairs(self, x: Tensor) -> Tensor:
        self.layer = self.layer.to(x.dtype)
        return super().pairs(x)


@pytest.mark.parametrize("kind", [DividedByFunction, SizeFromBuffer, BranchOnOwnMask, CastsItsLayer])
@pytest.mark.parametrize("batch", [1, 3])
def test_values_of_constants_are_part_of_the_program(kind: type[Network], batch: int) -> None:
    model = kind().double().eval()
    a = torch.randn(batch, 6, dtype=torch.float64, requires_grad=True)
    output = model(a)
    expected = a * torch.autograd.grad(output[:, 1].sum(), a)[0]
    lrp = LRP(model, normalize_output=False)
    expl = lrp(a.detach(), target=1)
    assert_close(expl.output, output.detach())
    assert_close(expl.relevance, expected.detach(), rtol=1e-6)  # ε
    b = torch.cat([a.detach(), a.detach()], 1)  # another length is another program
    assert_close(lrp(b, target=1).output, model(b).detach())


class BranchOnData(Network):
    def pairs(self, x: Tensor) -> Tensor:
        return super().pairs(-x if x.sum() > 0 else x)


def test_a_branch_on_data_is_refused() -> None:
    line, step = r"in pairs: return super\(\)\.pairs\(-x if x\.sum\(\)", r"torch\.where in the"
    with pytest.raises(CaptureError, match=rf"data-dependent[\s\S]*{line}[\s\S]*{step}"):
        LRP(BranchOnData().eval())(torch.randn(3, 6), target=1)


class Tempered(nn.Module):
    """What forward takes of a parameter as a number of Python's."""

    def __init__(self, by: Callable[[Tensor, nn.Parameter], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.out, self.by = nn.Linear(4, 6), nn.Linear(6, 3), by
        self.scale = nn.Parameter(torch.tensor(0.4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.by(self.inner(x), self.scale))


NUMBERS: dict[str, Callable[[Tensor, nn.Parameter], Tensor]] = {
    "factor": lambda h, t: h * t.item(),
    "summand": lambda h, t: F.relu(h - t.item()),
    "taken from": lambda h, t: F.relu(t.item() - h),
    "divisor": lambda h, t: h / t.item(),
    "worked out": lambda h, t: h * (2 * t.item() + 1) - t.item() / 3,
    "coefficient": lambda h, t: torch.add(h, h.flip(1), alpha=t.item()) - torch.sub(h, h.roll(1, 1), alpha=t.item()),
    "of a product": lambda h, t: torch.addcmul(h, h.detach(), h, value=t.item()),
    "of a quotient": lambda h, t: torch.addcdiv(h, h, torch.full_like(h, 2.0), value=t.item()),
    "way between": lambda h, t: torch.lerp(h, h.flip(1), t.item()),
    "threshold": lambda h, t: h.clamp(0, t.item()) + h.masked_fill(h < t.item(), 0.0),
    "of what it makes": lambda h, t: h * t.exp().sum().item(),
    "float": lambda h, t: h * float(t) + float(t),
    "root": lambda h, t: h * math.sqrt(t.item()),
    "bounds": lambda h, t: F.hardtanh(h, -t.item(), t.item()),
    "branch": lambda h, t: F.leaky_relu(h, 0.1) if t > 0.3 else h.relu(),
    "branch on a number": lambda h, t: F.leaky_relu(h, 0.1) if t.item() > 0.3 else h.relu(),
}


@pytest.mark.parametrize("audit", [False, True])
@pytest.mark.parametrize("form", NUMBERS)
def test_numbers_of_parameters(form: str, audit: bool) -> None:
    model, x = Tempered(NUMBERS[form]), torch.randn(3, 4)
    lrp = LRP(model, normalize_output=False)
    for value in (0.4, 0.4, 0.2):  # it follows in the very next call, and the third is not compared with the model
        with torch.no_grad():
            model.scale.fill_(value)
        expl = lrp(x, target=1, audit=audit)
        assert_close(expl.output, model(x), rtol=1e-5)
        given = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(given)[:, 1].sum(), given)
        if form not in {"threshold", "bounds"}:  # relevance passes those
            assert_close(expl.relevance, x * gradient, rtol=1e-5)
        if audit:
            assert expl.ledger is not None
            assert expl.ledger.imbalance < 1e-5


def test_numbers_that_follow_a_parameter_to_another_dtype() -> None:
    model, x = Tempered(NUMBERS["root"]), torch.randn(3, 4)
    lrp = LRP(model)
    lrp(x, target=1)
    model.double()
    assert_close(lrp(x.double(), target=1).output, model(x.double()), rtol=1e-12)


def row_means(edges: Tensor, h: Tensor) -> Tensor:
    return torch.sparse.mm(edges, h) / torch.sparse.sum(edges, 1).to_dense()[:, None]


def by_their_ends(edges: Tensor, h: Tensor) -> Tensor:
    (end, start), weights = edges.coalesce().indices(), edges.coalesce().values()
    return torch.zeros_like(h).index_add(0, end, h[start] * weights[:, None])


SPARSE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "product": (lambda edges, h: edges @ h, lambda dense, h: dense @ h),
    "of torch.sparse": (torch.sparse.mm, torch.mm),
    "transposed": (lambda edges, h: torch.sparse.mm(edges.t(), h), lambda dense, h: dense.t() @ h),
    "added": (lambda edges, h: torch.sparse.addmm(h, edges, h), lambda dense, h: h + dense @ h),
    "scaled": (lambda edges, h: (edges * 2) @ h, lambda dense, h: 2 * dense @ h),
    "means": (row_means, lambda dense, h: dense @ h / dense.sum(1, keepdim=True)),
    "ends": (by_their_ends, lambda dense, h: dense @ h),
    "dense": (lambda edges, h: edges.to_dense() @ h, lambda dense, h: dense @ h),
}


class OnGraph(nn.Module):
    """One layer over a graph (N, N), as a buffer or as a plain attribute."""

    def __init__(self, by: Callable[[Tensor, Tensor], Tensor], edges: Tensor, *, plain: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.out, self.by = nn.Linear(4, 6), nn.Linear(6, 3), by
        if plain:
            self.edges = edges
        else:
            self.register_buffer("edges", edges)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.by(self.edges, self.inner(x)).relu())


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("form", SPARSE)
def test_sparse_tensors_that_a_model_holds(form: str, layout: torch.layout, plain: bool) -> None:
    if layout == torch.sparse_csr and form in {"means", "ends"}:
        pytest.skip("PyTorch itself does not compute it")
    sparse, written_out = SPARSE[form]
    dense = torch.rand(5, 5).relu() * (torch.rand(5, 5) > 0.4) + torch.eye(5)
    x = torch.randn(5, 4)
    model = OnGraph(sparse, dense.to_sparse(layout=layout), plain=plain)
    found = LRP(model)(x, target=1, audit=True)
    expected = LRP(OnGraph(written_out, dense))(x, target=1)
    assert_close(found.output, model(x), rtol=1e-5)
    assert_close(found.relevance, expected.relevance, rtol=1e-4)
    assert found.ledger is not None
    assert found.ledger.imbalance < 1e-5
    assert model.edges.layout == layout


def test_arrays_of_parameters() -> None:
    x, by = torch.randn(3, 4), lambda h, t: h * float(t.detach().numpy()) + torch.as_tensor(t.detach().cpu().numpy())
    model = Tempered(by)
    assert_close(LRP(model)(x, target=1).output, model(x), rtol=1e-5)
