"""What Inter2Former's graphs take and give, and what callers do around them. No torch here.

manifest.json carries all of it (`graph_tensors`, `preprocessing`, `prompts`, `postprocessing`), as numbers for programs
and as sentences for people; docs/other-languages.md explains it. Feature maps are channels-last, without a batch axis;
one graph serves one image. S is the model resolution, C the width of a token, `pyramid` the channels, coarse to fine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from inter2former_deploy.core.contract import GraphName
from inter2former_deploy.families import tensors
from inter2former_deploy.families.inter2former.config import (
    OUTSIDE_LOGIT,
    PAD_MULTIPLE,
    STAGES,
    DecoderConfig,
    ModelConfig,
)
from inter2former_deploy.families.inter2former.labels import (
    BOX_CORE,
    CLICK_RADIUS,
    MASK_CORE,
    Label,
    check_labels,
    fold_table,
)
from inter2former_deploy.families.inter2former.masks import Box, BoxLogits
from inter2former_deploy.families.inter2former.pictures import Frame
from inter2former_deploy.families.inter2former.prompts import LabelMapPrompts
from inter2former_deploy.families.pictures import model_input
from inter2former_deploy.families.tensors import GRID, TOKENS, Json, Tensors

PICTURE = "image"  # the encoder's input
EMBEDDING = "image_embedding"  # the encoder's output
KEPT = (PICTURE, EMBEDDING)  # what a saved encoding holds: all that `prepare` of any decoder may take
EDGE_INPUTS = tuple(f"edge{kind}_{i}" for kind in ("", "_border", "_corner") for i in range(STAGES))
BLANK_INPUTS = ("blank_qkv", "blank_attention", "blank_logsum")
OUTSIDE_INPUTS = ("outside_qkv", "outside")
PREPARED = (*BLANK_INPUTS, *OUTSIDE_INPUTS, *EDGE_INPUTS)  # what `prepare` gives
LABELS = "labels"  # the prompt state
CLICK_INPUTS = (LABELS, EMBEDDING, *PREPARED)
CLICK_OUTPUTS = ("box_logits", "box")

make_frame = Frame
make_input = model_input
make_prompts = LabelMapPrompts
PROMPTS = (LABELS,)


def check_inputs(prompts: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse a label map that means nothing, which plain onnxruntime does not; ValueError says why."""
    check_labels(prompts[LABELS])


def read_prediction(outputs: Mapping[str, npt.NDArray[Any]]) -> BoxLogits:
    """What the click graph gave."""
    return BoxLogits(Box(*outputs["box"].tolist()), outputs["box_logits"])


def graph_tensors(config: ModelConfig, size: int) -> dict[GraphName, Json]:
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
    picture = {PICTURE: make.floats(["S", "S", 3], "the picture, see preprocessing")}
    embedding = {EMBEDDING: make.floats([GRID, GRID, decoder.dim], "tokens of the image")}
    blank = "full attention of the decoder's first layer before any click, which saves time; hand it on unchanged"
    prepared = {
        "blank_qkv": make.floats([TOKENS, 3 * decoder.attention_dim], f"queries, keys and values of {blank}"),
        "blank_attention": make.floats([TOKENS, decoder.attention_dim], f"result of {blank}"),
        "blank_logsum": make.floats([TOKENS, decoder.heads], f"logarithms of the sums of {blank}"),
    }
    outside = "the decoder that the image alone decides, for tokens outside the box of the labels; hand it on unchanged"
    prepared |= {
        "outside_qkv": make.floats([TOKENS, 3 * decoder.attention_dim], f"queries, keys and values of {outside}"),
        "outside": make.floats([TOKENS, outside_width(decoder)], f"what of {outside}"),
    }
    for i, channels in enumerate((*decoder.pyramid[1:], 1)):
        side = "S" if i == STAGES - 1 else f"S/{2 ** (STAGES - 1 - i)}"
        what = f"edge features for upsampling stage {i}"
        prepared[f"edge_{i}"] = make.floats([side, side, channels], what)
        prepared[f"edge_border_{i}"] = make.floats([STAGES, GRID, side, channels], f"{what}, at the borders of crops")
        prepared[f"edge_corner_{i}"] = make.floats([STAGES, GRID, GRID, channels], f"{what}, at the corners of crops")
    prepared = {name: prepared[name] for name in PREPARED}
    labels = make.of("uint8", ["S", "S"], "the label map, see prompts; values above 4 are not allowed")
    decoded = {
        "box_logits": make.floats(["box_height", "box_width"], "logits inside the upsampled box, see postprocessing"),
        "box": make.of("int64", [4], "left, top, right, bottom of the box in pixels of S x S, right, bottom exclusive"),
    }
    return {
        "encoder": {"inputs": picture, "outputs": embedding},
        "prepare": {"inputs": picture | embedding, "outputs": prepared},
        "click": {"inputs": {LABELS: labels, **embedding, **prepared}, "outputs": decoded},
    }


def outside_width(decoder: DecoderConfig) -> int:
    """Numbers of a token that are known of the decoder outside the box of the labels (`modules/outside.py`)."""
    width, state = decoder.pyramid[1], 0
    for layer in range(decoder.layers):
        if layer > 0:
            width += 3 * decoder.attention_dim + state + 1
        state += decoder.attention_dim
        width += 2 * decoder.expert_hidden + state + 1
        state += decoder.expert_hidden
    return width


