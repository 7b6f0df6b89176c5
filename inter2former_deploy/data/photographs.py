"""Things in the photographs of scikit-image, outlined by hand: real pictures to judge by, never to train on.

`outlines/PICTURE.THING.png` holds the pixels of a thing. Each outline was drawn corner by corner and looked at over the
enlarged picture; no model had a part in it, so that it favours no weights. None of the pictures is used in training
(`photos.TRAINED`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inter2former_deploy.core.masks import read_mask

from .photos import load_photo
from .sample import FileDataset, Sample, size_group

OUTLINES = Path(__file__).with_name("outlines")


class PhotographDataset(FileDataset):
    """Eighteen things in six photographs, in groups by their share of the picture (`size_group`)."""

    def __init__(self) -> None:
        super().__init__(convert_colours=False, strict=False)
        self._files = sorted(OUTLINES.glob("*.png"))

    def __len__(self) -> int:
        return len(self._files)

    def picture_of(self, index: int) -> str:
        """The photograph's name."""
        return self._files[index].stem.split(".")[0]

    def __getitem__(self, index: int) -> Sample:
        """The sample.

        Raises:
            RuntimeError: scikit-image is not installed.
        """
        file = self._files[index]
        picture = self.picture_of(index)
        mask = read_mask(file)
        return Sample(file.stem, load_photo(picture), mask, group=size_group(float(np.mean(mask))), picture=picture)
