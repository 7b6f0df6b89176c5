"""Masks as other tools want them: outlines along pixel corners, runs along rows, COCO's compressed runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.runs import Mask, Runs, Sides

Points = npt.NDArray[np.int64]  # [n, 2], x and y of pixel corners


@dataclass(frozen=True, eq=False)
class Outline:
    """A part of an object whose pixels touch by their sides, and the holes in it.

    Rings are closed: their last point is not repeated. The outer ring runs clockwise as one sees it, holes the other
    way; each turns at every point.
    """

    ring: Points
    holes: tuple[Points, ...]

    @property
    def keyhole(self) -> Points:
        """One ring for all: a cut leads to each hole and back the same way, so that even-odd filling is exact."""
        return joined([self.ring, *self.holes])


def outlines(runs: Runs) -> list[Outline]:
    """The outlines of an object, in the order of their upper left corners.

    They run between object and background from pixel corner to pixel corner (pixel i spans i to i + 1), so that
    filling them gives the same pixels. Pixels that touch by a corner alone belong to different parts.
    """
    import cv2

    if runs.box is None:
        return []
    left, top, _, _ = runs.box
    mask = np.pad(runs.mask(runs.box), 1)
    rings = _rings(mask)
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    outer: dict[int, Points] = {}
    holes: dict[int, list[Points]] = {number: [] for number in range(1, count)}
    for ring in rings:
        x, y = ring[0]  # of the ring's upper side, whose left end is its upper left corner
        is_outer = bool(ring[1, 0] > x)
        part = int(parts[y, x]) if is_outer else int(parts[y - 1, x - 1])
        moved = ring + np.array([left - 1, top - 1])
        if is_outer:
            outer[part] = moved
        else:
            holes[part].append(moved)
    return [Outline(ring, tuple(holes[part])) for part, ring in outer.items()]


def _rings(mask: Mask) -> list[Points]:
    """All closed chains of edges with the object on their right.

    Args:
        mask: bool `[h, w]`, its border is background.

    Returns:
        x and y of the turning points. An outer ring begins at the left end of its upper side, a hole's at the right.
    """
    a, b, c, d = mask[:-1, :-1], mask[:-1, 1:], mask[1:, :-1], mask[1:, 1:]  # around the corner (1, 1), and so on
    falling, rising = a & d & ~b & ~c, b & c & ~a & ~d  # pixels that touch by this corner alone
    once = a ^ b ^ c ^ d
    y, x = np.nonzero(once | falling | rising)
    twice = ~once[y, x]
    number = np.repeat(np.arange(len(y)), 1 + twice)  # a corner where two chains meet counts twice:
    second = np.r_[False, number[1:] == number[:-1]]  # for the edge to its left, then for that to its right
    ys, xs = y[number], x[number]
    # Sorted by rows, turning points are the ends of horizontal edges by pairs; by columns those of vertical edges.
    below = second ^ (rising[ys, xs])  # whether the vertical edge of this turning point goes down from it
    order = np.lexsort((below, ys, xs))
    vertical = np.empty(len(order), np.int64)
    vertical[order] = order.reshape(-1, 2)[:, ::-1].ravel()
    along, horizontal = vertical.tolist(), (np.arange(len(order)) ^ 1).tolist()
    object_below = mask[ys + 1, xs + 1]  # of the edge that begins at this left end
    corners = np.stack([xs + 1, ys + 1], 1)
    seen = bytearray(len(order))
    rings = []
    for start in range(0, len(order), 2):
        if seen[start]:
            continue
        at = start if object_below[start] else start + 1
        chain = []
        while not seen[at]:
            end = horizontal[at]
            seen[at] = seen[end] = 1
            chain += [at, end]
            at = along[end]
        rings.append(corners[chain])
    return rings


def joined(rings: Sequence[Points]) -> Points:
    """Rings as one, with cuts between them that are walked twice: even-odd filling of it is that of all of them."""
    whole = rings[0]
    for ring in rings[1:]:
        distances = np.abs(whole[:, None] - ring[None]).sum(-1) if len(whole) * len(ring) < 1 << 22 else None
        at, start = (0, 0) if distances is None else np.unravel_index(int(distances.argmin()), distances.shape)
        turned = np.roll(ring, -int(start), 0)
        whole = np.concatenate([whole[: at + 1], turned, turned[:1], whole[at:]])
    return whole


def row_counts(runs: Runs) -> tuple[int, ...]:
    """Run lengths along the rows of the picture instead of down its columns."""
    if runs.box is None:
        return (runs.height * runs.width,)
    left, top, _, _ = runs.box
    return Runs.of(runs.mask(runs.box).T, (top, left), (runs.width, runs.height)).counts


def box_counts(runs: Runs, box: Sides) -> list[int]:
    """Run lengths along the rows of a box, background first, as CVAT has them everywhere."""
    return list(Runs.of(runs.mask(box).T).counts)


def compressed(runs: Runs) -> str:
    """COCO's compressed run lengths, by pycocotools."""
    from inter2former_deploy.data.coco import pycocotools

    encoded = pycocotools().frPyObjects(runs.to_json(), runs.height, runs.width)
    return str(encoded["counts"].decode("ascii"))
