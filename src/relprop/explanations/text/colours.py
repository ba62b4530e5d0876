"""Colours of relevance in text, and of what is written on them."""

from __future__ import annotations

RGB = tuple[int, int, int]
PAPER: RGB = (247, 247, 247)  # zero relevance in the terminal, whatever the terminal's own background
WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)
NIGHT: RGB = (24, 26, 31)
RED: RGB = (178, 24, 43)
BLUE: RGB = (33, 102, 172)


def mix(ground: RGB, r: float, limit: float) -> RGB:
    """The colour of relevance `r`: from `ground` at zero to red at `limit` and blue at `-limit`."""
    share = min(1.0, abs(r) / limit) if limit > 0 else 0.0
    full = RED if r > 0 else BLUE
    red, green, blue = (round(g + share * (f - g)) for g, f in zip(ground, full, strict=True))
    return red, green, blue


def readable(background: RGB) -> RGB:
    """Black or white, whichever has more contrast."""
    return max((BLACK, WHITE), key=lambda colour: contrast(colour, background))


def contrast(a: RGB, b: RGB) -> float:
    """The contrast ratio of two colours by WCAG 2, from 1 to 21; text wants 4.5."""
    dark, light = sorted((_luminance(a), _luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: RGB) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def css(colour: RGB) -> str:
    """As `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
