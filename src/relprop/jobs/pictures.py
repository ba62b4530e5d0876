"""The job: explain each picture of a plan, and write what comes out."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relprop.errors import MissingExtraError
from relprop.evaluation.localization import Share, positive_share
from relprop.explanations.explanation import Explanation
from relprop.explanations.files import replacing
from relprop.explanations.heatmaps import heatmap, overlay
from relprop.explanations.ledger import LEAST, MOST
from relprop.explanations.sheet import CELL, Panel, contact_sheet
from relprop.explanations.shown import encodable
from relprop.jobs.files import SUMMARY, Outputs
from relprop.jobs.picture_plan import Picture, PicturePlan
from relprop.models import Preprocess, open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

TOP = 3
ZOOMED = 256  # pictures are enlarged, by a whole factor, until their shorter side has that many pixels,
LONGEST = 4096  # as long as the longer one has no more than these
DRAWN = 4  # only the first results keep their images, for the terminal


@dataclass(frozen=True, eq=False)
class PictureResult:
    """What is known about one picture after one explanation.

    `output` is the number that is explained, `total` is `Σ R`: 1, or -1 if that number is negative, if nothing was
    absorbed.
    """

    picture: Picture
    outputs: Outputs
    top: list[tuple[str, float]]
    target: int
    target_name: str
    output: float
    total: float
    share: Share | None
    images: tuple[Image, Image, Image] | None  # what the model saw, the heatmap, the overlay


def explain_pictures(plan: PicturePlan) -> Iterator[PictureResult]:
    """Explain the pictures in batches, and yield a result for each target of each.

    Before that its three files are written, and whenever a contact sheet is full, that one.

    Raises:
        RelpropError: the model cannot be explained, or a file cannot be written.
    """
    done, panels, total = 0, list[Panel](), len(plan.pictures) * len(plan.asked)
    for pictures, seen in batches_of(plan):
        x = stacked(plan, seen)
        batches = [
            list(zip(*_one_target(plan, k, pictures, seen, explanation), strict=True))
            for k, explanation in enumerate(plan.lrp.each(x, targets=[asked.target for asked in plan.asked]))
        ]
        for i in range(len(pictures)):
            for results in batches:
                result, relevance = results[i]
                _write(plan, result, relevance)
                panels.append(panel(result))
                done += 1
                if done == total or len(panels) == plan.on_each_sheet:
                    _write_sheet(plan, panels, done)
                    panels = []
                yield result if done <= DRAWN else replace(result, images=None)


def _one_target(
    plan: PicturePlan, k: int, pictures: Sequence[Picture], seen: Sequence[Image], explanation: Explanation
) -> tuple[list[PictureResult], list[Tensor]]:
    """The results of a batch for one of the targets, and the relevance of each."""
    assert isinstance(explanation.relevance, Tensor)  # the plan has seen that the model is a classifier
    assert explanation.amount is not None
    relevance, outputs = explanation.relevance.cpu(), explanation.output.detach().cpu()
    images, classes, amounts = draw(plan, seen, relevance), plan.asked[k].classes(outputs), explanation.amount.tolist()
    results = [
        PictureResult(
            picture=picture,
            outputs=picture.outputs[k],
            top=_top(plan, outputs[i]),
            target=classes[i],
            target_name=plan.asked[k].name(classes[i], plan.class_name),
            output=amounts[i],
            total=float(relevance[i].double().sum()),
            share=_share(plan, picture, relevance[i]),
            images=images[i],
        )
        for i, picture in enumerate(pictures)
    ]
    return results, list(relevance)


def _write_sheet(plan: PicturePlan, panels: Sequence[Panel], done: int) -> None:
    """The sheet whose last panel is the `done`-th of all."""
    total, first = len(plan.pictures) * len(plan.asked), done - len(panels) + 1
    what = "pictures" if len(plan.asked) == 1 else "heatmaps"
    some = f"{what.capitalize()} {first} to {done} of {total}: " if len(panels) < total else ""
    title = f"{some}{plan.model_name}, {plan.options.composite}"
    with replacing(plan.sheets[(done - 1) // plan.on_each_sheet]) as path:
        contact_sheet(panels, title, plan.options.cmap, together=len(plan.asked)).save(path)


def panel(result: PictureResult) -> Panel:
    """A result's column of the sheet, with small copies of its images."""
    assert result.images is not None
    small = [image.copy() for image in result.images]
    for image in small:
        image.thumbnail((CELL, CELL))
    return Panel(result.picture.name, result.target_name, (small[0], small[1], small[2]), caption(result))


def finish_pictures(plan: PicturePlan, results: Sequence[PictureResult]) -> None:
    """Write the summary of a finished job.

    Raises:
        RelpropError: it cannot be written.
    """
    with replacing(plan.options.out / SUMMARY) as path:
        path.write_text(json.dumps(summary(plan, results), indent=2, ensure_ascii=False) + "\n", "utf-8")


def caption(result: PictureResult) -> str:
    """What the contact sheet says under name and class: the Clever Hans numbers, or else the output."""
    if result.share is None or result.share.relevance is None:
        return f"output {result.output:.2f}"
    return f"{result.share.relevance:.0%} in mark, {result.share.area:.1%} of area"


