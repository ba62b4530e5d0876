"""A real browser for pages: Chromium through playwright, where both are there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[Any]:
    """A page of that file. Leaving it fails if it wrote to the console, raised an error, or asked for anything."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            page = browser.new_context(**options).new_page()
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
            asked: list[str] = []
            page.goto(path.absolute().as_uri())
            yield page
            assert said == []
            assert [url for url in asked if not url.startswith("data:")] == [path.absolute().as_uri()]
        finally:
            browser.close()
