"""What loading a model gives, and what every source of models needs to make one."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from relprop.errors import MissingExtraError, ModelError
from relprop.models.preprocess import Preprocess
from relprop.models.spec import Spec
from relprop.models.weights import load_weights

SEED = 0


@dataclass(frozen=True)
class LoadedModel:
    """A classifier in eval mode, with what it takes to feed it and to name what it says.

    Attributes:
        model: takes (B, C, H, W), returns logits (B, K).
        name: the specification that it came from.
        classes: the names of the `K` outputs, or None where nobody knows them.
        preprocess: from a picture to (1, C, H, W).
    """

    model: nn.Module
    name: str
    classes: list[str] | None
    preprocess: Preprocess


def optional_import(module: str, extra: str = "models") -> Any:
    """Import a library that only some models need.

    Args:
        module: the library.
        extra: what of relprop's own extras installs it.

    Raises:
        MissingExtraError: it is not installed.
        ModelError: it is installed, but its import fails; the message quotes the reason.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"this model needs {module}: pip install 'relprop[{extra}]' ({error})") from error
    except Exception as error:
        root = module.partition(".")[0]
        raise ModelError(
            f"{root} is installed but cannot be imported: {error}. That happens where {root} was "
            f"built for another torch than this one, {torch.__version__}"
        ) from error


@contextmanager
def seeded() -> Iterator[None]:
    """Random weights that are the same every time; the caller's random numbers go on as if nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


def build(spec: Spec, make: Callable[[], nn.Module], choices: str = "@pretrained") -> nn.Module:
    """A model with the weights file of `spec`, or with random weights and a warning that they are random."""
    with seeded():
        model = make()
    if spec.weights_file is not None:
        load_weights(model, spec.weights_file)
    else:
        warnings.warn(
            f"{spec} has random weights (seed {SEED}), so its explanations mean nothing; "
            f"name weights with {choices}, or with @FILE",
            stacklevel=2,
        )
    return model


def unknown(kind: str, name: str, known: Iterable[str]) -> ModelError:
    """The error for a name that does not exist, with the names that come close to it."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    if close:
        return ModelError(f"{kind} {name!r} does not exist; did you mean {', '.join(close)}?")
    some = ", ".join(known[:8]) + (f", and {len(known) - 8} more" if len(known) > 8 else "")
    return ModelError(f"{kind} {name!r} does not exist; known: {some or 'none'}")
