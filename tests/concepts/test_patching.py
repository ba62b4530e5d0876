"""Relevance patching, against running the model with other activations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import CPLRP, AttnLRP
from relprop.concepts import Concept, Heads, Neurons, PerToken, Tokens, relevance_patching
from relprop.errors import InputError
from relprop.targets import Difference

HEADS, D, T = 2, 6, 4
CLEAN, CORRUPTED = torch.randn(2, 1, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


class Block(nn.Module):
    """One attention layer and one gated feed-forward layer, each added to the tokens; a head on their last one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.q, self.k, self.v, self.out = (nn.Linear(D, D) for _ in range(4))
        self.up, self.act, self.down, self.head = nn.Linear(D, 8), nn.GELU(), nn.Linear(8, D), nn.Linear(D, 3)
        self.double()

    def mixed(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).reshape(*x.shape[:2], HEADS, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self.mixed(x))
        return self.head(x + self.down(self.act(self.up(x))))[:, -1]


class Attend(Block):
    """The attention layer alone, which is linear behind its heads."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.out(self.mixed(x)))[:, -1]


def patched(model: nn.Module, layer: nn.Module, change: Callable[[Tensor, Tensor], None], at: str = "output") -> Tensor:
    """The model's outputs for the clean input, while a part of a layer's output or input is the corrupted input's."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | None = None) -> None:
        kept.append(args[0] if at == "input" else output)

    def put(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | None = None) -> Tensor:
        value = (args[0] if at == "input" else output).clone()
        change(value, kept[0])
        return value

    register = layer.register_forward_pre_hook if at == "input" else layer.register_forward_hook
    with torch.no_grad():
        handle = register(keep)
        model(CORRUPTED)
        handle.remove()
        handle = register(put)
        output = model(CLEAN)
        handle.remove()
    return output


def effect(model: nn.Module, layer: nn.Module, change: Callable[[Tensor, Tensor], None], at: str = "output") -> float:
    with torch.no_grad():
        difference = patched(model, layer, change, at) - model(CLEAN)
    return float(difference[0, 2] - difference[0, 0])


