"""Operators that users teach: by an own step, for the process until it is taken back, or for one graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

import relprop as rp
from relprop import LRP
from relprop.composites import ActivationLayer, Composite, GlobalTypeMap, ProductLayer
from relprop.engine.graph.capture import capture
from relprop.engine.graph.graph import Graph, Node, operator_name
from relprop.engine.ops import Message, Op, Plan, Step, Tape, lookup, registry, units
from relprop.engine.ops.registration import own_rows, teach
from relprop.engine.rewrites.canonical import canonical
from relprop.engine.rewrites.registered import Taught, collapse_registered
from relprop.errors import RelpropError, RuleError, UnexplainedError
from relprop.rules import EpsilonRule, PassRule, ProductRule, Rule, ZeroRule


@pytest.fixture(autouse=True)
def _tables_are_left_as_they_were() -> Iterator[None]:
    operators, modules = dict(registry._TABLE), dict(units._REGISTERED)
    yield
    for table, before in ((registry._TABLE, operators), (units._REGISTERED, modules)):
        table.clear()
        table.update(before)


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i1(x)


class TaylorStep(Step):
    """`R_i = R_j · x_i f'(x_i) / f(x_i)`: what the tangent's bias would get is kept."""

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.read(node, *self.sources)
        self.emits = frozenset({"c"})

    @staticmethod
    def preference(node: Node, rule: Rule) -> str:
        return "R"

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        relevance, (source,) = tape.total(self.node, message), self.sources
        (share,) = tape.adjoint(self.node, self.sources, Message(relevance / tape.value(self.node)), linear=False)
        tape.sink(self.node, "tangent", lambda: relevance - tape.total(source, share))
        yield source, share


def model_and_input() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(Bessel(), nn.Linear(4, 2, bias=False)).double(), torch.rand(2, 4, dtype=torch.float64) + 0.5


def test_an_own_step_says_how_relevance_goes_back() -> None:
    model, x = model_and_input()
    rp.register_op(torch.ops.aten.special_i1, step=TaylorStep)
    expl = LRP(model, ZeroRule(stabilizer=0.0), normalize_output=True)(x, target=0, audit=True)
    y = torch.special.i1(x)
    slope = torch.special.i0(x) - y / x  # I₁' = I₀ − I₁ / x
    arrived = model[1].weight[0].detach() * y / (y @ model[1].weight[0].detach())[:, None]
    assert_close(expl.relevance, arrived * x * slope / y)
    assert expl.ledger.imbalance < 1e-12
    assert_close(torch.tensor(expl.ledger.sinks["tangent"]), (arrived - expl.relevance).sum().float(), rtol=1e-6)


def test_an_own_step_serves_every_way_to_explain() -> None:
    """Several targets on one forward pass, also under vmap, parts that run again, and traced programs."""
    model, x = model_and_input()
    rp.register_op("special_i1", step=TaylorStep)
    lrp = LRP(nn.Sequential(nn.Linear(4, 4).double(), *model), EpsilonRule(1e-3))
    single = [lrp(x, target=t).relevance for t in (0, 1)]
    for chunk in (1, 2):
        for expl, expected in zip(lrp.each(x, targets=[0, 1], chunk=chunk), single, strict=True):
            assert_close(expl.relevance, expected)
    parts = LRP(lrp.model, EpsilonRule(1e-3), checkpoint=2)
    assert_close(parts(x, target=0).relevance, single[0])
    traced = LRP(lrp.model, EpsilonRule(1e-3)).compile(backend="eager")
    assert_close(traced(x, target=0).relevance, single[0])


