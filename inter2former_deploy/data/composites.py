"""Cut-outs set into photographs: pictures with exact masks of photographed things.

A folder of composites has the folders `cutouts` (pictures with alpha) and `backgrounds` (photographs). A scene is drawn
from random numbers: several things, some of them of the target's kind or the target's own picture once more, in the
light of the place where they stand, with shadows, out of focus, cut off and partly hidden; then what a camera does to
the whole. A mask holds the pixels that a thing in focus covers by half or more and that nothing in front of it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from inter2former_deploy.core.pictures import picture_files

from .camera import Image, blurred, photographed
from .sample import HELD_OUT_SEED, DataError, DrawnDataset, Sample, read_image, size_group

Rng = np.random.Generator
Mask = NDArray[np.bool_]

LARGEST_CUTOUT = 1 << 24  # pixels; larger files are refused before they are decoded

_SHARES = (0.01, 0.6)  # of the picture that a target covers, visible or not
_LEAST_VISIBLE = 0.5  # of a target
_SMALLEST_SIDE = 48  # pixels of a cut-out that is used at all
_ENLARGED = 3.0  # a cut-out is enlarged more than this only where too few are larger
_BACKGROUND_SIDE = 1600  # pixels of the shorter side; larger photographs are reduced to it
_TRIES = 200  # at a scene whose target is seen well enough


@dataclass(frozen=True)
class Cutout:
    """A thing's picture, cut to where it is."""

    colours: NDArray[np.uint8]  # [h, w, 3] RGB
    alpha: NDArray[np.uint8]  # [h, w]
    kind: str  # the folder that it comes from

    @property
    def side(self) -> float:
        """Of a square with as many pixels as the thing has."""
        return float(np.sqrt((self.alpha > 127).sum()))


