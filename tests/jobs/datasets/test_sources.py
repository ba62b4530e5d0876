"""The same pictures from every kind of source give the same explanations."""

from __future__ import annotations

import io
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.jobs import write_model, write_pictures

import relprop.jobs
from relprop.errors import JobError
from relprop.jobs.datasets.sources import open_source

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

COUNT = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", COUNT)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("model"))


def paths_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def table_of(folder: Path, kind: str):
    paths, labels = paths_of(folder), [0 if p.parent.name == "left" else 1 for p in paths_of(folder)]
    if kind == "bytes":
        cells = [path.read_bytes() for path in paths]
    elif kind == "path":
        cells = [str(path) for path in paths]
    else:
        cells = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    table = arrow.table({"id": range(COUNT), "image": cells, "label": labels})
    features = {"image": {"_type": "Image"}, "label": {"names": ["left", "right"], "_type": "ClassLabel"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), features


def as_parquet(folder, out, kind):
    parquet.write_table(table_of(folder, kind)[0], out / "data.parquet", row_group_size=3)
    return out / "data.parquet"


def as_hub_folder(folder, out):
    table = table_of(folder, "struct")[0]
    (out / "data").mkdir()
    for i, (start, length) in enumerate([(0, 4), (4, 3)]):
        parquet.write_table(table.slice(start, length), out / "data" / f"train-{i:05d}-of-00002.parquet")
    return out


def as_saved(folder, out):
    table, features = table_of(folder, "struct")
    for i, (start, length) in enumerate([(0, 4), (4, 3)]):
        part = table.slice(start, length)
        with arrow.ipc.new_stream(out / f"data-{i:05d}-of-00002.arrow", part.schema) as writer:
            writer.write_table(part, 2)
    names = [{"filename": f"data-{i:05d}-of-00002.arrow"} for i in range(2)]
    (out / "state.json").write_text(json.dumps({"_data_files": names, "_indices_data_files": None}))
    (out / "dataset_info.json").write_text(json.dumps({"features": features}))
    return out


def as_tar(folder, out):
    for i, paths in enumerate((paths_of(folder)[:4], paths_of(folder)[4:])):
        with tarfile.open(out / f"shard-{i:04d}.tar", "w") as tar:
            for path in paths:
                for ending, data in (("png", path.read_bytes()), ("cls", path.parent.name.encode())):
                    member = tarfile.TarInfo(f"{path.stem}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return out


def as_hdf5(folder, out):
    h5py = pytest.importorskip("h5py")
    with h5py.File(out / "data.h5", "w") as file:
        file["data"] = np.stack([np.asarray(Image.open(path)) for path in paths_of(folder)])
    return out / "data.h5"


def as_zarr(folder, out):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(out / "data.zarr"), mode="w")
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths_of(folder)])
    group.create_array("data", data=pixels) if hasattr(group, "create_array") else group.create_dataset(
        "data", data=pixels
    )
    return out / "data.zarr"


SLOW = ("Parquet of bytes", "Parquet of paths", "a folder of the hub")


def plain(row, but):
    """The columns but for some, with lists for arrays."""
    return {n: getattr(v, "tolist", lambda v=v: v)() for n, v in row.columns.items() if n not in but}


KINDS = {
    "Parquet of bytes": lambda folder, out: as_parquet(folder, out, "bytes"),
    "Parquet of structs": lambda folder, out: as_parquet(folder, out, "struct"),
    "Parquet of paths": lambda folder, out: as_parquet(folder, out, "path"),
    "a folder of the hub": as_hub_folder,
    "save_to_disk": as_saved,
    "WebDataset": as_tar,
    "HDF5": as_hdf5,
    "Zarr": as_zarr,
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in KINDS]
)
def test_a_source_is_as_good_as_a_folder(kind, folder, model, tmp_path):
    (tmp_path / "data").mkdir()
    source = KINDS[kind](folder, tmp_path / "data")
    options = {"model": model, "pass_size": 2, "shard_size": 4, "workers": 3}
    relprop.jobs.run(**options, source=folder, out=tmp_path / "expected")
    assert relprop.jobs.run(**options, source=source, out=tmp_path / "out").failed == []
    own = {"key", "label"} | ({"digest"} if kind in ("HDF5", "Zarr") else set())
    expected, found = (list(relprop.jobs.open(tmp_path / name)) for name in ("expected", "out"))
    for a, b in zip(expected, found, strict=True):
        assert plain(a, own) == plain(b, own)
        if kind not in ("HDF5", "Zarr"):
            assert b["label"] == a["label"]
    assert len({row["key"] for row in found}) == COUNT
    assert relprop.jobs.open(tmp_path / "out").changed(source) == []


