"""The analyzer of a job: samples in, rows out, the same rows in whatever order and company."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from relprop.analyzers.lrp import LRP
from relprop.composites.names import RECOMMENDED, Kind, check_composite
from relprop.concepts.references import without_addresses
from relprop.errors import ImageError, JobError, RelpropError, TargetError
from relprop.explanations.explanation import Explanation
from relprop.explanations.shown import encodable
from relprop.jobs.asked import asked_for
from relprop.jobs.datasets.job import LABEL, PREDICTED, Job
from relprop.jobs.datasets.passes import Pass, by_shape, filled, repeatable
from relprop.jobs.datasets.samples import Content, Index, Sample, Source
from relprop.jobs.picture_plan import device_named
from relprop.targets import TargetLike
from relprop.targets.names import resolve_target

TOP = 5
"""Classes that are kept for each sample."""

Row = dict[str, Any]
"""What is known of one sample, by column, see `relprop.jobs.datasets.columns`."""
Read = Sample | Exception
"""A sample, or why it could not be read."""


class Explainer(ABC):
    """A model with its composite, target and layers.

    Attributes:
        job: what is asked for.
        lrp: the analyzer.
        classes: names of the outputs, if they have some. outputs: how many there are.
        layers: whose channels get scores.
        preprocessing: what is done to samples, in words. explains: which output is explained.
        target: what is explained, where it is not each sample's label. together: samples on one pass.
        methods: of the contest. evaluation: how they, or metrics, are asked.
        device: of the model.
    """

    kind: ClassVar[Kind]
    lrp: LRP
    classes: list[str] | None
    outputs: int
    layers: list[str]
    preprocessing: str
    explains: str
    target: TargetLike
    together: int
    methods: Sequence[str] = ()
    evaluation: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, job: Job, index: Index) -> None:
        self.job, self._index = job, index
        self.device, self._dtype = device_named(job.device), getattr(torch, job.dtype)
        self.composite = job.composite or RECOMMENDED
        check_composite(self.composite, self.kind)

    @abstractmethod
    def prepared(self, content: Content) -> Tensor:
        """The model's input for a sample, without a dimension of samples.

        Raises:
            InputError: it is of another kind.
        """

    @abstractmethod
    def columns(self, x: Tensor, target: TargetLike, first: int) -> dict[str, Any]:
        """Arrays with a row for each sample of a batch.

        Args:
            x: the batch.
            target: what is explained.
            first: number of its first sample.
        """

    def rows(self, wanted: Pass, read: Sequence[tuple[Read, Tensor | None]], *, first: bool = False) -> list[Row]:
        """A row for each wanted sample.

        Args:
            wanted: the pass.
            read: of each sample what was read, and its input.
            first: of the whole job. If nothing in it can be explained, nothing will be.

        Raises:
            JobError: nothing of the first pass can be explained, or memory does not suffice.
        """
        rows: dict[int, Row] = {n: self._blank(n) for n in wanted.wanted}
        content: dict[int, Tensor] = {}
        for number, (sample, x) in zip(wanted.wanted, read, strict=True):
            error = self._refused(number, sample)
            rows[number] |= {"digest": sample.digest if isinstance(sample, Sample) else None, "error": error}
            if error is None and x is not None:
                content[number - wanted.first] = x
        for group in by_shape(content):
            for place, found in self._explained(group, wanted.first).items():
                rows[wanted.first + place] |= found
        done = [rows[number] for number in wanted.wanted]
        readable = [row for row, (sample, _) in zip(done, read, strict=True) if isinstance(sample, Sample)]
        if first and readable and all(row["error"] is not None for row in readable):
            example = readable[0]
            raise JobError(f"no sample of the first pass could be explained; {example['key']}: {example['error']}")
        return done

    def _blank(self, number: int) -> Row:
        return {"index": number, "key": self._index.keys[number], "label": self._index.labels[number]}

    def _refused(self, number: int, sample: Read) -> str | None:
        """Why a sample gets no explanation."""
        if isinstance(sample, Exception):
            return one_paragraph(sample)
        if self.job.target != LABEL:
            return None
        try:
            self._class_of(number)
        except TargetError as error:
            return one_paragraph(error)
        return None

    def _class_of(self, number: int) -> int:
        label = self._index.labels[number]
        if label is None:
            raise TargetError("the sample has no label, and target='label' explains it")
        return resolve_target(label, self.classes, self.outputs)

    def _explained(self, content: Mapping[int, Tensor], first: int) -> dict[int, Row]:
        """What is found of samples in their places; where one of them stops the pass, each is tried by itself."""
        try:
            return self._one_pass(content, first)
        except torch.OutOfMemoryError as error:
            raise JobError(
                f"{self.device} has too little memory for pass_size={self.job.pass_size}: {error}"
            ) from error
        except (RelpropError, RuntimeError) as error:
            if len(content) == 1:
                return {place: {"error": one_paragraph(error)} for place in content}
        return {p: row for place, x in content.items() for p, row in self._explained({place: x}, first).items()}

    def _one_pass(self, content: Mapping[int, Tensor], first: int) -> dict[int, Row]:
        if self.together == 1 and len(content) > 1:
            return {place: self._one_pass({place: x}, first)[place] for place, x in content.items()}
        places = range(self.together) if self.together > 1 else list(content)
        x = filled(content, places).to(self.device)
        target = self.target
        if self.job.target == LABEL:
            known = {place: self._class_of(first + place) for place in content}
            other = next(iter(known.values()))
            target = torch.tensor([known.get(place, other) for place in places], device=self.device)
        with repeatable():
            columns = self.columns(x if x.dtype == torch.long else x.to(self._dtype), target, first + places[0])
        return {place: _row_of(columns, i) for i, place in enumerate(places) if place in content}

    def asked(self, number: Callable[[str], int]) -> TargetLike:
        """What the job says of classes.

        Args:
            number: a class's text -> its index.
        """
        if self.job.target == LABEL:
            return None
        given = [] if self.job.target == PREDICTED else [self.job.target]
        (asked,) = asked_for(given, self.job.against, number, self.outputs)
        return asked.target


def sums_of(explanation: Explanation) -> dict[str, Any]:
    """The columns that any explanation has: predictions, what was explained, and the books."""
    relevance, amount = explanation.relevance, explanation.amount
    assert isinstance(relevance, Tensor)  # one input
    assert amount is not None
    output = explanation.output.detach().float()
    flat = relevance.detach().double().flatten(1)
    top = output.topk(min(TOP, output.shape[1]))
    started, arrived = torch.where(amount < 0, -1.0, 1.0).double(), flat.sum(1)
    found: dict[str, Tensor] = {
        "amount": amount.detach().double(),
        "top_class": top.indices.int(),
        "top_value": top.values,
        "prediction": top.indices[:, 0].int(),
        "arrived": arrived,
        "kept": started - arrived,
        "magnitude": flat.abs().sum(1),
    }
    if explanation.target is not None:
        found["target"] = explanation.target.int()
    return {name: value.cpu().numpy() for name, value in found.items()}


def heat_of(heat: Tensor) -> dict[str, Any]:
    """The columns of heatmaps (B, *places): each as a part of its largest magnitude, in half precision; and that."""
    scale = heat.flatten(1).abs().amax(1).float()
    divided = heat.flatten(1).float() / torch.where(scale > 0, scale, 1.0)[:, None]
    return {"heatmap": divided.half().cpu().numpy(), "heatmap_scale": scale.cpu().numpy()}


def shape_of(shape: Sequence[int], count: int) -> dict[str, Any]:
    """The column of shapes."""
    return {"shape": np.broadcast_to(np.array(shape, np.int32), (count, len(shape)))}


def read(source: Source, explainer: Explainer, number: int) -> tuple[Read, Tensor | None]:
    """A sample with its input, or what is wrong with it. Runs in several threads."""
    try:
        sample = source.read(number)
        x = explainer.prepared(sample.content)
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise ImageError("numbers that are NaN or infinite")
    except Exception as error:  # files break in every way that there is
        return error, None
    return Sample("", sample.digest), x


def one_paragraph(error: Exception) -> str:
    """An error as text in one line."""
    text = without_addresses(encodable(" ".join(str(error).split()))) or type(error).__name__
    return text if isinstance(error, RelpropError) else f"{type(error).__name__}: {text}"


def _row_of(columns: Mapping[str, Any], place: int) -> Row:
    row: Row = {name: values[place] for name, values in columns.items()}
    if not np.isfinite(row["magnitude"]):
        return {"error": "relevance that is not finite: look at it with lrp(x, audit=True)"}
    return row
