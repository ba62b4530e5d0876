"""Boolean masks of fused attention are made ready once, and a causal one is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from support.torchvision_shim import install
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from relprop import LRP
from relprop.composites import AttnLRP
from relprop.engine.graph import masks
from relprop.engine.graph.masks import Causal, attend, ready_mask

install()

T = 5
CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()
PADDED = torch.tensor([[1] * T, [0, 0, 1, 1, 1]], dtype=torch.bool)[:, None, None] & CAUSAL
WINDOW = CAUSAL & torch.ones(T, T, dtype=torch.bool).triu(-2)


@pytest.mark.parametrize("mask", [CAUSAL, CAUSAL.expand(2, 3, T, T), torch.ones(1, 1, dtype=torch.bool)])
def test_a_causal_mask_is_a_word(mask: Tensor) -> None:
    assert ready_mask(mask, torch.float32) == Causal()


@pytest.mark.parametrize("mask", [PADDED, WINDOW, ~CAUSAL, CAUSAL[:, :3], CAUSAL[1:2]])
def test_any_other_is_numbers(mask: Tensor) -> None:
    ready = ready_mask(mask, torch.float64)
    assert ready.dtype == torch.float64
    assert torch.equal(ready == 0, mask)
    assert torch.equal(ready == -torch.inf, ~mask)


def test_what_only_repeats_is_there_once_and_values_are_not_asked_for_while_tracing() -> None:
    assert ready_mask(WINDOW.expand(4, 3, T, T), torch.float32).shape == (1, 1, T, T)
    mode = FakeTensorMode()
    with mode:
        assert ready_mask(mode.from_tensor(CAUSAL), torch.float32).shape == (T, T)


@pytest.mark.parametrize("mask", [CAUSAL, PADDED, WINDOW.expand(2, 3, T, T)])
def test_attention_is_that_under_the_mask(mask: Tensor) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, T, 4, dtype=torch.float64)
    found = attend(q, k, v, ready_mask(mask, torch.float32), scale=0.3)
    assert_close(found, F.scaled_dot_product_attention(q, k, v, mask, scale=0.3), rtol=1e-12)


def decoder(kind: str, **settings: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 24, "pad_token_id": 0,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**sizes, **settings)
    return getattr(transformers, f"{kind}ForCausalLM")(config).double().eval()


def asked(monkeypatch: pytest.MonkeyPatch, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Any, list[Any]]:
    """An explanation, and (mask, causal) of each attention that ran in it."""
    lrp, seen = LRP(model, AttnLRP(), normalize_output=False), list[Any]()
    lrp(**inputs, use_cache=False, target=TARGET)
    fused = F.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, mask: Any, p: float, causal: bool, **options: Any) -> Tensor:
        seen.append((mask, causal))
        return fused(q, k, v, mask, p, causal, **options)

    with monkeypatch.context() as patch:
        patch.setattr(masks, "F", SimpleNamespace(scaled_dot_product_attention=watched))
        return lrp(**inputs, use_cache=False, target=TARGET), seen


IDS = torch.tensor([[3, 5, 1, 7, 9], [2, 2, 8, 4, 6]])
TARGET = (2, 3)


def test_no_layer_of_a_decoder_has_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    for inputs in ({"input_ids": IDS}, ones):
        _, seen = asked(monkeypatch, decoder("Llama"), inputs)
        assert seen == [(None, True)] * 3


@pytest.mark.slow
def test_all_layers_share_a_mask_of_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"input_ids": IDS, "attention_mask": torch.tensor([[1] * T, [1, 1, 1, 0, 0]])}
    found, seen = asked(monkeypatch, decoder("Llama"), inputs)
    assert len(seen) == 3
    assert len({mask.data_ptr() for mask, _ in seen}) == 1
    eager = LRP(decoder("Llama", attn_implementation="eager"), AttnLRP(), normalize_output=False)
    expected = eager(**inputs, use_cache=False, target=TARGET)
    assert_close(found.relevance, expected.relevance, rtol=1e-6)  # transformers' own softmax is in float32
    assert_close(found.output.logits[:, 2], expected.output.logits[:, 2], rtol=1e-6)


@pytest.mark.parametrize("window", [3, pytest.param(32, marks=pytest.mark.slow)])
def test_a_window_that_hides_something_is_no_causal_mask(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"sliding_window": window}
    found, seen = asked(monkeypatch, decoder("Mistral", **settings), {"input_ids": IDS})
    assert all(causal == (window > T) for _, causal in seen)
    eager = LRP(decoder("Mistral", attn_implementation="eager", **settings), AttnLRP(), normalize_output=False)
    expected = eager(input_ids=IDS, use_cache=False, target=TARGET)
    assert_close(found.relevance, expected.relevance, rtol=1e-6)  # transformers' own softmax is in float32


def test_the_books_know_that_nothing_is_read_ahead() -> None:
    found = LRP(decoder("Llama"), AttnLRP())(input_ids=IDS[:1], use_cache=False, target=TARGET, audit=True)
    assert found.ledger.imbalance < 1e-6