class Composites:
    """The pictures that scenes are made of; all cut-outs are kept in memory, four bytes a pixel.

    Args:
        folder: with `cutouts` and `backgrounds`, each searched with the folders in it.

    Raises:
        DataError: one of them is missing or has no picture that can be used; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cutouts = [c for c in map(_read_cutout, _pictures(folder / "cutouts")) if c is not None]
        if not self.cutouts:
            raise DataError(
                f"{folder / 'cutouts'}: no picture with alpha whose thing is {_SMALLEST_SIDE} pixels wide or high"
            )
        self.backgrounds = _pictures(folder / "backgrounds")
        self._sides = np.array([c.side for c in self.cutouts])
        self._kinds = np.array([c.kind for c in self.cutouts])

    def check(self) -> None:
        """Reads every background once.

        Raises:
            DataError: one of them cannot be read.
        """
        for path in self.backgrounds:
            read_image(path)

    def draw(self, rng: Rng, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], int]:
        """A scene; those whose target is mostly hidden are drawn again.

        Args:
            rng: all choices.
            size: pixels a side.

        Returns:
            The picture, uint8 RGB `[size, size, 3]`; the visible part of each thing, bool `[things, size, size]`; and
            which of them is the target.

        Raises:
            DataError: a background cannot be read, or no scene shows enough of its target: the cut-outs are too thin
                or too transparent.
        """
        for _ in range(_TRIES):
            things, target = self._things(rng, size)
            cover = np.stack([alpha >= 0.5 for _, alpha in things])
            masks = cover.copy()
            for n in range(len(masks)):
                masks[n] &= ~cover[n + 1 :].any(0)
            visible = masks[target].sum()
            if visible >= max(_LEAST_VISIBLE * cover[target].sum(), 0.5 * _SHARES[0] * size**2):
                return self._composed(rng, size, things), masks, target
        raise DataError(
            f"{self.folder / 'cutouts'}: none of {_TRIES} scenes of {size} pixels shows enough of its target; "
            "use cut-outs that are less thin or less transparent"
        )

    def _things(self, rng: Rng, size: int) -> tuple[list[tuple[Image, Image]], int]:
        """Colours and alpha of every thing on the whole picture, from back to front, and the target's place."""
        share = float(np.exp(rng.uniform(*np.log(_SHARES))))
        chosen = self._choose(rng, np.sqrt(share) * size)
        things = [self._place(rng, chosen, share, size)]
        alike = np.flatnonzero(self._kinds == self.cutouts[chosen].kind)
        twins = rng.random() < 0.4
        for _ in range(rng.integers(0, 5)):
            if twins and rng.random() < 0.8:
                other = chosen if rng.random() < 0.5 else int(rng.choice(alike))
                other_share = share * float(np.exp(rng.uniform(-1, 0.5)))
            else:
                other_share = float(np.exp(rng.uniform(np.log(0.005), np.log(0.25))))
                other = self._choose(rng, np.sqrt(other_share) * size)
            things.append(self._place(rng, other, min(other_share, 0.4), size))
        order = rng.permutation(len(things))
        return [things[i] for i in order], int(np.flatnonzero(order == 0)[0])

    def _choose(self, rng: Rng, side: float) -> int:
        """A cut-out that need not be enlarged much to cover a square of this side."""
        enough = np.flatnonzero(self._sides * _ENLARGED >= side)
        if len(enough) < min(8, len(self._sides)):
            enough = np.argsort(-self._sides)[:8]
        return int(rng.choice(enough))

    def _place(self, rng: Rng, which: int, share: float, size: int) -> tuple[Image, Image]:
        """A cut-out turned, stretched and mirrored, its colours changed; [size, size, 3] and [size, size]."""
        cutout = self.cutouts[which]
        scale = np.sqrt(share) * size / cutout.side
        angle = rng.normal() * (0.2 if rng.random() < 0.7 else 1.5)
        stretch = np.exp(rng.normal() * 0.1)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = scale * turn @ np.diag([stretch * rng.choice([-1, 1]), 1 / stretch])  # cut-out to picture
        height, width = cutout.alpha.shape
        extent = np.abs(matrix) @ (width, height) / 2
        low, high = np.minimum(0.6 * extent, size / 2), np.maximum(size - 0.6 * extent, size / 2)
        centre = rng.uniform(low, high) if rng.random() < 0.8 else rng.uniform(0.05, 0.95, 2) * size
        shift = centre - matrix @ ((width - 1) / 2, (height - 1) / 2)
        rgba = np.dstack([cutout.colours, cutout.alpha]).astype(np.float32)
        rgba[..., :3] *= rgba[..., 3:] / 255
        if scale < 0.7:
            rgba = np.asarray(cv2.GaussianBlur(rgba, (0, 0), 0.4 / scale, borderType=cv2.BORDER_CONSTANT), np.float32)
        flags = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_LINEAR
        placed = np.asarray(
            cv2.warpAffine(rgba, np.column_stack([matrix, shift]), (size, size), flags=flags), np.float32
        )
        if scale > 1.5:  # a border as soft as that of the rest, not as the enlargement makes it
            sharper = min(scale, 1 + rng.exponential(2.0))
            alpha = np.clip((placed[..., 3] / 255 - 0.5) * sharper + 0.5, 0, 1)
        else:
            alpha = np.clip(placed[..., 3] / 255, 0, 1)
        colours = placed[..., :3] / np.maximum(placed[..., 3:] / 255, 0.05)
        gain = rng.uniform(0.75, 1.25) * rng.uniform(0.92, 1.08, 3)
        return np.clip(colours * gain, 0, 255).astype(np.float32), alpha.astype(np.float32)

    def _composed(self, rng: Rng, size: int, things: list[tuple[Image, Image]]) -> NDArray[np.uint8]:
        """The picture of a photograph with the things on it."""
        image = self._background(rng, size)
        if rng.random() < 0.3:
            image = blurred(image, size * rng.uniform(0.001, 0.008))
        light = rng.normal(size=2) * 0.015 * size
        shadows = rng.random() < 0.6
        strength = rng.uniform(0.15, 0.6)
        for colours, alpha in things:
            colours = self._detailed(rng, colours, size)
            colours = _lit(rng, colours, alpha, image)
            if rng.random() < 0.25:  # out of focus
                sigma = size * rng.uniform(0.0005, 0.004)
                colours, alpha = _unfocused(colours, alpha, sigma)
            if shadows:
                moved = np.array([[1, 0, light[0]], [0, 1, light[1]]])
                cast = cv2.warpAffine(blurred(alpha, size * 0.008), moved, (size, size))
                image = image * (1 - strength * np.asarray(cast, np.float32)[..., None])
            image = image + alpha[..., None] * (colours - image)
        return photographed(
            image,
            rng,
            gamma=float(np.exp(rng.normal() * 0.15)),
            blur=rng.uniform(0.4, 1.2) if rng.random() < 0.4 else 0.0,
            noise=rng.uniform(1, 10) if rng.random() < 0.6 else 0.0,
            jpeg=int(rng.integers(40, 96)) if rng.random() < 0.6 else 100,
        )

    def _background(self, rng: Rng, size: int) -> Image:
        """A square part of a photograph, mirrored at random."""
        photo = _photo(self.backgrounds[rng.integers(len(self.backgrounds))])
        shortest = min(photo.shape[:2])
        side = int(shortest * rng.uniform(0.4, 1.0))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
        part = photo[top : top + side, left : left + side]
        if rng.random() < 0.5:
            part = part[:, ::-1]
        method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        return np.clip(cv2.resize(np.ascontiguousarray(part), (size, size), interpolation=method), 0, 255).astype(
            np.float32
        )

    def _detailed(self, rng: Rng, colours: Image, size: int) -> Image:
        """Fine texture of another photograph on some things: enlarged ones have none of their own."""
        if rng.random() < 0.5:
            return colours
        texture = self._background(rng, size).mean(-1, keepdims=True)
        fine = texture - blurred(np.asarray(texture[..., 0]), size * 0.01)[..., None]
        return np.asarray(colours + rng.uniform(0.1, 0.6) * fine, np.float32)


