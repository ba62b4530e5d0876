"""Composite operators explain as what they are made of: held against the same in plain products, sums and powers.

Functions that are homogeneous of degree one in the features are held against input x gradient as well, which shares no
code with the rewrites.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from support.versions import from_2_13
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, NameMap
from relprop.errors import RuleError, UnexplainedError
from relprop.rules import StopRule

Function = Callable[["Between", Tensor], Tensor]
PLACES = [1, 0, 0, 3, 1]


class Between(nn.Module):
    """A function of features (B, 5, 6), between two layers without a bias, so that only the function could keep any."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.first = nn.Linear(4, 6, bias=False)
        self.cube, self.square = nn.Parameter(torch.randn(5, 6, 3)), nn.Parameter(torch.randn(4, 6, 6))
        self.one, self.rows = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(5, 6))
        self.start = nn.Parameter(torch.randn(2, 4, 6))
        self.register_buffer("places", torch.tensor(PLACES))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        z = self.function(self, self.first(x)).flatten(1)
        return torch.cat([z, 2 * z.sum(1, keepdim=True)], 1)


def each(function: Function) -> Function:
    """A function of one sample (5, 6), for the two of the batch."""
    return lambda m, h: torch.stack([function(m, h[0]), function(m, h[1])])


def halves(h: Tensor) -> tuple[Tensor, Tensor]:
    return h[:, :2], h[:, 2:4]


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def entries(h: Tensor, dim: int) -> list[Tensor]:
    return list(h.unbind(dim))


def one_by_one(h: Tensor, dim: int) -> Tensor:
    """A product of all entries of a dimension, as one product of several factors."""
    first, *others = entries(h, dim)
    for other in others:
        first = first * other
    return first


def scattered(m: Between, h: Tensor, kind: str, with_start: bool = False, start: Tensor | None = None) -> Tensor:
    index = m.places[None, :, None].expand_as(h)
    start = h.new_zeros(2, 4, 6) if start is None else start
    return start.scatter_reduce(1, index, h, kind, include_self=with_start)


def met(m: Between, h: Tensor) -> list[list[Tensor]]:
    """What `PLACES` sends to each of four places."""
    return [[h[:, i] for i in range(5) if PLACES[i] == place] for place in range(4)]


def mean_of_places(m: Between, h: Tensor) -> Tensor:
    return torch.stack([sum(found) / len(found) if found else 0 * h[:, 0] for found in met(m, h)], 1)


def largest_of_places(m: Between, h: Tensor) -> Tensor:
    found = [torch.stack(f, 1).amax(1) if f else 0 * h[:, 0] for f in met(m, h)]
    return torch.stack(found, 1)


