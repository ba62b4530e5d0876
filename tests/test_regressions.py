"""Defects that the first readers of the docs found, each with the case that showed it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, EpsilonPlus, EpsilonPlusFlat, GlobalTypeMap, LinearLayer, ProductLayer
from relprop.errors import CaptureError, ImageError, InputError, RuleError
from relprop.explanations.ledger import Entry, Ledger
from relprop.rules import AffineRule, EpsilonRule, FlatRule, ProductRule, ZBoxRule, ZeroRule, ZPlusRule


class Signed(nn.Module):
    """A linear layer behind something that looks non-negative and is not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(8 if kind == "cat" else 4, 3)

    def before(self, x: Tensor) -> Tensor:
        h = F.relu(3 * x)  # a factor behind the ReLU would hide its sign from the analysis
        return {
            "sin": lambda: torch.sin(h),
            "tan": lambda: torch.tan(h),
            "cat": lambda: torch.cat([h, -torch.ones_like(h)], 1),
            "minimum": lambda: torch.minimum(h, -torch.ones(1, 4, dtype=h.dtype)),
            "threshold": lambda: F.threshold(h, 1.0, -1.0),
        }[self.kind]()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.before(x))


@pytest.mark.parametrize("kind", ["sin", "tan", "cat", "minimum", "threshold"])
def test_signs_are_not_taken_for_granted(kind: str) -> None:
    """Relevance in front of the layer is that of the z+ formula with both signs of its input."""
    torch.manual_seed(0)
    model = Signed(kind).double()
    x = torch.rand(40, 4, dtype=torch.float64) * 2
    rules = Composite(GlobalTypeMap({LinearLayer: ZPlusRule()}))
    lrp = LRP(model, rules)
    a = model.before(x).detach()
    assert (a < 0).any()
    for target in range(3):
        ledger = lrp(x, target=target, audit=True).ledger
        assert ledger is not None
        w, b = model.linear.weight[target].detach(), model.linear.bias[target].detach()
        positive = a.clamp(min=0) * w.clamp(min=0) + a.clamp(max=0) * w.clamp(max=0)
        z = positive.sum(1) + b.clamp(min=0) + 1e-9
        (entry,) = [e for e in ledger if e.operator == "linear"]
        assert entry.passed == pytest.approx(float((positive.sum(1) / z).sum()))
        assert entry.sinks["bias"] == pytest.approx(float((b.clamp(min=0) / z).sum()), abs=1e-12)


def test_replaced_parameters_and_modules_are_followed() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(2, 4)
    lrp = LRP(model, ZPlusRule())
    lrp(x, target=0)
    model[0].weight = nn.Parameter(-model[0].weight.detach())
    assert torch.equal(lrp(x, target=0).relevance, LRP(model, ZPlusRule())(x, target=0).relevance)
    model[2] = nn.Linear(3, 2)
    expl = lrp(x, target=0)
    assert torch.allclose(expl.output, model(x))
    assert torch.equal(expl.relevance, LRP(model, ZPlusRule())(x, target=0).relevance)


def test_relevance_is_contiguous() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    expl = LRP(model, EpsilonPlus())(torch.rand(3, 3, 8, 8), layers=True)
    assert expl.relevance.view(3, -1).shape == (3, 192)
    assert all(r.is_contiguous() for r in expl.layers.values())


@pytest.mark.parametrize("name", ["conv2d", "Conv2d"])
def test_tables_before_and_after_the_capture_agree(name: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)
    )
    composite = Composite(
        GlobalTypeMap({name: FlatRule(), "linear": ZPlusRule(), "max_pool2d": ZeroRule(stabilizer=0.5)})
    )
    lrp = LRP(model.eval(), composite)
    before = repr(lrp)
    lrp(torch.rand(2, 1, 6, 6))
    assert repr(lrp) == before
    assert "Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))" in before
    assert before.count("FlatRule()") == before.count("ZPlusRule()") == before.count("ZeroRule(stabilizer=0.5)") == 1


def test_a_list_of_rules_for_a_functional_model_prints() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.linear(x)) + x

    lrp = LRP(Residual(), [ZeroRule()] * 3)
    assert "known after the first call" in repr(lrp)
    lrp(torch.rand(2, 3))
    assert repr(lrp).count("ZeroRule()") == 3


def test_padding_is_no_first_layer() -> None:
    model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    assert "FlatRule" in repr(LRP(model, EpsilonPlusFlat())).splitlines()[2]


def test_product_rule_on_a_linear_layer() -> None:
    with pytest.raises(RuleError, match="Linear"):
        LRP(nn.Sequential(nn.Linear(3, 2)), ProductRule())(torch.rand(2, 3))


def test_only_pictures_are_drawn_as_pictures() -> None:
    with pytest.raises(ImageError, match="no batch of pictures"):
        LRP(nn.Sequential(nn.Linear(3, 2)))(torch.rand(2, 3)).heatmap()