def _lit(rng: Rng, colours: Image, alpha: Image, image: Image) -> Image:
    """A thing in the light of the place where it stands: its mean and spread are moved towards what lies behind it."""
    weight = alpha[::4, ::4, None]
    total = float(weight.sum()) + 1e-3
    mean, behind = ((weight * x[::4, ::4]).sum((0, 1)) / total for x in (colours, image))
    spread, spread_behind = (
        np.sqrt((weight * (x[::4, ::4] - m) ** 2).sum() / total) + 1 for x, m in ((colours, mean), (image, behind))
    )
    match = rng.uniform(0.6, 0.95) if rng.random() < 0.15 else rng.uniform(0, 0.5)
    gain = np.clip((spread_behind / spread) ** (0.5 * match), 0.6, 1.6)
    lit = (colours - mean) * gain + mean + match * 0.7 * (behind - mean)
    if rng.random() < 0.5:  # from one side
        y, x = np.mgrid[-1 : 1 : len(image) * 1j, -1 : 1 : len(image) * 1j].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        lit = lit * (1 + rng.uniform(0, 0.4) * (np.cos(angle) * x + np.sin(angle) * y))[..., None]
    return np.asarray(lit, np.float32)


def _unfocused(colours: Image, alpha: Image, sigma: float) -> tuple[Image, Image]:
    """A thing with a soft border: what is seen of it is blurred together with how much of it is seen."""
    soft = blurred(alpha, sigma)
    mixed = blurred(np.asarray(colours * alpha[..., None], np.float32), sigma)
    return np.asarray(mixed / np.maximum(soft, 1e-2)[..., None], np.float32), soft


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; composites need the folders 'cutouts' and 'backgrounds'")
    files = picture_files(folder)[0]
    if not files:
        raise DataError(f"{folder}: no pictures")
    return files


@lru_cache(maxsize=24)
def _photo(path: Path) -> NDArray[np.uint8]:
    """A background, reduced if it is large: 24 of them stay in memory."""
    photo = read_image(path)
    scale = _BACKGROUND_SIDE / min(photo.shape[:2])
    if scale >= 1:
        return photo
    return np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _read_cutout(path: Path) -> Cutout | None:
    """None if it has no alpha, or the thing is too small.

    Raises:
        DataError: the file is no picture, or too large.
    """
    try:
        with PillowImage.open(path) as file:
            if file.width * file.height > LARGEST_CUTOUT:
                raise DataError(f"{path}: {file.width} x {file.height} pixels, cut-outs have at most {LARGEST_CUTOUT}")
            rgba = np.asarray(file.convert("RGBA"))
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
        raise DataError(f"{path}: {error}") from error
    inside = rgba[..., 3] > 127
    if inside.all() or not inside.any():
        return None
    (top, bottom), (left, right) = (np.flatnonzero(inside.any(axis))[[0, -1]] for axis in (1, 0))
    if max(bottom - top, right - left) + 1 < _SMALLEST_SIDE:
        return None
    part = rgba[max(top - 2, 0) : bottom + 3, max(left - 2, 0) : right + 3]
    return Cutout(part[..., :3].copy(), part[..., 3].copy(), path.parent.name)


class CompositeDataset(DrawnDataset):
    """Whole composites with their target: the set to score with.

    Args:
        folder: as for `Composites`.
        seed, length, size: as for every `DrawnDataset`.
    """

    def __init__(self, folder: Path, *, seed: int = HELD_OUT_SEED, length: int = 200, size: int = 1024) -> None:
        super().__init__(seed=seed, length=length, size=size)
        self.composites = Composites(folder)

    def draw(self, index: int) -> Sample:
        """The composite of this number."""
        image, masks, target = self.composites.draw(np.random.default_rng([self.seed, index]), self.size)
        group = size_group(float(masks[target].mean()))
        return Sample(f"composite-{index:06d}", image, masks[target].astype(np.uint8), group)
