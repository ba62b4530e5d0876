"""The demo's watermark is found, by class and by picture, and shown."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import sys
import types

import numpy as np
import pytest

import relprop.jobs
from relprop.errors import InputError
from relprop.jobs import strategies
from relprop.models import open_picture
from relprop.models.demo import CLASSES, CLEVER_HANS
from relprop.models.demo.network import SIZE

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

STAR = CLASSES[CLEVER_HANS]
LAYER = "features.block4.conv"


def quality(group, masks) -> tuple[float, float]:
    """Purity and recall of a group as the stars with a watermark."""
    marked = {key for key in masks if key.startswith(STAR)}
    inside = marked & set(group.keys)
    return len(inside) / len(group), len(inside) / len(marked)


@pytest.mark.parametrize("method", ["spectral", "kmeans"])
def test_the_watermark_is_found(dataset, method):
    """The class with the clearest gap is that of the watermark, and the pictures that carry it are a group of it."""
    found = strategies.find(dataset[0], method=method)
    assert found[0].name == STAR
    assert found[0].gap > 1.2 * found[1].gap
    group = found.ranked()[0]  # of all groups of all classes
    assert group in found[0].strategies
    purity, recall = quality(group, dataset[2])
    assert purity >= 0.95
    assert recall >= 0.95


def test_concept_vectors_tell_the_pictures_with_a_watermark(dataset):
    found = {each.name: each for each in strategies.find(dataset[0], on=LAYER)}
    purity, recall = quality(max(found[STAR].strategies, key=lambda s: s.sameness), dataset[2])
    assert purity >= 0.95
    assert recall >= 0.8


def test_predictions_are_grouped_too(dataset):
    found = strategies.find(dataset[0], by="prediction")
    assert sum(len(each.rows) for each in found) <= 143
    assert {each.name for each in strategies.find(dataset[0], by="label")} == set(CLASSES)


def test_means_prototypes_and_outliers(dataset, found):
    star = found[0]
    rows = {row["key"]: row for row in relprop.jobs.open(dataset[0])}
    for strategy in star.strategies:
        mean = np.mean([rows[key].heatmap for key in strategy.keys], axis=0)
        np.testing.assert_allclose(strategy.heatmap, mean, atol=1e-3 * np.abs(mean).max())
    assert sorted(key for s in star.strategies for key in s.keys) == sorted(row["key"] for row in star.rows)
    assert len(star.outliers(3)) == 3
    assert star.gap > 0.9
    assert repr(found).splitlines()[1] == f"  OfClass({STAR!r}, 30 samples, 2 strategies, gap {star.gap:.2f})"


def test_what_cannot_be_found_is_said(dataset):
    with pytest.raises(InputError, match=r"scores of features.block4.conv"):
        strategies.find(dataset[0], on="classifier")
    with pytest.raises(InputError, match="the largest has 30: give least="):
        strategies.find(dataset[0], least=100)
    with pytest.raises(InputError, match="none of 'target', 'prediction', 'label'"):
        strategies.find(dataset[0], by="class")


# ------------------------------------------------------------------------------------------------ the page


def test_the_page_shows_the_strategies(dataset, found, tmp_path):
    pytest.importorskip("jinja2")
    out, pictures, masks = dataset
    strategies.save_page(tmp_path / "page.html", found, pictures=pictures, masks=masks, title="A <script> & more")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("<script") == 1  # its own
    assert page.count("A &lt;script&gt; &amp; more") == 2
    assert "square/&lt;b&gt;&amp;.png" in page
    assert "<b>" not in page
    headings = re.findall(r"<h[23]>(.*?)</h[23]>", page)
    assert headings[:3] == ["Wrong predictions", "Strategies, class by class", STAR]
    assert headings[-1] == "Classes by concepts"
    shares = [int(share) for share in re.findall(r"(\d+) % of relevance in the masks", page)]
    assert shares[0] > 30
    assert "http" not in page.replace("http-equiv", "")
    wrong = int(re.search(r"(\d+) of 143 samples with a label", page)[1])
    table = relprop.jobs.open(out).pandas(["label", "prediction"])
    assert wrong == sum(CLASSES[p] != label for p, label in zip(table["prediction"], table["label"], strict=True))


def test_the_page_lists_all_samples_with_what_they_are_filtered_by(dataset, found):
    pytest.importorskip("jinja2")
    page = strategies.page(found)
    table = relprop.jobs.open(dataset[0]).pandas(["key", "label", "prediction"])
    wrong = {
        k: CLASSES[p] != label for k, p, label in zip(table["key"], table["prediction"], table["label"], strict=True)
    }
    place = r'data-key="([^"]*)" data-class="(\d+)" data-group="(\d+)" data-wrong="([01]?)"'
    rows, dots = (re.findall(rf"<{tag} [^>]*?{place}", page) for tag in ("tr", "circle"))
    assert len(rows) == len(dots) == 143
    assert sorted(rows) == sorted(dots)
    assert {html.unescape(key): flag == "1" for key, _, _, flag in rows} == wrong
    assert [flag for *_, flag in rows] == sorted((flag for *_, flag in rows), reverse=True)
    where = {html.unescape(key): (int(number), int(group)) for key, number, group, _ in rows}
    for number, each in enumerate(found):
        for strategy in each.strategies:
            assert {where[key] for key in strategy.keys} == {(number, strategy.group + 1)}


def test_the_pages_script_is_the_only_one_that_may_run(found):
    pytest.importorskip("jinja2")
    page = strategies.page(found)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not re.search(r"\son\w+=", page)


def test_the_page_needs_no_pictures(found):
    pytest.importorskip("jinja2")
    assert 'alt="picture' not in strategies.page(found)


# ------------------------------------------------------------------------------------------------ ViRelAy


def test_a_project_of_virelay(dataset, found, tmp_path):
    """What ViRelAy's own model reads from the files, name by name."""
    h5py = pytest.importorskip("h5py")
    yaml = pytest.importorskip("yaml")
    project = strategies.save_virelay(tmp_path / "virelay", found, pictures=dataset[1])
    said = yaml.safe_load(project.read_text("utf-8"))["project"]
    assert set(said) == {"name", "model", "label_map", "dataset", "attributions", "analyses"}
    assert said["attributions"]["attribution_strategy"] == "true_label"
    folder = project.parent
    names = {entry["index"]: entry["name"] for entry in json.loads((folder / said["label_map"]).read_text())}
    assert names == dict(enumerate(CLASSES))
    rows = [row for row in relprop.jobs.open(dataset[0]) if row["error"] is None]
    with h5py.File(folder / said["dataset"]["path"]) as file:
        assert file["data"].shape == (143, 3, SIZE, SIZE)
        assert file["label"][:].tolist() == [CLASSES.index(row["label"]) for row in rows]
        assert file["data"].dtype == np.uint8
    with h5py.File(folder / said["attributions"]["sources"][0]) as file:
        assert file["attribution"].dtype == np.float32
        assert file["attribution"].shape == (143, 3, SIZE, SIZE)
        np.testing.assert_allclose(file["attribution"][7].sum(0), rows[7].heatmap, rtol=1e-5)
        assert file["prediction"][:].argmax(1).tolist() == [row["prediction"] for row in rows]
        assert file["index"][:].tolist() == list(range(143))
    with h5py.File(folder / said["analyses"][0]["sources"][0]) as file:
        assert set(file) == {f"{i:08d}" for i in range(8)}
        star = file[f"{CLEVER_HANS:08d}"]
        clusters, members = star["cluster/strategies"][:], star["index"][:]
        assert star["embedding/spectral"].shape[0] == star["embedding/tsne"].shape[0] == len(members) == 30
        assert len(star["embedding/spectral"].attrs["eigenvalue"]) == star["embedding/spectral"].shape[1]
        assert star["cluster/strategies"].attrs["embedding"] == "spectral"
        for group, strategy in enumerate(found[0].strategies):
            assert {rows[i]["key"] for i in members[clusters == group]} == set(strategy.keys)


