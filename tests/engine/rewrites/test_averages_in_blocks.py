"""Averages by exponentials that are summed block by block, place by place or row by row are those of one softmax."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from support.exponentials import COMPOSITES, DTYPE, sequences
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP
from relprop.engine.rewrites.blocks import MOST

TOKENS = 6
PLACES = torch.tensor([0, 0, 1, 1, 2, 2])

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(queries, keys, values, a table of parameters) -> (B, T, H)."""


class Attended(nn.Module):
    """Values (B, T, H) that are weighed by queries and keys (B, T, H)."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.queries, self.keys, self.values = (nn.Linear(4, 3) for _ in range(3))
        self.table, self.out, self.attend = nn.Parameter(torch.randn(TOKENS, TOKENS)), nn.Linear(3, 2), attend
        self.to(DTYPE).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(self.queries(x), self.keys(x), self.values(x), self.table).mean(1))


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return scores(q, k).softmax(-1) @ v


def online(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """A running maximum, rescaled sums."""
    largest = torch.full((*q.shape[:2], 1), float("-inf"), dtype=q.dtype)
    total, acc = torch.zeros((*q.shape[:2], 1), dtype=q.dtype), torch.zeros_like(v)
    for i in range(0, TOKENS, 2):
        s = scores(q, k[:, i : i + 2])
        new = torch.maximum(largest, s.amax(-1, keepdim=True))
        p, old = (s - new).exp(), (largest - new).exp()
        total, acc, largest = total * old + p.sum(-1, keepdim=True), acc * old + p @ v[:, i : i + 2], new
    return acc / total


def online_squeezed(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """The same with sums (B, T), which are unsqueezed where they meet values."""
    largest, total, acc = q.new_full(q.shape[:2], float("-inf")), q.new_zeros(q.shape[:2]), torch.zeros_like(q)
    for i in range(0, TOKENS, 3):
        s = scores(q, k[:, i : i + 3])
        new = torch.max(largest, s.max(-1).values)
        p, old = torch.exp(s - new[..., None]), torch.exp(largest - new)
        total, acc, largest = old * total + p.sum(-1), old[..., None] * acc + p @ v[:, i : i + 3], new
    return acc / total[..., None]


def online_by_blocks(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Each block by its own maximum, before both are rescaled."""
    a, b = scores(q, k[:, :2]), scores(q, k[:, 2:])
    most_a, most_b = a.amax(-1, keepdim=True), b.amax(-1, keepdim=True)
    most = torch.maximum(most_a, most_b)
    p, r, of_a, of_b = (a - most_a).exp(), (b - most_b).exp(), (most_a - most).exp(), (most_b - most).exp()
    total = of_a * p.sum(-1, keepdim=True) + of_b * r.sum(-1, keepdim=True)
    return (of_a * (p @ v[:, :2]) + of_b * torch.einsum("bqk,bkd->bqd", r, v[:, 2:])) / (total + 1e-30)


def causal(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return scores(q, k).masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), float("-inf")).softmax(-1) @ v


