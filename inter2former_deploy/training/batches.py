"""Training pictures: a batch depends on seed and step alone, so that a resumed run sees what it would have seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from inter2former_deploy.core.clicks import IGNORED
from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR
from inter2former_deploy.data import DataError, Dataset
from inter2former_deploy.data.composites import CompositeDataset
from inter2former_deploy.data.photos import TRAINED
from inter2former_deploy.data.shapes import coverage
from inter2former_deploy.data.synthetic import WHOLE, make_scene, render, training_view

from .config import TrainConfig

_SMALLEST_OBJECT = 0.004  # share of the picture that a target must cover
_PADDED = 0.2  # share of pictures with a padded right or bottom part, as wide or tall photographs have
_VIEW_SIZE = 128  # resolution at which a view of a scene is chosen


class Batch(NamedTuple):
    """The pictures of one step; each has the same number of targets."""

    images: Tensor  # float32 [B, 3, S, S], normalised BGR, 0 where padded
    masks: Tensor  # uint8 [B, T, S, S], 1 object, 0 background, 255 ignored
    segments: Tensor  # uint8 [B, S, S], the thing that a pixel belongs to, 0 background, 255 ignored
    teacher: Tensor | None  # float32 [B, C', S/16, S/16]; NaN where a picture has none


class Batches(torch.utils.data.Dataset[Batch]):
    """Item `step` is the batch of that step.

    Args:
        config: of the run.
        datasets: pictures to draw from, real ones and folders of composites; none for synthetic scenes alone.
        synthetic: share of synthetic pictures when there are others.
        composites: share of composites among these others, when there are real pictures, too.
        teacher: folder with a teacher's features of whole pictures, `<name>.npy` float [C', h', w'], for distillation.
    """

    def __init__(
        self,
        config: TrainConfig,
        datasets: Sequence[Dataset] = (),
        *,
        synthetic: float = 0.0,
        composites: float = 0.5,
        teacher: Path | None = None,
    ) -> None:
        self.config, self.teacher = config, teacher
        self.composites = [d.composites for d in datasets if isinstance(d, CompositeDataset)]
        self.datasets = [d for d in datasets if not isinstance(d, CompositeDataset)]
        if not self.composites or not self.datasets:
            composites = float(bool(self.composites))
        self.synthetic = synthetic if datasets else 1.0
        self.composed = self.synthetic + (1 - self.synthetic) * composites  # share of all that is no real picture
        self._first, self._every = 0, 1  # which pictures of a step
        self.ends = np.cumsum([len(d) for d in self.datasets])

    def part(self, process: int, processes: int) -> Batches:
        """What one of several processes takes of every batch; each gets as many pictures."""
        part = copy(self)
        part._first, part._every = process, processes
        return part

    @property
    def teacher_channels(self) -> int:
        """Channels of the teacher's features, 0 without a teacher.

        Raises:
            DataError: the teacher's folder holds no features.
        """
        if self.teacher is None:
            return 0
        first = next(self.teacher.rglob("*.npy"), None)
        if first is None:
            raise DataError(f"{self.teacher}: no features (*.npy)")
        return int(np.load(first, mmap_mode="r").shape[0])

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> Batch:
        stage = self.config.stage(step)
        pictures = [
            self._picture(
                np.random.default_rng([self.config.seed, step, i]),
                step * 64 + i,
                stage.size,
                self.config.difficulty(step),
            )
            for i in range(self._first, stage.batch, self._every)
        ]
        images, masks, segments, features = zip(*pictures, strict=True)
        found = [f for f in features if f is not None]
        teacher = None
        if found:
            missing = torch.full_like(found[0], torch.nan)
            teacher = torch.stack([missing if f is None else f for f in features])
        return Batch(
            torch.stack(images), torch.from_numpy(np.stack(masks)), torch.from_numpy(np.stack(segments)), teacher
        )

    def _picture(
        self, rng: np.random.Generator, index: int, size: int, difficulty: float
    ) -> tuple[Tensor, NDArray[np.uint8], NDArray[np.uint8], Tensor | None]:
        kind = rng.random() if self.synthetic < 1 or self.datasets else 0.0
        if kind < self.synthetic:
            image, masks, segments, name, view = self._scene(rng, index, size, difficulty)
        elif kind < self.composed:
            image, masks, segments, name, view = self._composite(rng, size)
        else:
            image, masks, segments, name, view = self._real(rng, size)
        x = normalise(image)
        if rng.random() < _PADDED:
            keep = int(size * rng.uniform(0.5, 0.95))
            cut = np.s_[keep:, :] if rng.random() < 0.5 else np.s_[:, keep:]
            kept = masks.copy()
            kept[(slice(None), *cut)] = 0
            if (kept == 1).any((1, 2)).all():
                masks = kept
                segments = segments.copy()
                segments[cut] = IGNORED
                x[(slice(None), *cut)] = 0
        return x, masks, segments, self._features(name, view, size)

    def _scene(self, rng: np.random.Generator, index: int, size: int, difficulty: float) -> _Picture:
        scene = make_scene(self.config.seed, index, difficulty=difficulty, photos=TRAINED)
        view = training_view(rng, coverage(scene.things[scene.target].shape, WHOLE, _VIEW_SIZE) > 127)
        image, masks = render(scene, size, view)
        if masks[scene.target].mean() < _SMALLEST_OBJECT:
            view = WHOLE
            image, masks = render(scene, size, view)
        return image, self._targets(rng, scene.target, masks), _segments(masks), scene.name, view

    def _composite(self, rng: np.random.Generator, size: int) -> _Picture:
        """A whole composite: it is drawn with its target large enough."""
        composites = self.composites[rng.integers(len(self.composites))]
        image, masks, target = composites.draw(rng, size)
        return image, self._targets(rng, target, masks), _segments(masks), "", WHOLE

    def _targets(self, rng: np.random.Generator, target: int, masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The scene's target and other things of it that are large enough, or the target again; [T, S, S]."""
        others = [i for i in np.flatnonzero(masks.mean((1, 2)) >= _SMALLEST_OBJECT) if i != target]
        chosen = [target, *rng.permutation(np.array(others, int))][: self.config.targets]
        chosen += [target] * (self.config.targets - len(chosen))
        return masks[chosen].astype(np.uint8)

    def _real(self, rng: np.random.Generator, size: int) -> _Picture:
        """A square part of a picture around a pixel of its object, mirrored and recoloured at random."""
        index = int(rng.integers(self.ends[-1]))
        which = int(np.searchsorted(self.ends, index, side="right"))
        sample = self.datasets[which][index - (int(self.ends[which - 1]) if which else 0)]
        height, width = sample.mask.shape
        side = max(height, width) * (1.0 if rng.random() < 0.4 else rng.uniform(0.3, 1.0))
        rows, columns = np.nonzero(sample.mask == 1)
        k = rng.integers(len(rows))
        top, left = (
            0.0 if side >= length else float(np.clip(at - side * rng.uniform(0.2, 0.8), 0, length - side))
            for at, length in ((rows[k], height), (columns[k], width))
        )
        scale = side / size
        # pixel centres: source = (i + 0.5) * scale + corner - 0.5
        matrix = np.array([[scale, 0, left + scale / 2 - 0.5], [0, scale, top + scale / 2 - 0.5]])
        image = _resampled(sample.image, matrix, size)
        mask = np.asarray(
            cv2.warpAffine(sample.mask, matrix, (size, size), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
        )
        if not (mask == 1).any():  # a speck that fell between the pixels: it is given the one that it lies in
            mask[_inside(rows[k], top, scale, size), _inside(columns[k], left, scale, size)] = 1
        if rng.random() < 0.5:
            image, mask, left = image[:, ::-1], mask[:, ::-1], -left - side
        gain = rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3)
        image = np.clip(image * gain + rng.uniform(-20, 20), 0, 255).astype(np.uint8)
        masks = np.repeat(np.asarray(mask, np.uint8)[None], self.config.targets, 0)
        return (
            np.asarray(image, np.uint8),
            masks,
            masks[0],
            sample.name,
            (left / width, top / height, side / width, side / height),
        )

    def _features(self, name: str, view: tuple[float, ...], size: int) -> Tensor | None:
        """The teacher's features under every token of a view, [C', S/16, S/16]."""
        path = self.teacher / f"{name}.npy" if self.teacher else None
        if path is None or not path.is_file():
            return None
        left, top, *sides = view
        width, height = sides[0], sides[-1]
        n = size // 16
        centre = (torch.arange(n) + 0.5) / n
        # a mirrored view has a negative left side: -left - width, and runs from right to left
        x = -left - centre * width if left < 0 else left + centre * width
        y = top + centre * height
        grid = 2 * torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None] - 1  # [1, n, n, 2]
        features = torch.from_numpy(np.load(path).astype(np.float32))
        return F.grid_sample(features[None], grid.float(), align_corners=False, padding_mode="border")[0]