def test_an_own_step_goes_before_the_familys_and_before_rewrites() -> None:
    """`relu` passes relevance on and `mul` becomes a product, unless a user says otherwise."""

    class Half(Step):
        """Each data input gets a quarter."""

        def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
            super().__init__(node, rule, plan)
            self.read(node)
            self.emits = frozenset({"R"})

        def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
            return [(s, Message(R=tape.total(self.node, message) / 4)) for s in self.sources]

    class Squared(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.mul(x, y).relu()

    x, y = torch.rand(2, 3), torch.rand(2, 3)
    with rp.register_op("relu", step=Half):
        R_x, R_y = LRP(Squared())(x, y, target=1).relevance
        assert_close(R_x.sum(1), torch.full((2,), 1 / 8), rtol=1e-6)
        with rp.register_op("aten::mul", step=Half):
            R_x, R_y = LRP(Squared())(x, y, target=1).relevance
    for part in (R_x, R_y):
        assert_close(part.sum(1), torch.full((2,), 1 / 16), rtol=1e-6)


def test_an_own_step_is_not_lost_in_a_spelled_out_activation() -> None:
    """`x · I₁(x)` is an elementwise function of x, through which relevance would pass as a whole."""

    class Spelled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.special.i1(x)

    x = torch.rand(2, 4, dtype=torch.float64) + 0.5
    with rp.register_op("special_i1", like="tanh"):
        assert_close(LRP(Spelled(), normalize_output=True)(x, target=1).relevance.sum(1), torch.ones(2).double())
    with rp.register_op("special_i1", like="tanh", step=TaylorStep):
        composite = Composite(GlobalTypeMap({ProductLayer: ProductRule("uniform")}))
        R = LRP(Spelled(), composite, normalize_output=True)(x, target=1).relevance
    y = torch.special.i1(x[:, 1])
    assert_close(R.sum(1), 1 / 2 + (x[:, 1] * torch.special.i0(x[:, 1]) / y - 1) / 2, rtol=1e-6)


def test_what_behaves_like_another_is_a_layer_of_its_kind() -> None:
    model, x = model_and_input()
    with rp.register_op("special_i1", like="silu"):
        composite = Composite(GlobalTypeMap({ActivationLayer: PassRule(), nn.Linear: ZeroRule()}))
        lrp = LRP(model, composite)
        lrp(x)
        assert [layer.is_a(ActivationLayer) for layer in lrp.layers] == [True, False]
        assert lrp.layers[0].is_a("special_i1")


# Taking it back.


def test_a_registration_is_taken_back() -> None:
    model, x = model_and_input()
    entry = rp.register_op("special_i1", family="activation")
    lrp = LRP(model)
    before = lrp(x, target=0).relevance
    entry.remove()
    entry.remove()
    with pytest.raises(UnexplainedError):
        LRP(model)(x)
    assert_close(lrp(x, target=0).relevance, before)  # a captured program keeps what it was captured with
    with pytest.raises(RuleError), rp.register_op("special_i1", family="activation"):
        LRP(model, [ZeroRule(), PassRule()])(x)
    with pytest.raises(UnexplainedError):
        LRP(model)(x)


def test_a_program_bound_later_keeps_what_was_taught() -> None:
    """The program for one position of a sequence is bound when it is first asked for."""

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(3, 3), nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.special.i1(self.first(x)))

    x = torch.rand(2, 4, 3)
    with rp.register_op("special_i1", step=TaylorStep):
        lrp = LRP(Sequence(), EpsilonRule(), example_inputs=(x,))
        expected = LRP(lrp.model, EpsilonRule())(x, target=(2, 1)).relevance
    assert_close(lrp(x, target=(2, 1)).relevance, expected)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_registrations_of_one_operator_are_taken_back_in_any_order(order: tuple[int, int]) -> None:
    known = registry._TABLE["silu"]
    entries = [rp.register_op("silu", family="max"), rp.register_op("silu", family="source")]
    assert registry._TABLE["silu"].family == "source"
    entries[order[0]].remove()
    assert registry._TABLE["silu"].family == ("source" if order[0] == 0 else "max")
    entries[order[1]].remove()
    assert registry._TABLE["silu"] is known


def test_a_registered_module_is_taken_back_and_the_closest_class_counts() -> None:
    class Special(Bessel):
        pass

    x = torch.rand(2, 4) + 0.5
    with rp.register_module(Bessel), rp.register_module(Special, rule=PassRule()):
        assert units.registered_rule(Special) == PassRule()
        assert units.registered_rule(Bessel) == ZeroRule()
        assert_close(LRP(Special(), normalize_output=True)(x, target=0).relevance[:, 0], torch.ones(2))
    with pytest.raises(UnexplainedError):
        LRP(Special())(x)


# For one graph.


def captured(model: nn.Module, x: Tensor) -> Graph:
    return capture(model, (x,), {})


def taught(graph: Graph, name: str) -> list[Op | None]:
    return [lookup(node) for node in graph.operators() if operator_name(node) == name]


def test_one_graph_is_taught_and_no_other() -> None:
    model, x = model_and_input()
    graph = canonical(teach(captured(model, x), {torch.ops.aten.special_i1: TaylorStep}))
    (row,) = taught(graph, "special_i1")
    assert row is not None
    assert row.step is TaylorStep
    assert taught(canonical(captured(model, x)), "special_i1") == [None]
    with rp.register_op("special_i1", family="source"):
        (row,) = taught(canonical(teach(captured(model, x), {"special_i1": "silu"})), "special_i1")
        assert row is not None
        assert (row.family, row.like) == ("activation", "silu")
        (row,) = taught(canonical(captured(model, x)), "special_i1")
        assert row is not None
        assert row.family == "source"


def test_what_a_node_was_taught_is_not_handed_to_what_takes_its_place() -> None:
    model, x = model_and_input()
    graph = teach(captured(model, x), {"special_i1": TaylorStep})
    (node,) = [n for n in graph.operators() if operator_name(n) == "special_i1"]
    with graph.fx.inserting_after(node):
        other = graph.fx.call_function(torch.ops.aten.relu.default, (node,))
    other.meta |= node.meta
    assert lookup(other) is registry._TABLE["relu"]