SPELLINGS: dict[str, tuple[Function, Function]] = {
    "tensordot": (
        lambda m, h: torch.tensordot(h, m.cube, ([1, 2], [0, 1])),
        lambda m, h: torch.einsum("bij,ijk->bk", h, m.cube),
    ),
    "tensordot, one dimension": (
        lambda m, h: torch.tensordot(h, m.cube, ([1], [0])),
        lambda m, h: torch.einsum("bij,ikl->bjkl", h, m.cube),
    ),
    "tensordot, constant first": (
        lambda m, h: torch.tensordot(m.one, h, ([0], [2])),
        lambda m, h: h @ m.one,
    ),
    "inner": (lambda m, h: torch.inner(h, m.rows), lambda m, h: h @ m.rows.T),
    "bilinear": (
        lambda m, h: F.bilinear(*halves(h), m.square, m.one[:4]),
        lambda m, h: torch.einsum("bti,oij,btj->bto", halves(h)[0], m.square, halves(h)[1]) + m.one[:4],
    ),
    "vecdot": (lambda m, h: torch.linalg.vecdot(*halves(h)), lambda m, h: (halves(h)[0] * halves(h)[1]).sum(-1)),
    "addmv": (
        each(lambda m, h: torch.addmv(m.rows[:, 0], h, m.one, beta=2, alpha=3)),
        lambda m, h: 3 * (h @ m.one) + 2 * m.rows[:, 0],
    ),
    "addr": (
        each(lambda m, h: torch.addr(m.square[0, :, :5], h[0], h[1, :5], alpha=0.5)),
        lambda m, h: m.square[0, :, :5] + 0.5 * (h[:, 0, :, None] * h[:, 1, None, :5]),
    ),
    "outer": (each(lambda m, h: torch.outer(h[0], m.one)), lambda m, h: h[:, 0, :, None] * m.one),
    "addbmm": (
        each(lambda m, h: torch.addbmm(m.rows[:1, :5], h[:, None], m.square[0, None, :, :5].expand(5, 6, 5))),
        lambda m, h: m.rows[:1, :5] + h.sum(1, keepdim=True) @ m.square[0, :, :5],
    ),
    "multi_dot": (
        each(lambda m, h: torch.linalg.multi_dot([h, m.square[0], m.rows.T])),
        lambda m, h: h @ m.square[0] @ m.rows.T,
    ),
    "cross": (
        lambda m, h: torch.linalg.cross(h[..., :3], h[..., 3:]),
        lambda m, h: torch.stack(
            [h[..., i] * h[..., 3 + j] - h[..., j] * h[..., 3 + i] for i, j in ((1, 2), (2, 0), (0, 1))], -1
        ),
    ),
    "xlogy": (
        lambda m, h: torch.xlogy(halves(h)[0], halves(h)[1].square() + 2),
        lambda m, h: halves(h)[0] * (halves(h)[1].square() + 2).log(),
    ),
    "cosine_similarity": (
        lambda m, h: F.cosine_similarity(*halves(h), dim=-1),
        lambda m, h: (unit(halves(h)[0]) * unit(halves(h)[1])).sum(-1),
    ),
    "cosine_similarity with a prototype": (
        lambda m, h: F.cosine_similarity(h, m.one.expand_as(h), dim=2),
        lambda m, h: (unit(h) * unit(m.one)).sum(-1),
    ),
    "pairwise_distance": (
        lambda m, h: F.pairwise_distance(*halves(h)),
        lambda m, h: (halves(h)[0] - halves(h)[1] + 1e-6).square().sum(-1).sqrt(),
    ),
    "cdist to prototypes": (
        lambda m, h: torch.cdist(h, m.rows),
        lambda m, h: (h[:, :, None] - m.rows).square().sum(-1).sqrt(),
    ),
    "mse_loss": (lambda m, h: F.mse_loss(*halves(h), reduction="none"),
                 lambda m, h: (halves(h)[0] - halves(h)[1]).square()),
    "prod": (lambda m, h: h.prod(1), lambda m, h: one_by_one(h, 1)),
    "prod, kept": (lambda m, h: h.prod(-1, keepdim=True), lambda m, h: one_by_one(h, 2)[..., None]),
    "cumprod": (
        lambda m, h: h.cumprod(1),
        lambda m, h: torch.stack([one_by_one(h[:, : i + 1], 1) for i in range(5)], 1),
    ),
    "logsumexp": (lambda m, h: h.logsumexp(1), lambda m, h: h.exp().sum(1).log()),
    "logsumexp, over both": (lambda m, h: h.logsumexp((1, 2), keepdim=True),
                             lambda m, h: h.exp().sum((1, 2), keepdim=True).log()),
    "logaddexp": (
        lambda m, h: torch.logaddexp(*halves(h)),
        lambda m, h: (halves(h)[0].exp() + halves(h)[1].exp()).log(),
    ),
    "logaddexp with a constant": (lambda m, h: torch.logaddexp(h, m.rows), lambda m, h: (h.exp() + m.rows.exp()).log()),
    "logcumsumexp": (lambda m, h: h.logcumsumexp(1), lambda m, h: h.exp().cumsum(1).log()),
    "atan2": (lambda m, h: torch.atan2(halves(h)[0], halves(h)[1].abs() + 1),
              lambda m, h: (halves(h)[0] / (halves(h)[1].abs() + 1)).atan()),
    "floor of a quotient": (lambda m, h: torch.div(h, 0.3, rounding_mode="floor"), lambda m, h: (h / 0.3).floor()),
    "scatter mean onto a start": (
        lambda m, h: scattered(m, h, "mean", True, m.start),
        lambda m, h: torch.stack(
            [(m.start[:, i] + sum(f)) / (len(f) + 1) if f else m.start[:, i] + 0 * h[:, 0]
             for i, f in enumerate(met(m, h))], 1),
    ),
    "2 ** x": (lambda m, h: 2**h, lambda m, h: h.exp2()),
    "scatter that adds": (
        lambda m, h: m.start.scatter(1, m.places[None, :, None].expand_as(h), h, reduce="add"),
        lambda m, h: m.start.scatter_add(1, m.places[None, :, None].expand_as(h), h),
    ),
    "index_put that adds": (
        lambda m, h: h[:, :4].index_put((torch.arange(2)[:, None], m.places), h, accumulate=True),
        lambda m, h: h[:, :4].scatter_add(1, m.places[None, :, None].expand_as(h), h),
    ),
}  # fmt: skip


