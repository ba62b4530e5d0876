"""Questions beyond the largest output: conditions, other starts, stops, parameters; own targets, own analyzers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers import FunctionAnalyzer, Gradient, InputTimesGradient, IntegratedGradients, SmoothGrad, gradient
from relprop.composites import Composite, EpsilonPlus
from relprop.engine.program.answer import answer
from relprop.engine.program.question import Question
from relprop.errors import InputError, TargetError
from relprop.rules import EpsilonRule, GammaRule, Rule, ZeroRule
from relprop.targets import Logit, Seed, Target


def linear_net() -> nn.Sequential:
    """Piecewise linear, without biases: the 0-rule is input times gradient."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 5, bias=False),
    ).double()


X = torch.rand(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def by_hand(model: nn.Sequential, masks: dict[int, Tensor], target: int) -> Tensor:
    """Input times gradient, where the gradient at a module's output is multiplied by a mask."""
    x = X.clone().requires_grad_()
    value = x
    for i, module in enumerate(model):
        value = module(value)
        if i in masks:
            value.register_hook(lambda g, i=i: g * masks[i])
    (g,) = torch.autograd.grad(value[:, target].sum(), x)
    return x.detach() * g


def channels(n: int, *kept: int) -> Tensor:
    mask = torch.zeros(n, 1, 1, dtype=torch.float64)
    mask[list(kept)] = 1
    return mask


def test_a_mask_on_a_channel() -> None:
    model = linear_net()
    lrp = LRP(model, ZeroRule(stabilizer=0.0), normalize_output=False)
    expl = lrp(X, target=1, conditions={"0": channels(4, 2)}, layers="0", audit=True)
    torch.testing.assert_close(expl.relevance, by_hand(model, {0: channels(4, 2)}, 1), atol=1e-9, rtol=0)
    assert float(expl.layers["0"][:, [0, 1, 3]].abs().max()) == 0
    torch.testing.assert_close(expl.layers["0"].sum(), expl.relevance.sum(), atol=1e-9, rtol=0)
    assert expl.ledger is not None
    kept = expl.ledger.output - expl.ledger.input
    assert abs(kept - expl.ledger.sinks["condition"]) < 1e-9
    assert abs(kept) > 0.02
    assert expl.ledger.imbalance < 1e-9


def test_masks_of_all_channels_add_up_to_the_whole() -> None:
    lrp = LRP(linear_net(), EpsilonPlus())
    conditions = [{"2": channels(3, i)} for i in range(3)]
    parts = lrp.each(X, targets=[1], conditions=conditions)
    torch.testing.assert_close(sum(p.relevance for p in parts), lrp(X, target=1).relevance, atol=1e-9, rtol=0)
    for part, condition in zip(parts, conditions, strict=True):  # batched equals looped
        alone = lrp(X, target=1, conditions=condition)
        torch.testing.assert_close(part.relevance, alone.relevance, atol=1e-12, rtol=0)


@pytest.mark.parametrize("chunk", [2, 3])
def test_conditions_travel_together(chunk: int) -> None:
    """As one batch, by vmap: each with masks of its own."""
    lrp = LRP(linear_net(), EpsilonPlus())
    conditions = [{"2": channels(3, i), "0": channels(4, i, i + 1)} for i in range(3)]
    together = lrp.each(X, targets=[0, 1, 2], conditions=conditions, chunk=chunk, layers="0")
    for i, (one, condition) in enumerate(zip(together, conditions, strict=True)):
        alone = lrp(X, target=i, conditions=condition, layers="0")
        torch.testing.assert_close(one.relevance, alone.relevance, atol=1e-12, rtol=0)
        torch.testing.assert_close(one.layers["0"], alone.layers["0"], atol=1e-12, rtol=0)


def test_masks_on_two_layers_at_once() -> None:
    model = linear_net()
    masks = {0: channels(4, 1, 2), 2: channels(3, 0)}
    lrp = LRP(model, ZeroRule(stabilizer=0.0), normalize_output=False)
    expl = lrp(X, target=4, conditions={str(i): mask for i, mask in masks.items()}, audit=True)
    torch.testing.assert_close(expl.relevance, by_hand(model, masks, 4), atol=1e-9, rtol=0)
    assert expl.ledger is not None
    assert expl.ledger.imbalance < 1e-9


def test_many_conditions_cost_one_forward_pass_and_one_denominator(monkeypatch: pytest.MonkeyPatch) -> None:
    from relprop.engine.ops import affine
    from relprop.engine.program import answer as room

    forwards, denominators = [], []
    forward, stabilized = room.forward, affine.stabilize
    monkeypatch.setattr(room, "forward", lambda *a, **k: forwards.append(1) or forward(*a, **k))
    monkeypatch.setattr(affine, "stabilize", lambda *a, **k: denominators.append(1) or stabilized(*a, **k))
    lrp = LRP(linear_net(), EpsilonPlus())
    lrp(X, target=0, conditions={"0": channels(4, 0)})
    alone = len(denominators)
    forwards.clear()
    denominators.clear()
    lrp.each(X, targets=[0], conditions=[{"0": channels(4, i)} for i in range(4)])
    assert len(forwards) == 1
    assert len(denominators) == alone


def test_start_at_a_layers_output() -> None:
    """Relevance of one entry of a hidden layer, by autograd on the part of the network up to there."""
    model = linear_net()
    lrp = LRP(model, ZeroRule(stabilizer=0.0), normalize_output=False)
    expl = lrp(X, target=(1, 0, 1), start="2")
    x = X.clone().requires_grad_()
    (g,) = torch.autograd.grad(model[:3](x)[:, 1, 0, 1].sum(), x)
    torch.testing.assert_close(expl.relevance, (x * g).detach(), atol=1e-9, rtol=0)
    torch.testing.assert_close(expl.output, model(X), atol=1e-9, rtol=0)
    with pytest.raises(TargetError, match="out of range"):
        lrp(X, target=(3, 0, 0), start="2")


def test_stop_at_a_layer() -> None:
    lrp = LRP(linear_net(), EpsilonPlus())
    expl = lrp(X, target=1, conditions={"2": "stop"}, layers=["2", "3"], audit=True)
    assert float(expl.relevance.abs().max()) == 0
    torch.testing.assert_close(expl.layers["2"], lrp(X, target=1, layers=["2"]).layers["2"])  # what came there
    assert expl.ledger is not None
    assert abs(expl.ledger.sinks["condition"] - float(expl.layers["2"].sum())) < 1e-9
    assert expl.ledger.imbalance < 1e-9


def test_a_condition_that_is_a_function() -> None:
    lrp = LRP(linear_net(), EpsilonPlus())
    half = lrp(X, target=1, conditions={"0": lambda relevance: relevance / 2})
    torch.testing.assert_close(half.relevance, lrp(X, target=1).relevance / 2, atol=1e-12, rtol=0)


@pytest.mark.parametrize("checkpoint", [False, 2, True])
def test_checkpoints_answer_the_same(checkpoint: bool | int) -> None:
    plain, parts = LRP(linear_net(), EpsilonPlus()), LRP(linear_net(), EpsilonPlus(), checkpoint=checkpoint)
    conditions = [{"2": channels(3, i)} for i in range(3)]
    for one, other in zip(
        plain.each(X, targets=[1], conditions=conditions, layers=["0"]),
        parts.each(X, targets=[1], conditions=conditions, layers=["0"]),
        strict=True,
    ):
        torch.testing.assert_close(one.relevance, other.relevance, atol=1e-12, rtol=0)
        torch.testing.assert_close(one.layers["0"], other.layers["0"], atol=1e-12, rtol=0)


def test_activations_and_edges() -> None:
    model = linear_net()
    lrp = LRP(model, EpsilonPlus())
    expl = lrp(X, target=1, activations=["1", "3"])
    torch.testing.assert_close(expl.activations["1"], model[:2](X))
    torch.testing.assert_close(expl.activations["3"], model[:4](X))
    known = lrp._latest
    assert known is not None
    edges = {"first": (known.nodes["1"], known.nodes["2"])}
    asked = Question(known.program.explained, Seed(Logit(1)), {"1": known.nodes["1"]}, edges=edges)
    found = next(answer(known.program, [X], [asked]))
    torch.testing.assert_close(found.edges["first"], found.relevance["1"])  # all that the ReLU gets comes from there


def test_an_own_kind_of_target() -> None:
    @dataclass(frozen=True)
    class Difference(Target):
        """The difference of two outputs."""

        first: int
        second: int

        def value(self, output: Tensor) -> Tensor:
            start = torch.zeros_like(output)
            start[:, self.first], start[:, self.second] = output[:, self.first], -output[:, self.second]
            return start

        def __str__(self) -> str:
            return f"output {self.first} less output {self.second}"

    model = linear_net()
    lrp = LRP(model, ZeroRule(stabilizer=0.0), normalize_output=False)
    expl = lrp(X, target=Difference(1, 3))
    expected = by_hand(model, {}, 1) - by_hand(model, {}, 3)
    torch.testing.assert_close(expl.relevance, expected, atol=1e-9, rtol=0)
    assert expl.target is None
    two = lrp.each(X, targets=[Difference(1, 3), 1])
    torch.testing.assert_close(two[0].relevance, expected, atol=1e-9, rtol=0)


def test_an_own_analyzer() -> None:
    class Saliency(FunctionAnalyzer):
        def relevance(self, function, inputs, seed):  # type: ignore[no-untyped-def]
            return [g.abs() for g in gradient(function, inputs, seed)]

    model = linear_net()
    x = X.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(x)[:, 2].sum(), x)
    expl = Saliency(model)(X, target=2)
    torch.testing.assert_close(expl.relevance, g.abs())
    torch.testing.assert_close(expl.output, model(X))
    assert expl.target is not None
    assert expl.target.tolist() == [2, 2, 2]


