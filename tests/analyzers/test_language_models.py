"""Language models as they come: with adapters, hooks, packed or half-precision weights, and with pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from support.compare import assert_close
from support.torchvision_shim import install
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers import AnswerExplainer
from relprop.composites import AttnLRP
from relprop.errors import CaptureError

install()
transformers = pytest.importorskip("transformers")

PROMPT, ANSWER = [1, 2, 3, 4], [5, 6]
IDS = torch.tensor([[*PROMPT, *ANSWER]])
SIZES = {
    "vocab_size": 30,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


class Ids:
    """Names ids; nobody writes any."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"Ġ{i}" for i in ids]


def decoder() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).double().eval()


def explained(model: nn.Module) -> Any:
    return AnswerExplainer(model, Ids())(PROMPT, ANSWER)


# ------------------------------------------------------------------------------------------------------- adapters


@pytest.fixture(scope="module")
def adapted() -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        target_modules=["q_proj", "v_proj", "down_proj"], r=2, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    torch.manual_seed(1)
    model = peft.get_peft_model(decoder(), config)
    model.add_adapter("other", config)
    return model.double().eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits[0, [3, 4], ANSWER]


@pytest.mark.slow
def test_an_adapter_that_is_merged_or_not_disabled_or_switched_between_calls(adapted: Any):
    explain = AnswerExplainer(adapted, Ids())
    with_it = explain(PROMPT, ANSWER)
    assert explain._lrp.model.keeps  # logits of the answer alone
    assert_close(with_it.explained, logits(adapted), rtol=1e-10)
    without = explained(decoder())
    assert (with_it.relevance - without.relevance).abs().max() > 0.01
    with adapted.disable_adapter():
        assert_close(explain(PROMPT, ANSWER).relevance, without.relevance, rtol=1e-10)
    assert_close(explain(PROMPT, ANSWER).relevance, with_it.relevance, rtol=1e-10)
    adapted.set_adapter("other")
    other = explain(PROMPT, ANSWER)
    assert_close(other.explained, logits(adapted), rtol=1e-10)
    assert (other.relevance - with_it.relevance).abs().max() > 0.01
    adapted.set_adapter("default")
    adapted.merge_adapter()
    assert_close(explain(PROMPT, ANSWER).relevance, with_it.relevance, rtol=1e-6)
    adapted.unmerge_adapter()
    assert_close(explain(PROMPT, ANSWER).relevance, with_it.relevance, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------- hooks


def test_hooks_that_place_inputs_on_devices_change_nothing():
    hooks = pytest.importorskip("accelerate.hooks")
    model = decoder()
    for module in model.modules():
        hooks.add_hook_to_module(module, hooks.AlignDevicesHook(execution_device="cpu", io_same_device=True))
    assert_close(explained(model).relevance, explained(decoder()).relevance, rtol=1e-12)


def test_weights_that_a_hook_holds_elsewhere_are_refused():
    accelerate = pytest.importorskip("accelerate")
    model = decoder()
    accelerate.cpu_offload(model, execution_device="cpu")
    with pytest.raises(CaptureError, match=r"accelerate.*embed_tokens\.weight.*device_map"):
        explained(model)


# -------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("kind", "near"), [(torch.bfloat16, 0.05), pytest.param(torch.float16, 0.01, marks=pytest.mark.slow)]
)
def test_half_precision_has_relevance_in_single_precision(kind: torch.dtype, near: float):
    found, exact = explained(decoder().to(kind)), explained(decoder())
    assert found.relevance.dtype == torch.float32
    assert (found.relevance - exact.relevance).abs().max() < near * exact.relevance.abs().max()


def test_integer_weights_of_torchao_are_explained_as_they_run():
    quantization = pytest.importorskip("torchao.quantization")
    model = decoder().float()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    assert type(model.model.layers[0].mlp.up_proj.weight) is not nn.Parameter
    found, exact = explained(model), explained(decoder())
    assert_close(found.explained, logits(model), rtol=1e-5)
    assert 0 < (found.relevance - exact.relevance).abs().max() < 0.1 * exact.relevance.abs().max()


def test_packed_weights_of_bitsandbytes_in_an_unknown_form_are_refused():
    kind = type("Linear4bit", (nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})
    model = decoder()
    model.model.layers[0].mlp.up_proj = kind(32, 48, bias=False).double()
    with pytest.raises(CaptureError, match=r"up_proj \(Linear4bit\).*model\.dequantize\(\)"):
        explained(model)


# ------------------------------------------------------------------------------------------------------- pictures


