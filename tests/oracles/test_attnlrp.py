"""AttnLRP and CP-LRP on transformers, against an implementation that knows nothing of relprop.

The oracle is AttnLRP as *modified gradients* (Achtibat et al. 2024): with a 0-rule everywhere, `R = x · ∂y/∂x` where
some local derivatives are changed. Activations get `f(x)/x`; a product of data with data divides by 2, which for fused
attention makes 1/4 for queries and keys and 1/2 for values; the statistics of a norm are detached. `ModifiedGradients`
does that for whatever functions of PyTorch a model calls, and is gone when its `with` block ends.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close, relative_l2
from support.modified_gradients import ModifiedGradients, by_modified_gradients, logits
from support.torchvision_shim import install
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, GlobalTypeMap
from relprop.rules import AttentionRule, SoftmaxRule, StopRule

install()
transformers = pytest.importorskip("transformers")

VOCABULARY, WIDTH, TOKENS = 40, 16, 6
IDS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
HEAD = {"head_dim": 4}
LAYERS = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", SMALL),
    "qwen2": ("Qwen2ForCausalLM", SMALL),
    "qwen3": ("Qwen3ForCausalLM", SMALL | HEAD),
    "gemma3": ("Gemma3ForCausalLM", SMALL | HEAD | LAYERS),
    "mistral": ("MistralForCausalLM", SMALL | {"sliding_window": 3}),
}
SMALL_GPT2 = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 32,
              "bos_token_id": 1, "eos_token_id": 2, "activation_function": "gelu_pytorch_tanh"}  # fmt: skip
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", {k: v for k, v in SMALL.items() if "key_value" not in k}),
    "gpt2": ("GPT2LMHeadModel", SMALL_GPT2),
}
LANGUAGE = DECODERS | OTHERS
ALIKE = ("qwen2", "mistral", "qwen3", "gemma3")
"""Read by the same code as Llama, but for biases, windows, norms of queries: theirs is the slow run."""


def names(models: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in models]


# The models.


def language_model(
    name: str, dtype: torch.dtype = torch.float64, attention: str = "sdpa", biases: bool = True
) -> nn.Module:
    """A tiny Hugging Face model with random weights of a size that makes every part matter."""
    kind, options = LANGUAGE[name]
    model_type = getattr(transformers, kind)
    config = model_type.config_class(**options, attn_implementation=attention, pad_token_id=0)
    torch.manual_seed(0)
    return randomized(model_type(config), biases).to(dtype)


def vision_transformer(dtype: torch.dtype = torch.float64) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5)
    return randomized(model).to(dtype)


def randomized(model: nn.Module, biases: bool = True) -> nn.Module:
    """Weights that keep the scale, scales around 1, and shifts and biases that are not zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5 if "embed" not in name else 1.0)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1 if biases else 0.0)
            else:
                parameter.uniform_(0.5, 1.5)
    return model.eval()


def last_token(name: str, position: int = TOKENS - 1, token: int = 7) -> int | tuple[int, int]:
    """What is explained: a token at a position, or a class where the model gives one."""
    return 1 if name == "bert" else (position, token)


@functools.cache
def analyzer(name: str, attention: str = "sdpa") -> LRP:
    """AttnLRP, in float64. Captured once: with a batch of two and six tokens."""
    return LRP(language_model(name, attention=attention), normalize_output=True)


# AttnLRP equals the oracle.


@pytest.mark.parametrize("name", names(LANGUAGE))
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attnlrp_equals_modified_gradients(name: str, attention: str):
    model = language_model(name, attention=attention)
    target = last_token(name)
    mode = ModifiedGradients()
    expected = by_modified_gradients(model, target, mode, input_ids=IDS)
    assert mode.seen >= {"activation", "norm"} | ({"attention"} if attention == "sdpa" else {"product"})
    actual = analyzer(name, attention)(input_ids=IDS, target=target).relevance
    assert_close(actual, expected, rtol=1e-5, what=name)


def test_attnlrp_equals_modified_gradients_on_torchvisions_vit():
    model = vision_transformer()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    frozen, leaf = copy.deepcopy(model).requires_grad_(False), x.clone().requires_grad_()
    with ModifiedGradients() as mode:
        chosen = frozen(leaf)[:, 2]
    assert mode.seen >= {"activation", "norm", "attention"}
    (gradient,) = torch.autograd.grad(chosen.sum(), leaf)
    expected = x * gradient / chosen.detach().reshape(-1, 1, 1, 1)
    actual = LRP(model, normalize_output=True)(x, target=2).relevance
    assert_close(actual, expected, rtol=1e-5)


