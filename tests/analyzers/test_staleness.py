"""The next explanation is that of the model as it is now, whatever was done to it since the last one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.compare import assert_each_close
from torch import Tensor, nn
from torch.nn.utils import parametrize

from relprop import LRP, RelpropError
from relprop.analyzers import captures
from relprop.composites import EpsilonPlus
from relprop.engine.graph.shadow import copy_modules
from relprop.explanations.explanation import Explanation
from relprop.rules import ZPlusRule


class Flags:
    """Settings in an object of their own, as configs are."""

    def __init__(self) -> None:
        self.gain = 1.0


class Net(nn.Module):
    """Reads attributes of all kinds."""

    scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.head = nn.Linear(4, 8), nn.LeakyReLU(0.1), nn.Linear(8, 3)
        self.register_buffer("shift", torch.full((8,), 0.1))
        self.mask, self.gain, self.merged = torch.ones(4), 1.0, False
        self.nested: dict[str, Any] = {"heads": [{"gain": 1.0}, 2]}
        self.flags = Flags()
        self.unregistered = [nn.LeakyReLU(0.1)]
        self.calls = 0
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = self.act(self.first(x * self.mask) + self.shift)
        self.kept = h
        h = h if self.merged else h * 2
        h = self.unregistered[0](h) * self.nested["heads"][0]["gain"] * self.flags.gain * self.scale
        return self.between(self.head(h)) * self.gain

    def between(self, h: Tensor) -> Tensor:
        return h


class Times(nn.Module):
    """w -> 3 w."""

    def forward(self, w: Tensor) -> Tensor:
        return 3 * w


def times_two(module: nn.Module, given: Any, out: Tensor) -> Tensor:
    return out * 2


def nothing_from_entry_one(module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    return (given[0] * torch.tensor([1.0, 0, 1, 1, 1, 1, 1, 1]),)


def without_version(parameter: Tensor) -> None:
    parameter.data[1] *= -2


def fused_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, fused=True)
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()


def tied(model: Net) -> None:
    model.first = nn.Linear(4, 4)
    model.act = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    model.shift = torch.zeros(4)
    model.head.weight = nn.Parameter(model.act[0].weight.detach()[:3].repeat(1, 2))


CHANGES: dict[str, Callable[[Any], Any]] = {
    "forward hook": lambda m: m.act.register_forward_hook(times_two),
    "forward hook with keywords": lambda m: m.act.register_forward_hook(
        lambda module, args, kwargs, out: out * 2, with_kwargs=True
    ),
    "pre-hook": lambda m: m.head.register_forward_pre_hook(nothing_from_entry_one),
    "activation replaced": lambda m: setattr(m, "act", nn.Tanh()),
    "activation that no module holds": lambda m: m.unregistered.__setitem__(0, nn.Tanh()),
    "parameter of a module": lambda m: setattr(m.act, "negative_slope", 0.9),
    "number": lambda m: setattr(m, "gain", 5.0),
    "flag": lambda m: setattr(m, "merged", True),
    "entry of nested containers": lambda m: m.nested["heads"][0].__setitem__("gain", 3.0),
    "attribute of an object": lambda m: setattr(m.flags, "gain", 3.0),
    "plain tensor replaced": lambda m: setattr(m, "mask", torch.tensor([1.0, 0, 1, 1])),
    "plain tensor written": lambda m: m.mask.__setitem__(1, 0.0),
    "plain tensor written behind autograd": lambda m: m.mask.data.__setitem__(1, 0.0),
    "buffer replaced": lambda m: setattr(m, "shift", torch.arange(8.0) - 3),
    "buffer written": lambda m: m.shift.copy_(torch.arange(8.0) - 3),
    "weights shared": tied,
    "parameter replaced": lambda m: setattr(m.head, "weight", nn.Parameter(-m.head.weight.detach())),
    "weight written behind autograd": lambda m: without_version(m.head.weight),
    "weight swapped behind autograd": lambda m: setattr(m.head.weight, "data", -m.head.weight.data),
    "fused optimizer": fused_step,
    "parametrized": lambda m: parametrize.register_parametrization(m.first, "weight", Times()),
    "forward of one object": lambda m: setattr(m.act, "forward", torch.tanh),
    "method of one object": lambda m: setattr(m, "between", lambda h: h * 2 + 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_every_change_is_followed(change: Callable[[Any], Any]) -> None:
    """By two analyzers that share what was captured; one of them keeps modified weights too."""
    model, x = Net().eval(), torch.randn(2, 4)
    analyzers = {composite: LRP(model, composite) for composite in (ZPlusRule(), None)}
    before = [settled(lrp, x) for lrp in analyzers.values()]
    change(model)
    assert not torch.allclose(model(x), before[0].output, atol=1e-3)
    twin = copy_modules(model)
    for composite, lrp in analyzers.items():
        follows(lrp, model, x, composite, twin)


def test_a_set_up_is_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program was just tried, so only the second explanation compares it with the model."""
    compared: list[Any] = []
    monkeypatch.setattr(captures, "departs", lambda *given: compared.append(given) or "")
    model, x = Net().eval(), torch.randn(2, 4)
    lrp = LRP(model, example_inputs=(x,))
    LRP(model, ZPlusRule(), example_inputs=(x,))
    lrp(x, target=0)
    assert len(compared) == 0
    lrp(x, target=0)
    assert len(compared) == 1


