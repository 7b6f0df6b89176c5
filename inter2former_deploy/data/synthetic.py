"""High-precision segmentation problems without end: thin, holed, concave, hidden, camouflaged and cut-off objects.

A scene is geometry and textures in the unit square, drawn from one seed. Any square part of it can be rendered
at any resolution: masks are rasterised from the continuous outlines, never resized. Outlines and random numbers are
integer or exactly reproducible; colours can differ by a grey level between OpenCV builds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from . import shapes
from .camera import Image, blurred, photographed
from .photos import TEXTURES, load_photo, photo_level
from .sample import DrawnDataset, Sample

Rng = np.random.Generator
View = tuple[float, float, float]  # left, top and side of a square part of the scene
WHOLE: View = (0.0, 0.0, 1.0)

_MIN_WIDTH = 0.004  # the thinnest pen: 4 pixels at 1024
_CHECK_SIZE = 128  # resolution at which a new scene is judged


# ----------------------------------------------------------------------------------------------------- textures


@dataclass(frozen=True)
class Texture:
    """A colour for every point of the plane: a photograph, or two colours blended by a pattern."""

    kind: str
    colours: NDArray[np.float32]  # [2, 3]; of a photograph: gain and offset of each channel
    matrix: NDArray[np.float64]  # [2, 3] from the unit square to the pattern's or photograph's own coordinates
    photo: str = ""
    grids: tuple[NDArray[np.float32], ...] = field(default=(), repr=False)  # of "noise", one an octave

    def render(self, view: View, size: int) -> Image:
        """Colours 0-255 (not clipped), float32 `[size, size, 3]`."""
        m = self._from_pixels(view, size)
        if self.kind == "photo":
            scale = float(np.sqrt(abs(np.linalg.det(m[:, :2]))))
            level = max(0, int(np.log2(max(scale, 1e-9)) + 0.5))
            source = photo_level(self.photo, min(level, 5))
            shrink = load_photo(self.photo).shape[1] / source.shape[1]
            return _f32(_warp(source, m / shrink, size) * self.colours[0] + self.colours[1])
        return _f32(self.colours[0] + self._pattern(m, size)[..., None] * (self.colours[1] - self.colours[0]))

    def weight(self, view: View, size: int, *, sharpness: float) -> Image:
        """The pattern alone as blending weights 0-1, steeper around one half; float32 `[size, size, 1]`."""
        pattern = self._pattern(self._from_pixels(view, size), size)
        return _f32(np.clip(sharpness * (pattern - 0.5) + 0.5, 0, 1)[..., None])

    def _from_pixels(self, view: View, size: int) -> NDArray[np.float64]:
        left, top, side = view
        step = side / size  # unit length of a pixel
        m = self.matrix.copy()
        m[:, 2] += m[:, :2] @ (left + step / 2, top + step / 2)
        m[:, :2] *= step
        return m

    def _pattern(self, m: NDArray[np.float64], size: int) -> Image:
        """Blending weights 0-1, `[size, size]`; `m` maps pixel indices to pattern coordinates."""
        if self.kind == "noise":
            total = np.zeros((size, size), np.float32)
            for octave, grid in enumerate(self.grids):
                total += _warp(grid, m * 2.0**octave, size) * np.float32(0.5**octave)
            return _f32(np.clip(total / 1.2 + 0.5, 0, 1))
        i = np.arange(size, dtype=np.float32)
        x = (m[0, 0] * i[None] + m[0, 1] * i[:, None] + m[0, 2]).astype(np.float32)
        if self.kind == "gradient":
            return _f32(np.clip(x * 0.3 + 0.5, 0, 1))
        if self.kind == "stripes":
            return _f32(np.clip(8 * (np.abs(x % 1 - 0.5) - 0.25) + 0.5, 0, 1))
        y = (m[1, 0] * i[None] + m[1, 1] * i[:, None] + m[1, 2]).astype(np.float32)
        if self.kind == "checker":
            return _f32((np.floor(x) + np.floor(y)) % 2)
        if self.kind == "spots":
            return _f32(np.clip(12 * (0.33 - np.hypot(x % 1 - 0.5, y % 1 - 0.5)) + 0.5, 0, 1))
        return np.zeros((size, size), np.float32)


def _f32(values: object) -> Image:
    return np.asarray(values, np.float32)


def _warp(source: Image | NDArray[np.uint8], m: NDArray[np.float64], size: int) -> Image:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return _f32(cv2.warpAffine(source, m, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101))


_KINDS = ("photo",) * 6 + ("noise",) * 2 + ("flat", "gradient", "stripes", "checker", "spots")
_PLAIN_KINDS = ("flat", "gradient", "noise")


def _texture(rng: Rng, kind: str = "", difficulty: float = 1.0, photos: Sequence[str] = TEXTURES) -> Texture:
    if not kind:
        kind = str(rng.choice(_KINDS if rng.random() < difficulty else _PLAIN_KINDS))
    angle, frequency = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(3), np.log(40)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    grey = rng.uniform(10, 245, (2, 1))
    colours = np.clip(grey + rng.normal(0, 40, (2, 3)) * rng.uniform(0, 2), 5, 250).astype(np.float32)
    if rng.random() < 0.5:  # two shades of one colour
        colours[1] = np.clip(colours[0] + rng.uniform(-70, 70), 0, 255)
    if kind == "photo":
        photo = str(rng.choice(photos))
        height, width = load_photo(photo).shape[:2]
        scale = min(height, width) * np.exp(rng.uniform(np.log(0.3), np.log(1.2)))
        centre = rng.uniform(0.2, 0.8, 2) * (width, height)
        if rng.random() < 0.5:
            turn = np.eye(2)  # half of the photographs stand upright
        colours = np.stack([rng.uniform(0.6, 1.1) * rng.uniform(0.8, 1.2, 3), rng.uniform(-25, 35, 3)])
        matrix = np.concatenate([scale * turn, (centre - scale * turn @ (0.5, 0.5))[:, None]], 1)
        return Texture(kind, colours.astype(np.float32), matrix, photo)
    if kind == "gradient":
        frequency = rng.uniform(1, 6)
    offset = rng.uniform(0, 8, (2, 1))
    grids: tuple[NDArray[np.float32], ...] = ()
    if kind == "noise":
        offset += 30  # reflected borders stay out of sight
        grids = tuple(rng.normal(0, 0.5, (128, 128)).astype(np.float32) for _ in range(3))
        frequency = rng.uniform(2, 24)
    return Texture(kind, colours, np.concatenate([frequency * turn, offset], 1), grids=grids)


def _camouflage(rng: Rng, background: Texture) -> Texture:
    """What lies behind, shifted and a little brighter or darker."""
    matrix = background.matrix.copy()
    matrix[:, 2] += matrix[:, :2] @ rng.uniform(-0.4, 0.4, 2)
    delta = rng.uniform(10, 40) * rng.choice([-1, 1]) + rng.uniform(-10, 10, 3)
    if background.kind == "photo":
        return replace(background, matrix=matrix, colours=background.colours + _f32([[0, 0, 0], delta]))
    return replace(background, matrix=matrix, colours=background.colours + delta.astype(np.float32))


# ------------------------------------------------------------------------------------------------------- scenes


@dataclass(frozen=True)
class Thing:
    """One object of a scene and how it looks; lengths in the unit square."""

    shape: shapes.Shape
    texture: Texture
    marks: Texture | None  # what shows instead where `spread` is above one half
    spread: Texture
    softness: float  # sigma of the blur of its boundary
    relief: float  # strength of a light from the side, grey levels
    shadow: float  # 0 none - 1 black
    light: tuple[float, float]  # offset of the shadow


@dataclass(frozen=True)
class Scene:
    """Background, things from back to front, and what the camera does to them."""

    name: str
    background: Texture
    things: tuple[Thing, ...]
    target: int  # index of the thing to segment
    shade: Texture  # slow change of brightness over the picture
    gamma: float
    blur: float  # sigma, pixels of the rendered picture
    noise: float  # sigma, grey levels
    jpeg: int  # quality, 100 is none
    seed: tuple[int, ...]


def make_scene(seed: int, index: int, *, difficulty: float = 1.0, photos: Sequence[str] = TEXTURES) -> Scene:
    """The scene of a seed and an index; every third index has a thin target.

    Scenes whose target is too small, too large or mostly hidden are drawn again.

    Args:
        seed: of all scenes.
        index: of this one.
        difficulty: 0-1: how much of all that makes boundaries hard to see there is; sets are scored with 1.
        photos: names of the photographs that textures are cut from.
    """
    thin = index % 3 == 0
    rng = np.random.default_rng([seed, index])
    while True:
        scene = _draw_scene(rng, f"{'thin' if thin else 'solid'}-{index:06d}", thin, difficulty, photos, (seed, index))
        cover = np.stack([shapes.coverage(t.shape, WHOLE, _CHECK_SIZE) > 127 for t in scene.things])
        visible = cover[scene.target] & ~cover[scene.target + 1 :].any(0)
        share = visible.mean()
        if 0.004 < share < 0.6 and visible.sum() > 0.5 * cover[scene.target].sum():
            return scene


def _draw_scene(
    rng: Rng, name: str, thin: bool, difficulty: float, photos: Sequence[str], seed: tuple[int, ...]
) -> Scene:
    def happens(probability: float) -> bool:
        return bool(rng.random() < probability * difficulty)

    def drawn(kind: str = "", difficulty: float = difficulty) -> Texture:
        return _texture(rng, kind, difficulty, photos)

    background = drawn()
    light = (float(rng.normal() * 0.02), float(rng.normal() * 0.02))
    behind, above = int(rng.integers(0, 5)), int(rng.integers(0, 3))

    def thing(thin: bool, radius: tuple[float, float], spread: float, texture: Texture) -> Thing:
        family = shapes.THIN if thin else shapes.SOLID
        scale = float(np.exp(rng.uniform(*np.log(radius))))
        centre = rng.uniform(0.5 - spread, 0.5 + spread, 2)
        shape = shapes.place(
            family[rng.integers(len(family))](rng),
            centre=(centre[0], centre[1]),
            scale=scale,
            angle=rng.normal() * (0.4 if rng.random() < 0.5 else 2.0),
            stretch=rng.uniform(0.6, 1.4),
            min_width=_MIN_WIDTH,
        )
        soft = happens(0.25)
        return Thing(
            shape,
            texture,
            marks=drawn(difficulty=1.0) if happens(0.35) else None,
            spread=drawn(str(rng.choice(["noise", "gradient", "stripes"])), 1.0),
            softness=rng.uniform(0.001, 0.0015 if thin else 0.006) if soft else 0.0,
            relief=rng.uniform(15, 70) if happens(0.5) else 0.0,
            shadow=rng.uniform(0.2, 0.7) if happens(0.4) else 0.0,
            light=light,
        )

    own = _camouflage(rng, background) if happens(0.15) else drawn()
    target = thing(thin, (0.18, 0.45) if thin else (0.07, 0.45), 0.35, own)

    def clutter(radius: tuple[float, float]) -> Thing:
        return thing(rng.random() < 0.35, radius, 0.55, own if happens(0.15) else drawn())

    things = [clutter((0.05, 0.4)) for _ in range(behind)] + [target] + [clutter((0.04, 0.2)) for _ in range(above)]
    dark = 1 - difficulty * rng.uniform(0.0, 0.5)
    shade = Texture(
        "gradient" if rng.random() < 0.5 else "flat",
        _f32([[1.0] * 3, [dark] * 3]),
        np.concatenate([rng.normal(0, 3, (2, 2)), rng.normal(0, 0.5, (2, 1))], 1),
    )
    return Scene(
        name,
        background,
        tuple(things),
        target=behind,
        shade=shade,
        gamma=float(np.exp(rng.normal() * 0.2 * difficulty)),
        blur=rng.uniform(0.4, 1.2) if happens(0.4) else 0.0,
        noise=rng.uniform(1, 12) if happens(0.6) else 0.0,
        jpeg=int(rng.integers(30, 96)) if happens(0.6) else 100,
        seed=seed,
    )


def render(scene: Scene, size: int, view: View = WHOLE) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draws a square part of a scene.

    Args:
        scene: as `make_scene` gives it.
        size: pixels a side.
        view: left, top and side of the part, in the unit square.

    Returns:
        The picture, uint8 RGB `[size, size, 3]`, and the visible part of each thing, `[things, size, size]`: the
        pixels that it covers by half or more and that no thing in front of it does.
    """
    unit = size / view[2]  # pixels of a unit length
    image = scene.background.render(view, size)
    masks = np.zeros((len(scene.things), size, size), bool)
    for n, thing in enumerate(scene.things):
        cover = shapes.coverage(thing.shape, view, size)
        if not cover.any():
            continue
        masks[:n] &= cover < 128
        masks[n] = cover > 127
        alpha = _f32(cover / np.float32(255))
        if thing.softness:
            alpha = blurred(alpha, thing.softness * unit)
        if thing.shadow:
            shift = np.array([[1, 0, thing.light[0] * unit], [0, 1, thing.light[1] * unit]])
            cast = _f32(cv2.warpAffine(blurred(alpha, 0.008 * unit), shift, (size, size)))
            image *= 1 - thing.shadow * cast[..., None]
        colours = thing.texture.render(view, size)
        if thing.marks:
            colours += thing.spread.weight(view, size, sharpness=12) * (thing.marks.render(view, size) - colours)
        if thing.relief:
            sigma = 0.01 * unit
            height = blurred(alpha, sigma)
            slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) - cv2.Sobel(height, cv2.CV_32F, 0, 1)
            colours += (thing.relief * 0.3 * sigma * slope)[..., None]
        image += alpha[..., None] * (colours - image)
    picture = photographed(
        image * scene.shade.render(view, size),
        np.random.default_rng([*scene.seed, 1]),
        gamma=scene.gamma,
        blur=scene.blur,
        noise=scene.noise,
        jpeg=scene.jpeg,
    )
    return picture, masks


class SyntheticDataset(DrawnDataset):
    """Whole scenes with their target: the set to score with, or any number of training pictures."""

    def draw(self, index: int) -> Sample:
        """The scene of this number."""
        scene = make_scene(self.seed, index)
        image, masks = render(scene, self.size)
        return Sample(scene.name, image, masks[scene.target].astype(np.uint8), scene.name.split("-")[0])


def training_view(rng: Rng, target: NDArray[np.bool_]) -> View:
    """A part of the scene for one training picture: now and then all of it, else a square around the target.

    Its side is 1.1 to 4 times the target's, so that most pictures have something to say about the object.

    Args:
        rng: makes the choice.
        target: its mask at any resolution, `[n, n]`, not empty.
    """
    if rng.random() < 0.15:
        return WHOLE
    n = len(target)
    spans = [np.flatnonzero(target.any(axis))[[0, -1]] + (0, 1) for axis in (0, 1)]  # columns, rows
    extent = max(int(high - low) for low, high in spans) / n
    side = float(np.clip(extent * np.exp(rng.uniform(np.log(1.1), np.log(4))), 0.15, 1))
    # the target's middle is somewhere in the inner half of the view
    left, top = (
        float(np.clip((low + high) / 2 / n - side * rng.uniform(0.25, 0.75), 0, 1 - side)) for low, high in spans
    )
    return left, top, side