def test_umap_in_the_place_of_tsne(dataset, found, tmp_path, monkeypatch):
    """Its places on the page, and in ViRelAy's file under its name."""
    h5py = pytest.importorskip("h5py")
    asked = []

    class UMAP:
        def __init__(self, **options):
            asked.append(options)

        def fit_transform(self, vectors):
            return np.arange(2 * len(vectors)).reshape(-1, 2)

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    project = strategies.save_virelay(tmp_path / "virelay", found, pictures=dataset[1], plane="umap")
    with h5py.File(project.parent / "analysis.h5") as file:
        star = file[f"{CLEVER_HANS:08d}"]
        assert set(star["embedding"]) == {"spectral", "umap"}
        assert sorted(star["embedding/umap"][:, 0].tolist()) == list(range(0, 60, 2))
    assert {each["n_neighbors"] for each in asked} == {15}
    page = strategies.page(found, plane="umap")
    assert 'aria-label="UMAP of the class"' in page
    assert "t-SNE" not in page
    circles = [float(x) for x in re.findall(r'<circle cx="([0-9.]+)"', page)]
    assert circles[:30] == pytest.approx(np.linspace(10, 190, 30), abs=0.06)
    with pytest.raises(InputError, match="plane='pca'"):
        strategies.page(found, plane="pca")


def test_virelay_opens_it(dataset, found, tmp_path):
    """ViRelAy's own reader, sample by sample."""
    model = pytest.importorskip("virelay.model")
    workspace = model.Workspace()
    workspace.add_project(str(strategies.save_virelay(tmp_path / "virelay", found, pictures=dataset[1], name="stars")))
    assert workspace.get_project_names() == ["stars"]
    project = workspace.get_project("stars")
    rows = [row for row in relprop.jobs.open(dataset[0]) if row["error"] is None]
    for i in (0, 70, 142):
        sample, shown = project.get_sample(i), project.get_attribution(i)
        assert [label.name for label in sample.labels] == [label.name for label in shown.labels] == [rows[i]["label"]]
        picture = np.asarray(open_picture(dataset[1] / rows[i]["key"]))
        np.testing.assert_array_equal(sample.data, picture)
        np.testing.assert_allclose(shown.data.sum(-1), rows[i].heatmap, rtol=1e-5)
        assert int(shown.prediction.argmax()) == rows[i]["prediction"]
        assert shown.render_heatmap("blue-white-red").shape == (SIZE, SIZE, 3)
    (method,) = project.get_analysis_methods()
    categories = {each.human_readable_name: each.name for each in project.get_analysis_categories(method)}
    assert set(categories) == set(CLASSES)
    assert project.get_analysis_clustering_names(method) == ["strategies"]
    assert set(project.get_analysis_embedding_names(method)) == {"spectral", "tsne"}
    analysis = project.get_analysis(method, categories[STAR], "strategies", "spectral")
    group = {rows[i]["key"] for i in analysis.attribution_indices[analysis.clustering == 1]}
    assert group == set(found[0].strategies[1].keys)
    np.testing.assert_allclose(
        analysis.eigenvalues, found[0].clusters.eigenvalues[: len(analysis.eigenvalues)], atol=1e-6
    )
    project.close()
