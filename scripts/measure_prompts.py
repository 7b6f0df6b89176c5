#!/usr/bin/env python3
"""What boxes, start masks and regions are worth, as docs/prompts.md states it.

    python scripts/measure_prompts.py BUNDLE                  # held-out synthetic scenes
    python scripts/measure_prompts.py BUNDLE --photographs    # objects in photographs of scikit-image, outlined by hand
    python scripts/measure_prompts.py BUNDLE --large 1        # small objects in pictures of 4096 pixels, 16 scenes each

Figures are mean IoUs. A box is the object's bounding box, "loose" with each side moved by up to a tenth of the box. A
start mask is the object's, made worse in four ways; the click after it is that of a user who corrects the largest
error. A region is a square around the object, twice as large as its bounding box, at least 512 pixels.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.clicks import next_click
from inter2former_deploy.core.masks import iou
from inter2former_deploy.core.prompts import Box, Click
from inter2former_deploy.data import HELD_OUT_SEED
from inter2former_deploy.data.photos import load_photo
from inter2former_deploy.data.synthetic import SyntheticDataset, make_scene, render
from inter2former_deploy.runtime import Segmenter, Session

Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.uint8]
Samples = Iterator[tuple[str, Image, Mask]]

LOOSE = 0.1  # of a box's width and height
LARGE, TILE, LARGEST_SHARE, WINDOW = 4096, 1024, 0.01, 512
TILES = LARGE // TILE

# x and y of corners, or centre, half axes and degrees of ellipses; pixels of the photographs, outlined by hand.
# fmt: off
PHOTOGRAPHS: dict[str, dict[str, list[tuple[float, ...]]]] = {
    "chelsea": {
        "left eye": [(171.3, 114.6, 32.5, 28.5, 12)],
        "left pupil": [(176, 93), (182, 98), (184, 108), (181, 118), (176, 124), (170, 128), (166, 124), (164, 115),
                       (164, 106), (167, 100), (171, 96)],
        "right eye": [(295, 145), (297, 131), (301, 124), (308, 120), (316, 115), (325, 111), (333, 111), (338, 119),
                      (339, 130), (337, 140), (331, 150), (323, 157), (313, 161), (303, 161), (297, 155)],
    },
    "coffee": {
        "coffee": [(205, 150), (208, 137), (216, 122), (226, 108), (245, 100), (270, 96), (300, 97), (325, 104),
                   (345, 118), (360, 138), (368, 160), (350, 178), (325, 190), (300, 193), (270, 190), (240, 180),
                   (218, 166)],
        "rim of the cup and all inside": [(290.5, 112.5, 117, 95, 0)],
        "cup and saucer": [(278, 224, 200, 164, 0), (290.5, 112.5, 117, 95, 0)],
        "bowl of the spoon": [(366, 284, 39.5, 41, 0)],
    },
    "rocket": {
        "rocket": [(322, 127), (329, 140), (333, 152), (333, 178), (331, 182), (330, 405), (313, 405), (314, 182),
                   (311, 178), (311, 152), (315, 138)],
    },
}
# fmt: on


def scenes(first: int, count: int, size: int) -> Samples:
    dataset = SyntheticDataset(length=first + count, size=size)
    for index in range(first, first + count):
        sample = dataset[index]
        yield sample.name, sample.image, sample.mask == 1


def sheets(count: int) -> Iterator[tuple[str, Image, list[Mask]]]:
    """Pictures of 4096 pixels, each of 16 held-out scenes of 1024, and the objects in it that are small."""
    for sheet in range(count):
        image = np.zeros((LARGE, LARGE, 3), np.uint8)
        targets = []
        for tile in range(TILES**2):
            scene = make_scene(HELD_OUT_SEED, TILES**2 * sheet + tile)
            y, x = (TILE * n for n in divmod(tile, TILES))
            place = np.s_[y : y + TILE, x : x + TILE]
            image[place], masks = render(scene, TILE)
            target = np.zeros((LARGE, LARGE), bool)
            target[place] = masks[scene.target]
            if target.mean() < LARGEST_SHARE:
                targets.append(target)
        yield f"sheet {sheet}", image, targets


def photographs() -> Samples:
    for photo, objects in PHOTOGRAPHS.items():
        image = load_photo(photo)
        for name, outline in objects.items():
            mask = np.zeros(image.shape[:2], np.uint8)
            if len(outline[0]) == 5:
                for x, y, a, b, degrees in outline:
                    cv2.ellipse(mask, ((x, y), (2 * a, 2 * b), degrees), 1, cv2.FILLED)
            else:
                cv2.fillPoly(mask, [np.array(outline, np.int32)], 1)
            yield f"{photo} {name}", image, mask > 0


def box_of(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def loosened(box: Box, mask: Mask, rng: np.random.Generator) -> Box:
    width, height = box.right - box.left, box.bottom - box.top
    moved = np.array(box) + rng.uniform(-LOOSE, LOOSE, 4) * (width, height, width, height)
    limit = (mask.shape[1], mask.shape[0])
    left, top, right, bottom = np.clip(moved, 0, (*limit, *limit)).tolist()
    return Box(left, top, right, bottom)


def shifted(mask: Mask, rng: np.random.Generator) -> Mask:
    """By 4 % of the box's diagonal, anywhere."""
    box, angle = box_of(mask), rng.uniform(0, 2 * np.pi)
    step = 0.04 * np.hypot(box.right - box.left, box.bottom - box.top)
    matrix = np.array([[1, 0, step * np.cos(angle)], [0, 1, step * np.sin(angle)]])
    return warped(mask, matrix)