def test_an_activation_that_is_spelled_out_is_one_activation():
    """GPT-2's own GELU multiplies `x` with a function of `x`, but is no product of two signals."""
    model = language_model("gpt2")
    for block in model.transformer.h:
        block.mlp.act = transformers.activations.NewGELUActivation()
    spelled_out = LRP(model, normalize_output=True)(input_ids=IDS, target=last_token("gpt2")).relevance
    assert_close(spelled_out, analyzer("gpt2")(input_ids=IDS, target=last_token("gpt2")).relevance, rtol=1e-7)


def test_the_oracle_leaves_nothing_behind():
    model = language_model("llama")
    before, silu = logits(model, input_ids=IDS), F.silu
    by_modified_gradients(model, (5, 7), input_ids=IDS)
    assert F.silu is silu
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(logits(model, input_ids=IDS), before)


# Laws of their own.

CP = Composite(GlobalTypeMap({"scaled_dot_product_attention": AttentionRule("cp"), "softmax": StopRule()}))


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", names(DECODERS))
def test_cp_lrp_conserves_on_decoders_without_biases(name: str, attention: str):
    """RMSNorms, gated MLPs, rotary positions and values by fixed attention weights keep nothing for themselves."""
    model = language_model(name, torch.float32, attention, biases=False)
    expl = LRP(model, CP, normalize_output=True)(input_ids=IDS, target=(5, 7), audit=True)
    assert expl.relevance.sum((1, 2)).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
    assert sum(abs(kept) for kept in expl.ledger.sinks.values()) <= 1e-4
    assert expl.ledger.imbalance <= 1e-4


@pytest.mark.parametrize("name", names(LANGUAGE))
def test_the_books_of_attnlrp_balance(name: str):
    ledger = analyzer(name)(input_ids=IDS, target=last_token(name), audit=True).ledger
    assert ledger.imbalance <= 1e-6
    assert ledger.input + sum(ledger.sinks.values()) == pytest.approx(ledger.output, abs=1e-6)
    assert abs(ledger.sinks["softmax"]) > 1e-3  # AttnLRP's softmax does keep relevance


@pytest.mark.parametrize("name", names(LANGUAGE))
def test_eager_attention_equals_fused_attention(name: str, monkeypatch: pytest.MonkeyPatch):
    """Softmax and two products by one rule each, or a fused kernel's backward and the factors 1/4, 1/4, 1/2."""
    softmax = F.softmax  # most models take it in float32, which would be all that is seen
    monkeypatch.setattr(F, "softmax", lambda x, dim=None, dtype=None, **_: softmax(x, dim))
    eager = LRP(language_model(name, attention="eager"), normalize_output=True)(input_ids=IDS, target=last_token(name))
    fused = analyzer(name)(input_ids=IDS, target=last_token(name))
    assert_close(eager.output.logits, fused.output.logits, rtol=1e-8)
    assert_close(eager.relevance, fused.relevance, rtol=1e-8)


@pytest.mark.parametrize("name", names(LANGUAGE))
def test_a_batch_equals_its_samples(name: str):
    lrp = analyzer(name)
    together = lrp(input_ids=IDS, target=last_token(name)).relevance
    for i in range(len(IDS)):
        alone = lrp(input_ids=IDS[i : i + 1], target=last_token(name)).relevance
        assert_close(together[i : i + 1], alone, rtol=1e-6)


