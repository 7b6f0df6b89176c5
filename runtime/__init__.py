"""Segment images with an exported model: numpy and onnxruntime alone, no PyTorch.

Example:
    segmenter = Segmenter("bundle")
    session = segmenter.open(image)  # uint8 RGB, H x W x 3
    mask = session.click(x, y)  # bool, H x W
"""

from inter2former_deploy.core.errors import BundleError, EncodedImageError, OperatorLibraryError, SessionStateError
from inter2former_deploy.core.prompts import Box, Click, StartMask, Stroke
from inter2former_deploy.runtime.bundle import ready_bundle
from inter2former_deploy.runtime.encoded import EncodedImage, EncodedImages
from inter2former_deploy.runtime.segmenter import Segmenter
from inter2former_deploy.runtime.session import Session

__all__ = [
    "Box",
    "BundleError",
    "Click",
    "EncodedImage",
    "EncodedImageError",
    "EncodedImages",
    "OperatorLibraryError",
    "Segmenter",
    "Session",
    "SessionStateError",
    "StartMask",
    "Stroke",
    "ready_bundle",
]
