"""Where an explanation came from: what was asked, of what, and who can be asked again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.explanations.drawable import Drawable
from relprop.targets import Logit


@dataclass(frozen=True)
class Origin:
    """What an explanation knows of its call. All of it is worked out when it is asked for: calls are to be quick.

    Attributes:
        analyzer: the method that explained.
        target: what it was asked to explain.
        inputs: the model's inputs, positional and by name.
        given: the tensors among them, by the names of `Explanation.by_input`.
        settings: what to say to get the same explanation again, in words.
        ask: (target, sample, **options of a call) -> the explanation for it of one sample of the same inputs, or of all
            where the sample is None.
        part: the call had `start=` or `conditions=`, so that a part of the model is explained.
        classes: names of the outputs.
        others: it can be asked for other targets, too.
    """

    analyzer: Any
    target: Any
    inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    given: Callable[[], Mapping[str, Tensor]]
    settings: Callable[[], Mapping[str, str]]
    ask: Callable[..., Any]
    part: Callable[[], bool]
    classes: Sequence[str] | None = None
    others: bool = True


def sample_of(leaf: Any, sample: int, count: int | None) -> Any:
    """One sample (1, ...) of an input; what has no batch dimension as it is.

    Args:
        leaf: an input.
        sample: which.
        count: samples of the batch.
    """
    whole = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count
    return leaf[sample : sample + 1] if whole else leaf


def target_of(explanation: Drawable, origin: Origin, sample: int) -> Any:
    """What was explained of one sample, as a target for it alone.

    Args:
        explanation: of a batch.
        origin: where it came from.
        sample: which of the batch.
    """
    output = scores_of(explanation.output)
    if explanation.target is None or output is None or output.dim() < 2 or origin.part():
        return origin.target
    return Logit(tuple(int(i) for i in torch.unravel_index(explanation.target[sample], output.shape[1:])))


def scores_of(output: Any) -> Tensor | None:
    """The outputs that classes are explained of: a tensor, or `logits` of several; None where there are none."""
    found = output.get("logits") if isinstance(output, Mapping) else output
    return found if isinstance(found, Tensor) else None
