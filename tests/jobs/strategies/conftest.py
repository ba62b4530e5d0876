"""One job on the demo's pictures, for all tests of strategies."""

from __future__ import annotations

import pytest
from support.strategies import write_dataset

import relprop.jobs
from relprop.jobs import strategies


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """The job's folder, that of the pictures, and the masks of those with a watermark."""
    folder = tmp_path_factory.mktemp("strategies")
    masks = write_dataset(folder / "pictures", 30, 16)
    (folder / "pictures" / "square" / "<b>&.png").write_bytes(next((folder / "pictures").rglob("*.png")).read_bytes())
    relprop.jobs.run(model="demo", source=folder / "pictures", out=folder / "out", target="label")
    return folder / "out", folder / "pictures", masks


@pytest.fixture(scope="session")
def found(dataset):
    return strategies.find(dataset[0])
