"""`relprop.explanations.text`: pieces of a sentence, colours that can be read, and a page that is safe to open."""

from __future__ import annotations

import math
import random
import re
from html.parser import HTMLParser

import pytest
import torch
from support.tokens import bytes_bpe, unigram, word_piece

from relprop.errors import InputError, RelpropError
from relprop.explanations.text import (
    BLUE,
    NIGHT,
    PAPER,
    RED,
    WHITE,
    ExplainedText,
    Piece,
    contrast,
    join_tokens,
    mix,
    page,
    pieces_of,
    readable,
    save_page,
    visible,
)

SENTENCES = [
    "A cat sleeps on the warm windowsill.",
    "  two  spaces,\ta tab\nand a line  ",
    "naïve café, emoji 😀👩‍👩‍👧 and 漢字 too",
    "don't stop<b>&amp;</b>",
    "x" * 40,
    "[SEP] in the text",
]


TOKENIZERS = {
    "word pieces": word_piece,
    "bytes": bytes_bpe,
    "bytes, offsets trimmed": lambda: bytes_bpe(True),
    "sentencepiece": unigram,
}


# Pieces.


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", SENTENCES)
def test_pieces_are_the_sentence_and_there_is_one_for_each_token(kind, text):
    tokenizer = TOKENIZERS[kind]()
    pieces, rest = pieces_of(tokenizer, text)
    assert [piece.token for piece in pieces] == tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    added = {0, len(pieces) - 1} if kind == "word pieces" else {0} if "bytes" in kind else set()
    shown = [piece.before + ("" if i in added else piece.text) for i, piece in enumerate(pieces)]
    assert "".join(shown) + rest == text
    assert added <= {i for i, piece in enumerate(pieces) if piece.special}
    assert not any(piece.special for i, piece in enumerate(pieces) if i not in added and piece.text != "[SEP]")


def test_words_are_put_together_from_their_pieces():
    text = "The cat sleeps: windowsill, don't 😀!"
    tokenizer = word_piece()
    pieces, _ = pieces_of(tokenizer, text)
    relevance = torch.arange(len(pieces), dtype=torch.float64)
    words = ExplainedText.of(tokenizer, text, relevance).words()
    assert [word for word, _ in words] == ["The", "cat", "sleeps", ":", "windowsill", ",", "don", "'", "t", "😀", "!"]
    at = [piece.text for piece in pieces].index("windows")
    assert dict(words)["windowsill"] == at + (at + 1)
    specials = sum(float(r) for piece, r in zip(pieces, relevance, strict=True) if piece.special)
    assert sum(r for _, r in words) == pytest.approx(float(relevance.sum()) - specials)


def test_an_unknown_token_is_a_part_of_the_sentence():
    pieces, _ = pieces_of(word_piece(), "the 漢 cat")
    unknown = next(piece for piece in pieces if piece.token == "[UNK]")
    assert (unknown.text, unknown.special) == ("漢", False)


def test_a_character_of_several_tokens_is_shown_once_and_none_of_them_is_invisible():
    tokenizer = bytes_bpe()
    pieces, _ = pieces_of(tokenizer, "hi 😀")
    explained = ExplainedText(tuple(pieces), tuple(0.0 for _ in pieces))
    assert str(explained.rich()).count("😀") == 1
    assert str(explained.rich()).count("·") == 3  # of four bytes
    assert [word for word, _ in explained.words()] == ["hi", " ", "😀"]


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        (["[CLS]", "the", "windows", "##ill", ".", "[SEP]"], "[CLS] the windowsill . [SEP]"),
        (["▁The", "▁window", "s", "ill", "."], "The windowsill."),
        (["The", "Ġwindow", "sill", "Ċ", "Ġnow"], "The windowsill⏎ now"),
        (["the</w>", "window", "sill</w>", ".</w>"], "the windowsill ."),
        (["C", "#", "##"], "C # ##"),
    ],
)
def test_tokens_alone_are_put_together_by_their_marks(tokens, shown):
    explained = ExplainedText.of_tokens(tokens, [0.0] * len(tokens), special=["[CLS]", "[SEP]"])
    assert str(explained.rich()) == shown
    assert [piece.token for piece in join_tokens(tokens)] == tokens


