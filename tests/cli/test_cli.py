"""`relprop explain` and `relprop layers`, as a user meets them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from support.command_line import SAMPLES, relprop
from typer.testing import CliRunner

from relprop import LRP, __version__
from relprop.cli.app import app
from relprop.composites import EpsilonGammaFlat
from relprop.models.demo import CLASSES, load_model, to_input

TAGGED = [sample for sample in SAMPLES if sample.artefact_mask.any()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo explained once: (what was printed, the folder)."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return relprop("explain", "--model", "demo", "--out", out), out


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (12, 9)), ("b.jpg", (12, 9)), ("c.png", (10, 14))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no picture, and not looked at")
    return folder


def relevance_in(path):
    with safe_open(path, "pt") as file:
        return file.get_tensor("relevance"), file.metadata()


# --- what is written ---


def test_every_sample_gets_its_files_and_nothing_else_is_left(demo):
    _, out = demo
    kinds = ("heatmap.png", "overlay.png", "relevance.safetensors")
    expected = {f"{sample.name}.{kind}" for sample in SAMPLES for kind in kinds}
    assert {path.name for path in out.iterdir()} == expected | {"overview.png", "summary.json"}


def test_the_relevance_is_what_the_library_computes(demo):
    _, out = demo
    explanation = LRP(load_model(), EpsilonGammaFlat())(torch.cat([to_input(sample.image) for sample in SAMPLES]))
    for i, sample in enumerate(SAMPLES):
        relevance, metadata = relevance_in(out / f"{sample.name}.relevance.safetensors")
        torch.testing.assert_close(relevance, explanation.relevance[i], rtol=1e-4, atol=1e-7)
        target = int(explanation.target[i])
        assert metadata["model"] == "demo"
        assert metadata["composite"] == "epsilon-gamma-flat"
        assert metadata["picture"] == f"{sample.name}.png"
        assert (metadata["target"], metadata["class"]) == (str(target), CLASSES[target])
        assert float(metadata["output"]) == pytest.approx(float(explanation.output[i, target]), rel=1e-5)
        assert metadata["relprop"] == __version__


def test_pictures_are_enlarged_by_a_whole_factor(demo):
    _, out = demo
    for kind in ("heatmap", "overlay"):
        with Image.open(out / f"{SAMPLES[0].name}.{kind}.png") as image:
            assert image.size == (256, 256)
    heat = np.asarray(Image.open(out / f"{SAMPLES[0].name}.heatmap.png"))
    blocks = heat.reshape(64, 4, 64, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()


def test_the_share_in_the_watermark_is_counted_right(demo):
    _, out = demo
    records = {r["files"][0].partition(".")[0]: r for r in json.loads((out / "summary.json").read_text())["pictures"]}
    assert TAGGED
    for sample in SAMPLES:
        if not sample.artefact_mask.any():
            assert "artefact" not in records[sample.name]
            continue
        relevance, _ = relevance_in(out / f"{sample.name}.relevance.safetensors")
        positive = relevance.double().sum(0).clamp(min=0).numpy()
        artefact = records[sample.name]["artefact"]
        assert artefact["positive_relevance"] == pytest.approx(positive[sample.artefact_mask].sum() / positive.sum())
        assert artefact["area"] == pytest.approx(sample.artefact_mask.mean())
        # This is what the demo is for: the model reads the watermark.
        assert artefact["positive_relevance"] > 5 * artefact["area"]


def test_the_summary_says_what_was_predicted_and_kept(demo):
    _, out = demo
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["model"], summary["composite"]) == ("demo", "epsilon-gamma-flat")
    outputs = load_model()(torch.cat([to_input(sample.image) for sample in SAMPLES]))
    for sample, output, record in zip(SAMPLES, outputs, summary["pictures"], strict=True):
        best = output.topk(3)
        assert [each["class"] for each in record["top"]] == [CLASSES[int(i)] for i in best.indices]
        assert [each["output"] for each in record["top"]] == pytest.approx(best.values.tolist(), rel=1e-4)
        relevance, _ = relevance_in(out / f"{sample.name}.relevance.safetensors")
        assert record["relevance_sum"] == pytest.approx(float(relevance.double().sum()))


def test_the_overview_has_a_column_for_each_picture(demo):
    from relprop.explanations.sheet import CELL, GAP, LABELS, MARGIN

    _, out = demo
    with Image.open(out / "overview.png") as image:
        columns = (image.width - 2 * MARGIN - LABELS + GAP) / (CELL + GAP)
        assert columns == math.ceil(len(SAMPLES) / math.ceil(len(SAMPLES) / 8))  # bands of nearly equal length
        assert np.asarray(image.convert("RGB")).std() > 20  # not a blank page


def test_several_targets_have_files_rows_and_columns_of_their_own_on_one_forward_pass(tmp_path, monkeypatch):
    from relprop.explanations.sheet import CELL, GAP, LABELS, MARGIN
    from relprop.targets import Contrast

    passes, each = [], LRP.each
    monkeypatch.setattr(LRP, "each", lambda self, x, **options: passes.append(len(x)) or each(self, x, **options))
    paths, out = [sample.path for sample in SAMPLES[:5]], tmp_path / "out"
    asked = ("--target", "ring", "--target", "4", "--target", "burst", "--against", "square")
    said = relprop("explain", *paths, "--model", "demo", *asked, "--out", out).stdout
    assert passes == [5]
    x, lrp = torch.cat([to_input(sample.image) for sample in SAMPLES[:5]]), LRP(load_model(), EpsilonGammaFlat())
    records = json.loads((out / "summary.json").read_text("utf-8"))["pictures"]
    assert len(records) == 15
    for k, (given, name) in enumerate((("ring", "ring"), ("4", "star"), ("burst", "burst"))):
        expl = lrp(x, target=Contrast(CLASSES.index(name), against=CLASSES.index("square")))
        assert said.count(f"{name} against square") == 5
        for i, sample in enumerate(SAMPLES[:5]):
            file = f"{sample.name}.{given}.relevance.safetensors"
            relevance, metadata = relevance_in(out / file)
            torch.testing.assert_close(relevance, expl.relevance[i], rtol=1e-4, atol=1e-7)
            assert float(metadata["output"]) == pytest.approx(float(expl.amount[i]), rel=1e-4)
            record = records[3 * i + k]
            assert file in record["files"]
            assert (record["class"], record["target"]) == (f"{name} against square", CLASSES.index(name))
    with Image.open(out / "overview.png") as image:
        assert (image.width - 2 * MARGIN - LABELS + GAP) / (CELL + GAP) == 6  # three targets stay side by side


def test_the_predicted_class_against_the_runner_up(tmp_path):
    relprop("explain", TAGGED[0].path, "--model", "demo", "--against", "runner-up", "--out", tmp_path / "out")
    (record,) = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))["pictures"]
    first, second = (entry["output"] for entry in record["top"][:2])
    assert record["class"] == f"{record['top'][0]['class']} against the runner-up"
    assert record["output"] == pytest.approx(first - second, rel=1e-4)
    assert (tmp_path / "out" / f"{TAGGED[0].name}.heatmap.png").exists()


def test_a_negative_output_is_explained_by_what_speaks_for_it_in_red(tmp_path):
    """The sum of what is saved has the sign of the output; a class that is far off has more against it."""
    relprop("explain", TAGGED[0].path, "--model", "demo", "--target", "circle", "--out", tmp_path / "out")
    (record,) = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))["pictures"]
    relevance, metadata = relevance_in(tmp_path / "out" / f"{TAGGED[0].name}.relevance.safetensors")
    assert record["output"] < 0
    assert float(relevance.sum()) < 0
    assert metadata["normalize_output"] == "magnitude"


def test_the_report_has_a_section_for_each_picture_and_the_classes_that_were_asked_for(tmp_path):
    paths = [sample.path for sample in SAMPLES[:2]]
    asked = ("--target", "star", "--target", "ring", "--report")
    said = relprop("explain", *paths, "--model", "demo", *asked, "--out", tmp_path / "out").stdout
    assert said.rstrip().endswith("overview.png and summary.json, report.html")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    for sample in SAMPLES[:2]:
        assert f">{sample.name}</h2>" in page
    for label in ("star", "ring", "star, not ring"):
        assert page.count(f">{label}</label>") == 2
    assert page.count("Can I trust it?") == 2
    assert "loaded = load_model(&#39;demo&#39;)\nmodel, x = loaded.model, loaded.preprocess(open_picture(" in page
    assert "LRP(model, EpsilonGammaFlat())(x, target=Logit(position=4))" in page
    assert "from relprop.targets import Logit" in page
    before = (tmp_path / "out" / "report.html").stat().st_mtime_ns
    result = relprop("explain", *paths, "--model", "demo", "--report", "--out", tmp_path / "out", code=2)
    assert "would be overwritten" in result.stderr
    assert (tmp_path / "out" / "report.html").stat().st_mtime_ns == before
    assert "--report is for pictures" in relprop("explain", "--model", "x", "--text", "a", "--report", code=2).stderr


# --- what is printed ---


def test_the_table_and_the_clever_hans_sentence(demo):
    result, out = demo
    for sample in SAMPLES:
        assert sample.name in result.stdout
    for column in ("predictions", "explained", "Σ R", "in mark", "its area"):
        assert column in result.stdout
    summary = json.loads((out / "summary.json").read_text())
    shares = [r["artefact"]["positive_relevance"] for r in summary["pictures"] if "artefact" in r]
    assert f"Clever Hans: in {len(shares)} pictures with a watermark" in result.stdout
    assert f"{sum(shares) / len(shares):.0%} of the positive relevance" in result.stdout
    assert str(out) in result.stdout
    assert "▀" not in result.stdout  # pictures are for terminals
    assert result.stderr == ""


def test_quiet_prints_nothing(tmp_path):
    result = relprop("explain", "--model", "demo", "--out", tmp_path, "--quiet")
    assert (result.stdout, result.stderr) == ("", "")


def test_in_a_terminal_pictures_are_drawn(demo, tmp_path, monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["explain", "--model", "demo", "--out", str(tmp_path)], env={"COLUMNS": "120"})
    lines = [line for line in result.stdout.splitlines() if "▀" in line]
    assert len(lines) == 2 * 12  # 4 pictures, two beside each other, 24 rows of pixels each
    assert "\x1b[38;2;" in lines[0]  # 24-bit colour


def test_version():
    assert relprop("--version").stdout == f"relprop {__version__}\n"


def test_layers_prints_the_rules():
    table = relprop("layers", "--model", "demo").stdout
    assert "features.block1.conv" in table
    assert "FlatRule()" in table
    assert "GammaRule" in relprop("layers", "--model", "demo", "--composite", "gamma").stdout


# --- options ---


def test_a_target_by_name_is_the_same_as_by_index(tmp_path):
    sample = SAMPLES[0].path
    for folder, target in (("name", "RING"), ("index", str(CLASSES.index("ring")))):
        relprop("explain", sample, "--model", "demo", "--target", target, "--out", tmp_path / folder)
    by_name, metadata = relevance_in(tmp_path / "name" / f"{sample.stem}.relevance.safetensors")
    by_index, _ = relevance_in(tmp_path / "index" / f"{sample.stem}.relevance.safetensors")
    assert torch.equal(by_name, by_index)
    assert metadata["class"] == "ring"
    expected = LRP(load_model(), EpsilonGammaFlat())(to_input(SAMPLES[0].image), target=CLASSES.index("ring"))
    torch.testing.assert_close(by_name, expected.relevance[0], rtol=1e-4, atol=1e-7)


def test_batches_do_not_change_the_numbers(demo, tmp_path, monkeypatch):
    _, out = demo
    sizes = []
    explain = LRP.each

    def counting(self, x, **options):
        sizes.append(len(x))
        return explain(self, x, **options)

    monkeypatch.setattr(LRP, "each", counting)
    relprop("explain", "--model", "demo", "--out", tmp_path, "--batch-size", 3)
    assert sizes == [3, 3, 3, 1]
    for sample in SAMPLES:
        name = f"{sample.name}.relevance.safetensors"
        torch.testing.assert_close(relevance_in(tmp_path / name)[0], relevance_in(out / name)[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "composite", ["epsilon-plus", "epsilon-alpha2-beta1", "epsilon-alpha2-beta1-flat", "zero", "epsilon", "gamma"]
)
def test_composites(composite, tmp_path, demo):
    sample = SAMPLES[0]
    relprop("explain", sample.path, "--model", "demo", "--composite", composite, "--out", tmp_path)
    relevance, metadata = relevance_in(tmp_path / f"{sample.name}.relevance.safetensors")
    assert metadata["composite"] == composite
    usual, _ = relevance_in(demo[1] / f"{sample.name}.relevance.safetensors")
    assert not torch.allclose(relevance, usual)


def test_the_box_rule_gets_the_bounds_of_the_preprocessing(tmp_path):
    from relprop.composites import EpsilonGammaBox

    sample = SAMPLES[0]
    relprop("explain", sample.path, "--model", "demo", "--composite", "epsilon-gamma-box", "--out", tmp_path)
    relevance, _ = relevance_in(tmp_path / f"{sample.name}.relevance.safetensors")
    # the demo's input is (picture - 0.5) / 0.25, so it lies in [-2, 2]
    bounds = torch.full((1, 3, 1, 1), -2.0), torch.full((1, 3, 1, 1), 2.0)
    expected = LRP(load_model(), EpsilonGammaBox(*bounds))(to_input(sample.image)).relevance[0]
    torch.testing.assert_close(relevance, expected, rtol=1e-4, atol=1e-6)


def test_folders_and_pictures_of_several_sizes(pictures, users_file, tmp_path):
    relprop("explain", pictures, "--model", f"{users_file}:small", "--out", tmp_path / "out")
    shapes = {name: tuple(relevance_in(tmp_path / "out" / f"{name}.relevance.safetensors")[0].shape) for name in "abc"}
    assert shapes == {"a": (3, 12, 9), "b": (3, 12, 9), "c": (3, 10, 14)}
    relprop("explain", pictures, "--model", f"{users_file}:small", "--out", tmp_path / "sized", "--size", 8)
    assert relevance_in(tmp_path / "sized" / "c.relevance.safetensors")[0].shape == (3, 8, 8)


def test_mean_and_deviation_reach_the_model(pictures, users_file, tmp_path):
    from relprop.models import load, open_picture

    spec, path = f"{users_file}:small", pictures / "a.png"
    relprop("explain", path, "--model", spec, "--out", tmp_path / "out", "--mean", "0.5", "--std", "0.1,0.2,0.3")
    record = json.loads((tmp_path / "out" / "summary.json").read_text())["pictures"][0]
    x = (load(spec).preprocess(open_picture(path)) - 0.5) / torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    assert record["output"] == pytest.approx(float(load(spec).model(x).detach().max()), rel=1e-4)


def test_pictures_of_one_name_do_not_overwrite_each_other(pictures, users_file, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (8, 8), "red").save(other / "A.png")
    Image.new("RGB", (9, 9), "red").save(other / "a-2.png")
    out = tmp_path / "out"
    relprop("explain", pictures / "a.png", other / "A.png", other / "a-2.png", pictures / "a.png",
            "--model", f"{users_file}:small", "--out", out)  # fmt: skip
    shapes = {path.name: tuple(relevance_in(path)[0].shape[1:]) for path in out.glob("*.safetensors")}
    assert shapes == {
        "a.relevance.safetensors": (12, 9),
        "A-2.relevance.safetensors": (8, 8),
        "a-2-2.relevance.safetensors": (9, 9),
    }


def test_a_softmax_at_the_end_is_left_out_and_said(pictures, users_file, tmp_path):
    result = relprop("explain", pictures / "a.png", "--model", f"{users_file}:softmax", "--out", tmp_path / "out")
    assert "ends in a softmax" in result.stderr
    top = json.loads((tmp_path / "out" / "summary.json").read_text())["pictures"][0]["top"]
    assert sum(each["output"] for each in top) != pytest.approx(1, abs=1e-3)  # logits, no probabilities


def test_existing_files_stop_the_job_unless_told_otherwise(tmp_path):
    sample = SAMPLES[0]
    options = ("explain", sample.path, "--model", "demo", "--out", tmp_path)
    (tmp_path / "overview.png").write_text("mine")
    error = relprop(*options, code=2).stderr
    assert "overview.png would be overwritten; use --overwrite" in error
    assert [path.name for path in tmp_path.iterdir()] == ["overview.png"]
    relprop(*options, "--overwrite")
    assert len(list(tmp_path.iterdir())) == 5
    assert "4 more files" in relprop(*options, code=2).stderr
