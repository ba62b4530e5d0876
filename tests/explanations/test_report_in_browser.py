"""The page in Chromium: switching, sliding, stepping, by keyboard too, on a phone, in the dark, without a request."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.browser import opened

from relprop.explanations.report import Curve, Finding, Trust
from relprop.explanations.report import page as html
from relprop.explanations.report.parts import Bar, Panel, Sample

EVIL = "<img src=x onerror=alert(1)><script>alert(1)</script>"


@pytest.fixture(scope="module")
def path(reported: tuple[Path, object]) -> Path:
    return reported[0]


def colours(page: object, selector: str) -> np.ndarray:
    shot = page.locator(selector).first.screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def test_one_class_at_a_time_and_the_slider_goes_from_the_input_to_the_heatmap(path: Path) -> None:
    with opened(path, viewport={"width": 1000, "height": 900}) as page:
        first = page.locator("#sample-0")
        assert first.locator("[data-panel]:visible").count() == 1
        assert page.title() == f"T{EVIL}"
        stack = "#sample-0 [data-panel='0'] .stack"
        slide = first.locator("input.mix")
        slide.fill("0")
        seen = colours(page, stack)
        slide.fill("100")
        heat = colours(page, stack)
        assert slide.get_attribute("aria-valuetext") == "heatmap"
        assert np.median(seen) < 60  # the demo's star is on a dark ground
        assert np.median(heat) > 245  # and most of it without relevance
        slide.fill("50")
        assert 100 < np.median(colours(page, stack)) < 220
        choices = first.locator("input[type=radio]")
        labels = first.locator("label.choice").all_inner_texts()
        choices.nth(1).check()
        assert first.locator("[data-panel]:visible").get_attribute("data-panel") == "1"
        assert labels[1] in first.locator("[data-panel]:visible .note").inner_text()
        assert page.locator("#sample-1 [data-panel]:visible").get_attribute("data-panel") == "0"  # and no other's


def test_the_keyboard_is_enough(path: Path) -> None:
    with opened(path) as page:
        step = page.locator("#sample-0 input.step")
        step.focus()
        names = []
        for _ in range(3):
            names.append(page.locator("#sample-0 [data-layer]:visible").get_attribute("data-name"))
            page.keyboard.press("ArrowRight")
        assert len(set(names)) == 3
        page.keyboard.press("End")
        assert page.locator("#sample-0 [data-layer]:visible").get_attribute("data-name") == "classifier"
        page.locator("#sample-0 input[type=radio]").first.focus()
        page.keyboard.press("ArrowDown")
        assert page.locator("#sample-0 [data-panel]:visible").get_attribute("data-panel") == "1"
        page.locator("summary").first.press("Enter")
        assert page.locator("details[open] table").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_the_night(path: Path, scheme: str) -> None:
    with opened(path, viewport={"width": 360, "height": 740}, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 29)"}[scheme]
        boxes = page.locator("#sample-0 label.choice").all()
        assert all(box.bounding_box()["height"] >= 30 for box in boxes)  # a thumb's width
        assert page.locator("img:not([alt])").count() == 0
        assert EVIL in page.locator("#sample-0 h2").inner_text()  # as text


def test_without_a_script_everything_is_there(path: Path) -> None:
    with opened(path, java_script_enabled=False) as page:
        assert page.locator("#sample-0 [data-panel]:visible").count() == page.locator("#sample-0 [data-panel]").count()


def test_long_words_do_not_reach_beyond_the_page(tmp_path: Path) -> None:
    long = "model.embeddings." * 20
    bars = [Bar(long, 1.0, 1.0, long)]
    sample = Sample(
        long,
        [Panel(long, long, 1.0, 1.0, bars=bars)] * 2,
        [Panel(long, long, 1.0, 1.0, bars=bars)],
        bars,
        long,
        Trust([Finding(long, "open", long)], [Curve(long, "own", [0.0, 1.0], [1.0, 0.0])]),
    )
    (tmp_path / "page.html").write_text(html([sample], long, {"model": long, "composite": long}), "utf-8")
    for width in (360, 1000):
        with opened(tmp_path / "page.html", viewport={"width": width, "height": 800}) as page:
            page.locator("summary").first.click()
            beyond = (
                f"[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > {width} + 1)"
            )
            wide = page.evaluate(f"{beyond}.filter(e => !e.closest('pre')).map(e => e.tagName + '.' + e.className)")
            assert wide == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
