"""Concept Relevance Propagation, against relevance worked out by hand and by dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP, EpsilonPlus, EpsilonPlusFlat
from relprop.concepts import (
    CRP,
    Channels,
    Concepts,
    Directions,
    Entries,
    Heads,
    IndexedFeatures,
    Neurons,
    Tokens,
    TopNFeatures,
)
from relprop.engine.program import answer as room
from relprop.errors import InputError, TargetError
from relprop.rules import ZeroRule


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)
    ).double()


X = torch.rand(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Shortcut(nn.Module):
    """`W3 (relu(W1 x) + W2 x)`, without biases."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.one, self.two, self.three = (nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.relu(self.one(x)) + self.two(x))


def test_the_reference_implementations_own_example() -> None:
    """RelevancePropagation.jl works it out by hand: feature 2 of its layer 1 takes 36/51, each input gets 16/51."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 3.0], [4.0, 2.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 1.0]))
        model[1].weight.copy_(torch.tensor([[2.0, 4.0], [3.0, 1.0]]))
        model[1].bias.copy_(torch.tensor([1.0, 2.0]))
    concepts = CRP(LRP(model), 0, TopNFeatures(1))(torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    assert_close(concepts.relevance, torch.full((1, 1, 2), 16 / 51, dtype=torch.float64), rtol=1e-8)
    assert concepts.features.tolist() == [[1]]
    assert_close(concepts.feature_relevance, torch.tensor([[36 / 51]], dtype=torch.float64), rtol=1e-8)
    assert_close(concepts.scores, torch.tensor([[14 / 51, 36 / 51]], dtype=torch.float64), rtol=1e-8)


@pytest.mark.parametrize("layer", ["0", "1", "2", 2])
@pytest.mark.parametrize("chunk", [None, 3])
def test_all_features_add_up_to_the_whole(layer: str | int, chunk: int | None) -> None:
    lrp = LRP(convolutional(), EpsilonPlus())
    n = 5 if layer in ("2", 2) else 4
    concepts = CRP(lrp, layer, IndexedFeatures(*range(n)))(X, target=1, chunk=chunk)
    whole = lrp(X, target=1, layers=[str(layer)])
    assert_close(concepts.relevance.sum(0), whole.relevance, rtol=1e-10)
    assert_close(concepts.scores, whole.layers[str(layer)].sum((2, 3)), rtol=1e-10)


def test_each_is_a_mask_of_its_own() -> None:
    lrp = LRP(convolutional(), EpsilonPlus())
    top = CRP(lrp, "2", TopNFeatures(3))(X, target=0)
    assert torch.equal(top.features, top.scores.argsort(1, descending=True)[:, :3].T)
    for k, part in enumerate(top):
        mask = torch.zeros(3, 5, 1, 1).scatter(1, top.features[k].view(3, 1, 1, 1), 1)
        alone = lrp(X, target=0, conditions={"2": mask})
        assert_close(part.relevance, alone.relevance, rtol=1e-10)
    assert torch.equal(top.flat.reshape(3, 3, *X.shape[1:]), top.relevance)  # feature by feature
    assert torch.equal(top.flat[1 * 3 + 2], top[1].relevance[2])
    twice = CRP(lrp, "2", IndexedFeatures(1, 1))(X, target=0)
    assert torch.equal(twice.relevance[0], twice.relevance[1])


def test_against_dense_matrices() -> None:
    """`R_i = Σ_j z_ij / z_j 1[j in S] R_j`, with every z_ij written down."""
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)
    )
    model = model.double()
    x = torch.rand(1, 4, dtype=torch.float64)
    with torch.no_grad():
        a = model[:2](x)[0]
        b = model[:4](x)[0]
        logit = model(x)[0, 2]
        R_b = b * model[4].weight[2] / logit
        z = model[2].weight * a
        kept = {1: [0, 2], 0: [1, 3, 4]}  # union in a layer, intersection across
        mask_b = torch.zeros(5, dtype=torch.float64).index_fill(0, torch.tensor(kept[1]), 1)
        mask_a = torch.zeros(6, dtype=torch.float64).index_fill(0, torch.tensor(kept[0]), 1)
        R_a = (z / z.sum(1, keepdim=True)).T @ (mask_b * R_b)
        z = model[0].weight * x[0]
        R_x = (z / z.sum(1, keepdim=True)).T @ (mask_a * R_a)
    lrp = LRP(model, ZeroRule(stabilizer=0.0), normalize_output=True)
    found = lrp(x, target=2, conditions={"2": Channels(*kept[1]), "0": Channels(*kept[0])})
    assert_close(found.relevance[0], R_x, rtol=1e-9)


@pytest.mark.parametrize("chunk", [None, 4])
def test_paths(chunk: int | None) -> None:
    """A feature's own way, without that by the shortcut, or beside it."""
    model = Shortcut().double()
    x = torch.rand(2, 4, dtype=torch.float64)
    lrp = LRP(model, ZeroRule(stabilizer=0.0), normalize_output=False)
    with torch.no_grad():
        on = (model.one(x) > 0).double()
        up = model.three.weight[1]
        ways = torch.einsum("bj,ji,bi->jbi", on * up, model.one.weight, x)
        shortcut = (up @ model.two.weight) * x
    four = IndexedFeatures(0, 1, 2, 3)
    through = CRP(lrp, "relu", four)(x, target=1, chunk=chunk).relevance
    assert_close(through, ways, rtol=1e-9)
    beside = CRP(lrp, "relu", four, paths="all")(x, target=1, chunk=chunk).relevance
    assert_close(beside, ways + shortcut, rtol=1e-9)
    audited = lrp(x, target=1, conditions={"relu": Channels(2)}, paths="through", audit=True)
    assert_close(audited.relevance, ways[2], rtol=1e-9)
    assert audited.ledger.imbalance < 1e-12
    kept = audited.ledger.output - audited.ledger.input - audited.ledger.sinks["bias"]
    assert kept == pytest.approx(audited.ledger.sinks["condition"], abs=1e-9)
    with pytest.raises(InputError, match="No way through"):
        lrp(x, conditions={"relu": Channels(2), "two": Channels(1)}, paths="through")
    with pytest.raises(InputError, match="neither"):
        lrp(x, paths="some")


