"""What notebooks and terminals show of explanations, analyzers, composites, ledgers and sentences."""

from __future__ import annotations

import base64
import io
import re
import sys
import types
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from torch import nn

from relprop import LRP, Explanation
from relprop.composites import Composite, EpsilonGammaFlat, EpsilonPlus
from relprop.explanations.text import ExplainedText

pytest.importorskip("matplotlib")
EVIL = "<script>alert(1)</script>"
NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()


class Tags(HTMLParser):
    """Names of the elements, those that are open at the end, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.append(tag)
        if tag not in ("img", "br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def well_formed(text: str) -> Tags:
    tags = Tags(text)
    assert not tags.open
    assert "script" not in tags.names
    assert EVIL not in text
    return tags


@pytest.fixture(scope="module")
def expl() -> Explanation:
    torch.manual_seed(0)
    return LRP(NET, EpsilonGammaFlat(), classes=[EVIL, "cat"])(torch.rand(6, 3, 8, 8), target=0, audit=True)


def test_an_explanation_shows_its_figure_and_says_what_it_is(expl: Explanation) -> None:
    page = expl._repr_html_()
    tags = well_formed(page)
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.width > 600
    assert expl._repr_png_() == base64.b64decode(data)
    assert "The first 4 of 6 samples" in tags.text
    assert "composite EpsilonGammaFlat()" in tags.text
    assert re.search(r'alt="Relevance: &lt;script&gt;', page)


def test_what_cannot_be_drawn_is_printed_instead(monkeypatch: pytest.MonkeyPatch, expl: Explanation) -> None:
    odd = Explanation(torch.rand(2), None)
    assert (odd._repr_html_(), odd._repr_png_()) == (None, None)
    broken = Explanation(torch.full((1, 3, 4, 4), float("nan")), None)
    assert broken._repr_html_() is None
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert Explanation(expl.relevance, expl.target)._repr_html_() is None


def test_analyzers_and_composites_are_tables() -> None:
    tags = well_formed(LRP(NET, EpsilonGammaFlat())._repr_html_())
    assert tags.names.count("tr") == 1 + len(NET)
    for said in ("LRP", "EpsilonGammaFlat()", "0: Conv2d(3, 4", "FlatRule()", "fused into 0", "EpsilonRule("):
        assert said in tags.text, said
    composite = EpsilonPlus().because(EVIL)
    tags = well_formed(composite._repr_html_())
    assert tags.names.count("tr") == len(repr(composite).splitlines()) - 2  # without closing brackets
    assert EVIL in tags.text
    assert "table" in well_formed(Composite()._repr_html_()).names


def test_a_ledger_shows_its_sinks_as_bars(expl: Explanation) -> None:
    tags = well_formed(expl.ledger._repr_html_())
    assert f"{len(expl.ledger)} accounts" in tags.text
    widths = dict(re.findall(r"<td[^>]*>(\w+)</td>.*?width:\s*([\d.]+)em", expl.ledger._repr_html_(), re.DOTALL))
    most = max(expl.ledger.sinks, key=lambda name: abs(expl.ledger.sinks[name]))
    assert float(widths[most]) == 12.0


def test_a_sentence_is_coloured_and_nothing_in_it_is_obeyed() -> None:
    names = ["[CLS]", EVIL, "dull", "a\x1b[0m"]
    text = ExplainedText.of_tokens(names, [0.0, 1.0, -0.5, 0.1], special=["[CLS]"], title=EVIL, notes=[EVIL])
    tags = well_formed(text._repr_html_())
    assert tags.text.count(EVIL) == 3
    assert "\x1b" not in tags.text
    assert "background: #b2182b" in text._repr_html_()


# --- show ---


def test_without_windows_a_terminal_gets_blocks_and_words(
    expl: Explanation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    import matplotlib

    matplotlib.use("agg")
    expl.show(0)
    said = capsys.readouterr().out
    assert said.startswith(EVIL)  # of a terminal, that is text
    assert len([line for line in said.splitlines() if "▀" in line]) == 24
    net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    LRP(net)(torch.tensor([[1, 2, 3]])).show(names=["a", "fine", "film"])
    assert "a fine film" in capsys.readouterr().out
    for shape in ((1, 7), (1, 2, 30), (1, 1, 3, 4, 4)):
        Explanation(torch.randn(shape), None).show()
        assert "Σ R" in capsys.readouterr().out


def test_a_notebook_displays_it(expl: Explanation, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    shell = type("ZMQInteractiveShell", (), {})()
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: shell
    display.display, display.Image = shown.append, lambda data: ("image", data[:4])
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    expl.show()
    expl.show(2, contours=(0.5,))
    assert shown == [expl, ("image", b"\x89PNG")]
