"""Reference samples of features, by relevance and by activation, against their definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import EpsilonPlus, EpsilonPlusFlat
from relprop.concepts import Blocks, Channels, Heads, Neurons, References, Tokens, collect
from relprop.concepts.store import Store
from relprop.errors import InputError

N = 14
X = torch.rand(N, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.3
Y = torch.randint(0, 3, (N,), generator=torch.Generator().manual_seed(2))
ALONE = [(X[i : i + 1], Y[i : i + 1]) for i in range(N)]


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)
    ).double()


def analyzer() -> LRP:
    return LRP(model(), EpsilonPlus())


def amounts() -> LRP:
    """Relevance in units of the output, which scores are in whatever the analyzer starts with."""
    return LRP(model(), EpsilonPlus(), normalize_output=False)


def test_scores_by_relevance_and_by_activation() -> None:
    lrp = analyzer()
    relevance, activation = References(lrp, "1", k=5), References(lrp, "2", kind="activation", k=5)
    collect([(X[:9], Y[:9]), (X[9:], Y[9:])], [relevance, activation])
    whole = amounts()(X, target=Y, layers="1", activations="2")
    R, a = whole.layers["1"], whole.activations["2"]
    assert float(a.amin()) < 0, "nothing to rectify"
    for found, scores, entries in (
        (relevance.store.top, R.sum((2, 3)), R.flatten(2)),
        (activation.store.top, a.clamp(min=0).amax((2, 3)), a.flatten(2)),
    ):
        for f in range(scores.shape[1]):
            order = sorted(range(N), key=lambda i, f=f, scores=scores: (-float(scores[i, f].float()), i))[:5]
            assert found.sample[f].tolist() == order
            assert_close(found.score[f], scores[order, f], rtol=1e-6)
            assert found.neuron[f].tolist() == entries[order, f].argmax(1).tolist()
            assert found.label[f].tolist() == Y[order].tolist()


def test_labels_targets_or_the_largest_output_are_explained() -> None:
    lrp = analyzer()
    predicted = References(lrp, "1", k=N).collect([X])
    largest = lrp(X, layers="1")
    assert predicted.store.top.label[0].tolist() == largest.target[predicted.store.top.sample[0]].tolist()
    given = References(lrp, "1", k=N, target=2).collect([(X, Y)])
    scores = amounts()(X, target=2, layers="1").layers["1"].sum((2, 3))
    assert_close(given.store.top.score[1], scores[given.store.top.sample[1], 1], rtol=1e-6)
    assert given.store.top.label[1].tolist() == Y[given.store.top.sample[1]].tolist()


@pytest.mark.parametrize("normalize", [True, False, "magnitude"])
def test_scores_are_in_units_of_the_output(normalize: Any) -> None:
    """A share of an output near 0 is large whatever the sample shows; such samples are not the first."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
        net[2].weight.copy_(torch.tensor([[2.0, -1.0]]))
    x = torch.tensor([[1.0, 1.999], [3.0, 1.0], [1.5, 4.0]], dtype=torch.float64)
    found = References(LRP(net, normalize_output=normalize), "1", target=0, k=3).collect([x]).store.top
    assert found.sample[0].tolist() == [1, 2, 0]
    assert_close(found.score, torch.tensor([[6.0, 3, 2], [-1, -1.999, -4]]), rtol=1e-3)


def test_parts_in_any_order_and_resumed_are_one_pass(tmp_path: Path) -> None:
    def new(path: Path | None = None) -> References:
        return References(analyzer(), "3", k=4, dataset="random", path=path)

    one = new().collect(ALONE)
    parts = [new().collect(ALONE[a:b], start=a) for a, b in ((9, 14), (0, 4), (4, 9))]
    merged = parts[0].store.merged(parts[1].store).merged(parts[2].store)
    file = tmp_path / "references.safetensors"
    new(file).collect(ALONE[:6], every=2)
    again = new(file)
    assert again.store.count == 6
    again.collect(ALONE)
    one.save(tmp_path / "one")
    merged.save(tmp_path / "merged")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "merged").read_bytes() == file.read_bytes()


