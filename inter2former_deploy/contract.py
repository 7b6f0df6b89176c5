"""What exporter and runtime agree on: names and layouts of graph tensors, files of a bundle, the operator domain.

Feature maps are channels-last, without a batch axis; one graph serves one image. S is the model resolution,
h = w = S / 16, C the width of a token, `pyramid` = (C, C1, C2, C3) the channels, coarse to fine.

encoder.onnx
    image            float32 [S, S, 3]   RGB, 0-255, padded with `PAD_RGB` and resized (runtime/preprocess.py)
 -> image_embedding  float32 [h, w, C]
    edge_0..3, edge_border_0..3, edge_corner_0..3   what local upsampling needs of the image:
                     [2^(i+1)*h, 2^(i+1)*w, Co], [4, h, 2^(i+1)*w, Co], [4, h, w, Co], Co = (C1, C2, C3, 1)[i]
                     (custom_ops/OPERATORS.md, LocalUpsample)
    blank_qkv, blank_attention, blank_logsum   full attention of the decoder's first layer before any click, when every
                     label is unknown: [h*w, 3*D], [h*w, D], [h*w, heads], D = `attention_dim` (FullAttention). They
                     only save time, most of all at the first click: numbers that do not fit the embedding change
                     nothing but that, and models without full attention ignore them
    canny_maps       float32 [5, S, S]   grad_mag, grad_ori, thin, thresh, early; only to verify with

decoder.onnx
    labels           uint8 [S, S]        reference labels, 0 definite background ... 4 definite foreground
    image_embedding, edge_*, blank_*     as above
 -> logits           float32 [S, S]      foreground where > 0; -100 outside the upsampled box
    box_logits       float32 [hb*16, wb*16]   the same inside the upsampled box only
    box              int64 [4]           left, top, right, bottom of that box in pixels, right and bottom exclusive
    tokens           float32 [h*w, C]    after the hybrid layers; to verify with
    edge_tokens      int64 [E]           tokens that got full attention; to verify with
"""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 3  # of manifest.json and the tensors above
DOMAIN = "inter2former"
DOMAIN_VERSION = 2
# An argument of a formula (inter2former_deploy/modules/operators.py) that sets operators apart, and what each of its
# values adds to the operator's name. No body has to choose then, and none needs strings (custom_ops/OPERATORS.md).
CHOICES: dict[str, tuple[str, dict[str, str]]] = {
    "EdgeTokens": ("rule", {"released": "", "exact": "Exact"}),
    "HybridAttention": ("quantizer", {"bsq": "", "vq": "Vq"}),
    "NormLinear": ("activation", {"none": "", "gelu": "Gelu"}),
    "Int8Linear": ("activation", {"none": "", "gelu": "Gelu"}),
    "Bf16Linear": ("activation", {"none": "", "gelu": "Gelu"}),
    "LocalUpsample": ("activation", {"silu": "", "none": "Linear"}),
}

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


def operator_name(formula: str, settings: dict[str, Any], *, known: bool = False) -> str:
    """The operator that computes a formula; takes the setting that its name says out of `settings`.

    Args:
        formula: Name of the formula, in capitals: "NormLinear".
        settings: Arguments of the formula that are no tensors; without the one of `CHOICES` its first value counts.
        known: Whether HybridAttention takes what is known of another attention.

    Raises:
        ValueError: A setting has a value that no operator serves.
    """
    name = formula
    if formula in CHOICES:
        argument, suffixes = CHOICES[formula]
        value = settings.pop(argument, next(iter(suffixes)))
        if value not in suffixes:
            raise ValueError(f"{argument} must be {' or '.join(suffixes)}, got {value!r}")
        name += suffixes[value]
    return name + ("Known" if known else "")
