"""Training: `train` and its configuration. Needs torch."""

from .config import TrainConfig
from .loop import train

__all__ = ["TrainConfig", "train"]
