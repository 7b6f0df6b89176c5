"""Datasets: the synthetic generator, and readers of folders, COCO/LVIS JSON, DAVIS and HQSeg-44K layouts. No torch."""

from .sample import IGNORE, DataError, Dataset, Sample
from .synthetic import HELD_OUT_SEED, SyntheticDataset

__all__ = ["HELD_OUT_SEED", "IGNORE", "DataError", "Dataset", "Sample", "SyntheticDataset"]
