"""Answers of language models: each token as a loop over prefixes explains it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.compare import assert_close
from support.torchvision_shim import install
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers import AnswerExplainer, captures, doubts
from relprop.composites import CPLRP, AttnLRP
from relprop.engine.program import answer as room
from relprop.errors import InputError

install()

WORDS = ["the", "cat", "sat", "on", "a", "mat", "in", "Paris", "London", "."]


class Tokenizer:
    """One token for each word."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [WORDS.index(word) for word in text.split()]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"Ġ{WORDS[i]}" for i in ids]

    def apply_chat_template(self, messages: Any, **options: Any) -> list[int]:
        return [0, *self(messages[-1]["content"])["input_ids"]]


def decoder() -> nn.Module:
    """A model of its own, of which nothing has been captured yet."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama import modeling_llama

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=10, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=32, max_position_embeddings=32, bos_token_id=0, eos_token_id=9, pad_token_id=9,
    )  # fmt: skip
    return modeling_llama.LlamaForCausalLM(config).double().eval()


@pytest.fixture(scope="module")
def model() -> Iterator[nn.Module]:
    """Captured once: what is captured lives as long as one explainer does."""
    made = decoder()
    explain = AnswerExplainer(made, Tokenizer())
    yield made
    del explain


PROMPT, ANSWER = "the cat sat on", "a mat in Paris"


@pytest.mark.parametrize("composite", [AttnLRP, CPLRP])
def test_a_loop_over_prefixes_says_the_same(model: nn.Module, composite: Any) -> None:
    found = AnswerExplainer(model, Tokenizer(), composite())(PROMPT, ANSWER)
    assert found.relevance.shape == (4, 8)
    assert (found.prompt, found.answer) == ([" the", " cat", " sat", " on"], [" a", " mat", " in", " Paris"])
    ids = [WORDS.index(word) for word in f"{PROMPT} {ANSWER}".split()]
    lrp = LRP(model, composite(), normalize_output=False)
    for i in range(4):
        prefix = torch.tensor([ids[: 4 + i]])
        alone = lrp(input_ids=prefix, use_cache=False, target=(-1, ids[4 + i]))
        assert_close(found.relevance[i, : 4 + i], alone.by_input["input_ids"][0].sum(-1), rtol=1e-10)
        assert not found.relevance[i, 4 + i :].any()
        logits = model(prefix).logits[0, -1].detach()
        assert_close(found.explained[i], logits[ids[4 + i]], rtol=1e-10)
        assert_close(found.probability[i], logits.softmax(0)[ids[4 + i]], rtol=1e-10)
        assert_close(found.entropy[i], torch.distributions.Categorical(logits=logits).entropy(), rtol=1e-10)


@pytest.mark.parametrize("options", [{"chunk": 1}, {"chunk": 3}, {"unit": [(0, 2), (4, 6)]}, {"contrast": {1: "in"}}])
@pytest.mark.parametrize("checkpoint", [False, 5])
def test_ways_to_compute_it_change_nothing(model: nn.Module, options: dict[str, Any], checkpoint: int) -> None:
    explain = AnswerExplainer(model, Tokenizer(), checkpoint=checkpoint)
    found = explain(PROMPT, ANSWER, **options)
    expected = AnswerExplainer(model, Tokenizer())(PROMPT, ANSWER, **{k: v for k, v in options.items() if k != "chunk"})
    assert_close(found.relevance, expected.relevance, rtol=1e-10)
    assert_close(found.explained, expected.explained, rtol=1e-12)
    assert explain._lrp._checkpoint == checkpoint


def test_one_forward_pass_and_one_program_for_all_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder()
    calls: list[int] = []
    forward = room.forward
    monkeypatch.setattr(room, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    monkeypatch.setattr(doubts, "doubtful", lambda *_: None)  # which would be looked into in a pass of its own
    captured: list[nn.Module] = []
    capture = captures.capture
    monkeypatch.setattr(captures, "capture", lambda *a: captured.append(a[0]) or capture(*a))
    explain = AnswerExplainer(model, Tokenizer())
    explain(PROMPT, ANSWER)
    assert len(calls) == 1
    explain("a mat", "on the cat .")
    found = explain("the cat", "sat on a mat in Paris .")
    other = AnswerExplainer(model, Tokenizer(), CPLRP())
    other("the cat sat", "on a")
    assert len(captured) == 1
    other("the", "cat sat")
    assert len(captured) == 2  # PyTorch's programs take one token for a case of its own
    assert_close(found.relevance, AnswerExplainer(model, Tokenizer())("the cat", "sat on a mat in Paris .").relevance)


def test_spans_contrasts_and_what_the_model_says(model: nn.Module) -> None:
    explain = AnswerExplainer(model, Tokenizer())
    found = explain(PROMPT, ANSWER)
    assert_close(found.span(1, 3), found.relevance[1] + found.relevance[2], rtol=1e-12)
    assert_close(found.span(), found.relevance.sum(0), rtol=1e-12)
    word, most = found.top(-1, 1)[0]
    assert most == float(found.relevance[3].max())
    assert word == [*found.prompt, *found.answer][int(found.relevance[3].argmax())]
    against = explain(PROMPT, ANSWER, contrast={-1: "London"})
    other = explain(PROMPT, "a mat in London")
    assert_close(against.relevance[3], found.relevance[3] - other.relevance[3], rtol=1e-9)
    assert_close(against.relevance[:3], found.relevance[:3], rtol=1e-12)
    assert_close(against.explained[3], found.explained[3] - other.explained[3], rtol=1e-10)
    said = explain(PROMPT, longest=3)
    ids, expected = torch.tensor([[0, 1, 2, 3]]), []
    for _ in range(len(said.answer)):
        expected.append(int(model(ids).logits[0, -1].argmax()))
        ids = torch.cat([ids, torch.tensor([[expected[-1]]])], 1)
    assert said.answer == [f" {WORDS[i]}" for i in expected]
    chat = explain([{"role": "user", "content": "cat sat on"}], ANSWER)
    assert_close(chat.relevance, found.relevance, rtol=1e-12)


def test_the_picture_holds_the_matrix(model: nn.Module) -> None:
    pytest.importorskip("matplotlib")
    found = AnswerExplainer(model, Tokenizer())(PROMPT, ANSWER)
    axis = found.plot().axes[0]
    assert torch.equal(torch.as_tensor(axis.images[0].get_array().data), found.relevance)
    assert [label.get_text() for label in axis.get_yticklabels()] == found.answer
    named = [label.get_text() for label in found.by([(0, 4)]).plot().axes[0].get_xticklabels()]
    assert named == [" the ca… sat on", *found.answer]


def test_refusals(model: nn.Module) -> None:
    explain = AnswerExplainer(model, Tokenizer())
    for message, call in {
        "no tokens": lambda: explain("", ANSWER),
        "answer '' has no tokens": lambda: explain(PROMPT, ""),
        "0 to 3": lambda: explain(PROMPT, ANSWER, contrast={4: "a"}),
        "is 2 tokens": lambda: explain(PROMPT, ANSWER, contrast={0: "a mat"}),
        "itself": lambda: explain(PROMPT, ANSWER, contrast={3: "Paris"}),
        "0 to 3.": lambda: explain(PROMPT, ANSWER).span(4),
        "takes a language model": lambda: AnswerExplainer("gpt2", Tokenizer()),
    }.items():
        with pytest.raises(InputError, match=message):
            call()


def test_a_chat_that_the_template_refuses_says_its_roles(model: nn.Module) -> None:
    class Strict(Tokenizer):
        def apply_chat_template(self, messages: Any, **options: Any) -> list[int]:
            raise RuntimeError("roles must alternate")

    chat = [{"role": "user", "content": "cat"}, {"role": "user", "content": "mat"}]
    with pytest.raises(InputError, match=r"user, user: RuntimeError: roles must alternate"):
        AnswerExplainer(model, Strict())(chat, ANSWER)


def test_a_model_that_has_no_such_option() -> None:
    """Then all logits are computed, and those of the answer are taken."""

    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embedding, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)

        def forward(self, input_ids: Tensor, use_cache: bool = False) -> Output:
            return Output(self.head(self.embedding(input_ids).cumsum(1)))

    found = AnswerExplainer(Plain().double(), Tokenizer())(PROMPT, ANSWER)
    assert_close(found.relevance.sum(1), found.explained, rtol=1e-6)


def test_positions_of_an_answer_are_those_of_its_tokens(model: nn.Module, tmp_path: Any) -> None:
    """Of each token of the answer what its own call says; they are a part of what no token has."""
    composite = AttnLRP(rope="half")
    found = AnswerExplainer(model, Tokenizer(), composite)(PROMPT, ANSWER, positions="signed")
    assert found.positions is not None
    assert found.positions.shape == found.relevance.shape
    assert float(found.positions.abs().sum()) > 1e-4
    lrp = LRP(model, composite, normalize_output=False)
    for i in (0, 3):
        ids = torch.tensor([found.ids[: 4 + i]])
        alone = lrp(input_ids=ids, use_cache=False, target=(-1, found.ids[4 + i]), positions=True)
        assert_close(found.positions[i, : 4 + i], alone.positions()[0], rtol=1e-6)
        assert not found.positions[i, 4 + i :].any()
    spans = [(0, 4), (4, 6), (6, 8)]
    together = found.by(spans)
    rows = [found.positions[a:b].sum(0) for a, b in ((0, 2), (2, 4))]
    expected = torch.stack([torch.stack([row[a:b].sum() for a, b in spans]) for row in rows])
    assert_close(together.positions, expected, rtol=1e-9)
    at_once = AnswerExplainer(model, Tokenizer(), composite)(PROMPT, ANSWER, positions="signed", unit=spans)
    assert_close(at_once.positions, together.positions, rtol=1e-6)
    found.save(tmp_path / "answer.json")
    assert_close(type(found).load(tmp_path / "answer.json").positions, found.positions)
    plain = AnswerExplainer(model, Tokenizer(), composite)(PROMPT, ANSWER)
    assert plain.positions is None
    assert_close(plain.relevance, found.relevance, rtol=1e-9)


def test_positions_that_are_added_are_known_too() -> None:
    """GPT-2's table is what `position_ids` as an input says, and the sink of its name."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=10, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2,
                                     initializer_range=0.3)  # fmt: skip
    gpt2 = transformers.GPT2LMHeadModel(config).double().eval()
    lrp = LRP(gpt2, AttnLRP(), normalize_output=False)
    asked = {"input_ids": torch.tensor([[3, 7, 5]]), "use_cache": False, "target": (-1, 4)}
    added = lrp(**asked, positions=True, audit=True)
    given = lrp(**asked, position_ids=torch.arange(3)[None])
    assert list(added.places) == ["transformer:wpe"]
    assert_close(added.positions(), given.positions(), rtol=1e-9)
    assert float(added.positions().sum()) == pytest.approx(added.ledger.sinks["wpe"], rel=1e-9)
    bert = transformers.BertConfig(vocab_size=10, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                   intermediate_size=16, num_labels=2, initializer_range=0.3)  # fmt: skip
    classifier = transformers.BertForSequenceClassification(bert).double().eval()
    found = LRP(classifier, AttnLRP(), normalize_output=False)(
        input_ids=torch.tensor([[3, 7, 5]]), target=1, positions=True, audit=True
    )
    assert [name.rpartition(":")[2] for name in found.places] == ["position_embeddings"]  # token types are no positions
    assert float(found.positions().sum()) == pytest.approx(found.ledger.sinks["position_embeddings"], rel=1e-9)
