"""Outlines of synthetic objects in continuous coordinates, and their exact coverage of a pixel grid.

A shape is a list of primitives painted one over the other, each adding to the object or cutting from it.
Shapes are drawn around the origin with a radius of about 1 and then placed in the unit square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from .photos import load_photo

Points = NDArray[np.float64]  # [n, 2], x to the right, y down
SUPERSAMPLING = 4  # subpixels a pixel side
_SHIFT = 4  # fractional bits of OpenCV's integer coordinates


@dataclass(frozen=True)
class Primitive:
    """A filled polygon, or a polyline drawn with a round pen."""

    points: Points
    width: float = 0.0  # of the pen at the first point; 0 fills the polygon
    end_width: float | None = None  # of the pen at the last point, `width` when None
    cut: bool = False  # takes away instead of adding


Shape = list[Primitive]


def place(
    shape: Shape, centre: tuple[float, float], scale: float, angle: float, stretch: float, min_width: float
) -> Shape:
    """Scales (x by `stretch` more), turns and moves a shape; pens never get thinner than `min_width`."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = scale * np.array([[c * stretch, -s], [s * stretch, c]])

    def pen(width: float) -> float:
        return max(width * scale, min_width) if width else 0.0

    return [
        replace(
            p,
            points=p.points @ matrix.T + centre,
            width=pen(p.width),
            end_width=None if p.end_width is None else pen(p.end_width),
        )
        for p in shape
    ]


def coverage(shape: Shape, view: tuple[float, float, float], size: int) -> NDArray[np.uint8]:
    """The share of every pixel that a shape covers, 0-255, `[size, size]`.

    Args:
        shape: in the coordinates of `view`.
        view: left, top and side of the square that the pixel grid shows.
        size: pixels a side.
    """
    left, top, side = view
    scale = size * SUPERSAMPLING / side
    fixed = 1 << _SHIFT
    canvas = np.zeros((size * SUPERSAMPLING, size * SUPERSAMPLING), np.uint8)
    for p in shape:
        # subpixel i has its centre at i + 0.5
        points = np.round(((p.points - (left, top)) * scale - 0.5) * fixed)
        points = np.clip(points, -(2**24), 2**24).astype(np.int32)
        value = 0 if p.cut else 255
        if not p.width:
            cv2.fillPoly(canvas, [points], value, shift=_SHIFT)
            continue
        end = p.width if p.end_width is None else p.end_width
        if end == p.width:
            cv2.polylines(canvas, [points], False, value, max(1, round(p.width * scale)), cv2.LINE_8, _SHIFT)
            continue
        pens = np.linspace(p.width, end, len(points) - 1) * scale
        for a, b, width in zip(points[:-1].tolist(), points[1:].tolist(), pens, strict=True):
            cv2.line(canvas, a, b, value, max(1, round(width)), cv2.LINE_8, _SHIFT)
    return np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


# ------------------------------------------------------------------------------------------------ solid objects


def _circle(n: int, phase: float = 0.0) -> tuple[Points, NDArray[np.float64]]:
    angles = phase + np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1), angles


def _outline(rng: np.random.Generator, roughness: float, waves: int = 9) -> Points:
    """A smooth closed curve around the origin: radius 1 plus random waves."""
    circle, angles = _circle(160)
    radius = np.ones(len(angles))
    for k in range(2, waves):
        radius += roughness * rng.normal() / k**0.8 * np.cos(k * angles + rng.uniform(0, 2 * np.pi))
    return circle * np.maximum(radius, 0.15)[:, None]


def blob(rng: np.random.Generator) -> Shape:
    """A rounded lump, often concave."""
    return [Primitive(_outline(rng, rng.uniform(0.05, 0.35)))]


def polygon(rng: np.random.Generator) -> Shape:
    """A few corners at random radii, or a regular polygon."""
    n = int(rng.integers(3, 9))
    circle, _ = _circle(n, rng.uniform(0, 6))
    radius = np.ones((n, 1)) if rng.random() < 0.4 else rng.uniform(0.4, 1.2, (n, 1))
    return [Primitive(circle * radius)]


