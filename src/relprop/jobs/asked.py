"""What a command explains of each picture or text: a class, the predicted one, or why that and not another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor

from relprop.errors import TargetError
from relprop.targets import Contrast, Largest, Logit, Target
from relprop.targets.output import Entry

RIVALS = ("rest", "runner-up")
"""What `--against` takes beside classes."""


@dataclass(frozen=True)
class Asked:
    """One thing to explain, as it stands in the files.

    Attributes:
        entry: the class. against: another one, or one of `RIVALS`; None: nothing.
    """

    entry: Entry
    against: Entry | Literal["rest", "runner-up"] | None = None

    @property
    def target(self) -> Target:
        """What `LRP` is asked for."""
        return self.entry if self.against is None else Contrast(self.entry, self.against)

    def classes(self, outputs: Tensor) -> list[int]:
        """The class of each row of outputs, (B, classes)."""
        index = self.entry.index(outputs)
        assert index is not None
        found: list[int] = index.tolist()
        return found

    def name(self, index: int, named: Callable[[int], str]) -> str:
        """What is explained, in words, where the class has that index."""
        if self.against is None:
            return named(index)
        other = named(int(cast(int, self.against.position))) if isinstance(self.against, Logit) else self.against
        return f"{named(index)} against {'the ' if isinstance(self.against, str) else ''}{other}"


def asked_for(targets: Sequence[str], against: str | None, number: Callable[[str], int], outputs: int) -> list[Asked]:
    """What `--target` and `--against` say.

    Args:
        targets: the classes as they were given; none: the predicted one.
        against: the other class, or one of `RIVALS`.
        number: a class's text -> its index.
        outputs: how many there are.

    Raises:
        TargetError: a class does not exist, or is to be compared with itself.
    """
    entries: list[Entry] = [Logit(number(text)) for text in targets] or [Largest()]
    if len(set(entries)) < len(entries):
        raise TargetError("--target names one class twice: name each once")
    if against is not None and against not in RIVALS and not targets:
        raise TargetError("--against CLASS needs --target; the predicted class is compared with 'runner-up' or 'rest'")
    other = against if against is None or against in RIVALS else Logit(number(against))
    asked = [Asked(entry, cast(Literal["rest", "runner-up"], other)) for entry in entries]
    for each in asked:
        each.target.check(1, (outputs,))
    return asked
