"""`i2f export`: a checkpoint in, a bundle out."""

from __future__ import annotations


def export() -> None:
    """Export."""
