"""Relevance of tokens, read as text: coloured words in the terminal, and a page for the browser.

    explained = ExplainedText.of(tokenizer, text, expl.relevance[0].sum(-1), title="similarity 0.63")
    rich.print(explained.rich())
    save_page("cat.html", [explained])

Evidence for the target is red and evidence against it is blue, equal amounts have equal strength, and zero is the
neutral colour. The sentence is shown as it was written, where the tokenizer knows which characters a token stands for.
"""

from relprop.explanations.shown import visible
from relprop.explanations.text.colours import BLUE, NIGHT, PAPER, RED, WHITE, contrast, mix, readable
from relprop.explanations.text.page import page, save_page
from relprop.explanations.text.pieces import NOTHING, Piece, join_tokens, label, pieces_of, word_numbers
from relprop.explanations.text.sentence import ExplainedText

__all__ = [
    "BLUE",
    "NIGHT",
    "NOTHING",
    "PAPER",
    "RED",
    "WHITE",
    "ExplainedText",
    "Piece",
    "contrast",
    "join_tokens",
    "label",
    "mix",
    "page",
    "pieces_of",
    "readable",
    "save_page",
    "visible",
    "word_numbers",
]
