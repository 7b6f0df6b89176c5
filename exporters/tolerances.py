"""Every limit of the parity gate, with its reason."""

from __future__ import annotations

from typing import Literal, NamedTuple

Measure = Literal["error", "share", "count", "1 - IoU", "share of decodes"]


class Limit(NamedTuple):
    """What a comparison may reach at most.

    `error`: the largest absolute difference over the largest absolute value of the reference. `share`: of the elements,
    those that differ by more than `PIXEL_ERROR` of the largest value. `count`: how many elements differ.
    """

    measure: Measure
    value: float
    reason: str


PIXEL_ERROR = 1e-5

_ROUNDING = "float32 rounding, layer after layer, in another order"
_CANNY = (
    "thresholds and bins: with oneDNN on and off, the release itself differs at 1.1 % of the pixels of grad_ori, where "
    "the gradient is rounding noise, and at 0.03 % of those of thin"
)

LIMITS: dict[str, Limit] = {
    "image_embedding": Limit("error", 1e-5, _ROUNDING),
    "canny_maps/grad_mag": Limit("share", 0.0, _ROUNDING),
    "canny_maps/grad_ori": Limit("share", 0.02, _CANNY),
    "canny_maps/thin": Limit("share", 5e-4, _CANNY),
    "canny_maps/thresh": Limit("share", 5e-4, _CANNY),
    "canny_maps/early": Limit("share", 5e-4, _CANNY),
    "blank": Limit("error", 1e-5, "of the same embedding: " + _ROUNDING),
    "edge": Limit("error", 1e-5, "of the same Canny maps: " + _ROUNDING),
    "edge_tokens": Limit("count", 0, "integers"),
    "box": Limit("count", 0, "integers, unless a token lies on the threshold"),
    "tokens": Limit("error", 1e-5, _ROUNDING),
    "box_logits": Limit("error", 1e-5, _ROUNDING),
    "logits": Limit("error", 1e-5, "box_logits, and -100 elsewhere"),
    "masks after a tie": Limit(
        "1 - IoU", 0.02, "a decode with a decision on a tie: one token may go to another expert"
    ),
    "loose decodes": Limit("share of decodes", 0.5, "if ties excused more, little would be verified"),
    "masks": Limit(
        "1 - IoU",
        0.05,
        "from the image on, each side with its own Canny maps, whose differences move logits by up to 0.13 in the "
        "release itself; at the same label maps",
    ),
    "session masks": Limit(
        "1 - IoU",
        0.1,
        "the same, and each side folds its own predictions into its label map: a pixel that differs changes the box "
        "and the labels of the next clicks",
    ),
}

TIE = 2e-6
"""A decision (sign of a code bit, choice of an expert, token on the box threshold) whose margin, over the largest of
its kind, is below this may go either way: rounding errors of tokens are a few 1e-7 of the largest value. A decode that
fails its limits is forgiven only if its smallest margin is below this, and then it is compared on masks."""


CONDITIONED = 4
"""An image embedding that misses its limit is compared with float64, and may be off by this times what PyTorch's
float32 is: the largest of many rounding errors, added up in another order, comes out within a few times the same."""


def limit_of(tensor: str) -> Limit:
    """The limit of a tensor; `blank_qkv` to `blank_logsum` share one, and `edge_0` to `edge_corner_3`."""
    known = LIMITS.get(tensor)
    return known if known is not None else LIMITS[tensor.split("_")[0]]