def batches_of(plan: PicturePlan) -> Iterator[tuple[list[Picture], list[Image]]]:
    """Consecutive pictures and what the model sees of them, at most `batch_size` and all of one size."""
    pictures: list[Picture] = []
    seen: list[Image] = []
    for picture in plan.pictures:
        image = plan.loaded.preprocess.picture(open_picture(picture.path))
        if pictures and (len(pictures) == plan.options.batch_size or image.size != seen[0].size):
            yield pictures, seen
            pictures, seen = [], []
        pictures.append(picture)
        seen.append(image)
    yield pictures, seen


def trouble(plan: PicturePlan, results: Sequence[PictureResult]) -> str:
    """What is wrong where relevance has grown or shrunk beyond use, from the books of the first such picture."""
    odd = [result for result in results if not LEAST < abs(result.total) < MOST]
    if not odd:
        return ""
    result = odd[0]
    seen = plan.loaded.preprocess.picture(open_picture(result.picture.path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are what is returned
        explanation = plan.lrp(stacked(plan, [seen]), target=result.target, audit=True)
    assert explanation.ledger is not None
    found = explanation.ledger.trouble
    return f"{result.picture.name}: {found}" if found else ""


def stacked(plan: PicturePlan, seen: Sequence[Image]) -> Tensor:
    """The model's input for some pictures, (B, C, H, W)."""
    return torch.cat([plan.loaded.preprocess.tensor(image) for image in seen]).to(plan.device)


def draw(plan: PicturePlan, seen: Sequence[Image], relevance: Tensor) -> list[tuple[Image, Image, Image]]:
    """What the model saw of each picture, its heatmap, and both on top of each other."""
    height, width = relevance.shape[-2:]
    zoom = max(1, min(math.ceil(ZOOMED / min(height, width)), LONGEST // max(height, width)))
    size = (zoom * height, zoom * width)
    options: dict[str, Any] = {"cmap": plan.options.cmap, "clip": plan.options.clip, "size": size}
    heatmaps = cast("list[Image]", heatmap(relevance, **options))
    overlays = cast("list[Image]", overlay(seen, relevance, **options))
    return list(zip(seen, heatmaps, overlays, strict=True))


def _top(plan: PicturePlan, output: Tensor) -> list[tuple[str, float]]:
    values, indices = output.float().topk(min(TOP, len(output)))
    return [(plan.class_name(int(i)), float(value)) for i, value in zip(indices, values, strict=True)]


def _share(plan: PicturePlan, picture: Picture, relevance: Tensor) -> Share | None:
    mask = None if picture.mask is None else _seen_mask(picture.mask, plan.loaded.preprocess)
    return None if mask is None or not mask.any() else positive_share(relevance, mask)


def _seen_mask(mask: NDArray[np.bool_], preprocess: Preprocess) -> NDArray[np.bool_]:
    """The mask where the model sees it: resized and cropped as the picture was."""
    from PIL import Image

    image = Image.fromarray(mask.astype(np.uint8) * 255)
    seen = replace(preprocess, interpolation="nearest").picture(image).convert("L")
    return np.asarray(seen) > 127


def _write(plan: PicturePlan, result: PictureResult, relevance: Tensor) -> None:
    assert result.images is not None
    _, heat, laid = result.images
    outputs = result.outputs
    with replacing(outputs.heatmap) as path:
        heat.save(path)
    with replacing(outputs.overlay) as path:
        laid.save(path)
    with replacing(outputs.relevance) as path:
        save_relevance(path, {"relevance": relevance}, _metadata(plan, result))


def save_relevance(path: Any, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write relevance as a safetensors file."""
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingExtraError(f"saving relevance needs safetensors: pip install 'relprop[cli]' ({error})") from error
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def _metadata(plan: PicturePlan, result: PictureResult) -> dict[str, str]:
    return {
        "relprop": version("relprop"),
        "model": plan.model_name,
        "composite": plan.options.composite,
        "explains": plan.explains,
        "picture": encodable(result.picture.path.name),
        "target": str(result.target),
        "class": result.target_name,
        "output": repr(result.output),
        "normalize_output": "magnitude",
    }


def summary(plan: PicturePlan, results: Sequence[PictureResult]) -> dict[str, Any]:
    """All numbers, as they stand in the file."""
    return {
        "relprop": version("relprop"),
        "model": plan.model_name,
        "composite": plan.options.composite,
        "explains": plan.explains,
        "pictures": [_record(result) for result in results],
    }


def _record(result: PictureResult) -> dict[str, Any]:
    record = {
        "picture": encodable(str(result.picture.path)),
        "files": [file.name for file in result.outputs],
        "top": [{"class": name, "output": value} for name, value in result.top],
        "target": result.target,
        "class": result.target_name,
        "output": result.output,
        "relevance_sum": result.total,
    }
    if result.share is not None:
        record["artefact"] = {"positive_relevance": result.share.relevance, "area": result.share.area}
    return record
