"""Results as arrays of HDF5 and Zarr, and as a file for each sample."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from support.jobs import write_model, write_pictures

import relprop.jobs
from relprop.errors import InputError

pytest.importorskip("pyarrow")

COUNT, BROKEN = 9, 2


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    source = write_pictures(folder / "pictures", COUNT)
    sorted(source.rglob("*.png"))[BROKEN].write_bytes(b"no picture")
    options = {"model": write_model(folder), "source": source, "out": folder / "out", "metrics": ["gini"]}
    relprop.jobs.run(**options, pass_size=2, shard_size=4, keep=("heatmap", "scores", "relevance"))
    return relprop.jobs.open(folder / "out")


def rows_of(found):
    return [row for row in found if row["error"] is None]


@pytest.mark.parametrize("library", ["h5py", "zarr"])
def test_arrays(found, tmp_path, library):
    module = pytest.importorskip(library)
    path = tmp_path / ("found.h5" if library == "h5py" else "found.zarr")
    relprop.jobs.save_results(found, path)
    file = module.File(path, "r") if library == "h5py" else module.open_group(str(path), mode="r")
    rows = rows_of(found)
    assert file["index"][:].tolist() == [i for i in range(COUNT) if i != BROKEN]
    np.testing.assert_array_equal(file["heatmap"][:], np.stack([row.heatmap for row in rows]))
    np.testing.assert_array_equal(file["relevance"][:], np.stack([row.relevance for row in rows]))
    np.testing.assert_array_equal(file["scores/2"][:], np.stack([row.scores() for row in rows]))
    np.testing.assert_array_equal(file["metric/gini"][:], [row["metric:gini"] for row in rows])
    assert file["heatmap"].chunks == (1, 8, 8)
    assert json.loads(file.attrs["relprop.results"])["composite"] == "epsilon-gamma-flat"


def test_a_file_for_each_sample(found, tmp_path):
    relprop.jobs.save_results(found, tmp_path / "each")
    names = [f"{row['index']:06d}.safetensors" for row in rows_of(found)]
    assert sorted(path.name for path in (tmp_path / "each").iterdir()) == names
    row = found[5]
    with safe_open(tmp_path / "each" / "000005.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("heatmap"), row.heatmap)
        assert json.loads(file.metadata()["relprop.sample"]) == {
            "key": row["key"],
            "label": row["label"],
            "shape": [3, 8, 8],
        }


def test_nothing_to_write(found, tmp_path):
    pytest.importorskip("h5py")
    import pyarrow.compute as pc

    with pytest.raises(InputError, match="no sample has an explanation"):
        relprop.jobs.save_results(found.where(pc.field("label") == "nobody"), tmp_path / "none.h5")
    assert not (tmp_path / "none.h5").exists()