def settled(lrp: LRP, x: Tensor) -> Explanation:
    """Two calls: the program is compared with the model in the second one, and not in the next one."""
    lrp(x, target=0)
    return lrp(x, target=0)


def follows(lrp: LRP, model: nn.Module, x: Tensor, composite: Any = None, twin: nn.Module | None = None) -> None:
    """The explanation is that of the model's twin, which shares nothing that was captured."""
    expl = lrp(x, target=0)
    assert_each_close(expl.output, model(x))
    fresh = LRP(twin or copy_modules(model), composite)(x, target=0)
    assert_each_close(expl.relevance, fresh.relevance)


def test_changes_of_a_class_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Net().eval(), torch.randn(2, 4)
    lrp = LRP(model)
    settled(lrp, x)
    monkeypatch.setattr(Net, "scale", 4.0)
    follows(lrp, model, x)
    settled(lrp, x)
    monkeypatch.setattr(Net, "between", lambda self, h: h * 3)
    follows(lrp, model, x)
    settled(lrp, x)
    monkeypatch.setattr(nn.LeakyReLU, "forward", lambda self, h: torch.tanh(h))
    follows(lrp, model, x)


def test_what_a_hook_reads_from_around_it_is_followed() -> None:
    model, x, keep = Net().eval(), torch.randn(2, 4), [1.0]
    handle = model.act.register_forward_hook(lambda module, given, out: out * keep[0])
    lrp = LRP(model)
    settled(lrp, x)
    keep[0] = 3.0
    follows(lrp, model, x)
    settled(lrp, x)
    handle.remove()
    follows(lrp, model, x)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that were captured so far."""
    found: list[Any] = []
    original = captures.capture

    def counting(model: nn.Module, *inputs: Any) -> Any:
        found.append(model)
        return original(model, *inputs)

    monkeypatch.setattr(captures, "capture", counting)
    return found


STAYS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda m: None,
    "requires_grad": lambda m: m.requires_grad_(False),
    "mode": lambda m: m.train().eval(),
    "gradients": lambda m: m(torch.ones(1, 4)).sum().backward(),
    "backward hook": lambda m: m[1].register_full_backward_hook(lambda module, gi, go: None),
    "step": lambda m: torch.optim.SGD(m.parameters(), lr=0.1).step(),
    "state dict": lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
    "weight behind autograd": lambda m: without_version(m[2].weight),
}


@pytest.mark.parametrize("change", STAYS.values(), ids=list(STAYS))
def test_what_leaves_the_program_as_it_is_captures_nothing(change: Callable[[Any], Any], captured: list[Any]) -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(2, 4)
    lrp = LRP(model, EpsilonPlus())
    for _ in range(9):
        lrp(x, target=0)
        change(model)
    LRP(model)(x, target=0)
    assert len(captured) == 1


def test_attributes_without_influence_are_found_out_once(captured: list[Any]) -> None:
    """The model's own calls count and keep an activation; the program is the same, and is kept."""
    model, x = Net().eval(), torch.randn(2, 4)
    lrp = LRP(model)
    programs = []
    for _ in range(6):
        assert_each_close(lrp(x, target=0).output, model(x))
        programs.append(lrp._shared)
    assert len(captured) == 2
    assert len(set(map(id, programs))) == 1
    model.gain = 2.0
    assert_each_close(lrp(x, target=0).output, model(x))
    assert len(captured) == 3


