"""Classifiers of pictures, and of any other input of floating point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from relprop.composites.names import Kind, name_for
from relprop.errors import InputError
from relprop.evaluation import evaluate
from relprop.jobs.composites import make_analyzer
from relprop.jobs.concepts import last_convolution
from relprop.jobs.datasets.columns import METRIC, PLACES, SCORES
from relprop.jobs.datasets.contestants import Contestants, groups_of
from relprop.jobs.datasets.explaining import Explainer, heat_of, shape_of, sums_of
from relprop.jobs.datasets.job import Job
from relprop.jobs.datasets.samples import Content, Index, Source
from relprop.jobs.layers import SIZE
from relprop.jobs.masks import Masks
from relprop.jobs.picture_plan import count_outputs
from relprop.models import load_model
from relprop.models.loaded import unknown
from relprop.targets import TargetLike
from relprop.targets.names import resolve_target

ASKING = ("max_sensitivity", "mean_sensitivity", "emprt", "bottom_up")
"""Metrics that ask the analyzer, not the relevance that is there."""


class PictureExplainer(Explainer):
    """A model of `relprop.models.load_model`.

    Args:
        job: what is asked for.
        source: of the samples.
        index: which they are.

    Raises:
        RelpropError: the model, the composite, the target or a layer does not exist, or they do not fit.
    """

    kind: ClassVar[Kind] = "pictures"

    def __init__(self, job: Job, source: Source, index: Index) -> None:
        super().__init__(job, index)
        loaded = load_model(job.model, size=job.size, mean=job.mean, std=job.std)
        self.loaded = replace(loaded, model=loaded.model.to(self.device, self._dtype))
        self.composite = name_for(self.composite, self.loaded.model)
        self.together, self.classes, self.preprocessing = job.pass_size, loaded.classes, repr(loaded.preprocess)
        example = source.example()
        x = self.prepared(_grey() if example is None else example)[None].to(self.device, self._dtype)
        self.outputs = count_outputs(self.loaded, x)
        self.lrp, self.explains = make_analyzer(self.loaded, self.composite, x)
        self.layers = self._layers()
        self.target = self.asked(lambda text: resolve_target(text, self.classes, self.outputs))
        self._masks = None if job.masks is None else Masks(self.loaded, Path(job.masks).expanduser(), index.keys)
        self._contestants = self._entered(x) if job.contest else None
        if self._contestants is not None:
            self.methods, self.evaluation = self._contestants.names, self._contestants.setting
        elif job.metrics:
            self.evaluation = {name: getattr(job, name) for name in ("patch", "steps", "seed")}
        if self._masks is not None:
            self.preprocessing += f", masks {self._masks.digest}"

    def prepared(self, content: Content) -> Tensor:
        if isinstance(content, Tensor):
            return content
        if isinstance(content, str):
            raise InputError("a text, where the model takes pictures")
        return self.loaded.preprocess(content)[0]

    def columns(self, x: Tensor, target: TargetLike, first: int) -> dict[str, Any]:
        explanation, keep = self.lrp.explain(x, target, layers=self.layers), self.job.keep
        assert isinstance(explanation.relevance, Tensor)
        relevance = explanation.relevance.detach()
        found = sums_of(explanation) | shape_of(relevance.shape[1:], len(relevance))
        if "heatmap" in keep:
            found |= heat_of(relevance.sum(1) if relevance.dim() > 2 else relevance)
        if "relevance" in keep:
            found["relevance"] = relevance.float().flatten(1).cpu().numpy()
        if self._contestants is not None:
            found |= self._contestants.columns(x, target, first)
        elif self.job.metrics:
            found |= self._scored(x, target, relevance, first)
        for layer in self.layers:
            r = explanation.layers[layer].detach()
            r = r.flatten(2) if r.dim() > 2 else r[..., None]
            found[f"{SCORES}{layer}"] = r.sum(2).float().cpu().numpy()
            if "places" in keep:
                found[f"{PLACES}{layer}"] = r.argmax(2).int().cpu().numpy()
        return found

    def _scored(self, x: Tensor, target: TargetLike, relevance: Tensor, first: int) -> dict[str, Any]:
        """A column for each metric of the evaluation."""
        job, names = self.job, self.job.metrics
        asked: Any = {"baselines": (), "model": self.lrp.explained, "batch": job.pass_size}
        asked |= {"groups": groups_of(job, x), "steps": job.steps, "seed": job.seed}
        method = self.lrp if any(name in ASKING for name in names) else relevance
        masks = None if self._masks is None else self._masks.rows(first, (len(x), *x.shape[2:]))
        scores = evaluate({"job": method}, x, target, names, masks, **asked).scores["job"]
        return {f"{METRIC}{name}": scores[name].numpy() for name in names}

    def _entered(self, x: Tensor) -> Contestants:
        low, high = (bound[0].to(x) for bound in (self.loaded.preprocess.low, self.loaded.preprocess.high))
        return Contestants(self.job, self.lrp.explained, x, low, high, self._masks)

    def _layers(self) -> list[str]:
        if "scores" not in self.job.keep:
            return []
        known = [row.name for row in self.lrp.layers]
        for name in self.job.layers:
            if name not in known:
                raise unknown("the layer", name, known)
        return list(self.job.layers) or [last_convolution(self.lrp, self.loaded.name)]


def _grey() -> Content:
    from PIL import Image

    picture: Content = Image.new("RGB", (SIZE, SIZE), "grey")
    return picture