def test_directions() -> None:
    """Those of a basis add up to the whole, and a direction is what a virtual layer there and back makes of it."""
    torch.manual_seed(2)
    model, basis = convolutional(), torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    lrp = LRP(model, EpsilonPlus())
    every = CRP(lrp, "3", IndexedFeatures(*range(5)), group=Directions(basis))(X, target=2)
    whole = lrp(X, target=2, coefficients="3", activations="3", layers="3")
    assert_close(every.relevance.sum(0), whole.relevance, rtol=1e-9)
    a, c = whole.activations["3"], whole.coefficients["3"]
    assert_close(a * c, whole.layers["3"], rtol=1e-9)
    scores = torch.einsum("bchw,kc,bdhw,kd->bk", a, basis, c, basis)
    assert_close(every.scores, scores, rtol=1e-9)

    class Virtual(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return torch.einsum("kc,bkhw->bchw", basis[1:2], torch.einsum("kc,bchw->bkhw", basis[1:2], h))

    cut = nn.Sequential(*model[:4])
    seed = (a * torch.einsum("bdhw,d,c->bchw", c, basis[1], basis[1])).detach()
    assert_close(every[1].relevance, LRP(cut, EpsilonPlus())(X, target=lambda y: seed).relevance, rtol=1e-9)
    pair = lrp(X, target=2, conditions={"3": Directions(basis, 0, 1)}, audit=True)
    assert_close(pair.relevance, every[0].relevance + every[1].relevance, rtol=1e-9)
    assert pair.ledger.imbalance < 1e-9
    encoder = torch.randn(2, 5, dtype=torch.float64)
    decoder = torch.linalg.pinv(encoder).T
    own = lrp(X, target=2, conditions={"3": Directions(encoder, 0, 1, decoder=decoder)}).relevance
    assert_close(own, lrp(X, target=2, conditions={"3": Directions(encoder, 0, 1)}).relevance, rtol=1e-9)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.down, self.head = nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head((h + self.down(self.up(h).relu())).mean(1))


@pytest.mark.parametrize(
    ("layer", "group", "n"),
    [
        ("attention:scaled_dot_product_attention", Channels(), 2),
        ("up", Neurons(), 6),
        ("up", Tokens(), 4),
        ("up", Entries(), 24),
        ("down:input", Heads(3), 3),
    ],
)
def test_groups_add_up(layer: str, group: Channels, n: int) -> None:
    lrp, x = LRP(Attention().double().eval()), torch.rand(2, 4, 8, dtype=torch.float64)
    every = CRP(lrp, layer, IndexedFeatures(*range(n)), group=group)(x, target=1)
    reference = lrp(x, target=1, layers=[layer]).layers[layer]
    assert every.scores.shape == (2, n)
    assert_close(every.scores.sum(1), reference.flatten(1).sum(1), rtol=1e-9)
    mask = lrp(x, target=1, conditions={layer: torch.ones(())}, paths="through")
    assert_close(every.relevance.sum(0), mask.relevance, rtol=1e-9)
    union = type(group)(*([group.heads] if isinstance(group, Heads) else []), 0, n - 1)
    both = lrp(x, target=1, conditions={layer: union}, paths="through").relevance
    assert_close(both, every.relevance[0] + every.relevance[n - 1], rtol=1e-9)


def test_a_layer_and_its_features_as_one_value() -> None:
    lrp, x = LRP(Attention().double().eval()), torch.rand(2, 4, 8, dtype=torch.float64)
    found = CRP(lrp, Concepts("up", Neurons()), TopNFeatures(2))(x, target=1)
    assert torch.equal(found.relevance, CRP(lrp, "up", TopNFeatures(2), group=Neurons())(x, target=1).relevance)


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.gate, self.head = nn.Linear(4, 3), nn.Linear(5, 2, bias=False)
        self.experts = nn.ModuleList(nn.Linear(4, 5) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1)
        return self.head(sum(weights[:, i, None] * expert(x) for i, expert in enumerate(self.experts)))


def test_experts() -> None:
    """Each is a layer; what passes each of them adds up to what passes no gate."""
    lrp, x = LRP(Mixture().double(), AttnLRP()), torch.rand(2, 4, dtype=torch.float64)
    names = [f"experts.{i}" for i in range(3)]
    assert set(lrp(x, target=1, layers="experts.*").layers) == set(names)
    conditions = [{name: torch.ones(())} for name in names]
    parts = lrp.each(x, targets=[1], conditions=conditions, paths="through", layers="experts.*")
    assert all(bool(part.layers[name].any()) for name, part in zip(names, parts, strict=True))
    without = lrp(x, target=1, conditions={"gate": "stop"})
    assert_close(sum(part.relevance for part in parts), without.relevance, rtol=1e-9)


def test_heads_are_those_of_the_attention_operator() -> None:
    """Side by side before the output projection, or in a dimension of their own."""
    lrp, x = LRP(Attention().double().eval()), torch.rand(2, 4, 8, dtype=torch.float64)
    name = "attention:scaled_dot_product_attention"
    found = lrp(x, target=1, layers=[name]).layers[name]
    beside = found.transpose(1, 2).flatten(2)
    assert_close(Heads(2).sums(beside), Channels().sums(found), rtol=1e-12)


def test_relevance_comes_down_to_the_layer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    backward = room.backward
    monkeypatch.setattr(room, "backward", lambda some, *rest: steps.append(len(some)) or backward(some, *rest))
    CRP(LRP(convolutional(), EpsilonPlus()), "2", IndexedFeatures(0, 1, 2, 3))(X, target=1)
    above, *below = steps
    assert below == [3] * 4
    assert above + 3 == 6


def test_edges_and_inputs_of_modules() -> None:
    model = Shortcut().double()
    x = torch.rand(2, 4, dtype=torch.float64)
    lrp = LRP(model, ZeroRule())
    expl = lrp(x, target=1, edges=[("relu", ":add"), ("two", ":add")], layers=["relu", "two", ":add", "three:input"])
    assert_close(expl.edges["relu -> :add"], expl.layers["relu"], rtol=1e-12)
    assert_close(sum(expl.edges.values()), expl.layers[":add"], rtol=1e-6)
    assert torch.equal(expl.layers["three:input"], expl.layers[":add"])
    with pytest.raises(InputError, match="what reads it is :add"):
        lrp(x, edges=[("relu", "three")])


def test_refusals_come_before_work() -> None:
    lrp = LRP(convolutional())
    lrp(X)
    wrong = {
        "has 5, 0 to 4|only": lambda: CRP(lrp, "2", TopNFeatures(6))(X),
        "out of range": lambda: CRP(lrp, "2", IndexedFeatures(5))(X),
        "starts at": lambda: CRP(lrp, 5, TopNFeatures(1))(X),
        "no layer of that number": lambda: CRP(lrp, 6, TopNFeatures(1))(X),
        "matches no module": lambda: CRP(lrp, "nothing", TopNFeatures(1))(X),
        "at least 1": lambda: TopNFeatures(0),
        "numbers of features": lambda: IndexedFeatures(-1),
        "names no features": lambda: lrp(X, conditions={"2": Channels()}),
        "not made of 3 heads": lambda: lrp(X, conditions={"0": Heads(3, 1)}),
        "takes an LRP analyzer": lambda: CRP(convolutional(), "2", TopNFeatures(1)),
        "do not fit": lambda: lrp(X, conditions={"2": Directions(torch.eye(4), 0)}),
        "give what a feature is": lambda: CRP(lrp, "2", TopNFeatures(1), group=Channels(1)),
    }
    for message, call in wrong.items():
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(TargetError):
        CRP(lrp, "2", TopNFeatures(1))(X, target=9)


def test_the_demo_models_watermark_has_a_channel() -> None:
    """Found from relevance alone, by comparing pictures of stars with and without the mark."""
    from relprop.evaluation.localization import positive_share
    from relprop.models import demo
    from relprop.models.demo.pictures import draw, paste_watermark

    rng = np.random.default_rng(0)
    stars = [draw(rng, demo.CLEVER_HANS) for _ in range(16)]
    marked = [paste_watermark(rng, star) for star in stars]
    plain, tagged = (demo.to_input(np.stack([p.image for p in pictures])) for pictures in (stars, marked))
    lrp, layer = LRP(demo.load_model(), EpsilonPlusFlat()), "features.block2.relu"
    with_mark, without = (
        Channels().sums(lrp(x, target=demo.CLEVER_HANS, layers=layer).layers[layer]) for x in (tagged, plain)
    )
    more = with_mark / with_mark.sum(1, keepdim=True) - without / without.sum(1, keepdim=True)
    found = (more.mean(0) / more.std(0)).argsort(descending=True)[:8].tolist()

    samples = [s for s in demo.load_samples() if s.artefact_mask.any() and s.label == demo.CLEVER_HANS]
    x = torch.cat([demo.to_input(s.image[None]) for s in samples])

    def in_the_mark(relevance: Tensor) -> tuple[float, float]:
        """The share of positive relevance in the mark, and how much that is."""
        shares = [positive_share(r, s.artefact_mask).relevance for r, s in zip(relevance, samples, strict=True)]
        amounts = [
            float(r.sum(0).clamp(min=0)[torch.from_numpy(s.artefact_mask)].sum())
            for r, s in zip(relevance, samples, strict=True)
        ]
        return float(np.mean(shares)), sum(amounts)

    whole = in_the_mark(lrp(x, target=demo.CLEVER_HANS).relevance)
    concept = in_the_mark(CRP(lrp, layer, IndexedFeatures(found[0]))(x, target=demo.CLEVER_HANS)[0].relevance)
    mask = torch.ones(32, 1, 1)
    mask[found] = 0
    left = in_the_mark(lrp(x, target=demo.CLEVER_HANS, conditions={layer: mask}).relevance)
    assert whole[0] < 0.6
    assert concept[0] > 0.75, f"channel {found[0]}: {concept[0]:.2f} of its positive relevance is in the mark"
    assert left[1] < 0.4 * whole[1], "without its channels the explanation still points at the mark"