def test_gradients() -> None:
    model = linear_net()
    x = X.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(x).amax(1).sum(), x)
    torch.testing.assert_close(Gradient(model)(X).relevance, g)
    torch.testing.assert_close(InputTimesGradient(model)(X).relevance, X * g)


def test_integrated_gradients_sum_to_the_difference_of_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.rand(4, 6, dtype=torch.float64)
    reference = torch.rand(6, dtype=torch.float64)
    expl = IntegratedGradients(model, reference=reference, steps=200)(x, target=1)
    difference = (model(x) - model(reference))[:, 1]
    torch.testing.assert_close(expl.relevance.sum(1), difference, atol=1e-5, rtol=0)


def test_smoothgrad_of_a_linear_model_is_its_gradient_and_repeats() -> None:
    model = nn.Linear(6, 3).double()
    x = torch.rand(4, 6, dtype=torch.float64)
    expl = SmoothGrad(model, samples=5)(x, target=1)
    torch.testing.assert_close(expl.relevance, model.weight[1].detach().expand(4, 6))
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    first, second = (SmoothGrad(net, samples=3)(x).relevance for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert not torch.equal(first, Gradient(net)(x).relevance)


def test_gradients_of_token_ids_are_those_of_their_embeddings() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids).tanh().mean(1))

    model, ids = Bag().eval(), torch.randint(0, 20, (2, 5))
    embedded = model.embed(ids).detach().requires_grad_()
    (g,) = torch.autograd.grad(model.head(embedded.tanh().mean(1))[:, 1].sum(), embedded)
    torch.testing.assert_close(Gradient(model)(ids, target=1).relevance, g)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"conditions": {"7": "stop"}}, "conditions='7' matches no module"),
        ({"conditions": {"0": "halt"}}, "a mask"),
        ({"conditions": {"0": torch.ones(5, 1, 1)}}, "does not broadcast"),
        ({"start": "*"}, "fits"),
    ],
)
def test_questions_that_make_no_sense(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        LRP(linear_net(), EpsilonRule())(X, **options)  # type: ignore[arg-type]


def test_inputs_called_like_options_are_not_swallowed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 3, bias=False)

        def forward(self, x: Tensor, target: Tensor) -> Tensor:
            return self.body(x) + target

    model, x, y = Net().eval(), torch.rand(2, 4), torch.rand(2, 3)
    lrp = LRP(model)
    with pytest.raises(InputError, match="an input of its own that is called 'target'"):
        lrp(x, target=y)
    for expl in (lrp.explain((x, y), target=1), lrp.explain({"x": x, "target": y}, target=1)):
        torch.testing.assert_close(expl.output, model(x, y))
        assert set(expl.by_input) == {"x", "target"}
        torch.testing.assert_close(expl.by_input["target"][:, 0], torch.zeros(2))


