"""`LRP.compile`: what the compiled program says is what the engine says, and a failure costs a warning only.

`aot_eager` goes through all of `torch.compile` but the last step, which needs a C++ compiler and minutes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
from support.networks import Attention, cnn
from torch import Tensor, nn

import relprop.engine.program.trace
from relprop import LRP
from relprop.composites import AttnLRP, EpsilonPlusFlat
from relprop.errors import InputError, TargetError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each program that is traced, that is, compiled."""
    traced, trace = [], relprop.engine.program.trace.trace

    def counting(*args, **options):
        traced.append(options["takes_index"])
        return trace(*args, **options)

    monkeypatch.setattr(relprop.engine.program.trace, "trace", counting)
    return traced


def agree(lrp: LRP, compiled: LRP, x: Tensor, *, fails: bool = False, **options: object) -> None:
    """The same from both, and not because one took the other's way out."""
    found, expected = compiled(x, **options), lrp(x, **options)
    assert compiled._compiler is not None
    assert compiled._compiler.failed == fails
    for mine, theirs in (
        (found.relevance, expected.relevance),
        (found.output, expected.output),
        *((found.layers[name], expected.layers[name]) for name in expected.layers),
    ):
        assert mine.dtype == theirs.dtype
        scale = theirs.abs().max()
        torch.testing.assert_close(mine / scale, theirs / scale, rtol=0, atol=TOLERANCE[x.dtype])
    assert found.layers.keys() == expected.layers.keys()
    if expected.target is None:
        assert found.target is None
    else:
        assert torch.equal(found.target, expected.target)


DTYPES = [pytest.param(torch.float32, marks=pytest.mark.slow), torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compiled_equals_eager_for_every_batch_and_target(dtype: torch.dtype, traced: list[bool]):
    lrp = LRP(Attention().eval().to(dtype), AttnLRP())
    compiled = copy.copy(lrp).compile(backend="aot_eager")
    for batch in (2, 5, 1, 9):
        x = torch.randn(batch, 5, 8, dtype=dtype)
        for target in (None, 1, (-1,), torch.arange(batch) % 3):
            agree(lrp, compiled, x, target=target)
    assert traced == [False, True]  # once for the largest output, once for all that are given


def test_layers_audits_and_functions(traced: list[bool]):
    lrp = LRP(cnn().eval(), EpsilonPlusFlat())
    compiled = copy.copy(lrp).compile(backend="aot_eager")
    x = torch.rand(2, 2, 6, 6)
    agree(lrp, compiled, x, layers=["0", "3"])
    assert len(traced) == 1
    agree(lrp, compiled, x, layers=["0"])
    assert len(traced) == 2
    assert compiled(x, audit=True).ledger is not None
    agree(lrp, compiled, x, target=lambda output: output)
    assert len(traced) == 2
    with torch.inference_mode():
        agree(lrp, compiled, torch.rand(3, 2, 6, 6), layers=["0", "3"])


def test_parameters_are_followed():
    model = cnn().eval()
    lrp = LRP(model, EpsilonPlusFlat())
    compiled = LRP(model, EpsilonPlusFlat()).compile(backend="aot_eager")
    x = torch.rand(2, 2, 6, 6)
    agree(lrp, compiled, x)
    with torch.no_grad():
        model[3].weight.neg_()
    for _ in range(2):
        agree(lrp, compiled, x)
    model[7].bias = nn.Parameter(torch.ones(3))
    agree(lrp, compiled, x)


def test_compile_returns_the_analyzer_and_copies_compile_too():
    lrp = LRP(nn.Sequential(nn.Linear(3, 2)))
    assert lrp.compile(backend="aot_eager") is lrp
    x = torch.rand(2, 3)
    agree(LRP(lrp.model), copy.deepcopy(lrp), x)


def test_a_failure_costs_one_warning():
    def broken(module: object, inputs: object) -> None:
        raise RuntimeError("no compiler here")

    lrp = LRP(nn.Sequential(nn.Linear(3, 2)))
    compiled = LRP(lrp.model).compile(backend=broken)
    x = torch.rand(2, 3)
    with pytest.warns(UserWarning, match="no compiler here") as given:
        agree(lrp, compiled, x, fails=True)
    assert len(given) == 1
    assert given[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree(lrp, compiled, x, fails=True)
        agree(lrp, compiled, x, target=1, fails=True)


def test_what_is_wrong_with_inputs_is_said_and_does_not_end_compilation():
    lrp = LRP(nn.Sequential(nn.Linear(3, 2))).compile(backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lrp(torch.rand(2, 3), target=1)
        with pytest.raises(TargetError, match="out of range"):
            lrp(torch.rand(2, 3), target=2)
        with pytest.raises(InputError):
            lrp(torch.rand(2, 4))
    assert lrp._compiler is not None
    assert not lrp._compiler.failed


class PerToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids).relu())


def test_a_target_at_a_position_of_a_sequence(traced: list[bool]):
    lrp = LRP(PerToken())
    compiled = copy.copy(lrp).compile(backend="aot_eager")
    for length in (4, 6):
        ids = torch.randint(0, 7, (2, length))
        found, expected = compiled(ids, target=(-1, 3)), lrp(ids, target=(-1, 3))
        assert torch.equal(found.target, expected.target)
        torch.testing.assert_close(found.relevance, expected.relevance)
        with pytest.raises(TargetError, match="out of range"):
            compiled(ids, target=(length, 0))
    assert traced == [True]
    assert not compiled._compiler.failed


def test_one_compilation_serves_every_batch():
    compilations = []

    def counting(module: torch.fx.GraphModule, inputs: object) -> object:
        compilations.append(module)
        return module.forward

    lrp = LRP(nn.Sequential(nn.Linear(3, 2))).compile(backend=counting)
    for batch in (2, 5, 9):
        lrp(torch.rand(batch, 3))
    assert len(compilations) == 1


class Bag(nn.Module):
    """One row for all rows of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x).relu().mean(0, keepdim=True))


def test_a_model_of_bags_runs_as_it_is(traced: list[bool]):
    model, x = Bag(), torch.rand(5, 4)
    expected = LRP(model)(x, target=1)
    assert torch.equal(LRP(model).compile(backend="eager")(x, target=1).relevance, expected.relevance)
    assert not traced
