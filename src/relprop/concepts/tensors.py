"""One safetensors file with a header, written whole or not at all; the same content makes the same file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from relprop.errors import InputError, MissingExtraError
from relprop.explanations.files import replacing


def written(path: str | Path, kind: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file of a kind.

    Args:
        path: of the file.
        kind: the header's name.
        header: what JSON can hold.
        tensors: by name.

    Raises:
        InputError: it cannot be written.
        MissingExtraError: safetensors is not installed.
    """
    library = _safetensors()
    with replacing(Path(path), InputError) as file:
        # one entry: several would come in an order of their own
        metadata = {kind: json.dumps(header, sort_keys=True)}
        library.torch.save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata=metadata
        )


def read(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A file's header and tensors.

    Args:
        path: of the file.
        kind: the header's name.

    Raises:
        InputError: it is no file of that kind.
        MissingExtraError: safetensors is not installed.
    """
    library = _safetensors()
    try:
        with library.safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[kind])
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (OSError, KeyError, ValueError, library.SafetensorError) as error:
        raise InputError(f"{path} is no file of {kind}: {error}. save() writes one.") from error


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingExtraError(f"saving this needs safetensors: pip install 'relprop[cli]' ({error})") from error
    return safetensors
