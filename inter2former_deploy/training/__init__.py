"""Training: `train` and its configuration. Needs torch."""

from .config import Stage, TrainConfig
from .loop import train

__all__ = ["Stage", "TrainConfig", "train"]
