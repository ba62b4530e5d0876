"""Where an explanation came from: what was asked, of what, and who can be asked again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Origin:
    """What an explanation knows of its call. All of it is worked out when it is asked for: calls are to be quick.

    Attributes:
        analyzer: the method that explained.
        target: what it was asked to explain.
        inputs: the model's inputs, positional and by name.
        given: the tensors among them, by the names of `Explanation.by_input`.
        settings: what to say to get the same explanation again, in words.
        ask: (target, **options of a call) -> the explanation of the same inputs for it.
        classes: names of the outputs.
    """

    analyzer: Any
    target: Any
    inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    given: Callable[[], Mapping[str, Tensor]]
    settings: Callable[[], Mapping[str, str]]
    ask: Callable[..., Any]
    classes: Sequence[str] | None = None
