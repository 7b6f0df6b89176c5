"""What HRSAM's graphs take and give, and what callers do around them. No torch here.

manifest.json carries all of it (`graph_tensors`, `preprocessing`, `prompts`, `postprocessing`). The prompts of the
click graph have the names that they have in SAM's own exported decoder, and mean the same. Feature maps are
channels-last, without a batch axis; one graph serves one image. S is the model resolution, C the width of a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.contract import GraphName
from inter2former_deploy.families import tensors
from inter2former_deploy.families.hrsam.config import MASK_STRIDE, PAD_MULTIPLE, HRSAMConfig
from inter2former_deploy.families.hrsam.masks import MaskLogits
from inter2former_deploy.families.hrsam.pictures import Frame
from inter2former_deploy.families.hrsam.prompts import (
    BOTTOM_RIGHT,
    NEGATIVE,
    NOT_A_POINT,
    POSITIVE,
    START_LOGIT,
    STROKE_SPACING,
    TOP_LEFT,
    SparsePrompts,
)
from inter2former_deploy.families.pictures import model_input
from inter2former_deploy.families.tensors import GRID, TOKENS, Json, Tensors

PICTURE = "image"  # the encoder's input
EMBEDDING = "image_embedding"  # the encoder's output
KEPT = (EMBEDDING,)  # what a saved encoding holds: all that `prepare` takes
PROMPTS = ("point_coords", "point_labels", "mask_input", "has_mask_input")
LOGITS = "logits"  # the result of a click
LABELS = {
    "not_a_point": NOT_A_POINT,
    "negative": NEGATIVE,
    "positive": POSITIVE,
    "top_left": TOP_LEFT,
    "bottom_right": BOTTOM_RIGHT,
}

make_frame = Frame
make_input = model_input
make_prompts = SparsePrompts


def check_inputs(prompts: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse labels that mean nothing, which onnxruntime would read as others; ValueError says why."""
    labels = prompts["point_labels"]
    if not np.isin(labels, [*LABELS.values()]).all():
        raise ValueError(f"point_labels must be {', '.join(f'{v} ({k})' for k, v in LABELS.items())}, got {labels}")


def read_prediction(outputs: Mapping[str, npt.NDArray[Any]]) -> MaskLogits:
    """What the click graph gave."""
    return MaskLogits(outputs[LOGITS])


def graph_tensors(config: HRSAMConfig, size: int) -> dict[GraphName, Json]:
    """Every input and output of the three graphs, as manifest.json has them.

    Args:
        config: Of the model.
        size: S, pixels.

    Returns:
        By graph, then "inputs" and "outputs", then by name: "type", "shape" (numbers, and formulas in S), "sizes" (the
        shape in this bundle; the names of sizes that differ from run to run stay) and "meaning".

    Raises:
        ValueError: `size` is no positive multiple of 16.
    """
    make, decoder = Tensors(size), config.decoder
    low = f"S/{MASK_STRIDE}"
    picture = {PICTURE: make.floats(["S", "S", 3], "the picture, see preprocessing")}
    embedding = {EMBEDDING: make.floats([GRID, GRID, decoder.dim], "tokens of the image")}
    rows: list[str | int] = [TOKENS, decoder.cross_dim]
    of_image = "of the image tokens in the first layer; hand them on unchanged"
    of_positions = "of the places of the image tokens in attention {}; hand them on unchanged"
    prepared = {
        "image_key": make.floats(rows, f"keys {of_image}"),
        "image_value": make.floats(rows, f"values {of_image}"),
        "image_query": make.floats(rows, f"queries {of_image}"),
    }
    for i in range(1, decoder.layers):
        prepared[f"position_key_{i}"] = make.floats(rows, f"keys {of_positions.format(i)}")
        prepared[f"position_query_{i}"] = make.floats(rows, f"queries {of_positions.format(i)}")
    prepared["position_key_last"] = make.floats(
        rows, "keys of the places of the image tokens at the end; hand them on unchanged"
    )
    prompts = {
        "point_coords": make.floats(["points", 2], "x and y of points in pixels of the S x S square, see prompts"),
        "point_labels": make.of("int64", ["points"], "what the points are, see prompts"),
        "mask_input": make.floats([low, low], "logits of the decode before; anything, if there is none"),
        "has_mask_input": make.floats([1], "1 if mask_input counts, else 0"),
    }
    decoded = {LOGITS: make.floats([low, low], "logits, foreground where > 0, see postprocessing")}
    return {
        "encoder": {"inputs": picture, "outputs": embedding},
        "prepare": {"inputs": embedding, "outputs": prepared},
        "click": {"inputs": {**prompts, **embedding, **prepared}, "outputs": decoded},
    }


def preprocessing() -> Json:
    """What a caller in any language does to an image before the graphs take it, and what they then do themselves."""
    return tensors.preprocessing(
        "RGB 0-255, pad right and bottom with pad_rgb to multiples of pad_multiple (padded), resize "
        "bilinearly (align_corners=False, no antialias) to resized, pad right and bottom with pad_rgb to size x size, "
        "float32, channels last",
        pad_multiple=PAD_MULTIPLE,
        padded="height and width of the image, each rounded up to a multiple of pad_multiple",
        resized="int(size / max(padded) * n + 0.5) for both n of padded, in float64",
    )


def prompts() -> Json:
    """What a caller in any language does at every click: coordinates, labels, the logits before."""
    return {
        "session": "Run `encoder` and then `prepare` once an image and keep the outputs: `click` takes them as inputs "
        "of the same names. At every prompt run `click` with all prompts so far and the logits of the decode before. "
        "Undo: drop the last prompt and its logits; go on from the logits of the prompt before it.",
        "coordinates": {
            "text": "x and y in pixels of the image (x to the right, y down, pixel i spans [i, i + 1)) are multiplied "
            "by resized / padded of their axis, in float32, and not rounded. Points outside the image are refused.",
            "scale": "resized / padded",
            "rounding": "none",
        },
        "point_labels": {
            "text": "All clicks in their order; then the two corners of the box, if there is one, or else one point "
            "that is none, at any place. There is at most one box. A stroke is clicks along it, at most "
            "`stroke_spacing` pixels of the square apart.",
            "values": LABELS,
            "stroke_spacing": STROKE_SPACING,
        },
        "mask_input": "At the first decode has_mask_input is 0 and mask_input anything; later it is 1, and mask_input "
        "the `logits` of the decode before, unchanged. A mask to start from stands for logits from -start_logit to "
        "start_logit, by the share of the object in each block of mask_stride x mask_stride pixels of the square.",
        "start_logit": START_LOGIT,
        "mask_stride": MASK_STRIDE,
    }


def postprocessing() -> Json:
    """What a caller in any language makes of what `click` gives: the mask."""
    return {
        "mask": "Resize `logits` bilinearly (align_corners=False) to size x size, crop to the first rows and columns "
        "of resized, resize the same way to padded, crop to the first height rows and width columns of the image; the "
        "object is where the result is > threshold.",
        "resize": tensors.resize(),
        "threshold": 0,
    }
