"""A job over a few pictures, one of them broken, and what it writes undisturbed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.jobs import BROKEN, COUNT, PASS, SHARD, files_of, write_model, write_pictures

import relprop.jobs


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    folder = write_pictures(tmp_path_factory.mktemp("data") / "pictures", COUNT)
    sorted(folder.rglob("*.png"))[BROKEN].write_bytes(b"no picture")
    return folder


@pytest.fixture
def pictures(tmp_path, originals) -> Path:
    return Path(shutil.copytree(originals, tmp_path / "pictures"))


@pytest.fixture
def job(model, pictures, tmp_path):
    """Run the job into a folder of that name."""

    def run(out="out", shard=None, retry=False, progress=None, **changed):
        options = {"model": model, "source": pictures, "pass_size": PASS, "shard_size": SHARD} | changed
        return relprop.jobs.run(out=tmp_path / out, shard=shard, retry=retry, progress=progress, **options)

    return run


@pytest.fixture(scope="module")
def undisturbed(model, originals, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    relprop.jobs.run(model=model, source=originals, out=out, pass_size=PASS, shard_size=SHARD)
    return files_of(out)


@pytest.fixture
def done(undisturbed, tmp_path):
    """The folder `out` with a job that is done."""
    (tmp_path / "out").mkdir()
    for name, data in undisturbed.items():
        (tmp_path / "out" / name).write_bytes(data)