def test_a_hook_that_keeps_what_it_sees_captures_nothing(captured: list[Any]) -> None:
    model, x, seen = Net().eval(), torch.randn(2, 4), []
    model.act.register_forward_hook(lambda module, given, out: seen.append(out))
    lrp = LRP(model)
    for _ in range(5):
        lrp(x, target=0)
    assert len(captured) == 1


OUTSIDE = {"gain": [1.0]}


class Outside(nn.Linear):
    """Multiplies by a number that is no attribute of it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * OUTSIDE["gain"][0]


def test_what_no_look_shows_is_found_at_the_second_call(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Outside(4, 3), torch.randn(2, 4)
    lrp = LRP(model)
    lrp(x, target=0)
    monkeypatch.setitem(OUTSIDE, "gain", [3.0])
    follows(lrp, model, x)


def test_what_cannot_be_followed_is_an_error() -> None:
    class Counts(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            numbers.append(1.0)
            return super().forward(x) * len(numbers)

    numbers: list[float] = []
    with pytest.raises(RelpropError, match="counters, caches"):
        LRP(Counts(4, 3))(torch.randn(2, 4), target=0)


@pytest.mark.parametrize("width", [8, 400], ids=["small", "large"])
@pytest.mark.parametrize("write", [lambda m: without_version(m[0].weight.data.T), fused_step], ids=["data", "fused"])
def test_weights_are_read_in_every_call(write: Callable[[Any], Any], width: int, captured: list[Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 3))
    x = torch.rand(2, 4)
    lrp = LRP(model, ZPlusRule())
    before = settled(lrp, x)
    write(model)
    expl = lrp(x, target=0)
    assert len(captured) == 1
    assert not torch.allclose(expl.relevance, before.relevance)
    assert_each_close(expl.relevance, LRP(copy_modules(model), ZPlusRule())(x, target=0).relevance)


def test_one_number_of_a_large_weight_is_found_at_the_second_call(captured: list[Any]) -> None:
    """Of large models some numbers are looked at in every call, all of them now and then."""
    model, x = nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 3)).eval(), torch.randn(2, 300)
    lrp = LRP(model, ZPlusRule())
    lrp(x, target=0)
    model[0].weight.data[123, 45] = 100.0
    expl = lrp(x, target=0)
    assert len(captured) == 1
    assert_each_close(expl.relevance, LRP(copy_modules(model), ZPlusRule())(x, target=0).relevance)


def test_signatures_and_recipes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "MOST", 3)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    lrp, known = LRP(model, EpsilonPlus()), captures.captures_of(model)
    for size in range(5, 11):
        lrp(torch.rand(1, 1, size, 5), target=0)
    assert len(known._known) == 3
    assert len(lrp._known) == 3  # of programs no more than of what they were made of
    weights = known._weights[True]
    kept = len(weights.values), len(weights.modified)
    for size in (9, 10, 9):
        lrp(torch.rand(1, 1, size, 5), target=0)
    assert (len(weights.values), len(weights.modified)) == kept  # one copy for all sizes
    for taught in range(5):
        LRP(model, operators={f"mine.op{taught}": "relu"})(torch.rand(1, 1, 9, 5), target=0)
    assert all(len(c.canonical) <= 3 for several in known._known.values() for c in several.captures)


def test_steps_of_training_leave_nothing_behind() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 4)
    lrp, optimizer = LRP(model, EpsilonPlus()), torch.optim.SGD(model.parameters(), lr=0.1)
    sizes = []
    for _ in range(4):
        lrp(x, target=0)
        weights = captures.captures_of(model)._weights[True]
        sizes.append((len(weights.values), len(weights.modified), len(weights._numbers)))
        model(x).sum().backward()
        optimizer.step()
    assert len(set(sizes)) == 1
