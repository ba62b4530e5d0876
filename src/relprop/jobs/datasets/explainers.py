"""Which explainer serves a source."""

from __future__ import annotations

from relprop.jobs.datasets.explaining import Explainer
from relprop.jobs.datasets.explaining_pictures import PictureExplainer
from relprop.jobs.datasets.explaining_text import TextExplainer
from relprop.jobs.datasets.job import Job
from relprop.jobs.datasets.samples import Index, Source


def explainer_of(job: Job, source: Source, index: Index) -> Explainer:
    """The analyzer of a job.

    Raises:
        RelpropError: the model, the composite, the target or a layer does not exist, or they do not fit.
    """
    return TextExplainer(job, index) if source.text else PictureExplainer(job, source, index)