def warped(mask: Mask, matrix: npt.NDArray[np.float64]) -> Mask:
    size = (mask.shape[1], mask.shape[0])
    return np.asarray(cv2.warpAffine(mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST) > 0)


def polygon(mask: Mask, rng: np.random.Generator) -> Mask:
    """Few corners, as drawn in a hurry; holes are filled."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = np.zeros(mask.shape, np.uint8)
    box = box_of(mask)
    epsilon = 0.03 * np.hypot(box.right - box.left, box.bottom - box.top)
    cv2.fillPoly(drawn, [cv2.approxPolyDP(line, epsilon, True) for line in outlines], 1)
    return drawn > 0


def ragged(mask: Mask, rng: np.random.Generator) -> Mask:
    """A border that wanders by some percent of the box, as of a weaker model."""
    box = box_of(mask)
    diagonal = float(np.hypot(box.right - box.left, box.bottom - box.top))
    noise = cv2.GaussianBlur(rng.standard_normal(mask.shape).astype(np.float32), (0, 0), 0.05 * diagonal)
    inside, outside = (cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, 5) for m in (mask, ~mask))
    return np.asarray(inside - outside + 0.04 * diagonal * noise / noise.std() > 0)


def bitten(mask: Mask, rng: np.random.Generator) -> Mask:
    """A quarter of the object is missing: what lies farthest in some direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.nonzero(mask)
    along = x * np.cos(angle) + y * np.sin(angle)
    kept = along <= np.quantile(along, 0.75)
    result = np.zeros_like(mask)
    result[y[kept], x[kept]] = True
    return result


WORSE: tuple[Callable[[Mask, np.random.Generator], Mask], ...] = (shifted, polygon, ragged, bitten)


def correct(session: Session, mask: Mask, target: Mask) -> Mask:
    """The mask after the click of a user who corrects the largest error."""
    click = next_click(mask, target.astype(np.uint8))
    return mask if click is None else session.click(*click)


def measure(segmenter: Segmenter, samples: Samples) -> dict[str, list[float]]:
    """IoUs by prompt."""
    found: dict[str, list[float]] = defaultdict(list)
    for number, (name, image, target) in enumerate(samples):
        rng = np.random.default_rng(number)
        session = segmenter.open(image)
        nothing, box = np.zeros_like(target), box_of(target)
        centre = ((box.left + box.right - 1) / 2, (box.top + box.bottom - 1) / 2)

        def add(what: str, mask: Mask, target: Mask = target) -> Mask:
            found[what].append(iou(mask, target))
            return mask

        add("click in the box's centre", session.click(*centre))
        session.reset()
        add("click where the object is thickest", correct(session, nothing, target))
        session.reset()
        for what, sides in (("box", box), ("loose box", loosened(box, target, rng))):
            mask = add(what, session.box(*sides))
            add(f"{what}, 1 click", correct(session, mask, target))
            session.reset()
        for worsen in WORSE:
            start = worsen(target, rng)
            if not start.any():
                continue
            what = f"start mask, {worsen.__name__}"
            add(what, session.start(start))
            mask = add(f"{what}, 1 click", correct(session, start, target))
            add(f"{what}, 2 clicks", correct(session, mask, target))
            session.reset()
        print(name, {what: round(ious[-1], 3) for what, ious in found.items()}, flush=True)
    return found


def window_around(target: Mask) -> tuple[int, int, int, int]:
    box = box_of(target)
    side = min(max(WINDOW, 2 * int(max(box.right - box.left, box.bottom - box.top))), *target.shape)
    left, top = (
        int(np.clip((low + high - side) // 2, 0, limit - side))
        for low, high, limit in ((box.left, box.right, target.shape[1]), (box.top, box.bottom, target.shape[0]))
    )
    return left, top, left + side, top + side


def measure_regions(segmenter: Segmenter, count: int) -> dict[str, list[float]]:
    """IoUs of the whole picture and of a region of it, each at the clicks of users who see what they get."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, image, targets in sheets(count):
        whole = segmenter.encode(image)
        for number, target in enumerate(targets):
            region = window_around(target)
            for what, session in (("whole", segmenter.open(whole)), ("region", segmenter.open(image, region))):
                mask, clicks = np.zeros_like(target), list[Click]()
                for made in (1, 2, 3):
                    click = next_click(mask, target.astype(np.uint8), clicks)
                    if click is not None and (what == "whole" or in_region(click, region)):
                        mask = session.click(*click)
                        clicks.append(click)
                    found[f"{what}, {made} clicks"].append(iou(mask, target))
            print(name, number, f"{target.mean():.2%}", {k: round(v[-1], 3) for k, v in found.items()}, flush=True)
    return found


def in_region(click: Click, region: tuple[int, int, int, int]) -> bool:
    left, top, right, bottom = region
    return bool(left <= click.x < right and top <= click.y < bottom)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--scenes", type=int, default=60, help="synthetic scenes")
    parser.add_argument("--first", type=int, default=60, help="of these; with those before it prompts were designed")
    parser.add_argument("--size", type=int, default=512, help="of these, pixels")
    parser.add_argument("--photographs", action="store_true")
    parser.add_argument("--large", type=int, help="sheets of 4096 pixels")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    segmenter = Segmenter(options.bundle, num_threads=options.threads)
    if options.large:
        found = measure_regions(segmenter, options.large)
    else:
        samples = photographs() if options.photographs else scenes(options.first, options.scenes, options.size)
        found = measure(segmenter, samples)
    for what, ious in found.items():
        print(f"{np.mean(ious):.3f}  {what}  ({len(ious)})")


if __name__ == "__main__":
    main()
