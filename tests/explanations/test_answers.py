"""Explained answers: units, what leads back to the prompt, and how they are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.compare import assert_close

from relprop.errors import InputError
from relprop.explanations.answers import ExplainedAnswer
from relprop.explanations.answers.units import units_of
from relprop.explanations.text import Piece
from relprop.explanations.text.names import pieces_of_ids, written

PROMPT = [
    Piece("<s>", "<s>", "", True),
    Piece("ĠIs", "Is", " "),
    Piece("Ġ3", "3", " "),
    Piece(".", "."),
    Piece("5", "5"),
    Piece("Ġmuch", "much", " "),
    Piece("?", "?"),
    Piece("ĊĊ", "\n\n"),
    Piece("ĠNo", "No", " "),
    Piece(".", "."),
]
ANSWER = [
    Piece("ĠWind", "Wind", " "),
    Piece("ows", "ows"),
    Piece("ill", "ill"),
    Piece(".", "."),
    Piece('"', '"'),
    Piece("ĠYes", "Yes", " "),
]


def explained(seed: int = 0) -> ExplainedAnswer:
    torch.manual_seed(seed)
    P, A = len(PROMPT), len(ANSWER)
    relevance = torch.randn(A, P + A, dtype=torch.float64)
    for token in range(A):
        relevance[token, P + token :] = 0
    names = [written(piece) for piece in PROMPT + ANSWER]
    steps = relevance.sum(1) + 1, torch.rand(A).double(), torch.rand(A).double()
    against = (None, None, None, None, None, " No")
    return ExplainedAnswer(names[:P], names[P:], relevance, *steps, pieces=(*PROMPT, *ANSWER), against=against)


def test_words_and_sentences():
    found = explained()
    words = found.by("words")
    assert words.prompt == ["<s>", " Is", " 3", ".", "5", " much", "?", "\n\n", " No", "."]
    assert words.answer == [" Windowsill", ".", '"', " Yes"]
    sentences = found.by("sentences")
    assert sentences.prompt == ["<s>", " Is 3.5 much?\n\n", " No."]
    assert sentences.answer == [' Windowsill."', " Yes"]
    assert sentences.pieces[0].special
    assert not sentences.pieces[1].special


def test_units_hold_what_their_tokens_hold():
    found = explained()
    words = found.by("words")
    assert_close(words.relevance[0, 0], found.relevance[:3, 0].sum(), rtol=1e-12)
    assert_close(words.relevance[1, 10], found.relevance[3, 10:13].sum(), rtol=1e-12)
    assert_close(words.explained[0], found.explained[:3].sum(), rtol=1e-12)
    assert_close(words.probability[0], found.probability[:3].prod(), rtol=1e-12)
    assert_close(words.entropy[0], found.entropy[:3].sum(), rtol=1e-12)
    assert_close(words.relevance.sum(), found.relevance.sum(), rtol=1e-12)
    assert_close(words.kept.sum(), found.kept.sum(), rtol=1e-12)
    assert words.against == (None, None, None, " No")
    assert_close(found.kept, torch.ones(6).double(), rtol=1e-12)


def test_given_spans():
    found = explained()
    spans = found.by([(1, 5), (10, 13)])
    assert spans.prompt[:3] == ["<s>", " Is 3.5", " much"]
    assert spans.answer[0] == " Windowsill"
    assert spans.relevance.shape == (4, 11)
    for message, wrong in {
        "both sides": [(8, 12)], "overlaps": [(1, 3), (2, 4)], "16 tokens": [(3, 17)], "span .3, 3": [(3, 3)],
        "not 'lines'": "lines",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=message):
            found.by(wrong)


def test_scripts_without_spaces_and_names_have_sentences():
    pieces = [Piece(c, c) for c in "猫。犬\uff01"]
    assert units_of(pieces, 2, "sentences") == [(0, 2), (2, 4)]
    assert units_of([Piece("a", "a."), Piece("b", "b"), Piece("c", "c", " ")], 0, "sentences") == [(0, 3)]


def test_what_leads_back_to_the_prompt_by_hand():
    """Two tokens of prompt, three of answer. The last has 6 from the prompt's first and 4 from the answer's second;
    that has 3 from the prompt's second and 1 from the answer's first, which has 5 from the prompt's first alone."""
    relevance = torch.tensor([[5.0, 0, 0, 0, 0], [0, 3, 1, 0, 0], [6, 0, 0, 4, 0]], dtype=torch.float64)
    ones = torch.ones(3).double()
    found = ExplainedAnswer(["a", "b"], ["x", "y", "z"], relevance, relevance.sum(1), ones, ones)
    traced = found.hops(2)
    assert traced.hops.tolist() == [[6, 0], [0, 3], [1, 0]]
    assert traced.relevance.tolist() == [7, 3]
    assert traced.top(1) == [("a", 7.0)]
    assert not traced.left.any()
    once = found.hops(2, hops=1)
    assert once.hops.tolist() == [[6, 0], [0, 3]]
    assert once.left.tolist() == [1, 0, 0]
    kept = found.hops(2, through=(1, 2))
    assert kept.relevance.tolist() == [6, 3]
    assert kept.left.tolist() == [1, 0, 0]
    assert found.hops(2, hops=0).hops.tolist() == [[6, 0]]


