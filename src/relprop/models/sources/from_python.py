"""A model that a user's own Python file builds."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from relprop.errors import ModelError
from relprop.models.loaded import LoadedModel, seeded
from relprop.models.preprocess import Preprocess
from relprop.models.source import Source
from relprop.models.spec import Spec
from relprop.models.weights import load_weights


def load_python(spec: Spec) -> LoadedModel:
    """`path/to/file.py:function[@WEIGHTS]`: run the file and call its function, which returns an `nn.Module`.

    The file may say more in two names: `CLASSES`, a list of class names, and `PREPROCESS`, a `Preprocess`.
    Without them classes have numbers, and pictures are neither resized nor normalized; they are made grey for a model
    whose first convolution has one channel.
    """
    path = Path(spec.name).expanduser()
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    with _importing_from(path):
        module = _run(path)
        function = _function(module, spec)
        try:
            with seeded():
                model = function()
        except Exception as error:
            raise ModelError(f"{spec}: the function failed with {_describe(error, path)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec} must return a torch.nn.Module, not {type(model).__name__}")
    if spec.weights is not None:
        load_weights(model, spec.weights_file or Path(spec.weights))
    classes = getattr(module, "CLASSES", None)
    preprocess = getattr(module, "PREPROCESS", None) or _preprocess(model)
    if not isinstance(preprocess, Preprocess):
        raise ModelError(f"{path}: PREPROCESS must be a relprop.models.Preprocess, not {type(preprocess).__name__}")
    return LoadedModel(model, str(spec), [str(each) for each in classes] if classes else None, preprocess)


def _preprocess(model: nn.Module) -> Preprocess:
    """Pictures as they are; grey ones for a model whose first convolution has one channel."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return Preprocess(mean=(0.0,), std=(1.0,)) if first is not None and first.in_channels == 1 else Preprocess()


def _run(path: Path) -> ModuleType:
    name = f"relprop_user_{path.stem}"
    description = importlib.util.spec_from_file_location(name, path)
    assert description is not None
    assert description.loader is not None  # a .py file always has one
    module = importlib.util.module_from_spec(description)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        description.loader.exec_module(module)
    except Exception as error:
        raise ModelError(f"{path} cannot be run: {_describe(error, path)}") from error
    return module


def _function(module: ModuleType, spec: Spec) -> Callable[[], Any]:
    function: Callable[[], Any] | None = getattr(module, str(spec.function), None)
    if not callable(function):
        own = [
            name
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise ModelError(f"{spec.name} has no function {spec.function!r}; it has {', '.join(own) or 'none'}")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ModelError(f"{spec.name}:{spec.function} must work without arguments: {error}") from error
    return function


@contextmanager
def _importing_from(path: Path) -> Iterator[None]:
    """Let the file import its neighbours, as it could if Python ran it."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _describe(error: Exception, path: Path) -> str:
    """The error, and the line of the user's file that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    if isinstance(error, SyntaxError) and error.lineno is not None:
        lines = [error.lineno]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"


# A file may have "@" or ":" in its path, so it is recognized from the right end of the path: "….py:function".
_FORM = re.compile(r"(?P<file>.+\.py):(?P<function>[^\W\d]\w*)(?:@(?P<weights>.+))?")


def _read(text: str) -> Spec | None:
    match = _FORM.fullmatch(text)
    return Spec("python", match["file"], match["weights"], match["function"], bare=True) if match else None


PYTHON = Source("python", "path/to/file.py:function[@WEIGHTS]", _read, load_python, "a function of yours")
