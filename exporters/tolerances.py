"""Every limit of the parity gate, with its reason."""

from __future__ import annotations

from typing import Literal, NamedTuple

Measure = Literal["largest error", "mean error", "count", "1 - IoU", "mask difference", "share of decodes"]

LARGEST = 8.0
"""How many times the largest error of PyTorch's own float32 a tensor's largest error may be.

Both are errors against float64. The largest of many rounding errors is a chance event: with sums in another order it
comes out within a few times the same. `scripts/gate right` prints the largest that right graphs reached.
"""

MEAN = 4.0
"""The same for the mean of the absolute errors, which hardly depends on chance, but on the order of summation."""

MEAN_OF_MAPS = 16.0
"""The same for edge inputs, which lie behind many norms over a whole map.

One rounding error in the statistics of such a norm moves all values alike, so that their mean is a chance event, too,
and depends on how a million values are added up. With the probe's seeds 1 and 2 at 256, right graphs reached 5.1 times
PyTorch's in onnxruntime and 7.4 times with operators.
"""

FLOOR = 2.0**-22
"""An error of PyTorch's below this, over the largest value (or the mean one), counts as this.

Where PyTorch happens to round exactly, another order of the same sums is still off by units in the last place.
"""

WHOLE_MAP = 4.0
"""Where float64 judges parts of a large map, the whole is compared with PyTorch's float32 besides.

Its limit is what both may be off in the parts, times this: the largest error of a whole map is larger than that of a
part of it.
"""

PARTS_ABOVE = 512
"""Pixels of a side up to which encoder and edge network run in float64 over the whole map."""

DECISION = 8.0
"""A decision is on a tie if its margin is at most this times the error that PyTorch's float32 has in what decides.

Decisions are the sign of a code bit, the choice of an expert, and whether a token lies in the box; for Canny maps the
direction of a gradient, whether it is a maximum, and whether it reaches the threshold. On a tie either way is right. A
decode that fails its limits is forgiven only if one of its decisions is on a tie, and then it is compared on masks.
"""

REDUCED_LARGEST = 2.0
REDUCED_MEAN = 1.25
"""The same as `LARGEST` and `MEAN` for the embedding of an encoder in reduced precision.

PyTorch's own error is then that of the reference modules with the same layers rounded alike. It is far above float32
rounding, and both sides round nearly the same numbers, so that the multiples are smaller.
"""


SMALL_MASK = 0.05
"""The share of a picture that a mask has at least where masks are compared: smaller ones count as this large.

What differs between two right masks are pixels on the threshold, and of an object of a few pixels one is much.
"""


class Limit(NamedTuple):
    """What a comparison other than with float64 may reach at most."""

    measure: Measure
    value: float
    reason: str


LIMITS: dict[str, Limit] = {
    "edge_tokens": Limit("count", 0, "integers"),
    "box": Limit("count", 0, "integers, unless a token lies on the threshold"),
    "logits": Limit("count", 0, "box_logits inside the box and -100 elsewhere, exactly"),
    "canny_maps/grad_ori": Limit("count", 0, "multiples of 45 degrees, unless the gradient lies between two of them"),
    "canny_maps/thin": Limit("count", 0, "where the gradient is a maximum, unless two neighbours are equal"),
    "canny_maps/thresh": Limit("count", 0, "where that reaches the threshold, unless it lies on it"),
    "canny_maps/early": Limit("count", 0, "where the gradient reaches the threshold, unless it lies on it"),
    "masks after a tie": Limit(
        "mask difference", 0.02, "a decode with a decision on a tie: one token may go to another expert"
    ),
    "loose decodes": Limit("share of decodes", 0.5, "if ties excused more, little would be verified"),
    "masks": Limit(
        "mask difference",
        0.05,
        "from the image on, each side with its own Canny maps, whose differences move logits by up to 0.13 in the "
        "release itself; in a session of its own, whose label map (or prompts and logits) PyTorch gets, too",
    ),
}