def test_a_slow_tokenizer_is_read_by_its_tokens():
    class Slow:
        unk_token, cls_token, all_special_tokens = "[UNK]", "[CLS]", ["[CLS]", "[UNK]"]

        def __call__(self, text):
            return {"input_ids": [0, 1, 2, 3]}

        def convert_ids_to_tokens(self, ids):
            return [["[CLS]", "win", "##dow", "[UNK]"][i] for i in ids]

    explained = ExplainedText.of(Slow(), "window ?", torch.tensor([0.0, 1.0, 2.0, 4.0]))
    assert explained.words() == [("window", 3.0), ("[UNK]", 4.0)]
    assert [piece.special for piece in explained.pieces] == [True, False, False, False]


def test_a_token_without_characters_is_a_word_that_can_be_seen():
    explained = ExplainedText((Piece("▁", ""), Piece("▁a", "a")), (1.0, 2.0))
    assert explained.words() == [("·", 1.0), ("a", 2.0)]
    assert str(explained.rich()) == "·a"


def test_the_words_of_most_relevance():
    explained = ExplainedText.of_tokens(["a", "b", "c", "##d"], [0.1, -5.0, 0.2, 0.3])
    assert explained.top(2) == [("cd", 0.5), ("a", 0.1)]


# Errors.


def test_errors_say_what_does_not_fit():
    with pytest.raises(InputError, match="2 tokens but relevance for 3"):
        ExplainedText.of_tokens(["a", "b"], [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="of 1 tokens is NaN or infinite, first of 'b'"):
        ExplainedText.of_tokens(["a", "b"], torch.tensor([1.0, math.nan]))
    with pytest.raises(InputError, match="infinite"):
        ExplainedText.of_tokens(["a", "b"], [math.inf, 1.0])
    with pytest.raises(InputError, match=r"shape \(T,\), not \(2, 4\); .* expl.relevance\[0\].sum\(-1\)"):
        ExplainedText.of_tokens(["a", "b"], torch.zeros(2, 4))
    with pytest.raises(InputError, match="no tokens"):
        ExplainedText.of_tokens([], [])
    with pytest.raises(InputError, match="no sentences"):
        page([])


# Colours.


@pytest.mark.parametrize("ground", [PAPER, WHITE, NIGHT])
def test_the_scale_is_symmetric_and_text_is_readable_on_all_of_it(ground):
    assert mix(ground, 2.0, 2.0) == RED
    assert mix(ground, -2.0, 2.0) == BLUE
    assert mix(ground, 0.0, 2.0) == mix(ground, 0.0, 0.0) == ground
    assert mix(ground, 9.0, 2.0) == RED
    for step in range(-100, 101):
        background = mix(ground, step / 100, 1.0)
        assert contrast(readable(background), background) >= 4.5
    for step in range(0, 101, 10):
        red, blue = mix(ground, step / 100, 1.0), mix(ground, -step / 100, 1.0)
        for colour, full in ((red, RED), (blue, BLUE)):
            expected = [g + step / 100 * (f - g) for g, f in zip(ground, full, strict=True)]
            assert list(colour) == pytest.approx(expected, abs=0.51)


def test_contrast_is_that_of_the_guidelines():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)  # #777, just too light


def styles(explained, limit=None):
    text = explained.rich(limit)
    return {
        text.plain[span.start : span.end]: span.style
        for span in text.spans
        if text.plain[span.start : span.end].strip()
    }


def test_terminal_colours_follow_sign_and_limit():
    explained = ExplainedText.of_tokens(
        ["[CLS]", "for", "against", "half", "none"], [0, 2.0, -2.0, 1.0, 0], special=["[CLS]"]
    )
    found = styles(explained)
    colours = {name: tuple(style.bgcolor.triplet) for name, style in found.items()}
    assert (colours["for"], colours["against"], colours["none"]) == (RED, BLUE, PAPER)
    assert colours["half"] == mix(PAPER, 1.0, 2.0)
    assert [name for name, style in found.items() if style.dim] == ["[CLS]"]
    assert tuple(styles(explained, limit=4.0)["for"].bgcolor.triplet) == mix(PAPER, 1.0, 2.0)


def test_no_text_can_steer_the_terminal():
    nasty = "a\x1b[2Jb\x07\x9bc\nd"
    assert visible(nasty) == "a␛[2Jb␇␡c\nd"
    explained = ExplainedText((Piece(nasty, nasty),), (1.0,), title=nasty, rest="\x1b")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", str(explained.rich()) + page([explained], title=nasty))


# The page.


