"""A fixed part of the zoo (benchmarks/zoo.py): captured, explained, books balanced, relevance conserved."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.torchvision_shim import install
from support.versions import OLDEST

from relprop import LRP
from relprop.composites import Composite, GlobalTypeMap
from relprop.rules import AttentionRule, StopRule

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

if not install():
    pytest.skip("torchvision is not installed", allow_module_level=True)
for library in ("timm", "transformers"):
    pytest.importorskip(library)

from zoo_entry import Entry, call  # noqa: E402
from zoo_measure import measure  # noqa: E402
from zoo_models import zoo  # noqa: E402

DECODERS = [
    "transformers/LlamaForCausalLM",
    "transformers/MistralForCausalLM",
    "transformers/Qwen3ForCausalLM",
    "transformers/Gemma3ForCausalLM",
]
"""No biases, and norms that do not centre: nothing but attention weights could keep relevance."""

OTHERS = [
    "torchvision/resnet18",
    "torchvision/mobilenet_v3_small",
    "timm/convnext_zepto_rms",
    "timm/vit_tiny_patch16_224",
    "transformers/BertForSequenceClassification",
    "transformers/MixtralForCausalLM",
    "transformers/T5ForConditionalGeneration",
    "transformers/SwinForImageClassification",
    "transformers/Wav2Vec2ForSequenceClassification",
    "transformers/LongformerForSequenceClassification",
    "transformers/ViltForQuestionAnswering",
    "written_out/GAT",
    "written_out/TabNet",
]

CP = Composite(GlobalTypeMap({"scaled_dot_product_attention": AttentionRule("cp"), "softmax": StopRule()}))


ALIKE = (
    *("transformers/MistralForCausalLM", "transformers/Qwen3ForCausalLM", "transformers/MixtralForCausalLM"),
    *("torchvision/mobilenet_v3_small", "timm/convnext_zepto_rms", "transformers/LongformerForSequenceClassification"),
    *("transformers/T5ForConditionalGeneration", "transformers/Gemma3ForCausalLM"),
    "transformers/ViltForQuestionAnswering",
)
"""Too much like others, here or in other tests, to be run each time."""


def names(members: list[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in members]


@cache
def entries() -> dict[str, Entry]:
    return {f"{e.library}/{e.name}": e for e in zoo()}


@cache
def row(name: str) -> dict[str, Any]:
    return measure(entries()[name])


@pytest.mark.parametrize("name", names([*OTHERS, *DECODERS]))
def test_member_is_explained_and_balanced(name: str) -> None:
    found = row(name)
    if OLDEST and not found["captured"]:
        pytest.skip("torch 2.6 cannot export it")
    assert found["captured"], found
    assert "error" not in found, found
    assert found["unexplained"] == []
    assert found["imbalance"] <= 1e-4, found["worst"]
    assert min(found["nonzero"]) > 0, "an input without any relevance"
    # Without biases, constants are all that keeps relevance: what arrives and what they keep add up.
    assert found["conservation"] + sum(found["kept"].values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", names(DECODERS))
def test_cp_lrp_conserves_on_bias_free_decoders(name: str) -> None:
    model, inputs = entries()[name]()
    expl = call(LRP(model, CP, normalize_output=True), inputs, target=entries()[name].target)
    assert expl.relevance.flatten(1).sum(1).tolist() == pytest.approx([1, 1], abs=1e-4)
