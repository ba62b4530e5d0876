"""One row of the zoo: capture a model, explain it twice, look at the books."""

from __future__ import annotations

import copy
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from zoo_entry import Entry, call

from relprop import LRP
from relprop.composites import CPLRP
from relprop.engine.graph.capture import capture
from relprop.engine.graph.graph import Graph
from relprop.engine.graph.signature import signature_of
from relprop.errors import CaptureError, InputError, RuleError, UnexplainedError

BALANCED = 1e-4
"""The largest imbalance of an account that counts as balanced."""

CONSERVING = CPLRP(gate="signal")
"""Attention weights and gates are constants, so that in a model without biases only other constants keep relevance."""


def measure(entry: Entry) -> dict[str, Any]:
    """Everything that the page says about one model."""
    warnings.simplefilter("ignore")
    row: dict[str, Any] = {"library": entry.library, "name": entry.name, "captured": False}
    try:
        model, inputs = entry()
        row["parameters"] = sum(p.numel() for p in model.parameters())
        with captured_once():
            row |= {"captured": True, "unexplained": []} | books(
                LRP(model, output=entry.output, normalize_output=True), entry, inputs
            )
            row |= conservation(entry, model, inputs)
        if not row["imbalance"] <= BALANCED:
            row |= books_in_float64(entry, inputs)
        if not abs(1 - row["conservation"] - sum(row["kept"].values())) <= BALANCED:  # also where it is no number
            row |= in_float64(entry, model, inputs)
    except UnexplainedError as error:
        row |= {"captured": True, "unexplained": unexplained_names(str(error))}
    except (RuleError, InputError) as error:  # refused by decision, with the reason
        row |= {"captured": True, "refused": True, "error": str(error)[:600]}
    except CaptureError as error:
        row |= {"captured": False, "error": str(error)[:600]}
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"[:600]
    return row


def books(lrp: LRP, entry: Entry, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Times, and the ledger of the default rules."""
    start = time.perf_counter()
    ledger = call(lrp, inputs, target=entry.target, audit=True).ledger  # the first call captures
    first = time.perf_counter() - start
    later = []
    for _ in range(2):  # the second call is looked into where relevance is odd, the third is not
        start = time.perf_counter()
        expl = call(lrp, inputs, target=entry.target)
        later.append(time.perf_counter() - start)
    again = min(later)
    worst = max(ledger, key=lambda e: e.imbalance)
    several = expl.relevance if isinstance(expl.relevance, tuple) else (expl.relevance,)
    return {
        "explain_s": again,
        "capture_s": max(first - 2 * again, 0.0),
        "imbalance": ledger.imbalance,
        "worst": f"{worst.operator} {worst.name}",
        "sinks": {k: v / ledger.output for k, v in ledger.sinks.items()},
        "nonzero": [float((r != 0).float().mean()) for r in several],
        "output": float(expl.output.abs().max()) if isinstance(expl.output, Tensor) else None,
    }


def conservation(entry: Entry, model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Without biases: input relevance over output relevance, and what constants kept of it."""
    forget_biases(model)
    lrp = LRP(model, CONSERVING, output=entry.output, normalize_output=True)
    ledger = call(lrp, inputs, target=entry.target, audit=True).ledger
    kept = {k: v / ledger.output for k, v in ledger.sinks.items()}
    return {"conservation": ledger.input / ledger.output, "kept": kept}


def books_in_float64(entry: Entry, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """The imbalance again, which tells rounding from a mistake; nothing for models that insist on float32 inside.

    A 0-rule divides by z. Where z is a small rest of a weighted sum and its bias, what the inputs get and what the bias
    keeps are many times larger than what came in, and cancel up to as many roundings.
    """
    model, _ = entry()
    try:
        ledger = call(LRP(model.double(), output=entry.output), wide(inputs), target=entry.target, audit=True).ledger
    except Exception:
        return {}
    return {"imbalance_float64": ledger.imbalance}


def wide(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}


def in_float64(entry: Entry, model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """The same where float32 does not show the law; nothing for models that insist on float32 inside."""
    try:
        return conservation(entry, model.double(), wide(inputs)) | {"dtype": "float64"}
    except Exception:
        return {}


def forget_biases(model: nn.Module) -> None:
    """Set every bias to zero, and the means of batch norms, which are biases too."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            last = name.rpartition(".")[2]
            if last == "running_mean" or last == "bias" or ("bias" in last and tensor.dim() == 1):
                tensor.zero_()


@contextmanager
def captured_once() -> Iterator[None]:
    """A second analyzer of the model gets a copy of the first one's capture, which is where the time goes.

    What serves no other batch size is captured for one sample, too, where a call is looked into.
    """
    graphs: list[Graph] = []

    def capture_or_copy(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Graph:
        _, leaves = signature_of(args, kwargs)
        known = next((graph for graph in graphs if graph.serves(leaves)), None)
        if known is None:
            known = capture(model, args, kwargs)
            graphs.append(known)
        return Graph(copy.deepcopy(known.fx), dict(known.tensors), known.in_spec, known.out_spec, known.module_types)

    with mock.patch("relprop.analyzers.captures.capture", capture_or_copy):
        yield


def unexplained_names(message: str) -> list[str]:
    """The first column of the error's table."""
    rows = re.search(r"\noperator .*\n((?:.+\n)+)", message)
    assert rows is not None, message
    return sorted({line.split()[0] for line in rows[1].splitlines()})
