"""The page of language models says what was measured, and its prompts have their reasons in them."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("language_page")


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("language_tasks")


class Letters:
    """A tokenizer whose every letter is a token."""

    def __call__(self, text: str, **options: bool) -> dict[str, list]:
        return {"input_ids": [ord(c) for c in text], "offset_mapping": [(i, i + 1) for i in range(len(text))]}


def test_every_prompt_has_its_reason_in_it(tasks: ModuleType):
    for name, prompts in tasks.tasks().items():
        assert len({prompt.text for prompt in prompts}) == 20, name
        for prompt in prompts:
            ids, reason = tasks.places(Letters(), prompt)
            assert "".join(chr(i) for i, of in zip(ids, reason, strict=True) if of) == prompt.reason


def test_reasons_are_the_ones_that_are_meant(tasks: ModuleType):
    for prompt in tasks.indirect_objects():
        assert prompt.text.count(prompt.reason) == 1
        assert prompt.text.count(prompt.against.strip()) == 2
    for prompt in tasks.induction():
        words = prompt.text.split()
        last = words[:8].index(words[-1])
        assert words[last + 1] == prompt.answer.strip() == prompt.reason
    for prompt in tasks.agreement():
        assert (prompt.answer == " are") == prompt.reason.endswith("s")
        assert (prompt.against == " are") == prompt.text.endswith("s")


class Hits:
    def __init__(self, right: list[bool], srg: list[float]) -> None:
        self.right, self.srg = right, srg


def test_the_tables_count(page: ModuleType):
    found = {"capitals": (20, 3, 0.25, {"AttnLRP": Hits([True, False, True], [1.0, 3.0]), "random": Hits([], [0.5])})}
    names = ("prompt", "answer", "first", "at once", "one by one", "loop", "gap", "peak", "load")
    cost = dict(zip(names, (30, 15, 9.5, 4.0, 5.0, 10.0, 1e-6, 2e9, 3.0), strict=True))
    text = page.render(found, cost)
    assert "\n| answered right | 3 of 20 |\n| AttnLRP | 2 of 3 |\n| chance | 25% |\n" in text
    assert "\n| AttnLRP | 2.00 ± 1.00 |\n| random | 0.50 |\n| prompts | 2 |\n" in text
    assert "takes 40% of the loop's time" in text
    assert "at most 2.0 GB" in text
    anew = page.with_costs(text, cost | {"at once": 3.0})
    assert anew == text.replace(
        "| `AnswerExplainer`, later calls | 4.00 |", "| `AnswerExplainer`, later calls | 3.00 |"
    ).replace("takes 40% of", "takes 30% of")


def test_the_page_has_every_method(page: ModuleType):
    text = (ROOT / "docs" / "evidence-language.md").read_text(encoding="utf-8")
    assert text.startswith(page.INTRODUCTION)
    for name in ("AttnLRP", "CP-LRP", "ResLRP", "gradient \u00d7 input", "integrated gradients"):
        assert text.count(f"\n| {name} |") == 2
