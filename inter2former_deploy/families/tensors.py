"""How a family's interface states tensors and what is done to images, as manifest.json has it. No torch here."""

from __future__ import annotations

from typing import Any

from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR
from inter2former_deploy.families.config import PATCH
from inter2former_deploy.families.pictures import PAD_RGB

Json = dict[str, Any]

GRID, TOKENS = f"S/{PATCH}", f"(S/{PATCH})^2"  # side of the map of tokens; how many there are


class Tensors:
    """Makes entries of tensors, whose shapes are numbers, formulas in S, and names of sizes that differ by the run.

    Args:
        size: S, side of the model's square, pixels. Formulas are S, S over a number, and `TOKENS`.

    Raises:
        ValueError: `size` is no positive multiple of 16.
    """

    def __init__(self, size: int) -> None:
        if not isinstance(size, int) or size <= 0 or size % PATCH:
            raise ValueError(f"size must be a positive multiple of {PATCH}, got {size!r}")
        self._size = size

    def of(self, kind: str, shape: list[str | int], meaning: str) -> Json:
        """A tensor: "type", "shape", "sizes" (the shape in this bundle, as far as it is known) and "meaning"."""
        return {"type": kind, "shape": shape, "sizes": [*map(self._value, shape)], "meaning": meaning}

    def floats(self, shape: list[str | int], meaning: str) -> Json:
        """A tensor of float32."""
        return self.of("float32", shape, meaning)

    def _value(self, formula: str | int) -> str | int:
        if formula == TOKENS:
            return (self._size // PATCH) ** 2
        if isinstance(formula, str) and formula.startswith("S"):
            return self._size // int(formula.removeprefix("S").removeprefix("/") or 1)
        return formula


def preprocessing(caller: str, **sizes: Any) -> Json:
    """What a caller in any language does to an image before the graphs take it, and what they then do themselves.

    Args:
        caller: All that callers do, as a sentence.
        sizes: The numbers and formulas of the padding.
    """
    return {
        "caller": caller,
        "channels": "RGB",
        "range": [0, 255],
        "pad_rgb": list(PAD_RGB),
        **sizes,
        "resize": resize(),
        "graph": "reverses the channels to BGR, subtracts mean_bgr, divides by std_bgr",
        "mean_bgr": list(MEAN_BGR),
        "std_bgr": list(STD_BGR),
    }


def resize() -> Json:
    """How pictures and logits are resized."""
    return {
        "method": "bilinear",
        "align_corners": False,
        "antialias": False,
        "positions": "max((i + 0.5) * source / target - 0.5, 0), indices clamped to the last pixel",
    }
