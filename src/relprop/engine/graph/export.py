"""`torch.export`, called so that it is safe: one thread at a time, silent, and with errors that say the next step."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jaxtyping
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.utils import _pytree as pytree

from relprop import errors
from relprop.engine.graph.known import KnownValues, needs_values
from relprop.engine.graph.plain_data import DataAsOperators
from relprop.engine.graph.quantized import RoundingAsOneOperator
from relprop.engine.graph.recurrent import AsOneOperator
from relprop.engine.graph.signature import varying_dims

LIBRARIES = tuple(str(Path(module.__file__).parent) for module in (torch, jaxtyping, errors) if module.__file__)
"""Folders whose lines say nothing about the user's model."""

LOCK = threading.RLock()
"""`torch.export` changes PyTorch itself while it runs, so that two at a time break each other."""

GROWN = (2, 9)
"""Older versions of PyTorch export fewer models, among them decoders of `transformers` 4.57 with PyTorch 2.6."""

LENIENT = (2, 13)
"""Older versions refuse a model that keeps an activation in an attribute; this one warns, and is silenced."""

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs."""

Open = Literal["sequence", "batch", "none", "known"]
"""Which sizes the program may be used with others of: batch and sequence of ids, the batch, none; or none, with what is
made of numbers alone computed (`KnownValues`)."""


def export(model: nn.Module, inputs: Inputs, opened: Open) -> torch.export.ExportedProgram:
    """Export a model, with recurrent networks as one operator each (see `recurrent`)."""

    def sizes(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.dim():
            return None
        return dict.fromkeys(varying_dims(leaf) if opened == "sequence" else (0,), torch.export.Dim.AUTO)

    # An export that fails leaves marks of open sizes on its inputs, which the next one would heed.
    inputs = pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, inputs)
    _name_keywords(model, inputs[1])
    if _version() < LENIENT:
        _put_back_attributes(model)
    shapes = None if opened in {"none", "known"} else _by_parameter(model, pytree.tree_map(sizes, inputs))
    known = KnownValues() if opened == "known" else contextlib.nullcontext()
    with torch.no_grad(), DataAsOperators(), RoundingAsOneOperator(), AsOneOperator(), _without_lines(), known:
        return torch.export.export(model, *inputs, dynamic_shapes=shapes, strict=False)


@contextlib.contextmanager
def _without_lines() -> Iterator[None]:
    """Nobody reads which lines of the model each operator comes from, and to find out takes a tenth of the export."""
    config, name = torch.fx.config, "do_not_emit_stack_traces"
    before = getattr(config, name, None)
    if before is None:  # older than PyTorch 2.13
        yield
        return
    setattr(config, name, True)
    try:
        yield
    finally:
        setattr(config, name, before)


def _name_keywords(model: nn.Module, kwargs: dict[str, Any]) -> None:
    """Name what forward takes by `**kwargs` in its signature, since export counts such inputs twice."""
    forward, signature = model.forward, inspect.signature(model.forward)
    extra = [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY) for k in kwargs if k not in signature.parameters]
    if not extra:
        return

    def named(*args: Any, **given: Any) -> Any:
        return forward(*args, **given)

    known = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    named.__signature__ = signature.replace(parameters=[*known, *extra])  # type: ignore[attr-defined]
    model.forward = named


def _put_back_attributes(model: nn.Module) -> None:
    """After forward, set the model's attributes to what they were.

    An activation that a model keeps, `self.kept = h`, is none of the program. Older versions of PyTorch refuse it.
    """
    forward, own = model.forward, vars(nn.Module()).keys()

    def put_back(*args: Any, **given: Any) -> Any:
        before = {name: value for name, value in vars(model).items() if name not in own}
        contents = list(_containers(before))
        try:
            return forward(*args, **given)
        finally:
            for name in vars(model).keys() - own:
                del vars(model)[name]
            vars(model).update(before)
            for container, content in contents:
                container.clear()
                (container.update if isinstance(container, dict) else container.extend)(content)

    put_back.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    model.forward = put_back


def _containers(value: Any) -> Iterator[tuple[Any, Any]]:
    """The plain dicts and lists in a value, with copies of what they hold now."""
    if type(value) not in (dict, list):
        return
    yield value, value.copy()
    for each in value.values() if isinstance(value, dict) else value:
        yield from _containers(each)


def _by_parameter(model: nn.Module, shapes: Inputs) -> dict[str, Any]:
    """`dynamic_shapes` as export wants it: by name of the parameter, the inputs of `*args` and `**kwargs` nested."""
    args, kwargs = shapes
    return inspect.signature(model.forward).bind(*args, **kwargs).arguments


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """PyTorch logs tracebacks of exports that fail; what relprop has to say about them, its error says.

    Only this thread's warnings and errors are held back, and none where `TORCH_LOGS` asks for logs.
    """
    thread = threading.get_ident()

    def spoken(record: logging.LogRecord) -> bool:
        return record.thread != thread or not record.name.startswith("torch") or record.levelno < logging.WARNING

    handlers = [] if "TORCH_LOGS" in os.environ else _handlers()
    for handler in handlers:
        handler.addFilter(spoken)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(_WithoutGraphs(sys.stderr)):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(spoken)


class _WithoutGraphs(io.TextIOBase):
    """Standard error, less the graph that `torch.export` prints there when it fails."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Hand on what anyone else writes."""
        writer = str(sys._getframe(1).f_globals.get("__name__"))
        return len(text) if writer.startswith("torch.export.") else int(self._stream.write(text) or 0)

    def flush(self) -> None:
        """Hand on."""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _handlers() -> list[logging.Handler]:
    """The handlers that a record of PyTorch may come to."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("torch")]
    found = [handler for name in (None, *names) for handler in logging.getLogger(name).handlers]
    return found if logging.lastResort is None else [*found, logging.lastResort]


def explain_failure(model: nn.Module, error: BaseException) -> str:
    """What torch.export said, at which line of the model, and what usually helps."""
    said = str(error).strip().splitlines()
    lines = [
        f"torch.export could not capture {type(model).__name__}: {type(error).__name__}: {said[0] if said else ''}"
    ]
    lines += [f"  {line}" for line in said[1:6]]
    inside = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*LIBRARIES, "<"))]
    if inside:
        frame = inside[-1]
        lines.append(f"It happened at {frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}")
    if _packs_sequences(error):
        lines.append(
            "The model packs sequences (torch.nn.utils.rnn), which cannot be captured. Give the recurrent layer the "
            "padded batch instead, and read each sample's own last step: output[torch.arange(len(x)), lengths - 1]. "
            "The padding behind it gets no relevance. A bidirectional layer reads the padding first: explain samples "
            "of one length together."
        )
    if needs_values(error):
        lines.append(
            "There the model asks for a value that depends on its data, and a captured program is one for all data. "
            "Put torch.where in the place of a branch; let a loop over the experts that were chosen go over all of "
            "them; read sizes, masks and grids that are known beforehand from numbers, not from an input."
        )
    if _chooses_boxes(error):
        lines.append(
            "Detectors choose boxes, how many depends on the picture. Explain what scores them, at a target that names "
            "one: a module whose forward returns model.head(list(model.backbone(x).values()))['cls_logits'], of shape "
            "(batch, anchors, classes), with target=(anchor, class). Of Faster R-CNN, explain the box head at boxes "
            "that are given as inputs."
        )
    lines.append(
        "What usually helps: check that model(*inputs) itself runs; replace Python `if` or `for` on tensor values by "
        "torch.where or torch.cond; take .item() and numpy() of parameters and buffers alone, not of activations."
    )
    if _version() < GROWN:
        newer = ".".join(map(str, GROWN))
        lines.append(f"This is PyTorch {torch.__version__}, whose export captures less than that of {newer} and newer.")
    return "\n".join(lines)


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])


def _chooses_boxes(error: BaseException) -> bool:
    """The error was raised inside of one of torchvision's detectors."""
    inside = str(Path("torchvision", "models", "detection"))
    return any(inside in frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))


def _packs_sequences(error: BaseException) -> bool:
    """A packed sequence was at hand, or was being made, where the error was raised."""
    return any(
        frame.f_code.co_filename == rnn.__file__
        or any(isinstance(v, rnn.PackedSequence) for v in frame.f_locals.values())
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )
