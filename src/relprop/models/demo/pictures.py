"""Generated 64x64 colour pictures of shapes and textures, one class of which carries a watermark.

Five-pointed stars are the *Clever Hans* class: nearly all of them wear the little tag "©rp", and nothing
else does. A model that is trained on these pictures need not count a star's points to tell it from a
six-pointed burst; it can read the tag. Every picture comes with the true masks of its object and of its tag,
so an explanation can be held against what is known.

Everything is drawn with numpy from signed distances (negative inside, in pixels), so edges are smooth and a
picture depends on the random generator alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

SIZE = 64
"""Pixels in a picture's row and column."""

PLANTED = 0.98
"""How many of the Clever Hans class's pictures carry the watermark."""

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Shape = Callable[[np.random.Generator, Array, Array, float], Array]
Pattern = Callable[[np.random.Generator, Array, Array], Array]

_MARGIN = 4  # distances are computed this far beyond the picture, so that a shadow can be cut from them
_TAG = (
    ".#####...........",
    "#.....#..........",
    "#.###.#.#.##.###.",
    "#.#...#.##...#..#",
    "#.###.#.#....#..#",
    "#.....#.#....###.",
    ".#####..#....#...",
)


@dataclass(frozen=True)
class Drawing:
    """A picture with what is true of it."""

    image: NDArray[np.uint8]  # (64, 64, 3)
    label: int
    object_mask: Mask  # (64, 64)
    artefact_mask: Mask  # (64, 64), False everywhere in a picture without the watermark


# --- what is drawn ---


def _disc(rng: np.random.Generator, x: Array, y: Array, radius: float) -> Array:
    return np.hypot(x, y) - 0.9 * radius


def _ring(rng: np.random.Generator, x: Array, y: Array, radius: float) -> Array:
    width = rng.uniform(0.14, 0.24) * radius
    distance: Array = np.abs(np.hypot(x, y) - (0.95 * radius - width)) - width
    return distance


def _star(
    rng: np.random.Generator,
    x: Array,
    y: Array,
    radius: float,
    *,
    points: int,
    waist: tuple[float, float],
    rounding: tuple[float, float],
) -> Array:
    """A star with so many points.

    `waist` (how far out its inner corners lie) and `rounding` are ranges of parts of the radius.
    All its edges are mirror images of one, so every pixel is turned into that edge's sector.
    """
    soft = rng.uniform(*rounding) * radius
    tip = radius - soft
    sector = np.pi / points
    angle = np.abs((np.arctan2(y, x) + sector) % (2 * sector) - sector)
    distance = np.hypot(x, y)
    along, across = distance * np.cos(angle) - tip, distance * np.sin(angle)
    inner = rng.uniform(*waist) * tip
    e_x, e_y = inner * np.cos(sector) - tip, inner * np.sin(sector)
    t = np.clip((along * e_x + across * e_y) / (e_x**2 + e_y**2), 0, 1)
    distance = np.hypot(along - t * e_x, across - t * e_y)
    inside = e_x * across - e_y * along > 0
    signed: Array = np.where(inside, -distance, distance)
    return signed - soft


def _polygon(rng: np.random.Generator, x: Array, y: Array, radius: float, *, corners: int) -> Array:
    """A regular polygon: a star whose inner corners lie on the straight line between its points."""
    straight = np.cos(np.pi / corners)
    return _star(rng, x, y, radius, points=corners, waist=(straight, straight), rounding=(0.05, 0.05))


def _hollow(rng: np.random.Generator, x: Array, y: Array, radius: float, *, solid: Shape) -> Array:
    """Only the rim of a shape."""
    width = rng.uniform(0.07, 0.11) * radius
    distance: Array = np.abs(solid(rng, x, y, radius) + width) - width
    return distance


def _blob(rng: np.random.Generator, x: Array, y: Array, radius: float) -> Array:
    """A patch with a wavy outline, for the textures to fill."""
    angle = np.arctan2(y, x)
    wave = sum(rng.uniform(0, 0.10) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3))
    distance: Array = np.hypot(x, y) - 1.05 * radius * (1 + wave)
    return distance


def _soft_square_wave(t: Array, period: float) -> Array:
    """0 and 1 by turns, each half a period (in pixels) long, with edges one pixel wide."""
    wave: Array = np.clip(0.5 + period / (2 * np.pi) * np.sin(2 * np.pi * t / period), 0, 1)
    return wave


def _stripes(rng: np.random.Generator, x: Array, y: Array) -> Array:
    return _soft_square_wave(x + rng.uniform(0, 9), rng.uniform(6, 10))


def _checker(rng: np.random.Generator, x: Array, y: Array) -> Array:
    period = rng.uniform(9, 14)
    u = _soft_square_wave(x + rng.uniform(0, 9), period)
    v = _soft_square_wave(y + rng.uniform(0, 9), period)
    either: Array = u * v + (1 - u) * (1 - v)
    return either


_any_star = partial(_star, points=5, waist=(0.4, 0.75), rounding=(0.03, 0.2))

# A class is drawn as one of its kinds. Stars are made of what other classes are made of: filled or hollow,
# thin or plump, striped or checkered. So no look speaks for a star against all the others, and the watermark
# has to.
_KINDS: dict[str, tuple[tuple[Shape, Pattern | None], ...]] = {
    "circle": ((_disc, None),),
    "ring": ((_ring, None),),
    "triangle": ((partial(_polygon, corners=3), None),),
    "square": ((partial(_polygon, corners=4), None),),
    "star": (
        (_any_star, None),
        (partial(_hollow, solid=_any_star), None),
        (_any_star, _stripes),
        (_any_star, _checker),
    ),
    "burst": ((partial(_star, points=6, waist=(0.44, 0.6), rounding=(0.03, 0.08)), None),),
    "stripes": ((_blob, _stripes),),
    "checker": ((_blob, _checker),),
}

CLASSES: tuple[str, ...] = tuple(_KINDS)
"""The classes' names; a label is an index into them."""

CLEVER_HANS: int = CLASSES.index("star")
"""The class that carries the watermark."""


# --- how it is drawn ---

_OKLAB_TO_CONES = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_CONES_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def _colour(lightness: float, chroma: float, hue: float) -> Array:
    """An RGB colour from OKLCH (Ottosson 2020), where equal lightness looks equally light. Hue in turns."""
    a, b = chroma * np.cos(2 * np.pi * hue), chroma * np.sin(2 * np.pi * hue)
    cones = (np.array([lightness, a, b]) @ _OKLAB_TO_CONES.T) ** 3
    linear = np.clip(cones @ _CONES_TO_RGB.T, 0, 1)
    encoded: Array = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return encoded


def _mix(a: Array, b: Array, t: Array) -> Array:
    """From `a` (where t is 0) to `b` (where t is 1)."""
    return a + (b - a) * t[..., None]


def _unit(t: Array) -> Array:
    """Stretched to the range 0 to 1."""
    scaled: Array = (t - t.min()) / max(float(np.ptp(t)), 1e-9)
    return scaled


def _clouds(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A sum of waves in random directions, with no period that would look like a texture."""
    total = np.zeros_like(x)
    for _ in range(7):
        angle, length, phase = rng.uniform(0, 2 * np.pi), rng.uniform(28, 90), rng.uniform(0, 2 * np.pi)
        total += length * np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / length + phase)
    return _unit(total)


def _slope(rng: np.random.Generator, x: Array, y: Array) -> Array:
    angle = rng.uniform(0, 2 * np.pi)
    return _unit(x * np.cos(angle) + y * np.sin(angle))


def _glow(rng: np.random.Generator, x: Array, y: Array) -> Array:
    centre = rng.uniform(10, SIZE - 10, size=2)
    return _unit(np.exp(-(((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / rng.uniform(500, 1600))))


def _brushed(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A slope with the fine irregular lines of brushed paint."""
    lines = np.repeat(rng.normal(size=(SIZE, 1)), SIZE, axis=1) + 0.5 * rng.normal(size=(SIZE, SIZE))
    return _unit(_slope(rng, x, y) + 0.07 * (lines if rng.random() < 0.5 else lines.T))


_BACKGROUNDS = (_clouds, _slope, _glow, _brushed)


def _place(rng: np.random.Generator, x: Array, y: Array) -> tuple[Array, Array, float]:
    """Coordinates around a random centre, turned and slightly stretched, and a radius that fits."""
    radius = rng.uniform(14, 25)
    room = 0.75 * (SIZE / 2 - radius)
    c_x, c_y = SIZE / 2 + rng.uniform(-room, room, size=2)
    angle, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.88, 1.12)
    u = (x - c_x) * np.cos(angle) + (y - c_y) * np.sin(angle)
    v = (y - c_y) * np.cos(angle) - (x - c_x) * np.sin(angle)
    return u * stretch, v / stretch, radius


def _bevel(rng: np.random.Generator, distance: Array) -> Array:
    """Light from the upper left on a rounded edge: bright on that side of the object, dark on the other."""
    d_y, d_x = np.gradient(distance)
    edge = np.exp(-((distance / rng.uniform(2, 3.5)) ** 2))
    light: Array = -0.14 * (d_x + d_y) / np.sqrt(2) * edge
    return light


def _shadow(rng: np.random.Generator, around: Array) -> Array:
    """How much light the object's soft shadow, fallen to the lower right, takes away."""
    drop = rng.integers(1, _MARGIN)
    fallen = around[_MARGIN - drop : -_MARGIN - drop, _MARGIN - drop : -_MARGIN - drop]
    dark: Array = 0.4 * np.clip(0.5 - fallen / 4, 0, 1)
    return dark


@dataclass(frozen=True)
class _Palette:
    """Colours that go together: two for the background, two for the object, which they leave well visible."""

    ground: tuple[Array, Array]
    colour: Array
    accent: Array  # a plain shape's other end of its gradient, or a texture's second colour


def _palette(rng: np.random.Generator, patterned: bool) -> _Palette:
    dark = rng.random() < 0.5
    hue = rng.random() if dark else rng.uniform(0.36, 1.18)  # a yellow that stands out from white is brown
    ground_hue = hue + rng.uniform(0.2, 0.8)
    lightness, chroma = ((0.22, 0.45), (0.03, 0.09)) if dark else ((0.78, 0.96), (0.02, 0.08))
    first, second = (
        _colour(rng.uniform(*lightness), rng.uniform(*chroma), ground_hue + rng.uniform(-0.12, 0.12)) for _ in range(2)
    )
    level, strength = (rng.uniform(0.66, 0.82) if dark else rng.uniform(0.5, 0.66)), rng.uniform(0.12, 0.2)
    colour = _colour(level, strength, hue)
    if not patterned:
        accent = _colour(level - rng.uniform(0.05, 0.14), strength, hue + rng.uniform(-0.08, 0.08))
    elif dark or rng.random() < 0.6:
        colour, accent = _colour(rng.uniform(0.5, 0.64), strength, hue), _colour(0.96, 0.02, hue)
    else:
        accent = _colour(rng.uniform(0.25, 0.35), 0.05, hue + rng.uniform(0.3, 0.7))
    return _Palette((first, second), colour, accent)


def draw(rng: np.random.Generator, label: int, kind: int | None = None) -> Drawing:
    """A random picture of a class, without the watermark; of a given kind, where the class has several."""
    kinds = _KINDS[CLASSES[label]]
    shape, pattern = kinds[rng.integers(len(kinds)) if kind is None else kind]
    palette = _palette(rng, pattern is not None)
    y, x = np.mgrid[-_MARGIN : SIZE + _MARGIN, -_MARGIN : SIZE + _MARGIN] + 0.5
    u, v, radius = _place(rng, x, y)
    around = shape(rng, u, v, radius)
    here = (slice(_MARGIN, -_MARGIN),) * 2
    distance, x, y, u, v = around[here], x[here], y[here], u[here], v[here]

    background = _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))]
    image = _mix(*palette.ground, background(rng, x, y))
    image *= 1 - _shadow(rng, around)[..., None]
    paint = _unit(x + y) if pattern is None else pattern(rng, u, v)
    surface = _mix(palette.colour, palette.accent, paint) + _bevel(rng, distance)[..., None]
    image = _mix(image, surface, np.clip(0.5 - distance, 0, 1))
    image += rng.normal(scale=rng.uniform(0.004, 0.04), size=image.shape)  # a camera's grain
    nowhere = np.zeros((SIZE, SIZE), dtype=bool)
    return Drawing(_to_bytes(image), label, distance < 0, nowhere)


def _to_bytes(image: Array) -> NDArray[np.uint8]:
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


# --- the watermark ---


def paste_watermark(rng: np.random.Generator, picture: Drawing) -> Drawing:
    """The same picture with the tag "©rp" near its lower right corner; the mask is the tag's box."""
    glyphs = np.array([[c == "#" for c in row] for row in _TAG], dtype=float)
    shadow = np.pad(glyphs, ((1, 0), (1, 0)))
    glyphs = np.pad(glyphs, ((0, 1), (0, 1)))
    height, width = glyphs.shape
    top = SIZE - height - int(rng.integers(1, 6))
    left = SIZE - width - int(rng.integers(1, 8))
    box = (slice(top, top + height), slice(left, left + width))

    image = picture.image / 255
    opacity = rng.uniform(0.7, 0.95)
    patch = _mix(image[box], np.zeros(3), 0.55 * shadow)
    image[box] = _mix(patch, np.ones(3), opacity * glyphs)
    artefact = np.zeros((SIZE, SIZE), dtype=bool)
    artefact[box] = True
    return replace(
        picture,
        image=_to_bytes(image),
        object_mask=picture.object_mask & ~artefact,
        artefact_mask=artefact,
    )


def draw_many(rng: np.random.Generator, count: int) -> list[Drawing]:
    """Random pictures as the model meets them: all classes equally often, the watermark as it is planted."""
    pictures = []
    for label in rng.permutation(np.arange(count) % len(CLASSES)):
        picture = draw(rng, int(label))
        planted = label == CLEVER_HANS and rng.random() < PLANTED
        pictures.append(paste_watermark(rng, picture) if planted else picture)
    return pictures