def test_what_was_seen_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lrp, sizes = analyzer(), []
    explain = lrp.explain
    monkeypatch.setattr(lrp, "explain", lambda x, *rest, **named: sizes.append(len(x)) or explain(x, *rest, **named))
    found = References(lrp, "1", k=3).collect([(X[:4], Y[:4])]).collect([(X[:3], Y[:3]), (X[3:9], Y[3:9])])
    assert sizes == [4, 5]
    assert found.store.seen == ((0, 8),)
    assert_close(found.store.top.score, References(lrp, "1", k=3).collect([(X[:9], Y[:9])]).store.top.score, rtol=1e-6)


def test_an_interrupted_pass_leaves_a_file_to_resume_from(tmp_path: Path) -> None:
    file = tmp_path / "references.safetensors"

    def broken() -> Any:
        yield from ALONE[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        References(analyzer(), "1", path=file).collect(broken(), every=2)
    assert Store.load(file).seen == ((0, 3),)


def test_other_things_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "references.safetensors"
    same: dict[str, Any] = {"preprocessing": "p", "dataset": "d"}
    References(analyzer(), "1", **same).collect(ALONE[:2]).save(file)
    assert References(analyzer(), "1", **same, path=file).store.count == 2
    trained = model()
    with torch.no_grad():
        trained[2].bias[3] += 1e-9
    others = {
        "model": lambda: References(LRP(trained, EpsilonPlus()), "1", **same, path=file),
        "composite": lambda: References(LRP(model(), EpsilonPlusFlat()), "1", **same, path=file),
        "settings": lambda: References(LRP(model(), EpsilonPlus(), normalize_output=False), "1", **same, path=file),
        "layer": lambda: References(analyzer(), "3", **same, path=file),
        "group": lambda: References(analyzer(), "1", group=Neurons(), **same, path=file),
        "kind and target|kind": lambda: References(analyzer(), "1", kind="activation", **same, path=file),
        "target": lambda: References(analyzer(), "1", target=1, **same, path=file),
        "preprocessing": lambda: References(analyzer(), "1", dataset="d", path=file),
        "dataset": lambda: References(analyzer(), "1", preprocessing="p", path=file),
        "k": lambda: References(analyzer(), "1", k=3, **same, path=file),
    }
    for name, call in others.items():
        with pytest.raises(InputError, match=f"a different ({name}) do not mix"):
            call()
    lrp = analyzer()
    found = References(lrp, "1").collect(ALONE[:2])
    with torch.no_grad():
        lrp.model[0].weight.mul_(1.1)
    with pytest.raises(InputError, match="a different model do not mix"):
        found.collect(ALONE[2:4], start=2)


def test_how_the_analyzer_was_used_before_is_no_part_of_the_fingerprint() -> None:
    used, fresh = LRP(model(), EpsilonPlus(), memory="low"), analyzer()
    used(X)
    assert References(used, "1").store.fingerprint == References(fresh, "1").store.fingerprint


def test_references_by_relevance_are_the_class_under_the_condition() -> None:
    lrp = analyzer()
    for i, found in enumerate(References(lrp, "1").collect([(X, Y)]).of(2, X, 3)):
        x, label = X[found.sample][None], int(Y[found.sample])
        assert found.label == label
        assert torch.equal(found.input, x[0])
        under = lrp(x, target=label, conditions={"1": Channels(2)}, layers="1")
        assert_close(found.relevance, under.relevance[0], rtol=1e-9, what=f"reference {i}")
        R = under.layers["1"][0, 2]
        mask = torch.zeros(1, 4, 4, 4, dtype=torch.float64)
        mask[0, 2].view(-1)[R.argmax()] = 1
        assert_close(found.field, lrp(x, target=label, conditions={"1": mask}).relevance[0], rtol=1e-9)


def test_references_of_one_class() -> None:
    found = References(analyzer(), "1", per_class=2).collect([(X, Y)])
    scores = amounts()(X, target=Y, layers="1").layers["1"].sum((2, 3))[:, 2]
    for label in range(3):
        order = sorted((label == Y).nonzero()[:, 0].tolist(), key=lambda i: (-float(scores[i].float()), i))[:2]
        assert [r.sample for r in found.of(2, X, label=label)] == order
        assert {r.label for r in found.of(2, X, label=label)} == {label}
    assert all(t.dtype == torch.int32 for t in (found.store.top.neuron, found.store.top.label))


def test_what_goes_around_the_layer_is_not_the_features() -> None:
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.one, self.two, self.three = (nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.three(self.one(x) + self.two(x))

    lrp, x = LRP(Shortcut().double()), torch.rand(3, 4, dtype=torch.float64)
    found = References(lrp, "one", target=1).collect([x]).of(2, x, 1)[0]
    asked = {"target": 1, "conditions": {"one": Channels(2)}}
    through, everything = (
        lrp(x[found.sample][None], **asked, paths=paths).relevance[0] for paths in ("through", "all")
    )
    assert_close(found.relevance, through, rtol=1e-9)
    assert not torch.allclose(through, everything, rtol=0.1)


def test_references_by_activation_start_at_the_rectified_feature() -> None:
    lrp, net = analyzer(), model()
    cut = LRP(net[:3], EpsilonPlus())
    for found in References(lrp, "2", kind="activation").collect([X]).of(4, [(x, 0) for x in X], 3):
        x = X[found.sample][None]
        a = net[:3](x).detach().clamp(min=0)
        seed, single = torch.zeros_like(a), torch.zeros_like(a)
        seed[:, 4] = a[:, 4]
        single[0, 4].view(-1)[a[0, 4].argmax()] = a[0, 4].max()
        assert_close(found.relevance, cut(x, target=lambda y, seed=seed: seed).relevance[0], rtol=1e-9)
        assert_close(found.field, cut(x, target=lambda y, single=single: single).relevance[0], rtol=1e-9)


@pytest.mark.parametrize("group", [Channels(), Neurons(), Tokens(), Heads(3)], ids=repr)
def test_entries_and_single_ones_of_each_group(group: Blocks) -> None:
    value = torch.arange(2 * 4 * 5 * 6, dtype=torch.float64).view(2, 4, 5, 6)
    value = value[:, 0] if isinstance(group, (Tokens, Heads)) else value
    entries = group.entries(value)
    assert_close(entries.sum(2), group.sums(value), rtol=1e-12)
    features, places = torch.tensor([1, 2]), torch.tensor([3, 4])
    single = group.single(features, places, value)
    assert single.shape == value.shape
    assert single.flatten(1).sum(1).tolist() == [1, 1]
    assert (single * value).flatten(1).sum(1).tolist() == [float(entries[b, features[b], places[b]]) for b in (0, 1)]


def test_inputs_with_names_and_features_of_tokens() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.head((self.up(x).relu() * scale[:, None, None]).mean(1))

    torch.manual_seed(0)
    lrp = LRP(Two().double())
    data = {"x": torch.rand(6, 5, 3, dtype=torch.float64), "scale": torch.ones(6, dtype=torch.float64)}
    found = References(lrp, "up", group=Neurons(), k=2).collect([(data, torch.zeros(6, dtype=torch.long))])
    first = found.of(1, [{name: value[i] for name, value in data.items()} for i in range(6)], 1)[0]
    assert first.relevance.shape == (5, 3)
    assert set(first.input) == {"x", "scale"}


def test_refusals() -> None:
    lrp = analyzer()
    wrong = {
        "neither 'relevance' nor": lambda: References(lrp, "1", kind="both"),
        "a layer's name": lambda: References(lrp, 1),
        "LRP analyzer": lambda: References(model(), "1"),
        "made of entries": lambda: References(lrp, "1", group=Channels(2)),
        "at least 1": lambda: References(lrp, "1", k=0),
        "no feature 9": lambda: References(lrp, "1").collect([X]).of(9, X),
        "of classes .0, 1, 2. were seen": lambda: References(lrp, "1").collect([(X, Y)]).of(0, X, label=7),
        "no feature 0": lambda: References(lrp, "1").of(0, X),
        "A batch is": lambda: References(lrp, "1").collect([(X, Y.double())]),
        "one analyzer": lambda: collect([X], [References(lrp, "1"), References(analyzer(), "1")]),
        "one target": lambda: collect([X], [References(lrp, "1"), References(lrp, "3", target=1)]),
        "no file to write to": lambda: References(lrp, "1").save(),
    }
    for message, call in wrong.items():
        with pytest.raises(InputError, match=message):
            call()
