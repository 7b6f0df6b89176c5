"""The pixels of pictures at several sizes, for tiles and regions; the pictures that were used last stay in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import cv2
import numpy as np

from inter2former_deploy.apps.server.errors import not_found
from inter2former_deploy.core.prompts import Image

TILE = 512  # side, pixels


@dataclass(frozen=True)
class Pyramid:
    """A picture, and it at half the size each, down to one tile."""

    levels: tuple[Image, ...]

    @classmethod
    def of(cls, image: Image) -> Pyramid:
        """Halve a picture until it fits into one tile."""
        levels = [image]
        for height, width in level_sizes(*image.shape[:2])[1:]:
            half = cv2.resize(levels[-1], (width, height), interpolation=cv2.INTER_AREA)
            levels.append(np.asarray(half, np.uint8))
        return cls(tuple(levels))

    @property
    def nbytes(self) -> int:
        """Memory of all levels, bytes."""
        return sum(level.nbytes for level in self.levels)

    def tile(self, level: int, column: int, row: int) -> bytes:
        """A tile as PNG; those at the right and bottom are smaller.

        Raises:
            ApiError: there is none (404).
        """
        if not 0 <= level < len(self.levels) or column < 0 or row < 0:
            raise not_found("tile")
        part = self.levels[level][row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        if part.size == 0:
            raise not_found("tile")
        _, data = cv2.imencode(".png", part[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        return data.tobytes()


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Height and width of each level: half of the one before, rounded up, until one tile holds it."""
    sizes = [(height, width)]
    while max(sizes[-1]) > TILE:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


class Pixels:
    """The pyramids that were used last, as many as fit into a number of bytes, and at least one.

    Files are decoded one at a time, so that few large pictures are in memory at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Pyramid] = OrderedDict()
        self._lock, self._decoding = Lock(), Lock()

    def get(self, key: str, read: Callable[[], Image]) -> Pyramid:
        """The pyramid of a picture.

        Args:
            key: of the picture.
            read: decodes it, if need be.
        """
        found = self._find(key)
        if found is None:
            with self._decoding:
                found = self._find(key)
                if found is None:
                    found = Pyramid.of(read())
                    self._keep(key, found)
        return found

    def _find(self, key: str) -> Pyramid | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: str, pyramid: Pyramid) -> None:
        with self._lock:
            self._kept[key] = pyramid
            total = self._nbytes()
            while total > self._limit and len(self._kept) > 1:
                total -= self._kept.popitem(last=False)[1].nbytes

    def _nbytes(self) -> int:
        return sum(pyramid.nbytes for pyramid in self._kept.values())

    @property
    def nbytes(self) -> int:
        """Memory of all pictures that are kept, bytes."""
        with self._lock:
            return self._nbytes()