def preprocessing() -> Json:
    """What a caller in any language does to an image before the graphs take it, and what they then do themselves."""
    return tensors.preprocessing(
        "RGB 0-255, pad right and bottom with pad_rgb to multiples of pad_multiple and then to a square, "
        "whose side is `side`, resize bilinearly (align_corners=False, no antialias) to size x size, float32, "
        "channels last",
        pad_multiple=PAD_MULTIPLE,
        side="the longer of height and width of the image, rounded up to a multiple of pad_multiple",
    )


def prompts() -> Json:
    """What a caller in any language does at every click: coordinates, label map."""
    return {
        "session": "Run `encoder` and then `prepare` once an image and keep the outputs: `click` takes them as inputs "
        "of the same names. The label map starts with `labels.start` everywhere. At every click: if there is a "
        "prediction, fold it into the map (`labels.prediction`); add the click (`labels.click`); run `click` with the "
        "map and the kept tensors; make the mask (postprocessing). Undo: drop the last click, its map and its logits; "
        "go on from the map and the logits of the click before it, or from the start.",
        "coordinates": {
            "text": "A click at x, y in pixels of the image (x to the right, y down, pixel i spans [i, i + 1)) is "
            "painted at column min(int(scale * x), size - 1) and row min(int(scale * y), size - 1), where scale = "
            "size / side in float64 and int rounds down. Clicks outside the image are refused.",
            "scale": "size / side",
            "rounding": "down",
        },
        "labels": {
            "text": "One byte a pixel of the size x size square. What it says of the pixel: definite background 0, "
            "possible background 1, unknown 2, possible foreground 3, definite foreground 4. Values above 4 are "
            "refused by the operator library; plain onnxruntime does not check them, and its result means nothing.",
            "values": {label.name.lower(): int(label) for label in Label},
            "start": int(Label.UNKNOWN),
            "largest": int(max(Label)),
            "click": {
                "text": "All pixels of the map at a Euclidean distance of at most `radius` from the click's pixel get "
                "`positive` or `negative`, whatever they were. Where discs of clicks that are added together overlap, "
                "the sign whose first click comes later among them wins.",
                "radius": CLICK_RADIUS,
                "distance": "euclidean, inclusive",
                "positive": int(Label.DEFINITE_FOREGROUND),
                "negative": int(Label.DEFINITE_BACKGROUND),
            },
            "prediction": {
                "text": "Every pixel, padding included, moves one step towards the prediction; definite labels stay. "
                "A pixel whose logit is > 0 gets `foreground[label]`, any other `background[label]`.",
                "foreground": fold_table(foreground=True),
                "background": fold_table(foreground=False),
            },
            "box": {
                "text": "A box x0, y0, x1, y1 covers columns int(scale * x0) to ceil(scale * x1) and rows likewise, "
                "the end exclusive. Outside it pixels get `outside`, inside `inside`, and those whose centre "
                "lies in the ellipse around its middle, with axes of `core_share` of its width and height, "
                "`core`; definite labels stay. Then run `click`, as after a click.",
                "outside": int(Label.POSSIBLE_BACKGROUND),
                "inside": int(Label.UNKNOWN),
                "core": int(Label.POSSIBLE_FOREGROUND),
                "core_share": BOX_CORE,
            },
            "stroke": {
                "text": "The corners of a line are placed as clicks are; each piece of length L between two corners is"
                " split into ceil(L / spacing) equal steps, and every end of a step, rounded down, is painted "
                "as a click. One step for undo.",
                "spacing": CLICK_RADIUS,
            },
            "mask": {
                "text": "A mask to start from is sampled at the centres of the map's pixels: row i has the value of "
                "the image's row int((i + 0.5) * side / size), columns likewise; where there is no image, it "
                "is background. Pixels of the object get `foreground`, others `background`, and those of the "
                "object whose distance to the nearest pixel that is not, or to the border of the map (pixel "
                "centres, one pixel beyond it counts), is larger than the largest such distance / "
                "`core_divisor` get `core`. Clicks and strokes that came before are painted again, in order. "
                "Nothing is run and nothing is folded in: the mask is the prediction until the next prompt.",
                "foreground": int(Label.POSSIBLE_FOREGROUND),
                "background": int(Label.POSSIBLE_BACKGROUND),
                "core": int(Label.DEFINITE_FOREGROUND),
                "core_divisor": MASK_CORE,
            },
        },
    }


def postprocessing() -> Json:
    """What a caller in any language makes of what `click` gives: logits, the mask."""
    return {
        "logits": "The map of logits, size x size: `outside_logit` everywhere but in the box, whose rows top to bottom "
        "and columns left to right are `box_logits`. Foreground is where a logit is > threshold.",
        "outside_logit": OUTSIDE_LOGIT,
        "mask": "Resize the map of logits bilinearly (align_corners=False) from size x size to side x side, crop to "
        "the first height rows and width columns of the image; the object is where the result is > threshold.",
        "resize": tensors.resize(),
        "threshold": 0,
    }
