"""The page on a dataset in Chromium: filters, by keyboard too, on a phone, in the dark, without script, no request."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.browser import opened

from relprop.jobs import strategies
from relprop.models.demo import CLASSES, CLEVER_HANS

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")
pytest.importorskip("jinja2")

STAR = CLASSES[CLEVER_HANS]
ALL = 143


@pytest.fixture(scope="module")
def path(dataset, found, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    strategies.save_page(path, found, pictures=dataset[1], masks=dataset[2])
    return path


def shown(page, selector: str) -> list[dict[str, str]]:
    """What is seen of some samples: their attributes."""
    found = f"[...document.querySelectorAll({selector!r})].filter(e => e.checkVisibility())"
    return page.evaluate(f"{found}.map(e => ({{...e.dataset}}))")


def dots(page) -> int:
    return page.evaluate("document.querySelectorAll('circle[data-key]:not(.off)').length")


def test_wrong_predictions_only(path, found):
    with opened(path) as page:
        assert page.locator("#count").inner_text() == f"{ALL} samples"
        assert len(shown(page, "tr[data-key]")) == dots(page) == ALL
        page.locator("[name=wrong]").check()
        wrong = shown(page, "tr[data-key]")
        assert 0 < len(wrong) < ALL / 2
        assert {sample["wrong"] for sample in shown(page, "[data-key]:not(circle)")} == {"1"}
        assert page.locator("#count").inner_text() == f"{len(wrong)} of {ALL} samples"
        assert dots(page) == len(wrong)
        classes = {sample["class"] for sample in wrong}
        assert {each["class"] for each in shown(page, "section[data-class]")} == classes
        places = {(sample["class"], sample["group"]) for sample in wrong}
        assert {(each["class"], each["group"]) for each in shown(page, ".strategy")} == places
        page.get_by_role("button", name="Show all").click()
        page.get_by_text(f"{ALL} samples", exact=True).wait_for()
        assert len(shown(page, "tr[data-key]")) == ALL


def test_a_class_and_one_of_its_strategies(path, found):
    with opened(path) as page:
        page.locator("[name=class]").select_option(label=f"{STAR} (30)")
        assert len(shown(page, "tr[data-key]")) == 30
        assert {each["class"] for each in shown(page, "section[data-class]")} == {"0"}
        first = found[0].strategies[1]
        page.locator("[name=strategy]").select_option(label=f"{STAR} 2 ({len(first)})")
        assert {sample["key"] for sample in shown(page, "tr[data-key]")} == set(first.keys)
        assert [(each["class"], each["group"]) for each in shown(page, ".strategy")] == [("0", "2")]
        assert dots(page) == len(first)
        page.locator("[name=class]").select_option(index=2)  # the strategy of another class is let go
        assert page.locator("[name=strategy]").input_value() == ""
        assert len(shown(page, "tr[data-key]")) == len(found[1].rows)
        page.locator("[name=class]").select_option("")
        page.locator("[name=strategy]").select_option("0.1")
        assert {sample["key"] for sample in shown(page, "tr[data-key]")} == set(found[0].strategies[0].keys)


def test_names_by_keyboard_alone(path):
    with opened(path) as page:
        page.keyboard.press("/")
        page.keyboard.type("<B>&")
        assert [sample["key"] for sample in shown(page, "tr[data-key]")] == ["square/<b>&.png"]
        assert page.locator("#count").inner_text() == f"1 of {ALL} samples"
        page.keyboard.type("/x")
        assert shown(page, "[data-key]:not(circle)") == []
        assert page.get_by_text("No sample is left.").is_visible()
        page.keyboard.press("Escape")
        page.get_by_text(f"{ALL} samples", exact=True).wait_for()
        assert page.locator("[name=name]").input_value() == ""
        assert not page.get_by_text("No sample is left.").is_visible()
        page.locator("[name=class]").focus()
        page.keyboard.press("ArrowDown")
        assert len(shown(page, "tr[data-key]")) == 30
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == "strategy"
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert {sample["wrong"] for sample in shown(page, "tr[data-key]")} == {"1"}


def test_what_is_not_among_the_few_that_are_shown_is_said(path, found):
    beyond = found[0].strategies[0].keys[-1]
    assert beyond not in found[0].strategies[0].keys[:5]
    with opened(path) as page:
        page.locator("[name=name]").fill(beyond)
        assert [sample["key"] for sample in shown(page, "tr[data-key]")] == [beyond]
        assert page.locator(".strategy:visible .none").is_visible()


def test_without_a_script_everything_is_there(path):
    with opened(path, java_script_enabled=False) as page:
        assert not page.locator("#filters").is_visible()
        assert page.locator("tr[data-key]:visible").count() == ALL
        figures = page.locator("section > .strategy figure")
        assert figures.count() == page.locator("section > .strategy figure:visible").count() > 20
        assert page.locator(".none:visible").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_the_night(path, scheme):
    with opened(path, viewport={"width": 360, "height": 740}, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 31)"}[scheme]
        assert page.locator("img:not([alt])").count() == 0
