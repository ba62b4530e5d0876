"""Classifiers of pictures, and of any other input of floating point."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from relprop.composites.names import Kind
from relprop.errors import InputError
from relprop.evaluation import evaluate
from relprop.jobs.composites import make_analyzer
from relprop.jobs.concepts import last_convolution
from relprop.jobs.datasets.columns import METRIC, SCORES
from relprop.jobs.datasets.explaining import Explainer, heat_of, shape_of, sums_of
from relprop.jobs.datasets.job import Job
from relprop.jobs.datasets.samples import Content, Index, Source
from relprop.jobs.layers import SIZE
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
        self.together, self.classes, self.preprocessing = job.pass_size, loaded.classes, repr(loaded.preprocess)
        example = source.example()
        x = self.prepared(_grey() if example is None else example)[None].to(self.device, self._dtype)
        self.outputs = count_outputs(self.loaded, x)
        self.lrp, self.explains = make_analyzer(self.loaded, self.composite, x)
        self.layers = self._layers()
        self.target = self.asked(lambda text: resolve_target(text, self.classes, self.outputs))

    def prepared(self, content: Content) -> Tensor:
        if isinstance(content, Tensor):
            return content
        if isinstance(content, str):
            raise InputError("a text, where the model takes pictures")
        return self.loaded.preprocess(content)[0]

    def columns(self, x: Tensor, target: TargetLike) -> dict[str, Any]:
        explanation, keep = self.lrp.explain(x, target, layers=self.layers), self.job.keep
        assert isinstance(explanation.relevance, Tensor)
        relevance = explanation.relevance.detach()
        found = sums_of(explanation) | shape_of(relevance.shape[1:], len(relevance))
        if "heatmap" in keep:
            found |= heat_of(relevance.sum(1) if relevance.dim() > 2 else relevance)
        if "relevance" in keep:
            found["relevance"] = relevance.float().flatten(1).cpu().numpy()
        if self.job.metrics:
            found |= self._scored(x, target, relevance)
        for layer in self.layers:
            r = explanation.layers[layer].detach()
            found[f"{SCORES}{layer}"] = (r.flatten(2).sum(2) if r.dim() > 2 else r).float().cpu().numpy()
        return found

    def _scored(self, x: Tensor, target: TargetLike, relevance: Tensor) -> dict[str, Any]:
        """A column for each metric of the evaluation."""
        size, names = self.job.pass_size, self.job.metrics
        asked: Any = {"baselines": (), "model": self.lrp.explained, "batch": size}
        method = self.lrp if any(name in ASKING for name in names) else relevance
        scores = evaluate({"job": method}, x, target, names, **asked).scores["job"]
        return {f"{METRIC}{name}": scores[name].numpy() for name in names}

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
