"""Answers of encoder-decoders, and units that are explained together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.compare import assert_close
from support.torchvision_shim import install
from torch import nn

from relprop import LRP
from relprop.analyzers import AnswerExplainer
from relprop.composites import CPLRP, AttnLRP
from relprop.engine.program import answer as room
from relprop.errors import InputError

install()

SOURCE, ANSWER = "w3 w4 w5 .", "w7 w8 w9"


class Numbers:
    """One token for each word `wI`, a full stop, and `<s>` that nobody writes."""

    all_special_tokens = ("w0", "w1")

    def __call__(self, *texts: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        words = [[19 if word == "." else int(word[1:]) for word in text.split()] for text in texts]
        return {"input_ids": [i for several in words for i in [*several, *([1] if len(texts) > 1 else [])]]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return ["." if i == 19 else f"w{i}" if i < 2 else f"Ġw{i}" for i in ids]


def t5() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=20, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config).double().eval()


def bart() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 32))}
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    config = transformers.BartConfig(
        vocab_size=20, d_model=16, max_position_embeddings=32, init_std=0.3, decoder_start_token_id=0,
        forced_eos_token_id=None, **sizes, **heads,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config).double().eval()


@pytest.mark.parametrize(("make", "composite"), [pytest.param(t5, AttnLRP, marks=pytest.mark.slow), (bart, CPLRP)])
def test_an_encoder_decoder_is_explained_on_source_and_answer(make: Any, composite: Any):
    model = make()
    found = AnswerExplainer(model, Numbers(), composite())(SOURCE, ANSWER)
    assert found.prompt == [" w3", " w4", " w5", ".", "w0"]
    assert [piece.special for piece in found.pieces] == [False] * 4 + [True] + [False] * 3
    lrp = LRP(model, composite(), normalize_output=False)
    source, words = torch.tensor([[3, 4, 5, 19]]), [0, 7, 8, 9]
    for i in range(3):
        prefix = torch.tensor([words[: i + 1]])
        alone = lrp(input_ids=source, decoder_input_ids=prefix, use_cache=False, target=(-1, words[i + 1]))
        expected = torch.cat([alone.by_input[name][0].sum(-1) for name in ("input_ids", "decoder_input_ids")])
        assert_close(found.relevance[i, : 5 + i], expected, rtol=1e-9)
        assert not found.relevance[i, 5 + i :].any()
        logits = model(input_ids=source, decoder_input_ids=prefix).logits[0, -1].detach()
        assert_close(found.explained[i], logits[words[i + 1]], rtol=1e-9)
        assert_close(found.probability[i], logits.softmax(0)[words[i + 1]], rtol=1e-9)


def test_an_encoder_decoder_says_its_answer():
    model = t5()
    found = AnswerExplainer(model, Numbers())(SOURCE, longest=3)
    ids, source = torch.tensor([[0]]), torch.tensor([[3, 4, 5, 19]])
    for _ in range(len(found.answer)):
        ids = torch.cat([ids, model(input_ids=source, decoder_input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    assert found.answer == [f"w{i}" if i < 2 else f" w{i}" for i in ids[0, 1:].tolist()]
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    with pytest.raises(InputError, match="decoder_start_token_id"):
        AnswerExplainer(model, Numbers())(SOURCE, ANSWER)


def test_a_pair_of_texts_is_put_together_by_the_tokenizer():
    explain = AnswerExplainer(t5(), Numbers())
    pair = explain(("w3 w4", "w5"), ANSWER)
    assert pair.prompt == [" w3", " w4", "w1", " w5", "w1", "w0"]
    assert_close(pair.relevance, explain([3, 4, 1, 5, 1], ANSWER).relevance, rtol=1e-12)


def test_units_have_one_reverse_pass_each(monkeypatch: pytest.MonkeyPatch):
    explain = AnswerExplainer(t5(), Numbers())
    tokens = explain(SOURCE, "w7 . w8 w9 .", contrast={1: "w6"})
    asked: list[int] = []
    answer = room.answer

    def counted(program: Any, inputs: Any, questions: Any, **options: Any) -> Any:
        asked.append(len(questions))
        return answer(program, inputs, questions, **options)

    monkeypatch.setattr("relprop.analyzers.exporting.answer", counted)
    for unit, rows in (("sentences", 2), ("words", 5), ([(0, 2), (5, 9)], 2)):
        at_once = explain(SOURCE, "w7 . w8 w9 .", contrast={1: "w6"}, unit=unit)
        assert asked.pop() == rows
        later = tokens.by(unit)
        assert at_once.answer == later.answer
        assert at_once.prompt == later.prompt
        assert at_once.against == later.against
        for name in ("relevance", "explained", "probability", "entropy"):
            assert_close(getattr(at_once, name), getattr(later, name), rtol=1e-8)
