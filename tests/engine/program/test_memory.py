"""Less memory, the same explanation: weights modified on the fly, the forward pass in parts."""

from __future__ import annotations

import gc

import pytest
import torch
from support.by_hand import program_of
from support.cases import CASES
from support.compare import assert_close, assert_each_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import EpsilonPlus, EpsilonPlusFlat
from relprop.engine.graph.graph import is_random, operator_name
from relprop.engine.program.loops import forward
from relprop.errors import InputError
from relprop.rules import AlphaBetaRule, EpsilonRule, PassRule, ZPlusRule


def test_low_memory_keeps_no_modified_weights() -> None:
    """Weights are modified on the fly: the same relevance, and nothing of them stays."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 3)).double()
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    rules = [ZPlusRule(), PassRule(), AlphaBetaRule(2.0, 1.0), PassRule(), EpsilonRule()]
    keep, low = LRP(model, rules), LRP(model, rules, memory="low")
    for target in (0, 1):
        assert_each_close(keep(x, target=target).relevance, low(x, target=target).relevance, rtol=1e-12, atol=0)
    each = [expl.relevance for expl in low.each(x, targets=[0, 1])]
    assert_each_close(each[1], keep(x, target=1).relevance, rtol=1e-12, atol=0)
    assert len(keep._latest.program.constants.modified) == 4  # W⁺ and W⁻ of both
    assert not low._latest.program.constants.modified
    with pytest.raises(InputError, match="memory"):
        LRP(model, memory="little")


def test_with_low_memory_no_call_forgets_what_another_one_uses() -> None:
    """Calls of several threads run at the same time."""
    lrp, x = LRP(nn.Sequential(nn.Linear(3, 2)), [ZPlusRule()], memory="low"), torch.rand(2, 3)
    program = program_of(lrp, x)
    one, other = (forward(program, [x], program.reads) for _ in range(2))
    one.modified["weight"] = torch.ones(2, 3)
    other.release(program.explained)
    assert list(one.modified) == ["weight"]
    one.release(program.explained)
    assert not one.modified


@pytest.mark.parametrize("checkpoint", [True, 2, 100])
@pytest.mark.parametrize("case", CASES)
def test_checkpointed_equals_plain(case: str, checkpoint: bool | int) -> None:
    build, shape, composite = CASES[case]
    torch.manual_seed(0)
    model = build().double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    name = next(n for n, m in model.named_modules() if isinstance(m, nn.Linear))
    plain, parts = (LRP(model, composite, checkpoint=c)(x, target=3, layers=name) for c in (False, checkpoint))
    assert_close(parts.relevance, plain.relevance, rtol=1e-12, what=case)
    assert_close(parts.layers[name], plain.layers[name], rtol=1e-12)
    assert torch.equal(parts.output, plain.output)


def test_checkpointing_keeps_fewer_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of the forward pass only what crosses the borders is there."""
    from relprop.engine.program import answer as room

    kept: list[int] = []
    model = nn.Sequential(*[layer for _ in range(18) for layer in (nn.Linear(8, 8), nn.Tanh())])
    real = room.forward

    def watched(*args: object, **options: object) -> object:
        tape = real(*args, **options)
        kept.append(sum(n.op == "call_function" for n in tape.values) + len(tape.saved))
        return tape

    monkeypatch.setattr(room, "forward", watched)
    for checkpoint in (False, True):
        # Without checks, which would explain again what nearly vanishes in so many random layers.
        LRP(model, EpsilonPlus(), checkpoint=checkpoint, checks=False)(torch.rand(2, 8), target=1)
    assert kept == [36, 6]


@pytest.mark.parametrize("case", ["plus", "attention", "eager", "lstm"])
def test_the_books_and_parameters_are_the_same_in_parts(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no forward pass keeps everything."""
    from relprop.engine.program import answer as room

    build, shape, composite = CASES[case]
    torch.manual_seed(0)
    model, x = build().double().eval(), torch.randn(shape, dtype=torch.float64)
    plain, parts = (LRP(model, composite, checkpoint=c) for c in (False, 4))
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    asked = {"target": 3, "audit": True, "parameters": True, "coefficients": names[0]}
    expected, kept = plain(x, **asked), list[int]()
    real = room.forward

    def watched(*args: object, **options: object) -> object:
        tape = real(*args, **options)
        kept.append(sum(n.op == "call_function" for n in tape.values) + len(tape.saved) + len(tape.recorded))
        return tape

    monkeypatch.setattr(room, "forward", watched)
    plain(x, **asked)
    found = parts(x, **asked)
    assert kept[1] < 0.7 * kept[0]
    assert found.ledger.imbalance < 1e-9
    assert found.ledger.sinks.keys() == expected.ledger.sinks.keys()
    for name, amount in expected.ledger.sinks.items():
        assert found.ledger.sinks[name] == pytest.approx(amount, rel=1e-9, abs=1e-12)
    for name, amount in expected.parameters.items():
        assert_close(found.parameters[name], amount, rtol=1e-9, atol=1e-12)
    assert_close(found.coefficients[names[0]], expected.coefficients[names[0]], rtol=1e-9)


def test_attention_runs_again_in_its_part() -> None:
    """PyTorch calls fused attention random, since it may drop weights out; here it does not."""
    build, shape, composite = CASES["attention"]
    lrp, x = LRP(build().eval(), composite, checkpoint=2), torch.randn(shape)
    (attention,) = [n for n in program_of(lrp, x).operators if operator_name(n) == "scaled_dot_product_attention"]
    assert not is_random(attention)


@pytest.mark.parametrize("wrong", [-1, "all", 2.5, None])
def test_checkpoint_is_a_number_of_parts(wrong: object) -> None:
    with pytest.raises(InputError, match="how many parts"):
        LRP(nn.Linear(2, 2), checkpoint=wrong)


@pytest.mark.slow
def test_memory_does_not_grow_with_calls() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 5)
    )
    model.eval()
    lrp, x = LRP(model, EpsilonPlusFlat()), torch.rand(2, 3, 12, 12)
    lrp(x)

    def alive() -> int:
        gc.collect()
        return sum(isinstance(o, Tensor) for o in gc.get_objects())

    before = alive()
    for _ in range(20):
        lrp(x, layers=True, audit=True)
    assert alive() <= before