def llava() -> tuple[nn.Module, dict[str, Tensor]]:
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=transformers.LlamaConfig(**SIZES), image_token_index=29,
        vision_feature_select_strategy="default", vision_feature_layer=-2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config).double().eval()
    ids = torch.tensor([[1, 29, 29, 29, 29, 5, 6, 7]])
    return model, {"input_ids": ids, "pixel_values": torch.randn(1, 3, 16, 16).double()}


def idefics() -> tuple[nn.Module, dict[str, Tensor]]:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
    }
    text = SIZES | {"model_type": "llama", "pad_token_id": 0}
    config = transformers.Idefics3Config(
        text_config=text, vision_config=vision, image_token_id=29, scale_factor=2, pad_token_id=0
    )
    torch.manual_seed(0)
    model = transformers.Idefics3ForConditionalGeneration(config).double().eval()
    ids = torch.tensor([[1, 29, 29, 29, 29, 5, 6, 7]])
    return model, {"input_ids": ids, "pixel_values": torch.randn(1, 1, 3, 16, 16).double()}


class Placed(nn.Module):
    """Qwen2-VL with the size of its picture in patches as numbers, and its positions worked out before."""

    def __init__(self, model: Any, grid: list[list[int]]) -> None:
        super().__init__()
        self.model, self.grid = model, grid

    def forward(self, input_ids: Tensor, pixel_values: Tensor, position_ids: Tensor) -> Tensor:
        return self.model(
            input_ids=input_ids, pixel_values=pixel_values, image_grid_thw=torch.tensor(self.grid),
            position_ids=position_ids, use_cache=False,
        )  # fmt: skip


def qwen() -> tuple[nn.Module, dict[str, Tensor]]:
    vision = {
        "depth": 1,
        "embed_dim": 16,
        "hidden_size": 32,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 1,
        "in_channels": 3,
    }
    scaling = {"type": "mrope", "mrope_section": [2, 3, 3]}
    text = SIZES | {"rope_scaling": scaling, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=29, vision_start_token_id=27, vision_end_token_id=28,
        video_token_id=26,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen2VLForConditionalGeneration(config).double().eval()
    ids, grid = torch.tensor([[1, 27, 29, 29, 29, 29, 28, 5, 6, 7]]), [[1, 4, 4]]
    positions, _ = model.model.get_rope_index(
        input_ids=ids, mm_token_type_ids=(ids == 29).long(), image_grid_thw=torch.tensor(grid)
    )
    given = {"input_ids": ids, "pixel_values": torch.randn(16, 48).double(), "position_ids": positions}
    return Placed(model, grid), given


@pytest.mark.slow
@pytest.mark.parametrize("make", [llava, idefics, qwen])
def test_pixels_and_tokens_are_explained_at_once(make: Any):
    model, inputs = make()
    extra: Mapping[str, Any] = {} if isinstance(model, Placed) else {"use_cache": False}
    explanation = LRP(model, AttnLRP(), normalize_output=False)(**inputs, **extra, target=(-1, 3), audit=True)
    assert explanation.by_input["pixel_values"].shape == inputs["pixel_values"].shape
    assert explanation.by_input["pixel_values"].abs().max() > 1e-4
    tokens = explanation.by_input["input_ids"][0].sum(-1)
    place = inputs["input_ids"][0] == 29
    assert not tokens[place].any()  # the picture stands there
    assert tokens[~place].abs().max() > 1e-3
    assert_close(explanation.output["logits"] if isinstance(explanation.output, Mapping) else explanation.output.logits,
                 model(**inputs, **extra).logits.detach(), rtol=1e-9)  # fmt: skip
    assert abs(explanation.ledger.imbalance) < 1e-6


# ------------------------------------------------------------------------------------------------------ positions


def test_learned_positions_are_a_sink_and_a_signed_vector():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=16, initializer_range=0.3, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    lrp = LRP(transformers.GPT2LMHeadModel(config).double().eval(), AttnLRP(), normalize_output=False)
    asked: Mapping[str, Any] = {"input_ids": IDS, "use_cache": False, "target": (-1, 3), "audit": True}
    alone, given = lrp(**asked), lrp(**asked, position_ids=torch.arange(IDS.shape[1])[None])
    places = given.by_input["position_ids"][0].sum(-1)
    assert places.shape == IDS.shape[1:]
    assert (places > 0).any()
    assert (places < 0).any()
    assert_close(places.sum(), torch.tensor(alone.ledger.sinks["wpe"]).double(), rtol=1e-6)
    assert "wpe" not in given.ledger.sinks
    assert_close(given.by_input["input_ids"], alone.by_input["input_ids"], rtol=1e-9)