def put_head(head: int) -> Callable[[Tensor, Tensor], None]:
    def change(value: Tensor, other: Tensor) -> None:
        inside = slice(head * D // HEADS, (head + 1) * D // HEADS)
        value[..., inside] = other[..., inside]

    return change


def put_entry(token: int, neuron: int) -> Callable[[Tensor, Tensor], None]:
    def change(value: Tensor, other: Tensor) -> None:
        value[:, token, neuron] = other[:, token, neuron]

    return change


@pytest.mark.parametrize("normalize", [False, True, "magnitude"])
@pytest.mark.parametrize("at", ["clean", "corrupted", "both"])
def test_where_the_model_is_linear_it_is_activation_patching(at: str, normalize: bool | str) -> None:
    """Heads are added to the last token and read by a linear layer: exact, and in units of the output."""
    model = Attend()
    lrp = LRP(model, AttnLRP(), normalize_output=normalize)
    found = relevance_patching(lrp, CLEAN, CORRUPTED, ["out:input", "out"], target=Difference(2, 0), at=at)
    for head, estimated in enumerate(found.by("out:input", Heads(HEADS))[0]):
        assert float(estimated) == pytest.approx(effect(model, model.out, put_head(head), "input"), rel=1e-6)
    for token, estimated in enumerate(found.by("out", Tokens())[0]):

        def whole(value: Tensor, other: Tensor, token: int = token) -> None:
            value[:, token] = other[:, token]

        assert float(estimated) == pytest.approx(effect(model, model.out, whole), abs=1e-6)
    with torch.no_grad():
        amounts = [model(x)[0, 2] - model(x)[0, 0] for x in (CLEAN, CORRUPTED)]
    assert_close(found.clean, amounts[0][None])
    assert_close(found.corrupted, amounts[1][None])


def test_neurons_behind_their_activation_are_exact_one_by_one() -> None:
    model = Block()
    found = relevance_patching(LRP(model, AttnLRP()), CLEAN, CORRUPTED, "down:input", target=Difference(2, 0))
    scores = found.by("down:input", PerToken(Neurons()))[0].reshape(T, 8)
    for token, neuron in [(T - 1, 0), (T - 1, 5), (1, 3)]:
        exact = effect(model, model.down, put_entry(token, neuron), "input")
        assert float(scores[token, neuron]) == pytest.approx(exact, abs=1e-8)
    assert_close(scores.sum(0), found.by("down:input", Neurons())[0], rtol=1e-9)
    assert float(scores[:-1].abs().max()) == 0  # only the last token is read


def test_an_activation_that_is_put_to_zero_is_exact_where_the_gradient_is_not() -> None:
    """`gelu(0) = 0`, so all of `x · gelu(x)/x` goes; the gradient's `x · gelu'(x)` is something else."""
    model = Block()
    lrp = LRP(model, AttnLRP())
    expl = lrp(CLEAN, target=Difference(2, 0), activations="up", coefficients="up")
    a, c = expl.activations["up"][0, -1], lrp.in_units_of_the_amount(expl, expl.coefficients["up"])[0, -1]
    up = a.detach().requires_grad_()
    y = model.head(model.down(model.act(up)))
    (gradient,) = torch.autograd.grad(y[2] - y[0], up)
    for neuron in range(8):

        def to_zero(value: Tensor, other: Tensor, neuron: int = neuron) -> None:
            value[:, -1, neuron] = 0

        exact = effect(model, model.up, to_zero)
        assert float(-a[neuron] * c[neuron]) == pytest.approx(exact, rel=1e-6, abs=1e-9)
        assert abs(float(-a[neuron] * gradient[neuron]) - exact) > 1e-2 * abs(exact)


def test_the_strongest_are_named() -> None:
    model = Block()
    layers = {"out:input": PerToken(Heads(HEADS)), "down:input": Neurons()}
    found = relevance_patching(LRP(model, CPLRP()), CLEAN, CORRUPTED, list(layers), target=Difference(2, 0))
    top = found.top(layers, 5)
    assert len(top) == 5
    assert [abs(effect) for _, effect in top] == sorted((abs(effect) for _, effect in top), reverse=True)
    concept, effect_of = top[0]
    scores = found.by(concept.layer, layers[concept.layer])[0]
    number = concept.feature if concept.position is None else concept.position * HEADS + concept.feature
    assert float(scores[number]) == effect_of
    assert Concept("out:input", 1, 3) in dict(found.top(layers, 99))
    assert_close(found.layers["out:input"], found.by("out:input", Heads(HEADS)).sum(1), rtol=1e-9)


def test_a_layer_that_no_relevance_comes_to_has_no_effect() -> None:
    found = relevance_patching(LRP(Attend(), CPLRP()), CLEAN, CORRUPTED, ["q", "v"], target=1)
    assert float(found.layers["q"]) == 0
    assert abs(float(found.layers["v"])) > 1e-3
    assert repr(found).startswith("Patching(2 layers, [")


def test_refusals() -> None:
    lrp = LRP(Attend(), AttnLRP())
    wrong = {
        "say target=": lambda: relevance_patching(lrp, CLEAN, CORRUPTED, "out", target=None),
        "at='before'": lambda: relevance_patching(lrp, CLEAN, CORRUPTED, "out", target=1, at="before"),
        "LRP analyzer": lambda: relevance_patching(Attend(), CLEAN, CORRUPTED, "out", target=1),
        "of the same shapes": lambda: relevance_patching(lrp, CLEAN, CORRUPTED[:, 1:], "out", target=1),
        "'v' was not asked for": lambda: relevance_patching(lrp, CLEAN, CORRUPTED, "out", target=1).by("v", Tokens()),
        "what a position holds": lambda: PerToken(Neurons(3)),
        "at each of its positions": lambda: PerToken(Tokens()).count([1, T, D]),
    }
    for message, call in wrong.items():
        with pytest.raises(InputError, match=message):
            call()