@pytest.mark.parametrize("side", ["left", pytest.param("right", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", names(LANGUAGE))
def test_padding_changes_nothing_and_gets_nothing(name: str, side: str):
    """Two sentences of 4 and 6 tokens: the shorter one, padded, equals itself alone."""
    if side == "left" and name in OTHERS:
        pytest.skip("absolute positions count the padding")
    real = slice(2, 6) if side == "left" else slice(0, 4)
    ids, mask = torch.zeros(2, 6, dtype=torch.long), torch.zeros(2, 6, dtype=torch.long)
    ids[0, real], ids[1] = IDS[0, :4], IDS[1]
    mask[0, real], mask[1] = 1, 1
    lrp = analyzer(name)
    padded = lrp(input_ids=ids, attention_mask=mask, target=last_token(name, real.stop - 1)).relevance
    alone = lrp(input_ids=IDS[:1, :4], attention_mask=mask[:1, real], target=last_token(name, 3)).relevance
    assert_close(padded[:1, real], alone, rtol=1e-6)
    assert (padded[0][mask[0] == 0] == 0).all()
    assert (padded[0][mask[0] == 1] != 0).any(-1).all() or name == "mistral"  # sees three tokens back


class Products(nn.Module):
    """`x1 · x2 · x3`, associated to the left or to the right."""

    def __init__(self, left: bool) -> None:
        super().__init__()
        self.left = left

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = x[:, 0:1], x[:, 1:2], x[:, 2:3]
        return (a * b) * c if self.left else a * (b * c)


@pytest.mark.parametrize("left", [True, False])
def test_a_product_of_three_gives_thirds(left: bool):
    """2 · 3 · 4 = 24 has relevance 24: a third is 8. Halving twice would give 6, 6, 12 to one association."""
    x = torch.tensor([[2.0, 3.0, 4.0]], dtype=torch.float64)
    relevance = LRP(Products(left), normalize_output=False)(x, target=0).relevance
    assert_close(relevance, torch.full((1, 3), 8.0, dtype=torch.float64))


class Attend(nn.Module):
    """Eager attention of one head, without any other sink than the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 6, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / 6**0.5
        return (scores.softmax(-1) @ self.v(x)).sum(1)


@pytest.mark.parametrize("bias", ["absorb", "ignore", "distribute"])
def test_softmax_bias(bias: str):
    """What the bias of the softmax's tangent keeps: relevance with `absorb`, nothing otherwise."""
    torch.manual_seed(0)
    model = Attend().double().eval()
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    expl = LRP(model, Composite(GlobalTypeMap({"softmax": SoftmaxRule(bias)})), normalize_output=True)(
        x, target=0, audit=True
    )
    sums = expl.relevance.sum((1, 2))
    if bias == "absorb":
        assert (sums - 1).abs().min() > 1e-3
        assert abs(expl.ledger.sinks["softmax"]) > 1e-3
        assert sum(expl.ledger.sinks.values()) == pytest.approx(2.0 - sums.sum().item(), abs=1e-8)
    else:
        assert sums.tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert expl.ledger.imbalance <= 1e-7


def test_softmax_bias_worked_by_hand():
    """s = softmax(x) with x = (ln 2, ln 6) and s = (1/4, 3/4), s₁ with relevance 1.

    absorb:     R_i = x_i (R_i − s_i Σ R) = (3/4 ln 2, −3/4 ln 6): the sum is 3/4 ln 1/3, the rest is kept.
    ignore:     the denominator of s₁ without its bias is s₁ (x₁ − Σ s x), of which x_i s₁ (δ_1i − s_i) is the
                share: R = (3/4 ln 2, −3/4 ln 6) / (ln 2 − ln 2 / 4 − 3/4 ln 6) = (ln 2, −ln 6) / ln 1/3.
    distribute: half of 1 − 3/4 ln 1/3 to each.
    """
    ln = torch.tensor([2.0, 6.0, 1 / 3], dtype=torch.float64).log()
    absorb = torch.stack([0.75 * ln[0], -0.75 * ln[1]])
    expected = {
        "absorb": absorb,
        "ignore": torch.stack([ln[0], -ln[1]]) / ln[2],
        "distribute": absorb + (1 - 0.75 * ln[2]) / 2,
    }

    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(-1)[:, :1]

    for bias, relevance in expected.items():
        rule = Composite(GlobalTypeMap({"softmax": SoftmaxRule(bias)}))
        assert_close(LRP(First(), rule)(ln[None, :2], target=0).relevance, relevance[None], rtol=1e-7, what=bias)


@pytest.mark.slow
@pytest.mark.parametrize("name", names(LANGUAGE))
def test_bfloat16_agrees_roughly(name: str):
    narrow = LRP(language_model(name, torch.bfloat16))(input_ids=IDS, target=last_token(name)).relevance
    wide = LRP(language_model(name, torch.bfloat16).float())(input_ids=IDS, target=last_token(name)).relevance
    assert narrow.dtype == torch.float32
    assert torch.isfinite(narrow).all()
    assert relative_l2(narrow, wide) <= 0.1


def test_the_model_is_left_as_it_was():
    model = language_model("gemma3")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    LRP(model)(input_ids=IDS, target=(5, 7))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
