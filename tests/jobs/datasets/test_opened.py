"""Reading results back: rows, tables, joins, filters, sums that stream."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from support.jobs import write_model, write_pictures

import relprop.jobs
from relprop.errors import InputError, JobError, MissingExtraError
from relprop.jobs.datasets.labelled import _stacked

arrow = pytest.importorskip("pyarrow")
pc = pytest.importorskip("pyarrow.compute")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    source = write_pictures(folder / "pictures", 21)
    sorted(source.rglob("*.png"))[3].write_bytes(b"no picture")
    options = {"model": write_model(folder), "source": source, "out": folder / "out"}
    relprop.jobs.run(**options, pass_size=2, shard_size=4, layers=["0", "2"])
    return folder / "out"


def test_a_sequence_of_rows(folder):
    found = relprop.jobs.open(folder)
    assert len(found) == 21
    assert found.complete
    assert [row["index"] for row in found] == list(range(21))
    assert found[20]["index"] == found[-1]["index"] == 20
    assert [row["index"] for row in found[3:9:2]] == [3, 5, 7]
    assert found[5].heatmap.shape == (8, 8)
    assert found[5].scores("0").shape == (4,)
    with pytest.raises(InputError, match="scores of 0, 2"):
        found[5].scores()
    with pytest.raises(InputError, match="kept no relevance"):
        _ = found[5].relevance
    with pytest.raises(IndexError):
        found[21]
    assert repr(found).startswith(f"Results('{folder}': 21 rows;")


def test_tables_and_filters(folder):
    found = relprop.jobs.open(folder)
    frame = found.pandas(["key", "label", "amount", "error"])
    assert len(frame) == 21
    assert frame["error"].notna().sum() == 1
    left = found.where(pc.field("label") == "left")
    assert len(left) == (frame["label"] == "left").sum() == 11
    assert left.pandas(["key"])["key"].tolist() == frame[frame["label"] == "left"]["key"].tolist()
    both = left.where(pc.field("error").is_null())
    assert len(both) == 10
    assert both[3]["key"] == frame[(frame["label"] == "left") & frame["error"].isna()]["key"].tolist()[3]
    right = found.where(pc.field("label") == "right")
    assert [right[i]["index"] for i in range(10)] == list(range(11, 21))
    with pytest.raises(InputError, match="no column 'amuont'"):
        found.table(["amuont"])
    assert "heatmap" not in found.table().column_names


def test_joins_with_labels(folder):
    found = relprop.jobs.open(folder)
    known = {"left/000.png": "cat", "right/001.png": "dog"}
    joined = found.joined(known, columns=["label"])
    assert joined.column_names == ["index", "key", "label", "known"]
    assert joined["known"].to_pylist()[:2] == ["cat", None]
    assert joined["known"].to_pylist()[11] == "dog"
    table = arrow.table({"key": list(known), "age": [3, 5]})
    assert found.joined(table, columns=[])["age"].to_pylist()[11] == 5


def test_sums_that_stream(folder):
    found = relprop.jobs.open(folder)
    rows = [row for row in found if row["error"] is None]
    assert found.counts("label") == {"left": 11, "right": 10}
    means = found.means("scores:2", by="label")
    for label in ("left", "right"):
        expected = np.mean([row.scores("2") for row in rows if row["label"] == label], axis=0)
        np.testing.assert_allclose(means[label], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.means("heatmap")[None], np.mean([r.heatmap for r in rows], axis=0), rtol=1e-4)
    assert found.means("amount")[None] == pytest.approx(np.mean([row["amount"] for row in rows]))
    maps, facts = found.heatmaps(["key"])
    assert maps.shape == (20, 8, 8)
    assert facts[0] == {"key": "left/000.png"}


def test_a_dataset_of_xarray(folder):
    pytest.importorskip("xarray")
    found = relprop.jobs.open(folder)
    dataset, rows = found.xarray(), list(found)
    assert dict(dataset.sizes) == {
        "sample": 21, "rank": 3, "axis": 3, "y": 8, "x": 8, "channel of 0": 4, "channel of 2": 5
    }  # fmt: skip
    assert dataset["key"].values.tolist() == [row["key"] for row in rows]
    for i, row in enumerate(rows):
        each = dataset.isel(sample=i)
        if row["error"] is not None:
            assert str(each["error"].values) == row["error"]
            assert each["heatmap"].isnull().all()
            assert each["prediction"].isnull()
            continue
        np.testing.assert_array_equal(each["heatmap"], row.heatmap)
        np.testing.assert_array_equal(each["scores:2"], row.scores("2"))
        assert (float(each["amount"]), int(each["prediction"])) == (row["amount"], row["prediction"])
        assert int(each["top_class"][0]) == row["prediction"]
    left = dataset.where(dataset["label"] == "left", drop=True)["heatmap"].mean("sample")
    np.testing.assert_allclose(left, found.means("heatmap", by="label")["left"], rtol=1e-5, atol=1e-7)
    some = found.where(pc.field("error").is_null()).xarray(["label", "prediction"])
    assert some["prediction"].dtype == np.int64
    assert set(some.variables) == {"prediction", "label"}
    with pytest.raises(InputError, match="the column 'heat' does not exist; there are index, key"):
        found.xarray(["heat"])


def test_a_dataset_of_xarray_has_one_shape():
    with pytest.raises(InputError, match=r"heatmap has several shapes, \(2, 3\) and \(3, 2\): leave it out"):
        _stacked("heatmap", [np.zeros((2, 3)), None, np.zeros((3, 2))])


def test_without_xarray_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(MissingExtraError, match=r"needs xarray: pip install 'relprop\[xarray\]'"):
        relprop.jobs.open(folder).xarray()


def test_nothing_is_there(tmp_path):
    with pytest.raises(JobError, match="holds no results of a job"):
        relprop.jobs.open(tmp_path)