HOMOGENEOUS: dict[str, Function] = {
    "tensordot": SPELLINGS["tensordot"][0],
    "bilinear with a constant": lambda m, h: F.bilinear(h, m.rows.expand_as(h), m.square),
    "diff": lambda m, h: h.diff(n=2, dim=1, prepend=h[:, :1] * 2),
    "broadcast_tensors": lambda m, h: torch.broadcast_tensors(h[:, :1], h)[0] + torch.broadcast_tensors(m.one, h)[1],
    "trace": each(lambda m, h: h[:, :5].trace()[None]),
    "median": lambda m, h: h.median(1).values,
    "median without its indices": each(lambda m, h: torch.stack([h.median(), h.nanmedian()])),
    "kthvalue": lambda m, h: h.kthvalue(2, 1, keepdim=True)[0],
    "mode": lambda m, h: h.mode(1).values,
    "msort": each(lambda m, h: torch.msort(h)),
    "quantile": lambda m, h: h.quantile(0.3, 1),
    "quantile, nearest": lambda m, h: h.quantile(0.8, dim=2, keepdim=True, interpolation="nearest"),
    "aminmax": lambda m, h: torch.cat(torch.aminmax(h, dim=1), 1),
    "cummax": lambda m, h: h.cummax(1).values,
    "cdist of two parts": lambda m, h: torch.cdist(h[:, :2], h[:, 2:]),
    "cdist with p = 1": lambda m, h: torch.cdist(h[:, :2], h[:, 2:], p=1.0),
    "cdist with p = 3": lambda m, h: torch.cdist(h[:, :2], h[:, 2:], p=3.0),
    "cdist with p = inf": lambda m, h: torch.cdist(h[:, :2], h[:, 2:], p=torch.inf),
    "dist": each(lambda m, h: torch.dist(h[:2], h[2:4])[None]),
    "hypot": lambda m, h: torch.hypot(*halves(h)),
    "l1_loss": each(lambda m, h: F.l1_loss(h[:2], h[2:4], reduction="sum")[None]),
    "scatter sum": lambda m, h: scattered(m, h, "sum"),
    "scatter mean": lambda m, h: scattered(m, h, "mean"),
    "scatter mean with the start": lambda m, h: scattered(m, h, "mean", True),
    "scatter amax": lambda m, h: scattered(m, h, "amax"),
    "scatter amin": lambda m, h: scattered(m, h, "amin"),
    "scatter amax onto data": lambda m, h: scattered(m, h, "amax", True, h[:, :4] * 1.5),
    "index_reduce mean": lambda m, h: h.new_zeros(2, 4, 6).index_reduce(1, m.places, h, "mean", include_self=False),
    "index_reduce amax": lambda m, h: (h[:, :4] * 0.5).index_reduce(1, m.places, h, "amax"),
    "pad_sequence": lambda m, h: nn.utils.rnn.pad_sequence([h[0], h[1, :3]], batch_first=True),
    "take": lambda m, h: h.take(torch.tensor([[3, 17], [40, 59]])),
    "max_unpool2d": lambda m, h: F.max_unpool2d(*F.max_pool2d(h[:, None, :4], 2, return_indices=True), 2),
    "max_unpool1d": lambda m, h: F.max_unpool1d(*F.max_pool1d(h, 2, return_indices=True), 2),
    "affine_grid": lambda m, h: F.affine_grid(h[:, :2, :3], [2, 1, 4, 4], align_corners=False),
}

X = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def explained(function: Function, x: Tensor = X) -> Tensor:
    """Relevance of the largest target, whose books balance."""
    model = Between(function)
    if model.first.weight.dtype != x.dtype:
        model.to(x.dtype)
    expl = LRP(model, normalize_output=False)(x, target=-1, audit=True)
    assert_close(expl.output, model(x), rtol=1e-6)
    assert expl.ledger is not None
    assert expl.ledger.imbalance <= (1e-8 if x.dtype == torch.float64 else 1e-3)
    return expl.relevance


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_composite_operator_is_what_it_is_made_of(name: str) -> None:
    operator, written = SPELLINGS[name]
    assert_close(explained(operator), explained(written), rtol=1e-7)


LATE = {"quantile", "quantile, nearest", "aminmax"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=from_2_13) if n in LATE else n for n in HOMOGENEOUS], ids=list(HOMOGENEOUS)
)
def test_homogeneous_functions_explain_as_input_times_gradient(name: str) -> None:
    model, x = Between(HOMOGENEOUS[name]), X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, -1].sum(), x)
    assert bool(gradient.any())
    assert_close(explained(HOMOGENEOUS[name]), X * gradient, rtol=1e-7)


ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "remainder": lambda h: h % 0.7,
    "fmod": lambda h: torch.fmod(h, 0.7),
    "fmod by a tensor": lambda h: torch.fmod(h, torch.full((6,), 0.7, dtype=h.dtype)),
    "floor_divide": lambda h: h // 0.3,
    "asin": lambda h: (0.1 * h).asin(),
    "acos": lambda h: (0.1 * h).acos(),
    "atanh": lambda h: (0.1 * h).atanh(),
    "erfc": torch.erfc,
    "lgamma": torch.lgamma,
    "frac": torch.frac,
    "sinc": torch.sinc,
    "1.5 ** x": lambda h: 1.5**h,
    "atan2 of a constant": lambda h: torch.atan2(h, torch.full((6,), 0.7, dtype=h.dtype)),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_relevance_passes_through_functions_of_one_number(name: str) -> None:
    """`R_i = Σ_j x_i W_ji / h_j · f(h_j)`, twice, as the model sums `f(h)` and doubles it."""
    f = ELEMENTWISE[name]
    W = Between(lambda m, h: h).first.weight.detach()
    h = X @ W.T
    expected = 2 * X * ((f(h) / h) @ W)
    assert_close(explained(lambda m, h: f(h)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["prod", "cdist to prototypes", "logsumexp", "bilinear", "cosine_similarity"])
def test_of_a_batch_each_sample_is_explained_by_itself_and_in_single_precision(name: str) -> None:
    function = SPELLINGS[name][0]
    together = explained(function)
    alone = torch.cat([explained(function, x[None]) for x in X])
    assert_close(together, alone, rtol=1e-9)
    assert_close(explained(function, X.float()).double(), together, rtol=2e-3)


def test_a_reduction_by_products_is_refused_by_name() -> None:
    with pytest.raises(UnexplainedError, match="scatter_reduce"):
        explained(lambda m, h: scattered(m, h, "prod"))


class Warped(nn.Module):
    """An image, sampled where a flow that is predicted from it says."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flow, self.head = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.Conv2d(1, 3, 3, bias=False)

    def forward(self, x: Tensor, held: bool = False) -> Tensor:
        flow = self.flow(x).permute(0, 2, 3, 1).tanh() * 0.2
        line = torch.linspace(-1, 1, x.shape[-1])
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1) + (flow.detach() if held else flow)
        return self.head(F.grid_sample(x[:, :1], grid, align_corners=True)).mean((2, 3))


def test_predicted_positions_need_a_stop_rule_and_the_error_says_so() -> None:
    model, x = Warped().eval(), torch.randn(2, 2, 6, 6)
    with pytest.raises(RuleError, match=r"grid_sampler.*flow.*StopRule"):
        LRP(model)(x, target=1)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf, held=True)[:, 1].sum(), leaf)
    stopped = LRP(model, Composite(NameMap({"flow": StopRule()})), normalize_output=False)(x, target=1)
    assert_close(stopped.relevance, x * gradient, rtol=1e-4)