def test_names_of_classes() -> None:
    lrp = LRP(nn.Linear(4, 3), classes=["cat", "dog", "owl"])
    x = torch.rand(2, 4)
    assert lrp(x, target="owl").target.tolist() == [2, 2]  # type: ignore[union-attr]
    with pytest.raises(TargetError, match="did you mean"):
        lrp(x, target="cats")
    with pytest.raises(TargetError, match="is a name"):
        LRP(nn.Linear(4, 3))(x, target="cat")


def test_which_output_is_explained() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3, bias=False), nn.Linear(4, 2, bias=False)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"boxes": self.b(x), "logits": self.a(x)}

    model, x = Two(), torch.rand(2, 4)
    for wanted, head in ((None, model.a), ("logits", model.a), ("boxes", model.b), (0, model.b), (-1, model.a)):
        expl = LRP(model, output=wanted, normalize_output=False)(x, target=1)
        torch.testing.assert_close(expl.relevance, x * head.weight[1], atol=1e-6, rtol=1e-5)
    with pytest.raises(InputError, match="outputs are boxes, logits"):
        LRP(model, output="scores")(x)


def test_relevance_of_parameters_is_what_the_books_say() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)).double()
    expl = LRP(model, EpsilonPlus())(X, target=1, parameters=True, audit=True)
    assert expl.ledger is not None
    assert set(expl.parameters) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    for entry in expl.ledger:
        if entry.module in ("0", "3"):
            assert abs(float(expl.parameters[f"{entry.module}.weight"].sum()) - entry.passed) < 1e-9
            assert abs(float(expl.parameters[f"{entry.module}.bias"].sum()) - entry.sinks["bias"]) < 1e-9
            assert (
                expl.parameters[f"{entry.module}.weight"].shape == model.get_parameter(f"{entry.module}.weight").shape
            )


