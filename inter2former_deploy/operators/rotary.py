"""Two-dimensional rotary position embedding, shared by the encoder's windows and the decoder's full attention."""

from __future__ import annotations

import torch
from torch import Tensor

POSITION_SCALE = 0.5  # position of a token per row or column
THETA = 10000.0


def rotary_frequencies(head_dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Frequencies of one head, `THETA ** (-2i / (head_dim / 2))`.

    Args:
        head_dim: Channels of a head, a multiple of 4.
        dtype: Of the result.

    Returns:
        [head_dim / 4].

    Raises:
        ValueError: `head_dim` is not a multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(f"head_dim must be a multiple of 4, got {head_dim}")
    n = head_dim // 4
    return (THETA ** (-torch.arange(n, dtype=torch.float64) / n)).to(dtype)


def rotary_angles(rows: Tensor, columns: Tensor, frequencies: Tensor) -> Tensor:
    """Angle of every channel pair: the first half of a head turns with the row, the second with the column.

    Args:
        rows: Row of each token in its grid, [T].
        columns: Column of each token in its grid, [T].
        frequencies: [head_dim / 4].

    Returns:
        [T, head_dim / 2], of the type of `frequencies`.
    """
    positions = torch.stack((rows, columns), dim=-1) * POSITION_SCALE  # [T, 2]
    return (positions[..., None].to(frequencies) * frequencies).flatten(-2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of adjacent channels clockwise by its angle.

    Args:
        x: Queries or keys, [..., T, head_dim].
        angles: [T, head_dim / 2], from `rotary_angles`.

    Returns:
        [..., T, head_dim].
    """
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos + odd * sin, odd * cos - even * sin), dim=-1).flatten(-2)