def star(rng: np.random.Generator) -> Shape:
    """A star, or a gear wheel with a hole."""
    n = int(rng.integers(4, 16))
    inner = rng.uniform(0.35, 0.8)
    if rng.random() < 0.5:
        circle, _ = _circle(2 * n)
        return [Primitive(circle * np.tile([1.0, inner], n)[:, None])]
    circle, _ = _circle(4 * n)
    inner = max(inner, 0.6)
    hole, _ = _circle(64)
    return [
        Primitive(circle * np.tile([1.0, 1.0, inner, inner], n)[:, None]),
        Primitive(hole * inner * rng.uniform(0.2, 0.8), cut=True),
    ]


def holes(rng: np.random.Generator) -> Shape:
    """A lump with one to seven holes in it."""
    n = int(rng.integers(1, 8))
    shape = blob(rng)
    circle, _ = _circle(n, rng.uniform(0, 6))
    ring = 0.0 if n == 1 else 0.55
    size = rng.uniform(0.3, 0.7) if n == 1 else rng.uniform(0.4, 0.9) * 1.4 / (n + 1)
    for centre in circle * ring:
        shape.append(Primitive(_outline(rng, 0.12) * size + centre, cut=True))
    return shape


def frame(rng: np.random.Generator) -> Shape:
    """A rectangle with rows of windows."""
    rows, columns = (int(v) for v in rng.integers(1, 5, 2))
    bar = rng.uniform(0.08, 0.35)
    square = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    shape = [Primitive(square)]
    for y in range(rows):
        for x in range(columns):
            centre = [(2 * x + 1) / columns - 1, (2 * y + 1) / rows - 1]
            shape.append(Primitive(square * [(1 - bar) / columns, (1 - bar) / rows] + centre, cut=True))
    return shape


def cup(rng: np.random.Generator) -> Shape:
    """A vessel with one or two handles to see through."""
    foot, neck = rng.uniform(0.3, 0.8), rng.uniform(0.4, 0.9)
    t = np.linspace(-0.9, 0.9, 40)
    profile = np.interp(t, [-0.9, 0, 0.9], [neck, rng.uniform(0.4, 0.9), foot])
    profile = profile + rng.uniform(0, 0.12) * np.sin(5 * t + rng.uniform(0, 6))
    body = np.concatenate([np.stack([profile, t], 1), np.stack([-profile, t], 1)[::-1]])
    circle, _ = _circle(49)
    handle = np.concatenate([circle, circle[:1]]) * [rng.uniform(0.25, 0.5), rng.uniform(0.3, 0.6)]
    pen = rng.uniform(0.05, 0.16)
    places = np.array([[0.65, rng.uniform(-0.2, 0.2)], [-0.65, rng.uniform(-0.2, 0.2)]])
    places = places[: 2 if rng.random() < 0.4 else 1]
    return [*(Primitive(handle + p, pen) for p in places), Primitive(body)]


def leaf(rng: np.random.Generator) -> Shape:
    """A pointed leaf with a toothed border and a stalk."""
    t = np.linspace(0, np.pi, 90)
    width = rng.uniform(0.25, 0.7)
    teeth = 1 + rng.uniform(0, 0.25) * np.abs(np.sin(t * rng.integers(3, 15)))
    half = np.stack([-np.cos(t), width * np.sin(t) ** rng.uniform(0.8, 1.6) * teeth], 1)
    stalk = np.array([[0.9, 0.0], [1.2, 0.03], [1.6, rng.uniform(-0.3, 0.3)]])
    return [Primitive(np.concatenate([half, half[::-1] * [1, -1]])), Primitive(stalk, 0.08, 0.05)]


def horse(rng: np.random.Generator) -> Shape:
    """The silhouette of scikit-image's horse."""
    dark = (load_photo("horse")[..., 0] < 128).astype(np.uint8)
    contours, _ = cv2.findContours(dark, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = max(contours, key=len)[:, 0].astype(np.float64) + 0.5
    # smooth the pixel staircase: the outline must hold at any resolution
    kernel = np.hanning(9)
    points = np.stack([np.convolve(np.pad(c, 4, mode="wrap"), kernel / kernel.sum(), "valid") for c in points.T], 1)
    points = (points - points.mean(0)) / 160
    return [Primitive(points * [1 if rng.random() < 0.5 else -1, 1])]


# ------------------------------------------------------------------------------------------------- thin objects


def _curve(rng: np.random.Generator, n: int, waves: int = 4) -> Points:
    """An open smooth curve of `n` points through a disc of radius about 1."""
    t = np.linspace(0, 1, n)[:, None]
    return sum(
        (rng.normal(size=2) * 0.9 / k * np.cos(np.pi * k * t + rng.uniform(0, 6, 2)) for k in range(1, waves + 1)),
        np.zeros((n, 2)),
    )


def scribble(rng: np.random.Generator) -> Shape:
    """A wire: one to three loose curves of one pen, often crossing themselves."""
    pen = rng.uniform(0.02, 0.08)
    return [Primitive(_curve(rng, 120, int(rng.integers(3, 8))), pen) for _ in range(rng.integers(1, 4))]


def spiral(rng: np.random.Generator) -> Shape:
    """A spiral whose pen changes along the way."""
    turns = rng.uniform(1.5, 4)
    angles = np.linspace(0, turns * 2 * np.pi, 140)
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * np.linspace(0.06, 1, 140)[:, None]
    pen = rng.uniform(0.1, 0.4) / turns
    return [Primitive(points, pen, pen * rng.uniform(0.3, 1))]


def tree(rng: np.random.Generator) -> Shape:
    """A branching tree, bare or with leaves."""
    shape: Shape = []
    spread, shrink = rng.uniform(0.3, 0.8), rng.uniform(0.6, 0.8)
    leaves = rng.random() < 0.3
    circle, _ = _circle(12)

    def grow(start: Points, angle: float, length: float, pen: float, depth: int) -> None:
        angles = angle + np.cumsum(rng.normal(0, 0.12, 5))
        steps = np.stack([np.cos(angles), np.sin(angles)], 1) * length / 5
        points = start + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])
        shape.append(Primitive(points, pen, pen * shrink))
        if depth == 0:
            if leaves:
                shape.append(Primitive(circle * rng.uniform(0.03, 0.09) * [1, 0.6] + points[-1]))
            return
        for turn in (-spread, spread, *([0.0] if rng.random() < 0.3 else [])):
            grow(points[-1], angle + turn * rng.uniform(0.5, 1.3), length * shrink, pen * shrink, depth - 1)

    grow(np.array([0.0, 1.0]), -np.pi / 2, rng.uniform(0.5, 0.7), rng.uniform(0.05, 0.14), int(rng.integers(3, 6)))
    return shape


def wheel(rng: np.random.Generator) -> Shape:
    """A rim with spokes and a hub, or two of them joined by a frame: a bicycle."""
    circle, _ = _circle(73)
    circle = np.concatenate([circle, circle[:1]])
    pen, spokes, thin = rng.uniform(0.04, 0.15), int(rng.integers(3, 17)), rng.uniform(0.015, 0.05)

    def one(centre: tuple[float, float], radius: float) -> Shape:
        ends, _ = _circle(spokes, 0.3)
        lines = [Primitive(np.array([[0.0, 0.0], e]) * radius + centre, thin) for e in ends]
        return [Primitive(circle * radius + centre, pen), *lines, Primitive(circle * radius * 0.12 + centre)]

    if rng.random() < 0.5:
        return one((0, 0), 1.0)
    joints = np.array([[-0.62, 0.3], [-0.25, -0.3], [0.4, -0.3], [0.62, 0.3], [0.33, -0.5], [-0.05, 0.3]])
    bars = [joints[[0, 1, 2, 3]], joints[[0, 5, 1]], joints[[5, 2, 4]]]
    return one((-0.62, 0.3), 0.38) + one((0.62, 0.3), 0.38) + [Primitive(b, pen * 0.6) for b in bars]


def fence(rng: np.random.Generator) -> Shape:
    """Bars and rails, or a net of crossing wires."""
    n, m = int(rng.integers(3, 12)), int(rng.integers(2, 6))
    pen = rng.uniform(0.1, 0.4) / n
    bars = [np.array([[x, -1.0], [x + rng.normal() * 0.02, 1.0]]) for x in np.linspace(-1, 1, n)]
    rails = [np.array([[-1.0, y], [1.0, y]]) for y in np.linspace(-0.8, 0.8, m)]
    return [Primitive(line, pen) for line in bars + rails]


def insect(rng: np.random.Generator) -> Shape:
    """A body with thin, bent legs and feelers."""
    shape = [Primitive(_outline(rng, 0.08) * [rng.uniform(0.35, 0.6), rng.uniform(0.15, 0.3)])]
    pen = rng.uniform(0.02, 0.05)
    for x in np.linspace(-0.4, 0.4, int(rng.integers(3, 6))):
        for side in (-1, 1):
            knee = [x * 1.6 + rng.normal() * 0.05, side * rng.uniform(0.35, 0.6)]
            foot = [x * 2.2 + rng.normal() * 0.1, side * rng.uniform(0.6, 1.0)]
            shape.append(Primitive(np.array([[x, 0.0], knee, foot]), pen, pen * 0.6))
    return shape


def chair(rng: np.random.Generator) -> Shape:
    """A seat on legs with a slatted back."""
    pen, slats = rng.uniform(0.04, 0.1), int(rng.integers(2, 7))
    seat = np.array([[-0.6, 0.1], [0.5, 0.1], [0.65, 0.28], [-0.45, 0.28]])
    legs = [np.array([seat[i], seat[i] + [rng.normal() * 0.06, 0.75]]) for i in range(4)]
    back = [np.array([[x, 0.1], [x, -0.9]]) for x in np.linspace(-0.57, 0.47, slats)]
    top = [np.array([[-0.6, -0.9], [0.5, -0.9]]), np.array([[-0.6, -0.5], [0.5, -0.5]])]
    return [Primitive(seat), *(Primitive(line, pen) for line in legs + back + top)]


def fern(rng: np.random.Generator) -> Shape:
    """A bent spine with thin leaflets on both sides."""
    n = int(rng.integers(8, 22))
    t = np.linspace(0, 1, n)
    spine = np.stack([np.sin(t * rng.uniform(-1.5, 1.5)) * 0.7, 1 - 2 * t], 1)
    pen, slant = rng.uniform(0.015, 0.05), rng.uniform(-0.2, 0.6)
    shape = [Primitive(spine, pen * 1.6, pen)]
    for point, reach in zip(spine[1:-1], 0.7 * np.sin(np.pi * (0.12 + 0.85 * (1 - t[1:-1]))), strict=True):
        tips = point + reach * np.array([[-1, -slant], [1, -slant]])
        shape += [Primitive(np.stack([point, tip]), pen * 1.5, pen) for tip in tips]
    return shape


def truss(rng: np.random.Generator) -> Shape:
    """Two girders joined by a zigzag, on a mast or not: ladders, cranes, masts."""
    n, height, pen = int(rng.integers(4, 12)), rng.uniform(0.12, 0.3), rng.uniform(0.025, 0.06)
    x = np.linspace(-1, 1, n)
    sides = [np.stack([x, np.full(n, y)], 1) for y in (-height, height)]
    zigzag = np.stack([x, np.where(np.arange(n) % 2, height, -height)], 1)
    mast = [np.array([[0.3, height], [0.3, 1.0]])] if rng.random() < 0.5 else []
    return [Primitive(line, pen) for line in [*sides, zigzag, *mast]]


SOLID: tuple[Callable[[np.random.Generator], Shape], ...] = (blob, blob, polygon, star, holes, frame, cup, leaf, horse)
THIN: tuple[Callable[[np.random.Generator], Shape], ...] = (
    scribble,
    spiral,
    tree,
    wheel,
    fence,
    insect,
    chair,
    fern,
    truss,
)
