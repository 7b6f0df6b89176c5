"""Datasets: the synthetic generator, and readers of folders, COCO/LVIS JSON, DAVIS and HQSeg-44K layouts. No torch."""

from __future__ import annotations

from pathlib import Path

from inter2former_deploy.clicks import IGNORED

from .coco import CocoDataset
from .folders import FolderDataset
from .sample import DataError, Dataset, Sample, check
from .synthetic import HELD_OUT_SEED, SyntheticDataset

__all__ = [
    "HELD_OUT_SEED",
    "IGNORED",
    "CocoDataset",
    "DataError",
    "Dataset",
    "FolderDataset",
    "Sample",
    "SyntheticDataset",
    "check",
    "open_dataset",
]


def open_dataset(
    source: str | Path, *, images: Path | None = None, seed: int = HELD_OUT_SEED, length: int = 200, size: int = 1024
) -> Dataset:
    """The dataset behind a name.

    Args:
        source: `synthetic`, a COCO/LVIS JSON file, or a folder with images and masks (`folders.PAIRS`).
        images: folder of a JSON file's images.
        seed: of synthetic scenes.
        length: number of synthetic scenes.
        size: side of synthetic pictures, pixels.

    Raises:
        DataError: the source does not exist, or its files do not fit together; the message names them.
    """
    if str(source) == "synthetic":
        return SyntheticDataset(seed=seed, length=length, size=size)
    path = Path(source)
    if path.is_dir():
        return FolderDataset(path)
    if path.is_file():
        return CocoDataset(path, images)
    raise DataError(f"{source}: neither 'synthetic', nor a folder, nor a JSON file")
