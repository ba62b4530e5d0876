"""The page of an explained answer: what is on it, and what it does in a browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from relprop.errors import InputError
from relprop.explanations.answers import ExplainedAnswer, page, save_page
from relprop.explanations.text import Piece
from relprop.explanations.text.names import written

HOSTILE = "</script><script>document.title='taken'</script>"
PIECES = [
    Piece("<s>", "<s>", "", True),
    Piece("Ġcity", "city", " "),
    Piece("Ġof", "of", " "),
    Piece("Ġ" + HOSTILE, HOSTILE, " "),
    Piece("Ċ", "\n"),
    Piece("ĠPar", "Par", " "),
    Piece("is", "is"),
    Piece("Ġ&", "&", " "),
]


def explained() -> ExplainedAnswer:
    relevance = torch.tensor(
        [[50.0, 4, -2, 1, 0, 0, 0, 0], [-9, 1, 3, 0, 0, 2, 0, 0], [1, -1, -5, 0, 0, 0, 4, 0]], dtype=torch.float64
    )
    names = [written(piece) for piece in PIECES]
    steps = torch.tensor([54.0, 0, 0]), torch.tensor([0.5, 0.25, 0.1]), torch.tensor([1.0, 2.0, 0.5])
    return ExplainedAnswer(
        names[:5], names[5:], relevance, *steps, pieces=tuple(PIECES), against=(" London", None, None)
    )


def test_nothing_on_the_page_is_markup_of_the_texts():
    found = explained()
    text = page([found.shown(HOSTILE, (HOSTILE,))], HOSTILE)
    assert text.count("<script") == 2  # the data and ours
    assert HOSTILE not in text
    assert "&lt;/script&gt;" in text
    assert "http" not in text.replace("http-equiv", "")
    data = json.loads(re.search(r'<script type="application/json" id="answers">(.*?)</script>', text, re.S)[1])
    (answer,) = data["answers"]
    assert [piece[1] for piece in answer["pieces"]] == ["<s>", "city", "of", HOSTILE, "⏎", "Par", "is", "&"]
    assert answer["relevance"] == found.relevance.tolist()
    assert dict(answer["units"])["words"] == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 7], [7, 8]]
    assert answer["against"] == [" London", None, None]


def test_a_page_is_of_something_finite(tmp_path: Path):
    with pytest.raises(InputError, match="no answers"):
        page([], "nothing")
    found = explained()
    broken = replace(found, relevance=found.relevance * float("nan"))
    with pytest.raises(InputError, match="for 'ĠPar' is NaN"):
        broken.html()
    save_page(tmp_path / "several.html", [found.shown(), found.by("words").shown()], "two")
    assert (tmp_path / "several.html").read_text("utf-8").count('<section class="answer-section"') == 2


def test_notebooks_show_the_page_in_a_frame_of_its_own():
    shown = explained()._repr_html_()
    assert shown.startswith('<iframe title="Explained answer" sandbox="allow-scripts"')
    assert shown.count("<") == 2  # the page is in an attribute, all of it escaped
    assert shown.endswith("</iframe>")


# -------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    where = shutil.which("chromium") or shutil.which("chromium-browser")
    if where is None:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Any:
    faults: list[str] = []
    explained().save(tmp_path / "answer.html")
    tab = browser.new_page()
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.goto((tmp_path / "answer.html").as_uri())
    yield tab
    tab.close()
    assert faults == []


def numbers(tab: Any) -> list[float]:
    """The relevance that each token shows, of the prompt and then of the answer."""
    tips = tab.eval_on_selector_all(".text span", "spans => spans.map(s => s.dataset.tip)")
    return [float(tip.rsplit("  ", 1)[1]) for tip in tips]


def colours(tab: Any) -> list[str]:
    return tab.eval_on_selector_all(".text span", "spans => spans.map(s => getComputedStyle(s).backgroundColor)")


def test_the_answers_tokens_light_up_what_they_come_from(open_page: Any):
    found = explained()
    assert open_page.title() == "Why this answer?"
    assert numbers(open_page) == found.span().tolist()
    answer = open_page.locator(".answer span")
    for i in range(3):
        answer.nth(i).hover()
        assert numbers(open_page) == found.relevance[i].tolist()
    answer.nth(0).hover()
    painted = colours(open_page)
    assert painted[1] == "rgb(178, 24, 43)"  # the largest of those that are not special
    assert painted[0] == painted[1]
    assert painted[3] == "rgb(236, 197, 202)"  # a quarter of it
    assert painted[4:7] == ["rgb(255, 255, 255)"] * 3
    said = open_page.locator(".said").inner_text()
    assert said == "Par and not London: probability 0.5, entropy 1. +54 = prompt +53, answer 0, kept +1"
    open_page.mouse.move(0, 0)
    assert numbers(open_page) == found.span().tolist()


def test_the_keyboard_does_what_the_mouse_does(open_page: Any):
    found = explained()
    open_page.locator(".prompt span").first.focus()
    open_page.keyboard.press("Tab")
    assert numbers(open_page) == found.relevance[0].tolist()
    open_page.keyboard.press("ArrowRight")
    assert numbers(open_page) == found.relevance[1].tolist()
    open_page.keyboard.press("Shift+ArrowRight")
    open_page.evaluate("document.activeElement.blur()")
    assert numbers(open_page) == found.span(1, 3).tolist()
    open_page.locator(".answer span").nth(2).focus()
    open_page.keyboard.press("Escape")
    assert numbers(open_page) == found.span().tolist()


def test_a_click_holds_and_shift_takes_several(open_page: Any):
    found = explained()
    answer = open_page.locator(".answer span")
    answer.nth(1).click()
    open_page.mouse.move(0, 0)
    assert numbers(open_page) == found.relevance[1].tolist()
    answer.nth(2).click(modifiers=["Shift"])
    open_page.mouse.move(0, 0)
    assert numbers(open_page) == found.span(1, 3).tolist()
    answer.nth(1).click()
    answer.nth(1).click()
    open_page.mouse.move(0, 0)
    assert numbers(open_page) == found.span().tolist()


def test_tokens_of_the_prompt_show_what_they_speak_for(open_page: Any):
    open_page.locator(".prompt span").nth(2).hover()
    tips = open_page.eval_on_selector_all(".answer span", "spans => spans.map(s => s.dataset.tip)")
    assert [float(tip.rsplit("  ", 1)[1]) for tip in tips] == explained().relevance[:, 2].tolist()


def test_words_and_one_scale(open_page: Any):
    found = explained().by("words")
    open_page.get_by_label("words").check()
    assert open_page.locator(".answer span").all_inner_texts() == ["Paris", "&"]
    open_page.locator(".answer span").first.hover()
    assert numbers(open_page) == found.relevance[0].tolist()
    open_page.get_by_label("tokens").check()
    open_page.get_by_label("one scale").check()
    open_page.locator(".answer span").nth(0).hover()
    assert colours(open_page)[1] != "rgb(178, 24, 43)"  # another row has more
    open_page.locator(".answer span").nth(2).hover()
    assert colours(open_page)[2] == "rgb(33, 102, 172)"


def test_by_night_the_ground_is_dark(open_page: Any):
    open_page.emulate_media(color_scheme="dark")
    open_page.locator(".answer span").nth(0).hover()
    assert colours(open_page)[4] == "rgb(24, 26, 31)"
    assert open_page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(24, 26, 31)"
