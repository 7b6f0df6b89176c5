"""What a camera does to a scene: tone curve, blur, noise and compression."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def blurred(image: Image, sigma: float) -> Image:
    """Gaussian blur; none below a fifth of a pixel."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32) if sigma > 0.2 else image


def photographed(
    image: Image, rng: np.random.Generator, *, gamma: float, blur: float, noise: float, jpeg: int
) -> NDArray[np.uint8]:
    """The picture that a camera makes of a scene.

    Args:
        image: Of the scene, float RGB `[H, W, 3]`, 0 to 255, not clipped.
        rng: of the noise.
        gamma: of the tone curve.
        blur: sigma in pixels.
        noise: sigma in grey levels.
        jpeg: quality, 100 is no compression.

    Returns:
        uint8 RGB `[H, W, 3]`.
    """
    image = blurred(np.asarray(255 * (np.clip(image, 0, 255) / 255) ** np.float32(gamma), np.float32), blur)
    if noise:
        image = image + np.float32(noise) * rng.standard_normal(image.shape, dtype=np.float32)
    picture = np.clip(np.round(image), 0, 255).astype(np.uint8)
    if jpeg < 100:
        _, code = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg])
        picture = np.ascontiguousarray(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])
    return picture
