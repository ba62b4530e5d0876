"""Language models: classifiers of sentences, and the next token. Each sentence is a pass of its own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from relprop.analyzers.lrp import LRP
from relprop.composites.names import Given, Kind, make_composite, name_for
from relprop.errors import InputError, JobError
from relprop.jobs.datasets.explaining import Explainer, heat_of, shape_of, sums_of
from relprop.jobs.datasets.job import Job
from relprop.jobs.datasets.samples import Content, Index
from relprop.jobs.text_plan import resolve_token
from relprop.models import load_text
from relprop.targets import TargetLike
from relprop.targets.names import resolve_target


class TextExplainer(Explainer):
    """A model of `relprop.models.load_text`.

    Args:
        job: what is asked for.
        index: the samples.

    Raises:
        RelpropError: the model, the composite or the target does not exist, or they do not fit.
    """

    kind: ClassVar[Kind] = "text"

    def __init__(self, job: Job, index: Index) -> None:
        super().__init__(job, index)
        loaded = load_text(job.model)
        if loaded.kind == "encoder":
            raise JobError(f"{job.model} has no classes but embeddings: a job explains classifiers and next tokens")
        for name in ("metrics", "contest", "masks"):
            if getattr(job, name):
                raise JobError(f"{name}: a job evaluates pictures; leave {name} out for text")
        if job.sink == "zarr":
            raise JobError("sink: arrays of Zarr hold samples of one shape; leave sink out for text")
        if job.layers:
            raise JobError("layers: scores of channels are those of pictures; leave layers out for text")
        self.loaded = replace(loaded, model=loaded.model.to(self.device, self._dtype))
        self.together, self.layers, self.classes, self.explains = 1, [], loaded.classes, "output"
        vocabulary = loaded.tokenizer.get_vocab()
        digest = hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()[:16]
        self.preprocessing = f"{type(loaded.tokenizer).__name__} {digest}"
        self.outputs = len(loaded.classes or ()) if loaded.kind == "classifier" else len(vocabulary)
        self.composite = name_for(self.composite, self.loaded.model)
        self.lrp = LRP(self.loaded.model, make_composite(self.composite, Given(self.loaded.model), "text"))
        self.target = self.asked(self._number)

    def prepared(self, content: Content) -> Tensor:
        if not isinstance(content, str):
            raise InputError("no text, where the model takes text")
        return self.loaded.encode(content)["input_ids"][0].cpu()

    def columns(self, x: Tensor, target: TargetLike, first: int) -> dict[str, Any]:
        explanation = self.lrp.explain((x, torch.ones_like(x)), target)
        assert isinstance(explanation.relevance, Tensor)  # token ids are the only input that carries relevance
        relevance = explanation.relevance.detach()
        found = sums_of(explanation) | shape_of(x.shape[1:], len(x))
        found["tokens"] = [self.loaded.tokenizer.convert_ids_to_tokens(row) for row in x.tolist()]
        if "heatmap" in self.job.keep:
            found |= heat_of(relevance.sum(-1))
        if "relevance" in self.job.keep:
            found["relevance"] = relevance.float().flatten(1).cpu().numpy()
        return found

    def _number(self, text: str) -> int:
        if self.loaded.kind != "classifier":
            return resolve_token(text, self.loaded)
        return resolve_target(text, self.classes, self.outputs)
