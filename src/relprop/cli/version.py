"""The version of relprop that runs."""

from importlib import metadata


def version() -> str:
    """The installed version; from a checkout that is not installed, "unknown"."""
    try:
        return metadata.version("relprop")
    except metadata.PackageNotFoundError:
        return "unknown"
