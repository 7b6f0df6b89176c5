"""Photographs that come with scikit-image, scikit-learn and matplotlib: textures to train on, pictures to look at.

Only the files are read: the packages that carry them are located, not imported.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inter2former_deploy.core.pictures import read_image

FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "camera": ("skimage", "data/camera.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "horse": ("skimage", "data/horse.png"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "ihc": ("skimage", "data/ihc.png"),
    "moon": ("skimage", "data/moon.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}
HELD_OUT = (
    "chelsea",
    "coffee",
    "rocket",
)  # never a texture of training pictures, so that overlays on them mean something
SILHOUETTES = ("horse",)
# Kept to judge by: textures of the drawn scenes that are scored, but not of training pictures.
JUDGED = ("astronaut", "camera", "coins", "motorcycle")
TEXTURES = tuple(name for name in FILES if name not in HELD_OUT + SILHOUETTES)
TRAINED = tuple(name for name in TEXTURES if name not in JUDGED)


@lru_cache(maxsize=32)
def load_photo(name: str) -> NDArray[np.uint8]:
    """A photograph by its name in `FILES`: uint8 RGB `[H, W, 3]`, not to be written to.

    Raises:
        RuntimeError: the package that carries the file is not installed.
    """
    package, file = FILES[name]
    spec = find_spec(package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise RuntimeError(
            f"the photograph {name!r} comes with {package}: pip install scikit-image scikit-learn matplotlib"
        )
    photo = read_image(path, convert_colours=False)
    photo.setflags(write=False)
    return photo


@lru_cache(maxsize=128)
def photo_level(name: str, level: int) -> NDArray[np.uint8]:
    """The photograph halved `level` times (Gaussian pyramid), so that a reduced texture does not alias."""
    return load_photo(name) if level == 0 else np.asarray(cv2.pyrDown(photo_level(name, level - 1)), dtype=np.uint8)
