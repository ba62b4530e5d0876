"""Rewrites as values: what `canonize` takes, the order in which they run, and rewrites of a user's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP, rewrites
from relprop.engine.graph.capture import capture
from relprop.engine.graph.graph import Graph, info, operator_name
from relprop.engine.graph.run import evaluate
from relprop.engine.ops.analysis import analyze
from relprop.engine.rewrites import FuseBatchNorm, HoldSelections, as_rewrites, canonical, insert, replace
from relprop.errors import InputError
from relprop.rules import GammaRule, ZeroRule

X = torch.rand(2, 4, dtype=torch.float64)


def test_words_for_rewrites() -> None:
    assert as_rewrites(True) == (HoldSelections(), FuseBatchNorm())
    assert as_rewrites("thresholds") == (HoldSelections(), FuseBatchNorm(thresholds=True))
    assert as_rewrites(False) == ()
    own = [FuseBatchNorm(thresholds=True)]
    assert as_rewrites(own) == tuple(own)


def test_they_print_like_their_constructors() -> None:
    for value in as_rewrites("thresholds"):
        assert eval(repr(value), vars(rewrites)) == value


@pytest.mark.parametrize(
    ("canonize", "says"),
    [
        ("fold", r"'fold' is no word.*Give True, False, 'thresholds', or a tuple"),
        (None, r"None is no tuple.*Give True"),
        (1, r"canonize=1 is no tuple"),
        (FuseBatchNorm(), r"In a tuple: canonize=\(FuseBatchNorm\(thresholds=False\),\)"),
        ((FuseBatchNorm,), r"FuseBatchNorm is a class; give one of its values: FuseBatchNorm\(\)"),
        (FuseBatchNorm, r"is no tuple.*Give True"),
        ((ZeroRule(),), r"ZeroRule\(.*is no rewrite.*Give True"),
    ],
)
def test_anything_else_is_refused(canonize: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        as_rewrites(canonize)
    with pytest.raises(InputError, match=says):
        LRP(nn.Linear(4, 2), canonize=canonize)


@dataclass(frozen=True)
class Noted:
    """Changes nothing, and remembers how many scales it saw."""

    seen: list[int] = field(default_factory=list)

    def __call__(self, graph: Graph) -> Graph:
        self.seen.append(sum(operator_name(n) == "scale" for n in graph.operators()))
        return graph


def test_they_run_in_their_order() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double().eval()
    before, behind = Noted(), Noted()
    canonical(capture(model, (X,)), (before, FuseBatchNorm(), behind))
    assert (before.seen, behind.seen) == ([1], [0])


def test_only_what_was_chosen_is_done() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    for chosen, fused in (((FuseBatchNorm(),), "0"), ((HoldSelections(),), None)):
        lrp = LRP(model, canonize=chosen)
        assert lrp.layers[1].fused_into == fused
        lrp(torch.rand(2, 4))
        assert lrp.layers[1].fused_into == fused


def merged_weight(outer: Tensor, inner: Tensor) -> Tensor:
    return outer @ inner


def merged_bias(outer: Tensor, inner: Tensor, bias: Tensor) -> Tensor:
    return outer @ inner + bias


@dataclass(frozen=True)
class MergeLinear:
    """`V (W a + b) + c = (V W) a + (V b + c)`."""

    def __call__(self, graph: Graph) -> Graph:
        for outer in list(graph.operators()):
            inner = outer.args[0]
            if not operator_name(outer) == operator_name(inner) == "linear" or len(inner.users) > 1:
                continue
            (x, W, b), (_, V, c) = inner.args, outer.args
            weight = insert(graph, outer, merged_weight, V, W)
            bias = insert(graph, outer, merged_bias, V, b, c)
            replace(graph, outer, insert(graph, outer, outer.target, x, weight, bias, like=outer))
        return graph


def test_a_rewrite_of_ones_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    first, second, *rest = model
    merged = nn.Linear(4, 3).double()
    with torch.no_grad():
        merged.weight.copy_(second.weight @ first.weight)
        merged.bias.copy_(second(first.bias))
    rule = GammaRule(0.5)
    graph = canonical(capture(model, (X,)), (MergeLinear(),))
    assert [operator_name(n) for n in graph.operators() if info(n).data] == ["linear", "relu", "linear"]
    assert_close(evaluate(graph, [X]), model(X))
    got = LRP(model, rule, canonize=(MergeLinear(),))(X, target=1).relevance
    assert_close(got, LRP(nn.Sequential(merged, *rest), rule)(X, target=1).relevance)
    assert (got - LRP(model, rule)(X, target=1).relevance).abs().max() > 1e-3


@dataclass(frozen=True)
class Negligent:
    """Works on the fx graph itself, leaves behind what nobody reads, and flags nothing."""

    def __call__(self, graph: Graph) -> Graph:
        (relu,) = (n for n in graph.operators() if operator_name(n) == "relu")
        with graph.fx.inserting_before(relu):
            positive = graph.fx.call_function(torch.ops.aten.clamp_min.default, (relu.args[0], 0))
        positive.meta["val"] = relu.meta["val"]
        relu.replace_all_uses_with(positive)
        return graph


def test_a_rewrite_need_not_keep_flags() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    graph = canonical(capture(model, (X,)), (Negligent(),))
    assert [operator_name(n) for n in graph.operators()] == ["linear", "clamp_min", "linear"]
    assert [(info(n).data, info(n).nonneg) for n in graph.operators()] == [(True, False), (True, True), (True, False)]
    expected = LRP(model, GammaRule())(X, target=0).relevance
    assert_close(LRP(model, GammaRule(), canonize=(Negligent(),))(X, target=0).relevance, expected)


def test_a_rewrite_that_returns_no_graph_is_named() -> None:
    @dataclass(frozen=True)
    class Forgetful:
        def __call__(self, graph: Graph) -> None: ...

    with pytest.raises(InputError, match=r"Forgetful\(\) returned None; let it return the graph"):
        LRP(nn.Linear(4, 2).double(), canonize=(Forgetful(),))(X)


def test_replace_erases_what_only_the_replaced_has_read() -> None:
    graph = canonical(capture(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.ReLU()).double(), (X,)), ())
    (relu,) = (n for n in graph.operators() if operator_name(n) == "relu")
    source = graph.inputs[0]
    replace(graph, relu, insert(graph, relu, torch.ops.aten.tanh.default, source, like=source))
    assert [operator_name(n) for n in graph.operators()] == ["tanh"]
    assert {p.op for p in graph.fx.nodes} == {"placeholder", "call_function", "output"}


def test_flags_follow_what_is_replaced() -> None:
    """`nonneg` of all that follows is worked out anew, as a full pass over the graph would."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(), nn.Flatten(), nn.Linear(4, 2)).double().eval()
    graph = canonical(capture(model, (X,)), ())
    (tanh,) = (n for n in graph.operators() if operator_name(n) == "tanh")
    replace(graph, tanh, insert(graph, tanh, torch.ops.aten.sigmoid.default, tanh.args[0], like=tanh))
    kept = {n.name: info(n) for n in graph.operators()}
    assert [info(n).nonneg for n in graph.operators() if info(n).data] == [False, True, True, True, False]
    analyze(graph)
    assert kept == {n.name: info(n) for n in graph.operators()}
