"""Softmaxes that models spell out are explained as PyTorch's own, under every rule, whatever their form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.exponentials import (
    COMPOSITES,
    DTYPE,
    Pooled,
    explained,
    kept,
    largest,
    masked,
    over,
    sequences,
    stable,
)
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP


@pytest.fixture
def x() -> Tensor:
    return sequences()


SOFTMAXES = {
    "plain": lambda x: over(x.exp(), x.exp().sum(1, keepdim=True)),
    "largest": lambda x: over(stable(x), stable(x).sum(dim=1, keepdim=True)),
    "largest, detached": lambda x: (lambda p: p / p.sum(1, True))((x - largest(x).detach()).exp()),
    "largest of all": lambda x: (lambda p: p / p.sum(1, True))((x - x.amax((1, 2), keepdim=True)).exp()),
    "put back": lambda x: (lambda p: p / p.sum(1)[:, None])((x - x.amax(1).unsqueeze(1)).exp()),
    "inverse": lambda x: (lambda p: p * p.sum(1, True).reciprocal())(stable(x)),
    "to a power": lambda x: (lambda p: p.sum(1, True) ** -1 * p)(stable(x)),
    "first dimension": lambda x: (lambda p: (p / p.sum(0)).transpose(0, 1))(x.transpose(0, 1).exp()),
    "expanded": lambda x: (lambda p: p / p.sum(1, True).expand_as(p))(stable(x)),
    "tiny": lambda x: (lambda p: p / (p.sum(1, True) + 1e-30))(stable(x)),
    "least": lambda x: (lambda p: p / p.sum(1, True).clamp(min=1e-12))(stable(x)),
    "logsumexp": lambda x: (x - x.logsumexp(1, keepdim=True)).exp(),
    "logsumexp put back": lambda x: (x - x.logsumexp(1).unsqueeze(1)).exp(),
    "logsumexp by hand": lambda x: (x - x.exp().sum(1, True).log()).exp(),
    "logsumexp, largest": lambda x: (x - (largest(x) + (x - largest(x)).exp().sum(1, True).log())).exp(),
    "logsumexp, both less": lambda x: (x - largest(x) - (x - largest(x)).exp().sum(1, True).log()).exp(),
    "log-softmax": lambda x: x.log_softmax(1).exp(),
    "shifted": lambda x: (x - largest(x)).softmax(1),
    "norm of degree 1": lambda x: nn.functional.normalize(x.exp(), p=1, dim=1),
}


def resting(x: Tensor, sink: float | Tensor = 0.0) -> Tensor:
    """A softmax with one more score, of nothing that is read."""
    rest = torch.as_tensor(sink, dtype=x.dtype).expand_as(x[:, :1])
    return torch.cat([rest, x], 1).softmax(1)[:, 1:]


def shifted_by(x: Tensor, m: Tensor, rest: Tensor) -> Tensor:
    terms = (x - m).exp()
    return terms / (rest + terms.sum(1, keepdim=True))


RESTING = {
    "one": lambda x: x.exp() / (1 + x.exp().sum(1, keepdim=True)),
    "no less than 0": lambda x: (lambda m: shifted_by(x, m, (-m).exp()))(largest(x).clamp(min=0)),
    "largest": lambda x: (lambda m: shifted_by(x, m, torch.exp(-m)))(largest(x)),
    "from a number": lambda x: (lambda m: shifted_by(x, m, torch.exp(0 - m)))(largest(x).detach()),
}
WITH_SINKS = {
    "shifted": lambda x, sink: (lambda m: shifted_by(x, m, torch.exp(sink - m)))(largest(x)),
    "plain": lambda x, sink: x.exp() / (x.exp().sum(1, True) + sink.exp()),
}
MASKED = {
    "factor": lambda x: (lambda p: p / p.sum(1, True))(stable(x) * kept(x).to(x)),
    "filled": lambda x: (lambda p: p / p.sum(1, True))(stable(x).masked_fill(~kept(x), 0)),
    "where": lambda x: (lambda p: p / p.sum(1, True))(torch.where(kept(x), stable(x), 0.0)),
    "norm": lambda x: nn.functional.normalize(x.softmax(1).masked_fill(~kept(x), 0), p=1, dim=1),
    "after a softmax": lambda x: (lambda p: p / p.sum(1, True))(x.softmax(1) * kept(x)),
    "where not": lambda x: (lambda p: p / p.sum(1, True))(torch.where(~kept(x), torch.zeros_like(x), stable(x))),
}


@pytest.mark.parametrize("form", SOFTMAXES)
def test_a_softmax_by_hand_is_pytorchs(form, x):
    expected = explained(lambda s: s.softmax(1), "attnlrp", x)
    torch.testing.assert_close(explained(SOFTMAXES[form], "attnlrp", x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", RESTING)
def test_attention_that_may_rest_is_a_softmax_with_one_more_score(form, x):
    torch.testing.assert_close(
        explained(RESTING[form], "attnlrp", x), explained(resting, "attnlrp", x), rtol=1e-9, atol=1e-12
    )


class Sunk(Pooled):
    """Each head has a learned score of nothing."""

    def __init__(self, weigh: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(lambda x: weigh(x, self.sink))
        self.sink = nn.Parameter(torch.tensor([0.3, -0.5, 1.0], dtype=DTYPE))


@pytest.mark.parametrize("form", WITH_SINKS)
def test_a_learned_sink_of_attention_gets_what_a_score_of_its_own_gets(form, x):
    found, expected = (
        LRP(Sunk(weigh), COMPOSITES["attnlrp"], normalize_output=False)(x, target=1, audit=True)
        for weigh in (WITH_SINKS[form], resting)
    )
    torch.testing.assert_close(found.output, expected.output)
    assert found.ledger.imbalance < 1e-9
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-9, atol=1e-12)


def test_what_rests_without_the_shift_does_not_let_it_cancel(x):
    """Here weights depend on the largest score, whose relevance they have."""

    def weigh(scores: Tensor) -> Tensor:
        return shifted_by(scores, largest(scores), torch.ones(1, dtype=DTYPE).exp())

    def as_scores(scores: Tensor) -> Tensor:
        return resting(scores - largest(scores), 1.0)

    torch.testing.assert_close(
        explained(weigh, "attnlrp", x), explained(as_scores, "attnlrp", x), rtol=1e-7, atol=1e-10
    )


def test_the_logarithm_of_a_softmax_is_a_log_softmax(x):
    found, expected = (
        explained(weigh, "attnlrp", x) for weigh in (lambda s: s.softmax(1).log(), lambda s: s.log_softmax(1))
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def triangle(scores: Tensor) -> Tensor:
    turned = scores.transpose(1, 2)
    past = torch.ones_like(turned, dtype=torch.bool).tril(2)
    return turned.masked_fill(~past, float("-inf")).softmax(-1).transpose(1, 2)


TRIANGLES = {
    "exponentials": lambda x: (lambda p: p / p.sum(-1, True))(x.transpose(1, 2).exp().tril(2)).transpose(1, 2),
    "softmax": lambda x: (lambda p: p / p.sum(-1, True))(x.transpose(1, 2).softmax(-1).tril(2)).transpose(1, 2),
    "upper": lambda x: (lambda p: p / p.sum(1, True))(x.softmax(1).triu(-2)),
}


@pytest.mark.parametrize("form", TRIANGLES)
def test_what_a_triangle_keeps_is_what_minus_infinity_leaves(form, x):
    found = explained(TRIANGLES[form], "attnlrp", x)
    torch.testing.assert_close(found, explained(triangle, "attnlrp", x), rtol=1e-9, atol=1e-12)


def test_what_is_added_to_masked_shares_is_added_to_shares(x):
    """And not to exponentials, which a shift makes smaller or larger."""

    def weigh(scores: Tensor) -> Tensor:
        shares = (scores - largest(scores)).softmax(1) * kept(scores)
        return shares / (shares.sum(1, keepdim=True) + 0.5)

    model = Pooled(weigh)
    expl = LRP(model, AttnLRP(), normalize_output=False)(x, target=1, audit=True)
    assert "softmax" in expl.ledger.sinks
    torch.testing.assert_close(expl.output, model(x))


class Deep(nn.Module):
    """A network of blocks that is asked twice for the same scores, with 2 ^ 30 ways back through it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(30))
        self.to(DTYPE).eval()

    def scores(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + 0.1 * block(x).relu()
        return x

    def forward(self, x: Tensor) -> Tensor:
        return (self.scores(x).exp() / self.scores(x).exp().sum(1, keepdim=True) * x).flatten(1)


def dropped(x: Tensor) -> Tensor:
    return nn.functional.dropout(x, 0.5, training=True)


@pytest.mark.parametrize("model", [Deep(), Pooled(lambda s: dropped(s).exp() / dropped(s).exp().sum(1, keepdim=True))])
def test_what_is_drawn_twice_is_no_softmax_and_what_is_deep_takes_no_time(model, x):
    expl = LRP(model, normalize_output=False)(x, target=1, audit=True)
    assert "softmax" not in expl.ledger.sinks
    assert expl.ledger.imbalance < 1e-8


@pytest.mark.parametrize("form", MASKED)
def test_what_a_mask_keeps_is_what_minus_infinity_leaves(form, x):
    expected = explained(masked, "attnlrp", x)
    torch.testing.assert_close(explained(MASKED[form], "attnlrp", x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("form", ["largest", "tiny"])
def test_every_rule_serves_it(form, composite, x):
    expected = explained(lambda s: s.softmax(1), composite, x)
    torch.testing.assert_close(explained(SOFTMAXES[form], composite, x), expected, rtol=1e-6, atol=1e-9)


def scattered(e: Tensor, index: Tensor, places: int) -> Tensor:
    """As torch_geometric has it: over the edges that end in one node."""
    spread = index.view(-1, 1).expand_as(e)
    most = e.new_zeros(places, e.shape[1]).scatter_reduce(0, spread, e.detach(), "amax", include_self=False)
    terms = (e - most.index_select(0, index)).exp()
    total = e.new_zeros(places, e.shape[1]).scatter_add_(0, spread, terms) + 1e-16
    return terms / total.index_select(0, index)


def added(e: Tensor, index: Tensor, places: int) -> Tensor:
    terms = (e - e.max()).exp()
    return terms / torch.zeros(places, e.shape[1], dtype=e.dtype).index_add(0, index, terms)[index]


def gathered(e: Tensor, index: Tensor, places: int) -> Tensor:
    spread = index[:, None].expand(-1, e.shape[1])
    terms = e.exp()
    total = torch.zeros(places, e.shape[1], dtype=e.dtype).scatter_add(0, spread, terms).clamp(min=1e-12)
    return terms / total.gather(0, spread)


def densely(e: Tensor, index: Tensor, places: int) -> Tensor:
    """The same as a softmax of PyTorch's over a table with one column for each place."""
    own = index[:, None] == torch.arange(places)
    table = torch.where(own[..., None], e[:, None], float("-inf")).softmax(0)
    return torch.where(own[..., None], table, 0.0).sum(1)


class Graph(nn.Module):
    """One layer of graph attention."""

    def __init__(self, weigh: Callable[[Tensor, Tensor, int], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.score, self.out = nn.Linear(4, 3), nn.Linear(6, 3), nn.Linear(3, 2)
        self.weigh = weigh
        self.to(DTYPE).eval()

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.inner(x)
        start, end = edges
        scores = nn.functional.leaky_relu(self.score(torch.cat([h[start], h[end]], -1)))
        weights = self.weigh(scores, end, len(x))
        return self.out(torch.zeros_like(h).index_add(0, end, weights * h[start])).mean(0, keepdim=True)


EDGES = torch.tensor([[0, 1, 2, 3, 4, 0, 2, 4, 1], [1, 2, 3, 4, 0, 0, 1, 1, 3]])


@pytest.mark.parametrize("composite", ["attnlrp", "distribute", "ignore", "cp"])
@pytest.mark.parametrize("weigh", [scattered, added, gathered])
def test_graph_attention_has_a_softmax_for_each_node(weigh, composite):
    x = torch.randn(5, 4, dtype=DTYPE, generator=torch.Generator().manual_seed(2))
    found = LRP(Graph(weigh), COMPOSITES[composite], normalize_output=False)(x, EDGES, target=1, audit=True)
    assert found.ledger.imbalance < 1e-9
    if composite == "distribute":
        assert found.ledger.sinks.get("softmax", 0.0) == 0.0
        return
    expected = LRP(Graph(densely), COMPOSITES[composite], normalize_output=False)(x, EDGES, target=1).relevance
    torch.testing.assert_close(found.relevance, expected, rtol=1e-6, atol=1e-9)


def test_a_sum_over_another_dimension_is_a_softmax_there(x):
    expected = explained(lambda s: s.softmax(2), "attnlrp", x)
    found = explained(lambda s: over(s.exp(), s.exp().sum(2, keepdim=True)), "attnlrp", x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_shift_that_differs_inside_a_sum_stays(x):
    expected = explained(lambda s: (s - 2 * largest(s)).softmax(2), "attnlrp", x)
    found = explained(lambda s: (lambda p: p / p.sum(2, True))((s - 2 * largest(s)).exp()), "attnlrp", x)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)


def elsewhere(e: Tensor, index: Tensor, places: int) -> Tensor:
    """Divided by the sum of another node than the edge's own."""
    terms = e.exp()
    return terms / torch.zeros(places, e.shape[1], dtype=e.dtype).index_add(0, index, terms)[index.flip(0)]


def unlike(s: Tensor) -> Tensor:
    return s.exp() / (2 * s).exp().sum(1, keepdim=True)


def shifted_twice(s: Tensor) -> Tensor:
    return shifted_by(s, largest(s), (-2 * largest(s)).exp())


def test_what_is_no_softmax_is_not_read_as_one(x):
    nodes = torch.randn(5, 4, dtype=DTYPE, generator=torch.Generator().manual_seed(2))
    for model, inputs in ((Graph(elsewhere), (nodes, EDGES)), (Pooled(unlike), (x,)), (Pooled(shifted_twice), (x,))):
        expl = LRP(model, AttnLRP(), normalize_output=False)(*inputs, target=1, audit=True)
        assert "softmax" not in expl.ledger.sinks
        torch.testing.assert_close(expl.output, model(*inputs))


def test_masked_scores_get_nothing_where_the_bias_is_ignored(x):
    found = explained(masked, "ignore", x)
    assert found.isfinite().all()
    torch.testing.assert_close(explained(MASKED["factor"], "ignore", x), found, rtol=1e-7, atol=1e-10)
