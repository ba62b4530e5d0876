"""PA-LRP's rule for rotary positions on real architectures, against autograd through cosines and sines.

PA-LRP (Bakish et al. 2025) lets cosines and sines require gradients, so that each product with them is one of data with
data, and halves. `ModifiedGradients` does that for every product; here it gets copies of its own in every call.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from support.compare import assert_close
from support.modified_gradients import ModifiedGradients, logits
from support.torchvision_shim import install
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import CPLRP, AttnLRP
from relprop.errors import InputError

install()
transformers = pytest.importorskip("transformers")

IDS = torch.tensor([[3, 1, 4, 1, 5], [2, 6, 5, 3, 5]])
TARGET = (4, 7)
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "LlamaForCausalLM", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
                                            "num_key_value_heads": 2, "intermediate_size": 24}),
    "a part of each head": ("gpt_neox", "GPTNeoXForCausalLM", {"hidden_size": 16, "num_hidden_layers": 2,
                                                               "num_attention_heads": 2, "intermediate_size": 24,
                                                               "rotary_pct": 0.5}),
    "interleaved": ("gptj", "GPTJForCausalLM", {"n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4,
                                                "n_inner": 24, "activation_function": "gelu_pytorch_tanh"}),
}  # fmt: skip


@functools.cache
def language_model(name: str) -> nn.Module:
    _, kind, options = MODELS[name]
    kind = getattr(transformers, kind)
    torch.manual_seed(0)
    config = kind.config_class(vocab_size=30, initializer_range=0.3, bos_token_id=1, eos_token_id=2, **options)
    return kind(config).double().eval()


def turning(given: list[Tensor], found: Callable[..., Any]) -> Callable[..., Any]:
    """The model's own function, with leaves in the place of cosines and sines, one row for each sample."""

    def apply(*args: Any, **options: Any) -> Any:
        own = []
        for arg in args:
            turns = not arg.requires_grad
            own.append(arg.detach().expand(len(IDS), *arg.shape[1:]).clone().requires_grad_() if turns else arg)
            given.extend(own[-1:] if turns else [])
        return found(*own, **options)

    return apply


def expected(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, list[Tensor]]:
    """Relevance of embeddings, and of the cosines and sines of each call, for relevance 1 at the target."""
    module = import_module(f"transformers.models.{MODELS[name][0]}.modeling_{MODELS[name][0]}")
    leaves: list[Tensor] = []
    turned: list[Tensor] = []
    frozen = copy.deepcopy(language_model(name)).requires_grad_(False)

    def as_leaf(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    frozen.get_input_embeddings().register_forward_hook(as_leaf)
    with monkeypatch.context() as patched:
        patched.setattr(module, "apply_rotary_pos_emb", turning(turned, module.apply_rotary_pos_emb))
        with ModifiedGradients():
            chosen = logits(frozen, input_ids=IDS)[:, TARGET[0], TARGET[1]]
    gradients = torch.autograd.grad(chosen.sum(), [*leaves, *turned])
    by = chosen.detach().reshape(-1, 1, 1)
    found = [leaf.detach() * g / by for leaf, g in zip([*leaves, *turned], gradients, strict=True)]
    return found[0], found[1:]


@pytest.mark.parametrize("name", MODELS)
def test_half_is_what_autograd_through_cosines_and_sines_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, turned = expected(name, monkeypatch)
    assert len(turned) in (4, 8)
    lrp = LRP(language_model(name), AttnLRP(rope="half"), normalize_output=True)
    expl = lrp(input_ids=IDS, target=TARGET, audit=True, positions=True)
    assert_close(expl.relevance, tokens, rtol=1e-5)
    by_place = torch.stack([R.sum(-1) for R in turned]).sum(0)
    assert_close(expl.positions(), by_place, rtol=1e-5)
    assert expl.ledger is not None
    assert expl.ledger.sinks["rotary"] == pytest.approx(float(by_place.sum()), rel=1e-5)
    assert expl.ledger.input + sum(expl.ledger.sinks.values()) == pytest.approx(expl.ledger.output, abs=1e-5)
    assert expl.ledger.imbalance < 1e-6  # GPT-J attends in float32
    assert float(by_place.abs().sum()) > 1e-3


def test_cosines_and_sines_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forms of PA-LRP's equation and of its code, from the leaves of autograd: cos, sin of the first layer, ..."""
    _, turned = expected("llama", monkeypatch)
    lrp = LRP(language_model("llama"), AttnLRP(rope="half"), normalize_output=True)
    expl = lrp(input_ids=IDS, target=TARGET, positions=True)
    names = [f"model.layers.{i}.self_attn:{turn}" for i in range(2) for turn in ("cos", "sin")]
    assert sorted(expl.places) == sorted(names)
    for name, R in zip(names, turned, strict=True):
        assert_close(expl.places[name], R, rtol=1e-6)
    positive = sum((cos + sin).clamp(min=0).sum(-1) for cos, sin in zip(turned[::2], turned[1::2], strict=True))
    assert_close(expl.positions("positive"), positive, rtol=1e-6)
    assert_close(expl.positions("absolute"), torch.stack([R.sum(-1).abs() for R in turned]).sum(0), rtol=1e-6)


def test_constant_is_the_default_and_sends_queries_and_keys_all() -> None:
    model = language_model("llama")
    plain, said = (
        LRP(model, c)(input_ids=IDS, target=TARGET, audit=True) for c in (AttnLRP(), AttnLRP(rope="constant"))
    )
    assert torch.equal(plain.relevance, said.relevance)
    assert "rotary" not in plain.ledger.sinks
    half = LRP(model, AttnLRP(rope="half"))(input_ids=IDS, target=TARGET, audit=True)
    assert abs(half.ledger.sinks["rotary"]) > 1e-3


def test_where_queries_and_keys_get_nothing_positions_get_nothing() -> None:
    model = language_model("llama")
    lrp = LRP(model, CPLRP(rope="half"))
    assert_close(
        lrp(input_ids=IDS, target=TARGET).relevance, LRP(model, CPLRP())(input_ids=IDS, target=TARGET).relevance
    )
    with pytest.raises(InputError, match="No position has relevance"):
        lrp(input_ids=IDS, target=TARGET, positions=True).positions()


def test_one_position_of_a_batch_is_asked_as_the_whole_is() -> None:
    """A program for one position of the sequence keeps the rule, also where its own queries are one row."""
    model = language_model("llama")
    lrp = LRP(model, AttnLRP(rope="half"), normalize_output=False)
    alone = lrp(input_ids=IDS, target=TARGET).relevance
    with_books = lrp(input_ids=IDS, target=TARGET, audit=True).relevance
    assert_close(alone, with_books, rtol=1e-9)
