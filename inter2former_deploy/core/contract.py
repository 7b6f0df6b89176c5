"""What exporter, runtime and callers in other languages agree on: files of a bundle, graph tensors, label maps, clicks.

manifest.json carries all of it (`graph_tensors`, `preprocessing`, `interaction`), as numbers for programs and as
sentences for people; docs/other-languages.md explains it. Feature maps are channels-last, without a batch axis; one
graph serves one image. S is the model resolution, C the width of a token, `pyramid` the channels, coarse to fine.
"""

from __future__ import annotations

from typing import Any

from inter2former_deploy.families.inter2former.config import PATCH, ModelConfig
from inter2former_deploy.families.inter2former.labels import CLICK_RADIUS, Label, fold_table

SCHEMA_VERSION = 4  # of manifest.json and the tensors of both graphs
DOMAIN = "inter2former"
DOMAIN_VERSION = 2

ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
MANIFEST_FILE = "manifest.json"
INLINE_FILES = {  # the same graphs without functions, for runtimes that know none; where they were asked for
    ENCODER_FILE: "encoder.inline.onnx",
    DECODER_FILE: "decoder.inline.onnx",
}

STAGES = 4
EDGE_INPUTS = tuple(f"edge{kind}_{i}" for kind in ("", "_border", "_corner") for i in range(STAGES))
BLANK_INPUTS = ("blank_qkv", "blank_attention", "blank_logsum")
IMAGE_FEATURES = ("image_embedding", *BLANK_INPUTS, *EDGE_INPUTS)  # what the decoder takes from the encoder

ENCODER_INPUT = "image"
ENCODER_OUTPUTS = (*IMAGE_FEATURES, "canny_maps")
DECODER_INPUTS = ("labels", *IMAGE_FEATURES)
DECODER_OUTPUTS = ("logits", "box_logits", "box", "tokens", "edge_tokens")

# The release normalises BGR images with these numbers in stored (BGR) order and pads with 0 afterwards.
MEAN_BGR = (123.675, 116.28, 103.53)
STD_BGR = (58.395, 57.12, 57.375)
PAD_RGB = MEAN_BGR[::-1]  # the picture value that normalises to 0
PAD_MULTIPLE = 256  # images are padded to multiples of this before they are made square

OUTSIDE_LOGIT = -100.0


Json = dict[str, Any]


def graph_tensors(config: ModelConfig, size: int) -> Json:
    """Every input and output of both graphs, as manifest.json has them.

    Args:
        config: Of the model.
        size: S, pixels.

    Returns:
        By file, then "inputs" and "outputs", then by name: "type", "shape" (numbers, and formulas in S), "sizes" (the
        shape in this bundle; the names of sizes that differ from run to run stay) and "meaning".
    """
    decoder = config.decoder
    grid, tokens = "S/16", "(S/16)^2"
    numbers = {"S": size, grid: size // PATCH, tokens: (size // PATCH) ** 2}

    def tensor(kind: str, shape: list[str | int], meaning: str) -> Json:
        sizes = [numbers.get(n, n) if isinstance(n, str) else n for n in shape]
        return {"type": kind, "shape": shape, "sizes": sizes, "meaning": meaning}

    def floats(shape: list[str | int], meaning: str) -> Json:
        return tensor("float32", shape, meaning)

    blank = "full attention of the decoder's first layer before any click, which saves time; hand it on unchanged"
    features = {
        "image_embedding": floats([grid, grid, decoder.dim], "tokens of the image"),
        "blank_qkv": floats([tokens, 3 * decoder.attention_dim], f"queries, keys and values of {blank}"),
        "blank_attention": floats([tokens, decoder.attention_dim], f"result of {blank}"),
        "blank_logsum": floats([tokens, decoder.heads], f"logarithms of the sums of {blank}"),
    }
    for i, channels in enumerate((*decoder.pyramid[1:], 1)):
        side = "S" if i == STAGES - 1 else f"S/{2 ** (STAGES - 1 - i)}"
        numbers[side] = size >> (STAGES - 1 - i)
        what = f"edge features for upsampling stage {i}"
        features[f"edge_{i}"] = floats([side, side, channels], what)
        features[f"edge_border_{i}"] = floats([STAGES, grid, side, channels], f"{what}, at the borders of crops")
        features[f"edge_corner_{i}"] = floats([STAGES, grid, grid, channels], f"{what}, at the corners of crops")
    features = {name: features[name] for name in IMAGE_FEATURES}
    decoded = {
        "logits": floats(["S", "S"], f"foreground where > 0; {OUTSIDE_LOGIT:g} outside the upsampled box"),
        "box_logits": floats(["box_height", "box_width"], "the same inside the upsampled box only: the fast way"),
        "box": tensor("int64", [4], "left, top, right, bottom of the box in pixels of S x S, right, bottom exclusive"),
        "tokens": floats(
            [tokens, decoder.dim], "tokens after the hybrid layers; to verify with, need not be asked for"
        ),
        "edge_tokens": tensor("int64", ["edge_tokens"], "tokens that got full attention; need not be asked for"),
    }
    maps = "gradient maps of the edge network; to verify with, need not be asked for"
    labels = tensor("uint8", ["S", "S"], "the label map, see interaction; values above 4 are not allowed")
    return {
        ENCODER_FILE: {
            "inputs": {ENCODER_INPUT: floats(["S", "S", 3], "the picture, see preprocessing")},
            "outputs": {**features, "canny_maps": floats([5, "S", "S"], maps)},
        },
        DECODER_FILE: {"inputs": {"labels": labels, **features}, "outputs": decoded},
    }


def preprocessing() -> Json:
    """What a caller in any language does to an image before encoder.onnx, and what that graph then does itself."""
    return {
        "caller": "RGB 0-255, pad right and bottom with pad_rgb to multiples of pad_multiple and then to a square, "
        "whose side is `side`, resize bilinearly (align_corners=False, no antialias) to size x size, float32, "
        "channels last",
        "channels": "RGB",
        "range": [0, 255],
        "pad_rgb": list(PAD_RGB),
        "pad_multiple": PAD_MULTIPLE,
        "side": "the longer of height and width of the image, rounded up to a multiple of pad_multiple",
        "resize": _resize(),
        "graph": "reverses the channels to BGR, subtracts mean_bgr, divides by std_bgr",
        "mean_bgr": list(MEAN_BGR),
        "std_bgr": list(STD_BGR),
    }


def interaction() -> Json:
    """What a caller in any language does at every click: coordinates, label map, decoder, mask."""
    return {
        "session": "Run encoder.onnx once an image and keep the outputs that decoder.onnx takes as inputs of the same "
        "names. The label map starts with `labels.start` everywhere. At every click: if there is a prediction, fold "
        "it into the map (`labels.prediction`); add the click (`labels.click`); run decoder.onnx with the map and the "
        "kept outputs; make the mask. Undo: drop the last click, its map and its logits; go on from the map and the "
        "logits of the click before it, or from the start.",
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
        },
        "mask": {
            "text": "Resize logits bilinearly (align_corners=False) from size x size to side x side, crop to the "
            "first height rows and width columns of the image; the object is where the result is > threshold.",
            "resize": _resize(),
            "threshold": 0,
            "outside_logit": OUTSIDE_LOGIT,
        },
    }


def _resize() -> Json:
    return {
        "method": "bilinear",
        "align_corners": False,
        "antialias": False,
        "positions": "max((i + 0.5) * source / target - 0.5, 0), indices clamped to the last pixel",
    }