def _segments(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Numbers of things that do not overlap, from 1; [S, S]."""
    return np.tensordot(np.arange(1, len(masks) + 1, dtype=np.uint8), masks, 1).astype(np.uint8)


def _resampled(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """A square part of a picture, smoothed first where it is reduced: only the part is, and what its borders need.

    Args:
        image: `[H, W, 3]`.
        matrix: `[2, 3]`, from pixels of the result to pixels of the picture: a scale and a shift.
        size: side of the result.
    """
    scale, shift = matrix[0, 0], matrix[:, 2].copy()
    if scale > 1.5:
        sigma = 0.4 * scale
        margin = math.ceil(4 * sigma) + 3  # OpenCV's kernel reaches 3 sigma, and half a pixel for rounding
        height, width = image.shape[:2]
        x0, y0 = (max(0, math.floor(at) - margin) for at in shift)
        x1, y1 = (math.ceil(at + scale * size) + margin for at in shift)
        part = image[y0 : min(y1, height), x0 : min(x1, width)]
        image = np.asarray(cv2.GaussianBlur(part, (0, 0), sigma), np.uint8)
        shift -= (x0, y0)
    moved = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, moved, (size, size), flags=flags, borderValue=MEAN_BGR[::-1]), np.uint8)


def _inside(at: int, start: float, scale: float, size: int) -> int:
    """The pixel of a part that a pixel of the picture lies in."""
    return min(max(int((at + 0.5 - start) / scale), 0), size - 1)


# image, masks, segments, name, view
_Picture = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], str, tuple[float, ...]]


def normalise(image: NDArray[np.uint8]) -> Tensor:
    """A uint8 RGB picture `[H, W, 3]` as the network's input, float32 `[3, H, W]`, BGR."""
    bgr = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))).float()
    return (bgr - torch.tensor(MEAN_BGR)[:, None, None]) / torch.tensor(STD_BGR)[:, None, None]
