"""Libraries that only jobs over datasets need."""

from __future__ import annotations

import importlib
from typing import Any

from relprop.errors import MissingExtraError

EXTRAS = {
    "pyarrow": "jobs",
    "pandas": "jobs",
    "tomli": "jobs",
    "h5py": "hdf5",
    "zarr": "zarr",
    "xarray": "xarray",
    "umap": "umap",
    "safetensors": "cli",
    "ray": "ray",
    "sklearn": "strategies",
    "jinja2": "strategies",
    "PIL": "images",
}
"""Which extra of relprop brings a library."""


def needed(module: str, what: str) -> Any:
    """Import a library.

    Args:
        module: its name, dots included.
        what: the thing that needs it, in words.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        raise MissingExtraError(f"{what} needs {root}: pip install 'relprop[{EXTRAS[root]}]' ({error})") from error