def causal_online(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    a, b = scores(q, k[:, :4]), scores(q, k[:, 4:])
    row, column = torch.arange(TOKENS)[:, None], torch.arange(TOKENS)
    p = a.exp() * (column[:4] <= row)
    r = b.exp().masked_fill(column[4:] > row, 0.0)
    return (p @ v[:, :4] + r @ v[:, 4:]) / (p.sum(-1, keepdim=True) + r.sum(-1, keepdim=True))


def with_itself(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Each token also weighs its own query."""
    p, own = scores(q, k).exp(), (q * q).sum(-1, keepdim=True).exp()
    return (p @ v + own * q) / (p.sum(-1, keepdim=True) + own)


def with_itself_joined(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    weights = torch.cat([scores(q, k), (q * q).sum(-1, keepdim=True)], -1).softmax(-1)
    return weights[..., :-1] @ v + weights[..., -1:] * q


def with_sink(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    s = scores(q, k)
    most = torch.maximum(s.amax(-1, keepdim=True), w[0, 0])
    p = (s - most).exp()
    return p @ v / (p.sum(-1, keepdim=True) + (w[0, 0] - most).exp())


def with_sink_joined(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    s = scores(q, k)
    return torch.cat([s, w[0, 0].expand_as(s[..., :1])], -1).softmax(-1)[..., :-1] @ v


def rwkv(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """RWKV-4's recurrence as Hugging Face has it: what is past decays by `decay` a step, the present has a bonus."""
    decay, bonus, rows = -w[0, :3].exp(), w[1, :3], []
    numerator = torch.zeros_like(k[:, 0])
    denominator = torch.zeros_like(k[:, 0])
    largest = torch.zeros_like(numerator) - 1e38
    for t in range(TOKENS):
        most = torch.maximum(largest, k[:, t] + bonus)
        e1, e2 = torch.exp(largest - most), torch.exp(k[:, t] + bonus - most)
        rows.append((e1 * numerator + e2 * v[:, t]) / (e1 * denominator + e2))
        most = torch.maximum(largest + decay, k[:, t])
        e1, e2 = torch.exp(largest + decay - most), torch.exp(k[:, t] - most)
        numerator, denominator, largest = e1 * numerator + e2 * v[:, t], e1 * denominator + e2, most
    return torch.stack(rows, 1)


def rwkv_at_once(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    decay, bonus, rows = -w[0, :3].exp(), w[1, :3], []
    for t in range(TOKENS):
        s = torch.stack([k[:, i] + decay * (t - 1 - i) for i in range(t)] + [k[:, t] + bonus], 1)
        rows.append((s.softmax(1) * v[:, : t + 1]).sum(1))
    return torch.stack(rows, 1)


def experts(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Python's sum begins with 0."""
    e = [q.exp(), k.exp(), v.exp()]
    return (e[0] * k + e[1] * v + e[2] * q) / sum(e)


def shares(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    e = [q.exp(), k.exp(), v.exp()]
    total = e[0] + e[1] + e[2]
    return e[0] / total * k + e[1] / total * v + e[2] / total * q


def experts_at_once(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return (torch.stack([q, k, v], -1).softmax(-1) * torch.stack([k, v, q], -1)).sum(-1)


def shares_at_once(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    weights = torch.stack([q, k, v], -1).softmax(-1)
    return weights[..., 0] * k + weights[..., 1] * v + weights[..., 2] * q


def attention_free(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """An attention-free transformer's."""
    e = (k - k.amax(1, keepdim=True)).exp()
    return (w.exp() @ (e * v)) / (w.exp() @ e)


def attention_free_at_once(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return ((w[None, :, :, None] + k[:, None]).softmax(2) * v[:, None]).sum(2)


def running(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    e = (k - k.amax(1, keepdim=True)).exp()
    return (e * v).cumsum(1) / e.cumsum(1)


def running_by_token(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    e = (k[..., 0]).exp()
    return (e[..., None] * v).cumsum(1) / e.cumsum(1)[..., None]


def running_at_once(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return torch.stack([(k[:, : t + 1].softmax(1) * v[:, : t + 1]).sum(1) for t in range(TOKENS)], 1)


def places(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    index, zeros = PLACES[None, :, None].expand_as(k), torch.zeros(len(k), 3, 3, dtype=k.dtype)
    return zeros.scatter_add(1, index, k.exp() * v) / zeros.scatter_add(1, index, k.exp())


def places_of_tokens(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    e, zeros = (q * k).sum(-1).exp(), torch.zeros(len(k), 3, dtype=k.dtype)
    sums = torch.zeros(len(k), 3, 3, dtype=k.dtype).index_add(1, PLACES, e[..., None] * v)
    return sums / (zeros.index_add(1, PLACES, e) + 1e-30)[..., None]


def places_at_once(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return (k.unflatten(1, (3, 2)).softmax(2) * v.unflatten(1, (3, 2))).sum(2)


def places_of_tokens_at_once(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    weights = (q * k).sum(-1).unflatten(1, (3, 2)).softmax(2)
    return (weights[..., None] * v.unflatten(1, (3, 2))).sum(2)


def powers_of_two(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    s = scores(q, k) * 1.4426950408889634
    p = torch.exp2(s - s.amax(-1, keepdim=True))
    return p @ v / p.sum(-1, keepdim=True)


def powers_of_ten(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    p = 10.0 ** (scores(q, k) / 2.302585092994046)
    return (p / p.sum(-1, keepdim=True)) @ v


def means(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    p = scores(q, k).exp()
    return (p[..., None] * v[:, None]).mean(2) / p.mean(-1, keepdim=True)


def means_of_parts(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Means over parts of two sizes: each entry of the smaller one counts more."""
    p, r = scores(q, k[:, :2]).exp(), scores(q, k[:, 2:]).exp()
    above = (p[..., None] * v[:, None, :2]).mean(2) + (r[..., None] * v[:, None, 2:]).mean(2)
    return above / (p.mean(-1, keepdim=True) + r.mean(-1, keepdim=True))


def means_of_parts_at_once(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return (scores(q, k) - torch.tensor([2.0, 2, 4, 4, 4, 4], dtype=q.dtype).log()).softmax(-1) @ v


def by_mean(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    p = scores(q, k).exp()
    return (p / p.mean(-1, keepdim=True) / TOKENS) @ v


def sums_by_mean(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    e = k[..., 0].exp()
    return (e[..., None] * v).sum(1, keepdim=True) / e.mean(1)[:, None, None]


def sums_at_once(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return (TOKENS * k[..., :1].softmax(1) * v).sum(1, keepdim=True)


def by_ones(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    p = scores(q, k).exp()
    return (p @ v) / (p @ torch.ones(TOKENS, 1, dtype=q.dtype))


def by_columns_of_ones(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    p = scores(q, k).exp()
    return (p @ v) / (p @ torch.ones_like(v))


def by_distance(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """A kernel regression: what its exponent is divided by is a layer of its own."""
    d = torch.cdist(q, k)
    p = (-d * d / 2).exp()
    return p @ v / p.sum(-1, keepdim=True)


def by_distance_at_once(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    d = torch.cdist(q, k)
    return (-d * d / 2).softmax(-1) @ v


FORMS: dict[Attend, Attend] = {
    online: attention,
    online_squeezed: attention,
    online_by_blocks: attention,
    causal_online: causal,
    with_itself: with_itself_joined,
    with_sink: with_sink_joined,
    rwkv: rwkv_at_once,
    experts: experts_at_once,
    shares: shares_at_once,
    attention_free: attention_free_at_once,
    running: running_at_once,
    running_by_token: lambda q, k, v, w: running_at_once(q, k[..., :1], v, w),
    places: places_at_once,
    places_of_tokens: places_of_tokens_at_once,
    powers_of_two: attention,
    powers_of_ten: attention,
    means: attention,
    means_of_parts: means_of_parts_at_once,
    by_mean: attention,
    sums_by_mean: sums_at_once,
    by_ones: attention,
    by_columns_of_ones: attention,
    by_distance: by_distance_at_once,
}


@pytest.mark.parametrize("composite", ["attnlrp", "cp", "ignore", "flat"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_it_is_one_softmax(form, composite):
    if form is attention_free and composite == "ignore":
        pytest.skip("that rule divides by scores, and parameters are added to them in the other form")
    x = sequences(TOKENS)
    found, expected = (
        LRP(Attended(by), COMPOSITES[composite], normalize_output=False)(x, target=1, audit=True)
        for by in (form, FORMS[form])
    )
    assert found.ledger.imbalance < 1e-9
    assert "maximum" not in str(found.ledger)  # what was taken off gets nothing
    torch.testing.assert_close(found.output, expected.output)
    # The flat rule has a stabilizer for each sum that is written out.
    atol = 1e-5 if composite == "flat" else 1e-9
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-6, atol=atol)


def other_factor(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Values and sums are rescaled by different exponentials."""
    p, r = scores(q, k[:, :3]).exp(), scores(q, k[:, 3:]).exp()
    a, b = q[..., :1].exp(), q[..., 1:2].exp()
    return (a * (p @ v[:, :3]) + r @ v[:, 3:]) / (b * p.sum(-1, keepdim=True) + r.sum(-1, keepdim=True))


def other_places(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    index, zeros = PLACES[None, :, None].expand_as(k), torch.zeros(len(k), 3, 3, dtype=k.dtype)
    return zeros.scatter_add(1, index, k.exp() * v) / zeros.scatter_add(1, index.flip(1), k.exp())


def other_dimension(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """As many places as columns: each column is divided by another place's sum."""
    e, zeros = (q * k).sum(-1).exp(), torch.zeros(len(k), 3, dtype=k.dtype)
    sums = torch.zeros(len(k), 3, 3, dtype=k.dtype).index_add(1, PLACES, e[..., None] * v)
    return sums / zeros.index_add(1, PLACES, e)[:, None]


def other_matrix(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return (w.exp() @ (k.exp() * v)) / (w.exp().t() @ k.exp())


def other_direction(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    k, v = k[:, :3], v[:, :3]
    return (k.exp() * v).cumsum(1) / k.exp().cumsum(2)


def more_above(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    p, r = scores(q, k[:, :3]).exp(), scores(q, k[:, 3:]).exp()
    return (p @ v[:, :3] + r @ v[:, 3:]) / p.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    "form", [other_factor, other_places, other_dimension, other_matrix, other_direction, more_above],
    ids=lambda form: form.__name__,
)  # fmt: skip
def test_what_is_no_average_is_not_read_as_one(form):
    model, x = Attended(form), sequences(TOKENS)
    expl = LRP(model, AttnLRP(), normalize_output=False)(x, target=1, audit=True)
    assert "softmax" not in expl.ledger.sinks
    torch.testing.assert_close(expl.output, model(x))


def test_the_largest_that_is_taken_off_divides():
    """In nothing that is a whole, `exp(x − max)` hands relevance to x, as it came."""

    def by(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
        return (k - k.amax(1, keepdim=True)).exp()

    def divided(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
        return k.exp() / k.amax(1, keepdim=True).exp()

    x = sequences(TOKENS)
    found, expected = (LRP(Attended(f), AttnLRP(), normalize_output=False)(x, target=1) for f in (by, divided))
    torch.testing.assert_close(found.relevance, expected.relevance)


def test_scores_over_nothing_are_what_the_model_makes_of_them():
    def by(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
        p = (scores(q, k) / 0.0).exp()
        return p @ v / p.sum(-1, keepdim=True)

    model, x = Attended(by), sequences(TOKENS)
    expl = LRP(model, AttnLRP(), checks=False)(x, target=1)
    torch.testing.assert_close(expl.output, model(x), equal_nan=True)


def test_too_many_blocks_are_said():
    class Long(nn.Module):
        def __init__(self, steps: int) -> None:
            super().__init__()
            self.inner, self.steps = nn.Linear(4, 2), steps

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            above, below = torch.zeros_like(h[:, 0]), torch.zeros_like(h[:, 0])
            for t in range(self.steps):
                above, below = above + h[:, t].exp() * h[:, t], below + h[:, t].exp()
            return above / below

    torch.manual_seed(0)
    x = torch.randn(2, MOST + 1, 4)
    with pytest.warns(UserWarning, match=f"1 average.*div.* in the model, have more than {MOST} parts"):
        LRP(Long(MOST + 1).eval(), AttnLRP())(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expl = LRP(Long(MOST).eval(), AttnLRP())(x, audit=True)
    assert "softmax" in expl.ledger.sinks
