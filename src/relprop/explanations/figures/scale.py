"""From relevance to colours: one scale, for one map or for several that are to be compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from relprop.errors import ImageError, MissingExtraError
from relprop.explanations.heatmaps import SCALES

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Scale:
    """Which relevance has which colour of a colormap: `low` its first one, `high` its last.

    Args:
        low: of a centred scale `-high`, so that zero is the colormap's neutral middle.
        high: beyond both ends, colours are those of the ends.
        cmap: the name of a matplotlib colormap.
    """

    low: float
    high: float
    cmap: str = "seismic"

    @classmethod
    def of(
        cls, maps: Iterable[Tensor], cmap: str = "seismic", clip: float | None = None, scale: str = "centered"
    ) -> Scale:
        """The scale of some maps together.

        Args:
            maps: relevance, of any shapes.
            cmap: see above.
            clip: a percentile such as 99.9 in the place of the maximum of the magnitudes.
            scale: `"centered"`, or `"extrema"` from the smallest to the largest number.

        Raises:
            ImageError: relevance that is not finite, an unknown scale, a percentile that is none.
        """
        if scale not in SCALES:
            raise ImageError(f"unknown scale {scale!r}; choose one of {', '.join(SCALES)}")
        if clip is not None and not 0 < clip <= 100:
            raise ImageError(f"clip is a percentile in (0, 100], not {clip}")
        values = np.concatenate([numbers(each).ravel() for each in maps])
        if not np.isfinite(values).all():
            raise ImageError(f"{int((~np.isfinite(values)).sum())} relevance values are NaN or infinite: no scale fits")
        percent = 100 if clip is None else clip
        if scale == "extrema":
            low, high = -float(np.percentile(-values, percent)), float(np.percentile(values, percent))
            return cls(low, high if high > low else low + 1.0, cmap)
        most = float(np.percentile(np.abs(values), percent)) or float(np.abs(values).max()) or 1.0
        return cls(-most, most, cmap)

    def colours(self, values: Any) -> Array:
        """(..., 4): red, green, blue and opacity in [0, 1]."""
        return np.asarray(self.mappable().to_rgba(np.asarray(values, dtype=np.float64)))

    def veil(self, values: Any, alpha: float = 0.9, gamma: float = 0.8) -> Array:
        """The same with an opacity of `alpha |v|^gamma`, v in [-1, 1]: clear where relevance is zero."""
        share = np.clip(np.abs(np.asarray(values, dtype=np.float64)) / max(abs(self.low), abs(self.high)), 0, 1)
        # The hue is taken well away from the neutral middle, so that opacity alone says how much it is.
        hue = np.sign(values) * (0.5 + 0.5 * share) * max(abs(self.low), abs(self.high))
        colours = self.colours(hue)
        colours[..., 3] = alpha * share**gamma
        return colours

    def mappable(self) -> Any:
        """What matplotlib draws a colour bar of."""
        try:
            from matplotlib import colormaps
            from matplotlib.cm import ScalarMappable
            from matplotlib.colors import Normalize
        except ImportError as error:
            raise MissingExtraError(
                f"drawing figures needs matplotlib: pip install 'relprop[images]' ({error})"
            ) from error
        if self.cmap not in colormaps:
            raise ImageError(
                f"unknown colormap {self.cmap!r}; relevance needs a diverging one: seismic, bwr, coolwarm, ..."
            )
        return ScalarMappable(Normalize(self.low, self.high), self.cmap)


def numbers(values: Any) -> Array:
    """A tensor or anything like an array, in float64."""
    if isinstance(values, Tensor):
        return np.asarray(values.detach().cpu().double().numpy())
    return np.asarray(values, dtype=np.float64)
