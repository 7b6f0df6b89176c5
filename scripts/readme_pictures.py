"""The README's pictures: photographs the bundled model never saw, segmented with at most five clicks each.

Usage: python scripts/readme_pictures.py BUNDLE; writes docs/pictures/{cat,coffee,rocket}.jpg.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from inter2former_deploy.core.overlay import draw_overlay
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.runtime import Segmenter

PICTURES = {  # clicks in pixels: x, y, positive
    "cat": (data.chelsea, ((176, 118, True), (165, 140, True), (200, 128, True), (319, 128, False))),
    "coffee": (data.coffee, ((290, 144, True), (339, 13, False), (302, 108, True))),
    "rocket": (
        data.rocket,
        ((324, 363, True), (356, 410, False), (324, 237, True), (323, 149, True), (307, 361, False)),
    ),
}
HEIGHT = 300  # pixels of a picture in the README


def main(bundle: str) -> None:
    folder = Path(__file__).parent.parent / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter(bundle)
    for name, (load, clicks) in PICTURES.items():
        image = np.ascontiguousarray(load())
        session = segmenter.open(image)
        for x, y, positive in clicks:
            mask = session.click(x, y, positive)
        overlay = draw_overlay(image, mask, [Click(*click) for click in clicks])
        width = round(HEIGHT * image.shape[1] / image.shape[0])
        small = cv2.resize(overlay, (width, HEIGHT), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{name}.jpg"), small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main(sys.argv[1])
