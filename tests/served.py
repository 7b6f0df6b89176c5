"""What tests send to a server."""

from __future__ import annotations

import cv2
import httpx
import numpy as np


def scene(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """A picture of bright and dark parts."""
    rough = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


def png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image[..., ::-1])[1])


def send(client: httpx.Client, image: np.ndarray) -> str:
    """The id of a picture that is sent."""
    answer = client.post("/v1/images", content=png(image), headers={"Content-Type": "image/png"})
    assert answer.status_code == 201, answer.text
    key: str = answer.json()["id"]
    return key
