"""One sample of an explanation, as it is drawn: its relevance, its input, and what is written above it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from relprop.errors import ImageError
from relprop.explanations.drawable import Drawable
from relprop.explanations.figures.kinds import check_kind, kind_of
from relprop.explanations.heatmaps import reduce
from relprop.explanations.shown import one_line


@dataclass(frozen=True, eq=False)
class View:
    """What is drawn of one sample.

    Attributes:
        kind: one of `KINDS`.
        relevance: of the sample, in the form that the kind wants: channels of a picture or of tokens are summed.
        given: the sample's input, where it is known and lies under the relevance.
        title: what is explained.
        names: of tokens, features or channels.
        picture: what to show in the place of the input.
        mask: (H, W), a region whose border is drawn.
    """

    kind: str
    relevance: Tensor
    given: Tensor | None = None
    title: str = ""
    names: Sequence[str] | None = None
    picture: Any = None
    mask: Any = None


def views_of(
    explanation: Drawable,
    samples: Sequence[int],
    *,
    kind: str | None = None,
    layer: str | None = None,
    of: str | None = None,
    names: Sequence[Any] | None = None,
    picture: Any = None,
    mask: Any = None,
    how: str | None = None,
) -> list[View]:
    """What is drawn of some samples, see `plot` for the arguments.

    Raises:
        ImageError: a name, sample or kind that does not exist.
    """
    relevance, given = _asked(explanation, layer, of)
    chosen = kind or kind_of(relevance, given)
    check_kind(chosen, relevance.dim() - 1)
    count = len(relevance)
    wrong = [i for i in samples if not -count <= i < count]
    if wrong:
        raise ImageError(f"there is no sample {wrong[0]}: the explanation is of {count}, 0 to {count - 1}")
    several = isinstance(picture, (list, tuple))
    if several and len(picture) != len(samples):
        raise ImageError(f"{len(picture)} pictures for {len(samples)} samples: give one for each")
    return [
        View(
            chosen,
            _reduced(relevance[i], chosen, how or _reduction(explanation)),
            None if given is None else given[i],
            caption(explanation, i, layer),
            _names_of(names, i, chosen, given),
            picture[n] if several else picture,
            mask[i] if mask is not None and getattr(mask, "ndim", 2) > 2 else mask,
        )
        for n, i in enumerate(samples)
    ]


def caption(explanation: Drawable, sample: int, layer: str | None = None) -> str:
    """What is explained of a sample, with its amount, and how much relevance reached the input (or the layer)."""
    what = name_of(explanation, sample)
    amount = explanation.amount
    said = [f"{what} = {float(amount[sample]):.4g}" if amount is not None else what] if what else []
    relevance = explanation.layers[layer] if layer else explanation.relevance
    whole = (relevance,) if isinstance(relevance, Tensor) else relevance
    total = sum(float(each[sample].detach().double().sum()) for each in whole)
    return ", ".join([*said, f"Σ R{' at ' + one_line(layer) if layer else ''} = {total:.4g}"])


def name_of(explanation: Drawable, sample: int) -> str:
    """The class that is explained of a sample, or what else is, in words."""
    target, classes = explanation.target, explanation.classes or ()
    said = one_line(explanation.explains)
    if target is None:  # several outputs, such as a contrast of two
        return re.sub(r"\boutput (\d+)", lambda found: _class(classes, int(found[1])) or found[0], said)
    index = int(target[sample])
    if name := _class(classes, index):
        return name
    return said if said.startswith("output (") else f"output {index}"  # of a sequence, the position is said too


def _class(classes: Sequence[Any], index: int) -> str:
    return one_line(str(classes[index])) if index < len(classes) else ""


def _asked(explanation: Drawable, layer: str | None, of: str | None) -> tuple[Tensor, Tensor | None]:
    """Relevance of an input or a layer, and the values that lie under it."""
    if layer is not None:
        if layer not in explanation.layers:
            known = ", ".join(explanation.layers) or "none: the call had no layers="
            raise ImageError(f"there is no relevance of a layer {layer!r}; known: {known}")
        return explanation.layers[layer], explanation.activations.get(layer)
    if of is None:
        relevance = explanation.relevance if isinstance(explanation.relevance, Tensor) else explanation.relevance[0]
        of = next((name for name, r in explanation.by_input.items() if r is relevance), None)
        of = of or next(iter(explanation.by_input), None)
    elif of not in explanation.by_input:
        raise ImageError(f"there is no input {of!r}; known: {', '.join(explanation.by_input)}")
    else:
        relevance = explanation.by_input[of]
    given = explanation.given.get(str(of).partition("@")[0])
    if given is not None and tuple(given.shape) != tuple(relevance.shape[: given.dim()]):
        given = None  # such as an image that patches of another shape were made of
    return relevance, given


def _reduction(explanation: Drawable) -> str:
    """Relevance adds up; a derivative says how strongly an entry acts, in whichever direction, and so does its norm."""
    analyzer = getattr(getattr(explanation, "origin", None), "analyzer", None)
    return "sum" if getattr(analyzer, "multiplies_by_inputs", True) else "norm"


def _reduced(relevance: Tensor, kind: str, how: str) -> Tensor:
    """Channels of pictures and volumes, and dimensions of tokens, as one number; of float16 in float32."""
    relevance = relevance.detach().cpu()
    relevance = relevance if relevance.element_size() > 2 else relevance.float()
    if (kind, relevance.dim()) == ("picture", 3):
        return reduce(relevance, how)
    if (kind, relevance.dim()) == ("volume", 4):
        return reduce(relevance.flatten(2), how).reshape(relevance.shape[1:])
    if (kind, relevance.dim()) == ("tokens", 2):
        return reduce(relevance.T[:, None], how)[0]
    return relevance[None] if (kind, relevance.dim()) == ("series", 1) else relevance


def _names_of(names: Sequence[Any] | None, sample: int, kind: str, given: Tensor | None) -> Sequence[str] | None:
    """Names as they are shown; of tokens without names their ids."""
    if names is None:
        ids = kind == "tokens" and given is not None and not given.is_floating_point()
        return [str(i) for i in given[sample].flatten().tolist()] if ids and given is not None else None
    if names and not isinstance(names[0], str) and isinstance(names[0], (list, tuple)):
        names = names[sample]
    return [one_line(str(name)) for name in names]