def test_modules_of_one_graph() -> None:
    model, x = model_and_input()
    own = collapse_registered(captured(model, x), {Bessel: PassRule()})
    (unit,) = [n.target for n in own.operators() if isinstance(n.target, units.Unit)]
    assert unit.rule == PassRule()
    assert not any(isinstance(n.target, units.Unit) for n in collapse_registered(captured(model, x)).operators())
    with pytest.raises(RuleError, match="modifies weights"):
        collapse_registered(captured(model, x), {Bessel: rp.rules.ZPlusRule()})


def test_what_was_taught_is_a_value() -> None:
    """Captured graphs are kept by it: the same words, the same graph; other words, another."""
    operators, modules = {"special_i1": TaylorStep, "mylib.op": "softmax"}, {Bessel: PassRule()}
    once = Taught.now(operators, modules)
    assert (once, hash(once)) == (Taught.now(operators, modules), hash(Taught.now(operators, modules)))
    assert own_rows({op.name: op for op in once.operators}) == {op.name: op for op in once.operators}
    others = [Taught.now(), Taught.now(operators), Taught.now({"special_i1": "silu"}, modules)]
    with rp.register_op("mylib.op", like="relu"), rp.register_module(nn.GELU):
        others.append(Taught.now(operators, modules))
    assert len({once, *others}) == 5
    assert Taught.now(operators, modules) == once


def test_what_was_taught_goes_into_a_graph() -> None:
    model, x = model_and_input()
    graph = canonical(Taught.now({"special_i1": TaylorStep}).into(captured(model, x)))
    (row,) = taught(graph, "special_i1")
    assert row is not None
    assert row.step is TaylorStep
    graph = canonical(Taught.now({"special_i1": TaylorStep}, {Bessel: PassRule()}).into(captured(model, x)))
    assert [n.target.rule for n in graph.operators() if isinstance(n.target, units.Unit)] == [PassRule()]


# What is refused.


class NoPull(Step):
    pass


@pytest.mark.parametrize(
    ("operator", "facts", "said"),
    [
        ("mylib.op", {}, "give either like="),
        ("mylib.op", {"like": "relu", "family": "max"}, "give either like="),
        ("mylib.op", {"like": "sillu"}, "Did you mean 'silu'"),
        ("mylib.op", {"family": "nonsense"}, "none of activation, movement"),
        ("mylib.op", {"step": TaylorStep.pull}, "derive one from relprop.engine.ops.Step"),
        ("mylib.op", {"step": int}, "derive one from relprop.engine.ops.Step"),
        ("mylib.op", {"step": NoPull}, r"NoPull .*define pull\(self, message, tape\)"),
        (nn.ReLU, {"like": "relu"}, "register_module"),
    ],
)
def test_wrong_registrations_say_the_next_step(operator: object, facts: dict[str, object], said: str) -> None:
    before = dict(registry._TABLE)
    with pytest.raises(RelpropError, match=said):
        rp.register_op(operator, **facts)
    assert before == registry._TABLE


def test_wrong_rows_of_one_analyzer_say_the_next_step() -> None:
    for wrong, said in (("sillu", "Did you mean"), (3, "derive one from"), (Op("nonsense"), "none of activation")):
        with pytest.raises(RelpropError, match=said):
            own_rows({"mylib.op": wrong})


def test_names_of_operators() -> None:
    rows = own_rows({torch.ops.aten.special_i1.default: "silu", "aten::erfcx": "silu", "mylib::op": Op("max")})
    assert {name: (row.name, row.own) for name, row in rows.items()} == {
        name: (name, True) for name in ("special_i1", "erfcx", "mylib.op")
    }


class Forgets(TaylorStep):
    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        self.node = node


class ReadsTooMuch(TaylorStep):
    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.reads = frozenset()


class WrongShape(TaylorStep):
    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        yield self.sources[0], Message(tape.total(self.node, message)[:, :1])


class WrongForm(TaylorStep):
    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        yield self.sources[0], Message(R=tape.total(self.node, message))


class WrongSource(TaylorStep):
    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        yield self.node, Message(tape.total(self.node, message))


class NoPairs(TaylorStep):
    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        return [Message(tape.total(self.node, message))]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Forgets, r"super\(\).__init__\(node, rule, plan\)"),
        (ReadsTooMuch, r"self.read\("),
        (WrongShape, r"must have the shape \(2, 4\), got \(2, 1\)"),
        (WrongForm, "self.emits"),
        (WrongSource, "not among its sources"),
        (NoPairs, r"a pair \(source, Message\)"),
    ],
)
def test_a_wrong_step_is_refused_by_name(step: type[Step], said: str) -> None:
    model, x = model_and_input()
    with rp.register_op("special_i1", step=step), pytest.raises(RuleError, match=said) as raised:
        LRP(model, ZeroRule())(x, target=0)
    for part in (step.__name__, "special_i1", "0 (Bessel)"):
        assert part in str(raised.value)
