"""Every tolerance of the test suite and the parity gate's checks of it, with its reason."""

from __future__ import annotations

from typing import NamedTuple


class Tolerance(NamedTuple):
    """|actual - expected| <= atol + rtol * |expected|; where a test says so, of the largest expected value."""

    rtol: float
    atol: float
    reason: str


TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("operator", "float32"): Tolerance(
        rtol=2.0**-21,
        atol=1e-30,
        reason="added to twice the plain formula's error, relative to the largest expected value: where the plain "
        "formula happens to round exactly, a kernel may still differ by a few units in the last place",
    ),
    ("window attention body", "float32"): Tolerance(
        rtol=2.0**-21,
        atol=0,
        reason="added for the body: what the plain formula loses hangs on NumPy's BLAS, 2.9e-7 with one kernel of "
        "OpenBLAS and 1.6e-6 with OPENBLAS_CORETYPE=Haswell, while the body loses 1.7e-6 either way "
        "(pytest tests/exporters/test_bodies.py -k window_attention)",
    ),
    ("low rank", "float32"): Tolerance(
        rtol=4e-6, atol=0, reason="of the largest value: weights, and what is known, rounded to float32 once"
    ),
    ("mask upscaling", "float32"): Tolerance(
        rtol=2.0**-20,
        atol=0,
        reason="added, of the largest logit: two GELUs, within 3e-7 of their arguments (kernels/math.h), which "
        "are several times as large as the sum of few channels that they end in",
    ),
    ("twin", "float64"): Tolerance(
        rtol=1e-5,
        atol=0.0,
        reason="of the largest value: the release computed the golden arrays in float32, layer after layer",
    ),
    ("edge features", "float32"): Tolerance(
        rtol=1e-5,
        atol=0,
        reason="relative to the largest value, from the same five Canny maps; other orders of summation",
    ),
    ("canny maps", "float32"): Tolerance(
        rtol=1e-6,
        atol=0,
        reason="gradient magnitudes relative to the largest; other roundings of blur and Sobel filters",
    ),
    ("formula", "float64"): Tolerance(
        rtol=1e-12,
        atol=0.0,
        reason="of the largest value: the same formula in the same precision, summed in another order",
    ),
    ("model input", "float32"): Tolerance(
        rtol=2e-6, atol=0, reason="normalised pictures: the release resizes after normalisation, the runtime before it"
    ),
    ("neck", "float32"): Tolerance(
        rtol=1e-5, atol=0.0, reason="tokens after two layers, of the largest: the release sums in another order"
    ),
    ("blocks", "float32"): Tolerance(
        rtol=1e-5,
        atol=0.0,
        reason="outputs of one layer's attention or experts, of the largest: the release sums in another order",
    ),
    ("upsampling", "float32"): Tolerance(
        rtol=1e-5,
        atol=0.0,
        reason="logits after four stages, of the largest: the release sums in another order, and the operators "
        "convolve edge features apart",
    ),
    ("loss", "float32"): Tolerance(
        rtol=1e-5,
        atol=0.0,
        reason="losses and gradients, of the largest: the release's float32 gradient itself errs by 6e-6",
    ),
    ("training", "float32"): Tolerance(
        rtol=1e-5, atol=0.0, reason="tokens, loss and gradients, of the largest: the release sums in another order"
    ),
    ("encoder", "float32"): Tolerance(
        rtol=1e-5, atol=0.0, reason="of the largest value: the release sums in another order, block after block"
    ),
    ("window attention", "float64"): Tolerance(
        rtol=1e-13, atol=0.0, reason="of the largest value: softmax and sums over at most 16 slots in double precision"
    ),
    ("reduced precision linear", "float32"): Tolerance(
        rtol=1e-6,
        atol=0.0,
        reason="of the largest value: float32 sums of 40 products, and an epilogue of a few roundings",
    ),
    ("resize", "float64"): Tolerance(
        rtol=1e-6, atol=0.0, reason="of the largest value: the weights of the interpolation are float32"
    ),
    ("bf16 embedding", "float32"): Tolerance(
        rtol=0.03,
        atol=0.0,
        reason="of the largest value: numbers of 8 bits, whose errors add up over the probe's blocks",
    ),
    ("int8 embedding", "float32"): Tolerance(
        rtol=0.1, atol=0.0, reason="of the largest value: 7 bits a row of activations and of weights, block after block"
    ),
    ("session logits", "float32"): Tolerance(
        rtol=1e-5, atol=0.0, reason="of the largest value, from the same embedding and edge features"
    ),
    ("session logits of a bundle", "float32"): Tolerance(
        rtol=0,
        atol=2e-5,
        reason="from the release's image features; its own logits differ by 2e-6 with 1 and 2 threads",
    ),
    ("session pixels", "bool"): Tolerance(
        rtol=0,
        atol=0.01,
        reason="share of a session's pixels, end to end: the edge maps are ill-conditioned, another convolution "
        "backend alone moves the release's own logits by up to 0.13",
    ),
    ("session masks", "bool"): Tolerance(
        rtol=0.0,
        atol=0.02,
        reason="1 - IoU, from the image on: how the convolutions round decides pixels of the Canny maps, in the "
        "release as well; the test runs two convolution backends",
    ),
    ("canny pixels of a bundle", "grad_mag"): Tolerance(rtol=0, atol=0, reason="rounding only"),
    ("canny pixels of a bundle", "grad_ori"): Tolerance(
        rtol=0,
        atol=2e-3,
        reason="share of differing pixels: rounding decides bins and equal neighbours, in the release as well",
    ),
    ("canny pixels of a bundle", "thin"): Tolerance(
        rtol=0,
        atol=2e-3,
        reason="share of differing pixels: rounding decides bins and equal neighbours, in the release as well",
    ),
    ("canny pixels of a bundle", "thresh"): Tolerance(
        rtol=0,
        atol=2e-3,
        reason="share of differing pixels: rounding decides bins and equal neighbours, in the release as well",
    ),
    ("canny pixels of a bundle", "early"): Tolerance(
        rtol=0,
        atol=2e-3,
        reason="share of differing pixels: rounding decides bins and equal neighbours, in the release as well",
    ),
    ("fast convolution", "float32"): Tolerance(
        rtol=2e-6,
        atol=0.0,
        reason="of the largest value, added to twice the plain formula's error: twice the 1.0e-6 that a block of 256 "
        "channels loses, the most of all (pytest tests/operators/test_edge_network.py -k test_block -rP | grep loses)",
    ),
    ("hrsam scan", "float32"): Tolerance(
        rtol=1e-6, atol=0.0, reason="of the largest value: the golden arrays hold a scan in float64"
    ),
    ("hrsam one pass", "float32"): Tolerance(
        rtol=2e-6, atol=0.0, reason="of the largest value: hundreds of float32 steps against three passes in float64"
    ),
    ("hrsam state space", "float32"): Tolerance(
        rtol=0.0, atol=5e-6, reason="one module; threads and convolution backends move the release's own by 1e-6"
    ),
    ("hrsam encoder", "float32"): Tolerance(
        rtol=0.0,
        atol=5e-5,
        reason="block after block in float32: threads, convolution backends and a scan in float32 move the release's "
        "own tokens by 1.2e-5, and they lie 2.8e-5 from the same modules in float64",
    ),
    ("hrsam decoder", "float32"): Tolerance(
        rtol=0.0, atol=5e-5, reason="two layers in float32; the release's own values move by 2.4e-6"
    ),
    ("hrsam model input", "float32"): Tolerance(
        rtol=0.0, atol=5e-6, reason="normalised pictures, up to 2.7: float32 rounding of two bilinear mixtures"
    ),
    ("hrsam logits", "float32"): Tolerance(
        rtol=0.0,
        atol=2e-4,
        reason="of sessions: a norm over four channels of nearly equal values magnifies the rounding of single logits "
        "from click to click, in the release as well (by 4.3e-5)",
    ),
    ("hrsam median of logits", "float64"): Tolerance(
        rtol=0.0, atol=5e-6, reason="where nothing is magnified; the release's own median moves by 1e-6"
    ),
    ("hrsam masks", "float64"): Tolerance(
        rtol=0.0, atol=1e-4, reason="share of pixels: those whose logit is 0 up to rounding"
    ),
}
