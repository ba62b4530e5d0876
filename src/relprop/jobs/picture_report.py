"""The page about the pictures of a job: `relprop explain --report`."""

from __future__ import annotations

from collections.abc import Iterator

from relprop.explanations.files import replacing
from relprop.explanations.report import Item, collected, page
from relprop.explanations.report.parts import Sample
from relprop.jobs.files import REPORT
from relprop.jobs.picture_plan import PicturePlan
from relprop.jobs.pictures import stacked
from relprop.models import open_picture
from relprop.targets import Largest

REPORTED = 12
"""Pictures of a page; each is occluded some hundred times."""


def sections(plan: PicturePlan) -> Iterator[Sample]:
    """A section for each of the first pictures: the first target is shown first, the others can be switched to."""
    targets = [asked.target for asked in plan.asked]
    for picture in plan.pictures[:REPORTED]:
        seen = plan.loaded.preprocess.picture(open_picture(picture.path))
        explanation = plan.lrp(stacked(plan, [seen]), target=targets[0])
        yield collected(Item(explanation, 0, picture.name, seen), targets=targets[1:] or None)


def write_report(plan: PicturePlan, samples: list[Sample]) -> None:
    """Write the page.

    Raises:
        RelpropError: it cannot be written.
    """
    some = f", the first {len(samples)} of {len(plan.pictures)} pictures" if len(samples) < len(plan.pictures) else ""
    settings = {**_settings(plan), "explains": plan.explains}
    with replacing(plan.options.out / REPORT) as path:
        path.write_text(page(samples, f"{plan.model_name} explained{some}", settings), "utf-8")


def _settings(plan: PicturePlan) -> dict[str, str]:
    asked = ", ".join(str(each.target) for each in plan.asked)
    first = plan.asked[0].target
    known = {**plan.lrp.described(), "target": "None" if isinstance(first, Largest) else repr(first)}
    return {**known, "model": plan.model_name, "spec": plan.model_name, "explained": asked}