@pytest.mark.parametrize("signed", [False, True])
def test_hops_are_the_closed_form_and_lose_nothing(signed: bool):
    found = explained(3)
    P = len(found.prompt)
    rows = found.relevance if signed else found.relevance.clamp(min=0)
    shares = rows / rows.sum(1, keepdim=True)
    start = found.span(3)
    expected = start[:P] + start[P:] @ torch.linalg.inv(torch.eye(6).double() - shares[:, P:]) @ shares[:, :P]
    traced = found.hops(3, signed=signed)
    assert_close(traced.relevance, expected, rtol=1e-9)
    assert_close(traced.relevance.sum() + traced.left.sum(), start.sum(), rtol=1e-9)
    for hops in range(4):
        part = found.hops(3, signed=signed, hops=hops)
        assert_close(part.relevance.sum() + part.left.sum(), start.sum(), rtol=1e-9)


def test_words_hand_on_what_they_have_on_themselves():
    found = explained()
    words = replace(found, relevance=found.relevance.abs()).by("words")
    assert words.relevance[0, 10] > 0
    traced = words.hops()
    assert_close(traced.relevance.sum(), words.span().sum(), rtol=1e-9)
    assert_close(traced.left, torch.zeros(4), atol=1e-9)


def test_a_token_that_nothing_spoke_for_keeps_what_it_has():
    relevance = torch.tensor([[-1.0, 0, 0], [1, 2, 0]], dtype=torch.float64)
    ones = torch.ones(2).double()
    found = ExplainedAnswer(["a"], ["x", "y"], relevance, ones, ones, ones)
    assert found.hops(1).left.tolist() == [2, 0]
    assert found.hops(1, signed=True).relevance.tolist() == [3]
    with pytest.raises(InputError, match="hops=-1"):
        found.hops(1, hops=-1)
    with pytest.raises(InputError, match="0 to 1"):
        found.hops(1, through=(1, 3))


def test_special_tokens_are_no_reasons_unless_they_are_asked_for():
    found = explained()
    loud = found.relevance.clone()
    loud[0, 0] = 99
    found = replace(found, relevance=loud)
    assert found.top(0, 1)[0][0] != "<s>"
    assert found.top(0, 1, special=True) == [("<s>", 99.0)]


def test_no_unit_reaches_from_the_prompt_into_the_answer():
    pieces = [Piece("a", "win"), Piece("b", "dow")]
    assert units_of(pieces, 0, "words") == units_of(pieces, 0, "sentences") == [(0, 2)]
    assert units_of(pieces, 1, "words") == units_of(pieces, 1, "sentences") == [(0, 1), (1, 2)]


def test_only_what_the_model_had_seen_is_a_reason():
    found = explained()
    found = replace(found, relevance=-found.relevance.abs())
    assert len(found.top(0, 99, special=True)) == 10
    assert len(found.top(-1, 99, special=True)) == 15
    assert len(found.by("words").top(0, 99, special=True)) == 11  # with the word's own beginning


def test_saved_and_loaded(tmp_path: Path):
    found = explained()
    found.save(tmp_path / "a.json")
    again = ExplainedAnswer.load(tmp_path / "a.json")
    assert (again.prompt, again.answer, again.pieces, again.against) == (
        found.prompt, found.answer, found.pieces, found.against,
    )  # fmt: skip
    for name in ("relevance", "explained", "probability", "entropy"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert again.by("words").answer == found.by("words").answer
    (tmp_path / "b.json").write_text(json.dumps({"prompt": []}))
    for message, call in {
        "b.json is no answer": lambda: ExplainedAnswer.load(tmp_path / "b.json"),
        "c.json is no answer": lambda: ExplainedAnswer.load(tmp_path / "c.json"),
        "saved as .html or .json": lambda: found.save(tmp_path / "a.png"),
    }.items():
        with pytest.raises(InputError, match=message):
            call()


class Bytes:
    """A tokenizer whose every token is a byte."""

    all_special_tokens = ("<s>",)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return ["<s>" if i == 256 else f"<{i:02x}>" for i in ids]

    def decode(self, ids: list[int], **options: bool) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")


def test_characters_of_several_tokens_stand_with_the_first():
    text = "né 猫🙂 x"
    pieces = pieces_of_ids(Bytes(), [256, *text.encode()])
    assert "".join(written(piece) for piece in pieces) == "<s>" + text
    assert [piece.text for piece in pieces if piece.text] == ["<s>", "n", "é", " ", "猫", "🙂", " ", "x"]
    assert pieces[0].special
    broken = pieces_of_ids(Bytes(), "猫".encode()[:2])
    assert "".join(piece.text for piece in broken) == "�"
    assert len(broken) == 2


def test_tokens_as_a_real_tokenizer_writes_them():
    tokens = pytest.importorskip("support.tokens")
    decoding = tokens.unigram()
    decoding.backend_tokenizer.decoder = tokens.tokenizers.decoders.Metaspace()
    known = [(tokens.bytes_bpe(), "a warm café naïve"), (tokens.word_piece(), "the windowsill")]
    known += [(decoding, "a warm fox"), (tokens.unigram(), "a warm fox")]
    for tokenizer, text in known:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert "".join(written(piece) for piece in pieces_of_ids(tokenizer, ids)) == text