def test_bounds_that_do_not_broadcast() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3))
    with pytest.raises(RuleError, match=r"\(C, 1, 1\)"):
        LRP(model, [ZBoxRule(torch.zeros(3), torch.ones(3))])(torch.rand(2, 3, 8, 8), target=(0, 0, 0))


def test_numpy_targets_and_wrong_layers() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.rand(2, 3)
    assert torch.equal(LRP(model)(x, target=np.int64(1)).relevance, LRP(model)(x, target=1).relevance)
    with pytest.raises(InputError, match="layers=3"):
        LRP(model)(x, layers=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="as a tuple"):
        LRP(model, example_inputs=x)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"shape \(1, 4\)"):
        LRP(model)(torch.rand(1, 4))


def test_analyzers_copy_and_pickle() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.rand(2, 3)
    lrp = LRP(model)
    expected = lrp(x).relevance
    for twin in (copy.deepcopy(lrp), pickle.loads(pickle.dumps(lrp))):
        assert torch.equal(twin(x).relevance, expected)


class TimeFirst(nn.Module):
    """Transposes token ids before it embeds them, as XLNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids.transpose(0, -1).contiguous()).cumsum(0)[-1])


def test_transposed_ids_are_explained_as_they_came() -> None:
    torch.manual_seed(0)
    model = TimeFirst().double()
    ids = torch.randint(0, 10, (2, 5))
    explained = LRP(model, ZeroRule(bias="ignore"))(ids, target=1)
    assert explained.relevance.shape == (2, 5, 4)
    shares = model.embedding(ids) * model.head.weight[1]
    assert torch.allclose(explained.relevance, shares / shares.sum((1, 2), keepdim=True), atol=1e-6)


class Excited(nn.Module):
    """An activated signal, weighed by a gate."""

    def __init__(self, gate: nn.Module, signal: nn.Module) -> None:
        super().__init__()
        self.gate, self.signal = gate, signal

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.signal(x) * self.gate(y)


@pytest.mark.parametrize("signal", [nn.SiLU(), nn.Hardswish(), nn.ReLU(), nn.GELU(), nn.Tanh()], ids=str)
@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Hardsigmoid(), nn.Softmax(-1)], ids=str)
def test_the_signal_of_squeeze_and_excitation_is_activated_too(gate: nn.Module, signal: nn.Module) -> None:
    composite = Composite(GlobalTypeMap({ProductLayer: ProductRule("signal")}))
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -0.5]])
    of_x, of_y = LRP(Excited(gate, signal), composite)(x, y, target=1).relevance
    assert torch.allclose(of_x, torch.tensor([[0.0, 1.0]]))
    assert not of_y.any()


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_a_gate_of_another_resolution_is_a_gate(mode: str) -> None:
    composite = Composite(GlobalTypeMap({ProductLayer: ProductRule("signal")}))
    x, y = torch.rand(2, 1, 4, 4), torch.randn(2, 1, 2, 2)
    model = Excited(nn.Sequential(nn.Sigmoid(), nn.Upsample(scale_factor=2, mode=mode)), nn.ReLU())
    of_x, of_y = LRP(model, composite)(x, y, target=(0, 1, 1)).relevance
    assert torch.allclose(of_x.sum((1, 2, 3)), torch.ones(2))
    assert not of_y.any()


def test_a_ledger_does_not_hide_what_is_no_number() -> None:
    def entry(received: float, magnitude: float) -> Entry:
        return Entry("n", "conv2d", "m", ZeroRule(), received, 1.0, {}, magnitude)

    for received in (float("nan"), float("inf")):
        for entries in ([entry(1.0, 1.0), entry(received, 1.0)], [entry(received, float("inf")), entry(1.0, 1.0)]):
            assert Ledger(tuple(entries), 1.0, 1.0).imbalance == float("inf")


def test_assignments_to_slices_are_moves() -> None:
    """A buffer filled part by part, as DeepSeek makes its keys, is a concatenation."""

    class Filled(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            buffer = x.new_empty(x.shape[0], 4)
            buffer[:, :3] = x
            buffer[:, 3:] = y.mean(1, keepdim=True)
            return buffer

    class Joined(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.cat([x, y.mean(1, keepdim=True)], 1)

    x, y = torch.rand(2, 3), torch.rand(2, 2)
    lrp = LRP(Filled())
    for target in (1, 3):
        for part, expected in zip(
            lrp(x, y, target=target).relevance, LRP(Joined())(x, y, target=target).relevance, strict=True
        ):
            assert torch.equal(part, expected)
        ledger = lrp(x, y, target=target, audit=True).ledger
        assert ledger is not None
        assert ledger.imbalance <= 1e-6


@pytest.mark.parametrize("make", [Tensor.new_empty, lambda x, *size: torch.empty(size), torch.empty_like])
def test_memory_that_was_never_written_is_in_no_book(
    make: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN stands for what may lie in memory. PyTorch fills fresh memory with it where it must be deterministic."""

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            buffer = make(x) if make is torch.empty_like else make(x, 2, 2)
            buffer[:, :1] = x[:, :1] * 2
            buffer[:, 1:] = x[:, 1:]
            return buffer * torch.tensor([1.0, 3.0])

    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        expl = LRP(Half())(torch.ones(2, 2), target=0, audit=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert expl.ledger is not None
    assert expl.ledger.imbalance <= 1e-6
    assert torch.equal(expl.relevance, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


def test_a_tensor_that_only_lends_its_shape_need_not_be_there_anymore() -> None:
    class Like(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1, keepdim=True).expand_as(self.linear(x))

    assert torch.allclose(LRP(Like())(torch.ones(2, 3), target=0).relevance, torch.full((2, 3), 1 / 3))


def test_the_name_of_a_constant_is_found_however_many_paths_lead_to_it() -> None:
    """Two to the power of forty paths lead from the shift that is added to the parameter that it comes from."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            shift = self.offset * 1
            for _ in range(40):
                shift = shift * 0.25 + shift * 0.75
            return x[:, :1] + shift

    expl = LRP(Deep())(torch.ones(2, 1), target=0, audit=True)
    assert expl.ledger is not None
    assert expl.ledger.sinks["offset"] == pytest.approx(1.0)


class Masked(nn.Module):
    """Causal attention spelled out, and a padded maximum; what is put in is `fill`."""

    def __init__(self, kind: str, fill: float) -> None:
        super().__init__()
        self.kind, self.fill = kind, fill
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(4, 4).double() for _ in range(3))
        self.register_buffer("mask", torch.full((3, 3), fill, dtype=torch.float64).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2) * 0.5
        if self.kind == "pooled":
            return F.max_pool1d(F.pad(scores, (1, 0), value=self.fill), 2)[:, 1]
        if self.kind == "scattered":  # as mixtures of experts do with the expert that was taken
            scores = scores.scatter(-1, torch.full_like(scores[..., :1], 2, dtype=torch.long), self.fill)
        scores = scores + self.mask if self.kind == "added" else scores.masked_fill(self.mask < 0, self.fill)
        return (scores.softmax(-1) @ self.v(x))[:, 1]


@pytest.mark.parametrize("rule", [ZeroRule(), EpsilonRule(1e-6)], ids=repr)
@pytest.mark.parametrize("kind", ["added", "filled", "pooled", "scattered"])
def test_minus_infinity_is_a_large_negative_number(kind: str, rule: AffineRule) -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    infinite, finite = (LRP(Masked(kind, fill), rule) for fill in (-torch.inf, -1e6))
    expl = infinite(x, target=0, audit=True)
    assert torch.allclose(expl.relevance, finite(x, target=0).relevance, rtol=1e-6)
    assert torch.equal(expl.relevance, infinite(x, target=0).relevance)
    assert expl.ledger is not None
    assert expl.ledger.imbalance <= 1e-6


class Region(nn.Module):
    """Regions with a setting of their own, one in the other, one with two results, one that writes in place."""

    def __init__(self, enabled: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enabled, self.linear = enabled, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x)
        if self.enabled:
            with torch.autocast("cpu", enabled=False):
                a, b = torch.relu_(h * 2), h * 3
                with torch.autocast("cpu", enabled=False):
                    b = self.linear(b)
                b[:, 0] = a[:, 1]
        else:
            a, b = torch.relu_(h * 2), self.linear(h * 3)
            b[:, 0] = a[:, 1]
        return a + b


def test_regions_without_autocast_are_like_any_other() -> None:
    x = torch.randn(2, 3)
    inside, outside = (LRP(Region(enabled))(x, target=0) for enabled in (True, False))
    assert torch.equal(inside.relevance, outside.relevance)
    assert torch.equal(inside.output, outside.output)


class Reader(nn.Module):
    """A sentence's last state: by packing, or by reading the padded batch at each sample's own last step."""

    def __init__(self, packs: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.packs, self.lstm, self.head = packs, nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.packs:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.head(self.lstm(packed)[1][0][-1])
        return self.head(self.lstm(x)[0][torch.arange(len(x)), lengths - 1])


def test_packed_sequences_are_refused_with_the_way_around_them() -> None:
    x, lengths = torch.randn(3, 5, 4), torch.tensor([5, 2, 3])
    with pytest.raises(CaptureError, match=r"output\[torch\.arange\(len\(x\)\), lengths - 1\]"):
        LRP(Reader(packs=True))(x, lengths, target=0)
    expl = LRP(Reader(packs=False))(x, lengths, target=0)
    assert torch.allclose(expl.output, Reader(packs=True)(x, lengths), atol=1e-6)
    assert expl.relevance[0].abs().sum(-1).all()
    assert not expl.relevance[1, 2:].any()
    alone = LRP(Reader(packs=False))(x[1:2, :2], lengths[1:2], target=0).relevance
    assert torch.allclose(expl.relevance[1:2, :2], alone, rtol=1e-4, atol=1e-6)
    with pytest.raises(CaptureError) as other:
        LRP(Branches())(torch.rand(2, 3))
    assert "pack" not in str(other.value)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x
