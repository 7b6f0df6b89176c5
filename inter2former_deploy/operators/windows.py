"""How a map of tokens is padded and cut into square windows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WindowLayout:
    """How a map of tokens is padded and cut into square windows; all numbers in tokens."""

    height: int  # of the map
    width: int
    side: int  # of a window
    offset: int  # padding at top and left

    @classmethod
    def of(cls, height: int, width: int, side: int, *, shifted: bool) -> WindowLayout:
        """The layout of a map; `shifted` moves the windows by half a side if the map is larger than one window."""
        offset = side // 2 if shifted and max(height, width) > side else 0
        return cls(height=height, width=width, side=side, offset=offset)

    @property
    def tokens(self) -> int:
        """Tokens of the map."""
        return self.height * self.width

    @property
    def rows(self) -> int:
        """Rows of windows."""
        return -(-(self.offset + self.height) // self.side)

    @property
    def columns(self) -> int:
        """Columns of windows."""
        return -(-(self.offset + self.width) // self.side)

    def places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and column in the padded map of each window's slots, both [rows*columns, side*side]."""
        grid = torch.meshgrid(
            *(torch.arange(n * self.side, device=device) for n in (self.rows, self.columns)), indexing="ij"
        )
        rows, columns = (self.cut(t[None]).flatten(3).flatten(0, 2) for t in grid)
        return rows, columns

    def pad(self, x: Tensor, fill: Tensor) -> Tensor:
        """[B, height, width, C] and the vector of a padding slot [1, C] -> [B, rows*side, columns*side, C]."""
        right = self.columns * self.side - self.offset - self.width
        bottom = self.rows * self.side - self.offset - self.height
        return _extend(_extend(x, fill, 2, self.offset, right), fill, 1, self.offset, bottom)

    def cut(self, x: Tensor) -> Tensor:
        """A padded map [B, rows*side, columns*side, ...] -> its windows [B, rows, columns, side, side, ...], a view."""
        side = self.side
        x = x.reshape(x.shape[0], self.rows, side, self.columns, side, *x.shape[3:])
        return x.transpose(2, 3)

    def merge(self, windows: Tensor) -> Tensor:
        """Windows [B, rows, columns, side, side, C] -> the map without its padding [B, height*width, C]."""
        x = windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        x = x[:, self.offset : self.offset + self.height, self.offset : self.offset + self.width]
        return x.flatten(1, 2)


def _extend(x: Tensor, fill: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Puts `before` and `after` slices full of the vector `fill` [1, C] around x [..., C] along `dim`."""
    if before == after == 0:
        return x
    first, last = (fill.expand(*x.shape[:dim], n, *x.shape[dim + 1 :]) for n in (before, after))
    return torch.cat([part for part in (first, x, last) if part.shape[dim]], dim=dim)