def test_inputs_of_a_model_need_no_preprocessing(folder, model, tmp_path):
    h5py = pytest.importorskip("h5py")
    from relprop.models import load_model, open_picture

    loaded = load_model(model)
    inputs = np.stack([loaded.preprocess(open_picture(path))[0].numpy() for path in paths_of(folder)])
    inputs[2, 0, 0, 0] = np.nan
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["y"] = inputs, np.arange(COUNT)
    options = {"model": model, "pass_size": 2, "shard_size": 4}
    relprop.jobs.run(**options, source=folder, out=tmp_path / "expected")
    finished = relprop.jobs.run(**options, source=tmp_path / "x.h5", out=tmp_path / "out")
    assert [(f.index, f.error) for f in finished.failed] == [(2, "numbers that are NaN or infinite")]
    expected, found = relprop.jobs.open(tmp_path / "expected"), relprop.jobs.open(tmp_path / "out")
    assert found[4]["label"] == "4"
    for i in (0, 1, 3, 6):
        assert plain(found[i], {"key", "label", "digest"}) == plain(expected[i], {"key", "label", "digest"})


def test_a_folder_is_read_whatever_is_in_it(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 2)
    picture = next(folder.rglob("*.png"))
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(picture.read_bytes())
    (folder / "left" / "circle").symlink_to(folder, target_is_directory=True)
    (folder / "left" / "nowhere.png").symlink_to(folder / "gone.png")
    odd = os.fsencode(folder) + b"/odd\xff.png"
    Path(os.fsdecode(odd)).write_bytes(picture.read_bytes())
    source = open_source(folder)
    index = source.index()
    assert index.keys == ["left/000.png", "left/nowhere.png", "odd\\xff.png", "right/001.png"]
    assert index.labels == ["left", "left", None, "right"]
    assert index.sizes[1] == -1
    assert source.read(2).digest
    with pytest.raises(Exception, match=r"nowhere.png cannot be read"):
        source.read(1)


def test_what_cannot_be_read_is_said(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobError, match="no pictures in it"):
        open_source(tmp_path / "empty").index()
    (tmp_path / "a.parquet").write_bytes(b"PAR")
    with pytest.raises(JobError, match="no readable Parquet file"):
        open_source(tmp_path / "a.parquet")
    (tmp_path / "a.tar").write_bytes(b"PAR")
    with pytest.raises(JobError, match="no readable tar archive"):
        open_source(tmp_path / "a.tar").index()
    with pytest.raises(JobError, match=r"neither a folder nor a file that ends in .parquet, .jsonl"):
        open_source(paths_of(folder)[0])
    parquet.write_table(arrow.table({"a": [1]}), tmp_path / "b.parquet")
    with pytest.raises(JobError, match="has the columns a: say with column="):
        open_source(tmp_path / "b.parquet")
    with pytest.raises(JobError, match="no column 'c'; it has a"):
        open_source(tmp_path / "b.parquet", "c")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(JobError, match=r"several splits: give one of .*train, .*test"):
        open_source(tmp_path / "splits")


def test_threads_read_at_their_places(tmp_path, monkeypatch):
    """Eight threads at once in one file: each gets what lies at its place, whatever the others do."""
    monkeypatch.delattr(os, "pread", raising=False)  # which Windows lacks
    lines = [f"{i:05d} " + "x" * (i % 97) for i in range(4000)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    source = open_source(tmp_path / "lines.txt")
    source.index()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: source.read(i).content, [*range(4000), *reversed(range(4000))]))
    assert found == [line.strip() for line in lines + lines[::-1]]


def test_a_file_that_was_changed_is_read_as_it_is_now(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\n")
    source = open_source(path)
    source.index()
    assert source.read(0).content == "one"
    path.write_text("six\nten\n")
    assert [source.read(i).content for i in (1, 0)] == ["ten", "six"]
