"""The page about an explanation: what is on it, whether it says the truth, and that nothing in it is obeyed."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from relprop import LRP, Explanation
from relprop.analyzers import Gradient
from relprop.errors import ImageError, RelpropError, TargetError
from relprop.evaluation import trust
from relprop.explanations.figures.view import name_of
from relprop.explanations.report import CHECKS, Finding, Trust, register_check
from relprop.models import demo
from relprop.targets import Contrast, Logit

pytest.importorskip("matplotlib")
EVIL = "<img src=x onerror=alert(1)><script>alert(1)</script>"  # as in conftest


class Page(HTMLParser):
    """Elements with their attributes, and the text of each kind of element."""

    VOID = ("img", "br", "meta", "input", "line", "polyline")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID or tag == "polyline":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag and wanted.items() <= attrs.items()]


@pytest.fixture(scope="module")
def stars(reported: tuple[Path, Explanation]) -> tuple[Page, Explanation]:
    path, expl = reported
    return Page(path), expl


def test_a_page_has_classes_contrasts_layers_sinks_and_settings(stars: tuple[Page, Explanation]) -> None:
    page, expl = stars
    assert len(page.all("section", **{"class": "sample"})) == 2
    labels = page.texts["label"]
    for label in ("star", "ring", "burst" + EVIL, "star, not ring", f"star, not burst{EVIL}"):
        assert label in labels, label
    assert {"Input, both, heatmap", "From the input to the output"} <= set(labels)
    steps = page.all("input", **{"class": "step"})
    layers = len([1 for _, attrs in page.elements if "data-layer" in attrs])
    assert [int(str(step["max"])) + 1 for step in steps] == [layers / 2, layers / 2]
    assert layers / 2 > 5
    assert {"inputs", "bias"} <= set(page.texts["th"])
    assert "EpsilonGammaFlat()" in page.texts["code"]
    (lines,) = (text for text in page.texts["code"] if text.startswith("#"))
    assert lines.endswith("explained = LRP(model, EpsilonGammaFlat())(x, target=None)")
    assert "from relprop.composites import EpsilonGammaFlat" in lines
    against = float(expl.output[0, 4] - expl.output[0, 1])
    assert [text for text in page.texts["p"] if text.startswith(f"star against ring = {against:.4g}, ")]
    total = float(expl.relevance[0].double().sum())
    assert f"star = {float(expl.amount[0]):.4g}, Σ R = {total:.4g}" in page.texts["p"]


def test_the_pictures_are_those_of_the_explanation(stars: tuple[Page, Explanation]) -> None:
    page, expl = stars
    images = [attrs for _, attrs in page.elements if str(attrs.get("src", "")).startswith("data:image/png")]
    seen, _, heat = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(str(i["src"]).partition(",")[2])))) for i in images[:3]
    )
    assert np.abs(seen.astype(int) - demo.load_samples()[0].image.astype(int)).max() <= 1
    (own, _) = expl.heatmap()
    assert np.array_equal(heat, np.asarray(own))
    assert all(str(image["alt"]).strip() for image in images)
    assert str(images[2]["alt"]).startswith("Heatmap for star: star = ")


def test_nothing_from_outside_is_obeyed_and_nothing_is_asked_for(stars: tuple[Page, Explanation]) -> None:
    page, _ = stars
    assert EVIL not in page.source
    assert page.source.count("&lt;script&gt;") >= 5
    assert len(page.all("script")) == len(page.texts["script"]) == 1
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    inside = page.source[page.source.index("<script>") + 8 : page.source.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
    assert policy["content"] == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    assert not re.findall(r"(?:https?:)?//[\w.]+\.\w+", page.source.replace("data:image/png;base64,", ""))
    for _, attrs in page.elements:
        for name in ("src", "href"):
            assert name not in attrs or str(attrs[name]).startswith(("data:", "#"))
        assert not [name for name in attrs if name.startswith("on")]


@pytest.mark.parametrize("kind", ["row", "tokens", "series", "volume"])
def test_every_form_has_its_page(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x, names = {
        "row": (nn.Linear(40, 3), torch.randn(2, 40), [f"f{i}{EVIL}" for i in range(40)]),
        "tokens": (
            nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)),
            torch.randint(0, 9, (2, 3)),
            [["a", EVIL, "c"], ["d", "e", "f"]],
        ),
        "series": (nn.Sequential(nn.Conv1d(2, 3, 5), nn.Flatten(), nn.Linear(48, 2)), torch.randn(2, 2, 20), None),
        "volume": (nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(54, 2)), torch.randn(2, 1, 5, 5, 5), None),
    }[kind]
    LRP(net)(x).report(tmp_path / "page.html", [0, 1] if kind == "tokens" else 1, names=names)
    page = Page(tmp_path / "page.html")
    assert EVIL not in page.source
    assert "Can I trust it?" in page.texts["h3"]
    if kind == "row":
        assert "20 others" in page.texts["th"]
    if kind == "tokens":
        assert {EVIL, "d", "e", "f"} <= set(page.texts["span"])
        assert len(page.all("polyline")) == 2 * 6  # hidden by an embedding of 0
    if kind in ("series", "volume"):
        assert page.all("img")


def test_a_language_model_has_its_tokens_in_every_layer_and_other_classes(tmp_path: Path) -> None:
    class Reads(nn.Module):
        """With outputs by name, as Hugging Face has them."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.mix, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor) -> dict[str, Tensor]:
            return {"logits": self.head(self.mix(self.embedding(ids)).relu().mean(1))}

    torch.manual_seed(0)
    net, ids = Reads(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    expl = LRP(net, classes=["bad", "fine", "good"])(ids, target=1)
    expl.report(tmp_path / "page.html", 1, names=[["a", "b", "c"], ["d", "e", "f"]])
    page = Page(tmp_path / "page.html")
    assert {"fine", "good", "bad", "fine, not good"} <= set(page.texts["label"])
    layers = len([1 for _, attrs in page.elements if "data-layer" in attrs])
    assert layers >= 2
    assert len(page.all("p", **{"class": "tokens"})) == 5 + 1  # five classes and contrasts, and the layer of tokens
    whole = LRP(net, classes=["bad", "fine", "good"])(ids, target=1, layers=["mix"]).layers["mix"][1].sum(-1)
    assert f"{float(whole[0]):+.4g}" in [span["title"] for span in page.all("span") if "title" in span]


def test_positions_of_a_sequence_are_said() -> None:
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    ids = torch.tensor([[1, 2, 3]])
    assert name_of(LRP(net, classes=[f"w{i}" for i in range(9)])(ids, target=(2, 7)), 0) == "output (2, 7)"
    assert name_of(LRP(net)(ids, target=(0, 7)), 0) == "output (0, 7)"
    assert name_of(LRP(nn.Linear(4, 3))(torch.rand(1, 4), target=2), 0) == "output 2"


def test_contrasts_are_of_named_classes() -> None:
    lrp, x = LRP(nn.Linear(4, 3), classes=["bad", "fine", "good"]), torch.rand(1, 4)
    assert name_of(lrp(x, target=Contrast(0, 2)), 0) == "bad against good"
    assert name_of(lrp(x, target=Logit(0) - Logit(1)), 0) == "bad - fine"
    assert name_of(lrp(x, target=Contrast(1)), 0) == "fine against the runner-up"
    assert name_of(LRP(nn.Linear(4, 3))(x, target=Contrast(0, 2)), 0) == "output 0 against output 2"


def test_from_a_file_and_of_analyzers_without_layers(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), torch.rand(1, 3, 4, 4)
    LRP(net)(x).save(tmp_path / "a.safetensors")
    Explanation.load(tmp_path / "a.safetensors").report(tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert any("without its model" in text for text in page.texts["dd"])
    assert "Layer by layer" not in page.texts["h3"]
    Gradient(net)(x).report(tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "Gradient keeps no books." in page.texts["dd"]
    LRP(net)(x).report(tmp_path / "page.html", trust=False, layers=False)
    assert Page(tmp_path / "page.html").texts["h3"] == ["Why this answer?", "Where relevance went"]


def test_what_does_not_fit_writes_nothing(tmp_path: Path) -> None:
    expl = LRP(nn.Linear(4, 2), classes=["a", "b"])(torch.rand(3, 4))
    for options, error in (
        ({"samples": 7}, ImageError),
        ({"headings": ["one"]}, ImageError),
        ({"targets": ["c"]}, TargetError),
        ({"samples": []}, ImageError),
    ):
        with pytest.raises(error):
            expl.report(tmp_path / "page.html", **options)
    (tmp_path / "file").touch()
    with pytest.raises(RelpropError, match="cannot be written"):
        expl.report(tmp_path / "file" / "page.html", trust=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- can I trust it? ---


class Wrong(LRP):
    """Says the opposite of what LRP does, and books what it does not send."""

    def __call__(self, *args: object, **options: object) -> Explanation:
        found = super().__call__(*args, **options)
        return Explanation(-found.relevance, found.target, {"input": -found.relevance})

    def explain(self, inputs: object, target: object = None, **options: object) -> Explanation:
        return self(inputs, target=target, **options)


def verdicts(found: Trust) -> list[str]:
    return [finding.verdict for finding in found.findings]


def linear() -> nn.Module:
    net = nn.Linear(6, 1, bias=False)
    net.weight.data = torch.tensor([[6.0, -4.0, 3.0, 2.0, -1.0, 0.5]])
    return net


def test_what_is_right_passes_and_what_is_wrong_fails() -> None:
    x = torch.ones(2, 6)
    right = LRP(linear())(x, target=0)
    found = trust(right, 1)
    assert verdicts(found)[0] == verdicts(found)[2] == "passes"
    assert [curve.kind for curve in found.curves] == ["own", "own", "random", "random", "centre", "centre"]
    assert all(len(curve.x) == len(curve.y) for curve in found.curves)
    assert found.curves[0].y[0] == pytest.approx(6.5)
    wrong = Wrong(linear())
    object.__setattr__(right.origin, "analyzer", wrong)  # which explains the same anew
    assert verdicts(trust(right, 0))[0] == "fails"


def test_an_explanation_that_does_not_know_the_weights_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Inputs(LRP):
        def __call__(self, *args: Tensor, **options: object) -> Explanation:
            return Explanation(args[0], None)

    x = torch.randn(1, 6)
    expl = LRP(linear())(x, target=0)
    object.__setattr__(expl.origin, "analyzer", Inputs(linear()))
    found = trust(expl, 0)
    assert "rank correlation of 1.00" in found.findings[1].said
    assert found.findings[1].verdict == "fails"


def test_what_was_asked_of_a_part_of_the_model_is_asked_again_in_the_same_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), torch.rand(2, 6)
    lrp = LRP(net)
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
    for options in ({"start": "0"}, {"conditions": {"0": mask}}):
        expl = lrp(x, target=1, **options)
        assert expl.origin.part()
        again = expl.origin.ask(expl.origin.target, 1, audit=True, layers=["0"])
        assert torch.allclose(again.relevance[0], expl.relevance[1], atol=1e-6)
        assert again.layers.keys() == {"0"}
        found = trust(expl, 1)
        assert verdicts(found) == ["open", "passes"]
    rows = lrp(x, target=1, conditions={"0": mask.repeat(2, 1)})
    assert verdicts(trust(rows, 1)) == ["open", "open"]
    rows.report(tmp_path / "page.html", 1)
    assert "Layer by layer" not in Page(tmp_path / "page.html").texts["h3"]
    several = lrp.each(x, targets=[1], conditions=[{"0": mask}, {"0": 1 - mask}])
    for expl in several:
        assert torch.allclose(expl.origin.ask(expl.origin.target, 0).relevance[0], expl.relevance[0], atol=1e-6)
    assert not lrp(x).origin.part()
    several[1].report(tmp_path / "page.html", 0)
    assert "Explain" not in Page(tmp_path / "page.html").texts.get("legend", [])


def test_trouble_in_the_books_fails() -> None:
    net = nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, -0.99999]])
    finding = trust(LRP(net)(torch.ones(1, 2), target=0), 0).findings[2]
    assert finding.verdict == "fails"
    assert "grew by a factor of" in finding.said


def test_checks_of_ones_own_are_asked() -> None:
    check = register_check(lambda expl, sample: Trust([Finding("Is it mine?", "open", f"sample {sample}")]))
    try:
        assert register_check(check) in CHECKS
        assert CHECKS.count(check) == 1
        from relprop.explanations.report.checks import trust_of

        assert trust_of(LRP(linear())(torch.ones(1, 6)), 0).findings[-1].said == "sample 0"
    finally:
        CHECKS.remove(check)
