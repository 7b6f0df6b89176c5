"""What exporter and runtime agree on: files of a bundle, the three graphs, names of operators.

What the graphs take and give, and what callers do around them, is a family's own (`families/*/interface.py`) and stands
in manifest.json. S is the model resolution.
"""

from __future__ import annotations

from typing import Literal

SCHEMA_VERSION = 5  # of manifest.json
DOMAIN = "inter2former"
DOMAIN_VERSION = 2

GraphName = Literal["encoder", "prepare", "click"]
# Once an image, with the encoder's weights alone: picture -> image embedding.
# Once an image: picture and image embedding -> what the decoder wants of an image.
# Once a click: prompts and what both others gave -> logits.
MANIFEST_FILE = "manifest.json"
ENCODER_FILE = "encoder.onnx"
DECODER_FILES: dict[GraphName, str] = {"prepare": "prepare.onnx", "click": "click.onnx"}  # in the folder of a decoder


def inline_file(name: str) -> str:
    """The same graph without functions, for runtimes that know none; where it was asked for."""
    return name.removesuffix(".onnx") + ".inline.onnx"


def weights_file(name: str) -> str:
    """The weights of a large graph, which lie beside it: onnxruntime maps them into memory instead of reading them."""
    return name.removesuffix(".onnx") + ".weights"


# Pictures are normalised as BGR with these numbers in stored (BGR) order, in every family.
MEAN_BGR = (123.675, 116.28, 103.53)
STD_BGR = (58.395, 57.12, 57.375)
