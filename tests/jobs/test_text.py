"""What a job on sentences prints and how it names its files."""

from __future__ import annotations

from relprop.jobs.text import Books
from relprop.jobs.text_plan import slug


def test_books_as_one_line():
    books = Books(-1.5, 0.25, {"bias": -1.75, "epsilon": 1e-9, "position_embeddings": 0.5}, 0.0)
    assert str(books) == "-1.5 = tokens 0.25 - bias 1.75 + position embeddings 0.5"


def test_file_names_are_the_first_words():
    assert slug("A cat, e.g. THIS one!") == "a-cat-e-g-this-one"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("!?") == "text"
    assert slug("word " * 20) == "-".join(["word"] * 8)
    assert len(slug("x" * 99)) == 40