class Reader(HTMLParser):
    """What a browser would see: elements with their attributes, and the text of the sentences."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.sentences, self._inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "p":
            self._inside = dict(attributes).get("class") == "text"
            self.sentences += [""] * self._inside

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "p"

    def handle_data(self, data):
        if self._inside:
            self.sentences[-1] += data


def spans(reader):
    return [attributes for tag, attributes in reader.elements if tag == "span" and "data-tip" in attributes]


@pytest.fixture
def hostile():
    text = """<script>alert("x")</script> & 'quotes' </style>"""
    pieces = (Piece(text, text), Piece("[SEP]", "[SEP]", special=True))
    return ExplainedText(pieces, (1.0, -0.5), title=text, notes=(text,), rest=" <img src=x>")


def test_text_is_escaped_everywhere(hostile):
    html = page([hostile], title=hostile.title)
    reader = Reader(html)
    kinds = {tag for tag, _ in reader.elements}
    assert not kinds & {"script", "img", "b"}
    assert reader.sentences == [hostile.pieces[0].text + " [SEP]" + hostile.rest]
    assert spans(reader)[0]["data-tip"] == f"{hostile.title}  +1"
    assert html.count("<style>") == html.count("</style>") == 1


def test_the_page_needs_nothing_else(hostile):
    html = page([hostile])
    assert not any({"src", "href", "onclick"} & set(attributes) for _, attributes in Reader(html).elements)
    assert not re.search(r"url\(|@import|https?:", html)


def test_several_sentences_on_one_page_each_with_its_scale_or_one_for_all():
    small = ExplainedText.of_tokens(["small", "##ish"], [0.5, -0.25], title="first")
    large = ExplainedText.of_tokens(["large"], [2.0], title="second")
    own, shared = Reader(page([small, large])), Reader(page([small, large], shared=True))
    assert own.sentences == ["smallish", "large"]

    def light(reader):
        return [re.search("--l:(#[0-9a-f]+)", span["style"])[1] for span in spans(reader)]

    def as_hex(r, limit):
        return "#{:02x}{:02x}{:02x}".format(*mix(WHITE, r, limit))

    assert light(own) == [as_hex(0.5, 0.5), as_hex(-0.25, 0.5), as_hex(2.0, 2.0)]
    assert light(shared) == [as_hex(0.5, 2.0), as_hex(-0.25, 2.0), as_hex(2.0, 2.0)]
    assert [span["data-tip"] for span in spans(own)] == [
        "small  +0.5\nits word +0.25",
        "##ish  -0.25\nits word +0.25",
        "large  +2",
    ]
    html = page([small, large])
    assert "-0.5 against" in html
    assert "for +2" in html
    assert "prefers-color-scheme: dark" in html


def test_special_tokens_are_dimmed_on_the_page(hostile):
    assert [span.get("class") for span in spans(Reader(page([hostile])))] == [None, "special"]


def test_a_page_is_written_whole_or_not_at_all(tmp_path, hostile, monkeypatch):
    path = tmp_path / "new" / "page.html"
    save_page(path, [hostile], "title")
    assert path.read_text("utf-8") == page([hostile], "title")
    before = path.read_bytes()

    def full(self, text, *_):
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", full)
    with pytest.raises(RelpropError, match="No space left"):
        save_page(path, [hostile], "other")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_relevance_of_zero_is_neutral_everywhere():
    explained = ExplainedText.of_tokens(["a", "b"], [0.0, 0.0])
    assert {tuple(style.bgcolor.triplet) for style in styles(explained).values()} == {PAPER}
    assert "nan" not in page([explained]).lower()


@pytest.mark.parametrize("number", [100, pytest.param(3_000, marks=pytest.mark.slow)])
def test_no_text_becomes_a_part_of_the_page(number):
    """Tokens, titles and notes made of markup and odd characters: the page has the elements of a plain one."""
    rng = random.Random(number)
    markup = (
        "<script>",
        "</style>",
        "<!--",
        "<p class=text>",
        "&lt;",
        "]]>",
        "<img src=x onerror=y>",
        "${red}",
        "$red",
    )
    parts = (*markup, *"\"'&a= \n\0`漢", "\x1b[1m", "\ud800", "\udcff", "javascript:", "\u202e")

    def odd():
        return "".join(rng.choices(parts, k=rng.randint(1, 6)))

    def elements(text):
        return [(tag, sorted(attributes)) for tag, attributes in Reader(text).elements]

    for _ in range(number):
        tokens, numbers = [odd() for _ in range(4)], [0.1, -0.2, 0.3, 0.0]
        shown = page([ExplainedText.of_tokens(tokens, numbers, title=odd(), notes=[odd()])], odd())
        plain = page([ExplainedText.of_tokens([f"a{i}" for i in range(4)], numbers, title="b", notes=["c"])], "d")
        assert elements(shown) == elements(plain)
        assert shown.encode("utf-8")
        assert shown.count("<style>") == 1
