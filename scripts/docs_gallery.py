"""Run the files of docs/gallery.md: what they print goes below them, their pictures to docs/images/gallery-*.png.

python scripts/docs_gallery.py             all of them
python scripts/docs_gallery.py tone voice  some

The models need `pip install --no-deps -r requirements-evidence.txt`, the voice espeak-ng.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
PAGE, IMAGES = ROOT / "docs" / "gallery.md", ROOT / "docs" / "images"
FILE = re.compile(r"```python\n(# file: (\w+)\.py\n.*?)```", re.DOTALL)
START = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
from support.torchvision_shim import install
install()
runpy.run_path(sys.argv[2], run_name="__main__")
"""
"""Where torchvision's own operators do not fit the installed torch, what imports it still runs."""


@dataclass(frozen=True)
class Run:
    """What a file printed, its pictures by name, and how many seconds it took."""

    printed: str
    pictures: dict[str, Image.Image]
    seconds: float


def files() -> dict[str, str]:
    """The files of the page: name -> code."""
    return {name: code for code, name in FILE.findall(PAGE.read_text("utf-8"))}


def run(name: str) -> Run:
    """Run a file in a folder of its own.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.py"
        path.write_text(files()[name], "utf-8")
        start = time.perf_counter()
        command = [sys.executable, "-W", "ignore", "-c", START, str(ROOT / "tests"), str(path)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}.py of docs/gallery.md failed:\n{done.stderr[-2000:]}")
        pictures = {}
        for file in sorted(Path(folder).glob("*.png")):
            with Image.open(file) as image:
                pictures[file.stem] = image.convert("RGB")
        return Run(done.stdout, pictures, time.perf_counter() - start)


def printed(name: str, page: str) -> str:
    """What the page says that a file printed."""
    found = re.search(rf"<!-- made: {name} -->\n(?:```text\n(.*?)```\n)?<!-- end -->", page, re.DOTALL)
    if found is None:
        raise ValueError(f"docs/gallery.md has no place for what {name}.py prints")
    return found[1] or ""


def with_printed(name: str, text: str, page: str) -> str:
    """The page with what a file printed in its place."""
    printed(name, page)
    made = f"<!-- made: {name} -->\n```text\n{text.strip()}\n```\n<!-- end -->"
    return re.sub(rf"<!-- made: {name} -->\n.*?<!-- end -->", lambda _: made, page, flags=re.DOTALL)


def keep(picture: Image.Image, name: str) -> None:
    """Write a picture of the page."""
    picture.save(IMAGES / f"gallery-{name}.png", optimize=True)


def main(names: list[str]) -> None:
    """Run some of the files, or all, and write what they made."""
    for name in names or files():
        found = run(name)
        page = with_printed(name, found.printed, PAGE.read_text("utf-8"))
        PAGE.write_text(page, "utf-8")
        for picture, image in found.pictures.items():
            keep(image, picture)
        print(f"{name}: {', '.join(found.pictures)} in {found.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
