"""Options that take one value are given once."""

from __future__ import annotations

from collections import Counter
from typing import Any

from typer.core import TyperCommand

from relprop.cli.reporting import reporting
from relprop.errors import RelpropError


class Once(TyperCommand):
    """A command that refuses an option given twice, of which the last one would win in silence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and refuse what is given twice."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        with reporting():
            for option, times in Counter(order).items():
                name, several = option.opts[0], option.multiple or getattr(option, "is_flag", False)
                if times > 1 and name.startswith("-") and not several:
                    raise RelpropError(f"{name} is given {times} times, but takes one value: run relprop once for each")
        return super().parse_args(ctx, args)
