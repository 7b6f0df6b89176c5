"""Model families, a folder each: configuration, reference modules, checkpoints. Parts are loaded when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

FAMILIES = ("inter2former", "hrsam")


def part(family: str, name: str) -> Any:
    """A module of a family, e.g. `part("hrsam", "config")`.

    Raises:
        ValueError: There is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"the family must be one of {', '.join(FAMILIES)}, got {family!r}")
    return import_module(f"{__name__}.{family}.{name}")