@pytest.mark.parametrize(
    "composite", [EpsilonPlus(epsilon=0.1), ZeroRule(), GammaRule(0.5)], ids=["plus", "zero", "gamma"]
)
def test_differentiable_relevance_of_a_call(composite: Composite | Rule) -> None:
    """Its derivative along a direction, in the inputs and in every parameter, is that of finite differences."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)).double()
    lrp, x, slopes = LRP(model, composite), X.clone().requires_grad_(), torch.randn_like(X)
    expl = lrp(x, target=1, differentiable=True)
    torch.testing.assert_close(expl.relevance.detach(), lrp(X, target=1).relevance)
    leaves = [x, *model.parameters()]
    gradients = torch.autograd.grad((expl.relevance * slopes).sum(), leaves, allow_unused=True)
    directions = [torch.randn_like(t) for t in leaves]
    ahead, behind = (_moved(lrp, leaves, directions, step, slopes) for step in (1e-6, -1e-6))
    along = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)
    torch.testing.assert_close(along, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-6)
    assert float(along.abs()) > 1e-3


def _moved(lrp: LRP, leaves: list[Tensor], directions: list[Tensor], step: float, slopes: Tensor) -> Tensor:
    """`Σ slopes · R` with inputs and parameters moved a step along some directions."""
    with torch.no_grad():
        for leaf, direction in zip(leaves, directions, strict=True):
            leaf += step * direction
        found = (lrp(leaves[0].detach(), target=1).relevance * slopes).sum()
        for leaf, direction in zip(leaves, directions, strict=True):
            leaf -= step * direction
    return found
