"""`i2f verify`: a checkpoint in, a bundle out."""

from __future__ import annotations


def verify() -> None:
    """Verify."""
