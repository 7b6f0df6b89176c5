"""ImageToTokenAttention, TokenToImageAttention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from operators import twins
from operators.harness import Array, Library, assert_accurate

from inter2former_deploy.families.hrsam.config import HRSAM_PROBE
from inter2former_deploy.families.hrsam.decoder import Attention
from inter2former_deploy.operators import formulas

# Heads, and their width; around the vectors, and the release's. With T tokens, kernels take them through the
# projections where heads * T < heads * width, so both ways are here.
HEADS = [(1, 1), (2, 3), (3, 5), (1, 33), (8, 16), (2, 17)]
TOKENS = (1, 2, 7, 8, 9, 15, 16, 17, 26, 33)


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def image_to_token(rows: int, tokens: int, width: int, heads: int, inputs: int, channels: int) -> dict[str, Array]:
    rng = np.random.default_rng((rows, tokens, width, heads, inputs, channels))
    return {
        "query": normal(rng, rows, width),
        "query_input": normal(rng, rows, inputs),
        "query_weight": normal(rng, width, inputs, scale=inputs**-0.5),
        "query_bias": normal(rng, width),
        "key": normal(rng, tokens, width),
        "value": normal(rng, tokens, width),
        "image": normal(rng, rows, channels),
        "out_weight": normal(rng, channels, width, scale=width**-0.5),
        "out_bias": normal(rng, channels),
        "norm_weight": 1 + normal(rng, channels, scale=0.1),
        "norm_bias": normal(rng, channels),
    }


def token_to_image(
    tokens: int, rows: int, width: int, heads: int, channels: int, *, values: int = 1
) -> dict[str, Array]:
    rng = np.random.default_rng((tokens, rows, width, heads, channels))
    return {
        "query": normal(rng, tokens, width),
        "image": normal(rng, rows, channels),
        "key": normal(rng, rows, width),
        "key_weight": normal(rng, width, channels, scale=channels**-0.5),
        "value_weight": normal(rng, width, channels, scale=channels**-0.5),
        "value": normal(rng, values, width),
    }


TO_TOKENS = {"query_weight", "out_weight", "out_bias", "norm_weight", "norm_bias"}
TO_IMAGE = {"key_weight", "value_weight"}


@pytest.mark.parametrize(("heads", "head_width"), HEADS)
def test_image_to_token(library: Library, heads: int, head_width: int) -> None:
    for i, tokens in enumerate(TOKENS):
        case = image_to_token(
            (1, 50, 13)[i % 3], tokens, heads * head_width, heads, (16, 1, 31)[i % 3], 9 + 8 * (i % 4)
        )
        out = library.run_all_ways("ImageToTokenAttention", case, constant=TO_TOKENS, heads=heads, epsilon=1e-3)
        assert_accurate(out, twins.image_to_token_attention, *case.values(), heads=heads, epsilon=1e-3)


@pytest.mark.parametrize(("heads", "head_width"), HEADS)
def test_token_to_image(library: Library, heads: int, head_width: int) -> None:
    for i, tokens in enumerate(TOKENS):
        rows, width, channels = (1, 63, 65, 200)[i % 4], heads * head_width, (16, 1, 31)[i % 3]
        for values in (1, rows):
            case = token_to_image(tokens, rows, width, heads, channels, values=values)
            out = library.run_all_ways("TokenToImageAttention", case, constant=TO_IMAGE, heads=heads)
            assert_accurate(out, twins.token_to_image_attention, *case.values(), heads=heads)


@pytest.mark.parametrize("tokens", [7, 26])
def test_of_the_release(library: Library, tokens: int) -> None:
    """Sizes of the release, and so many image tokens that all parts of the image have several blocks."""
    to_tokens = image_to_token(2100, tokens, 128, 8, 256, 256)
    out = library.run_all_ways("ImageToTokenAttention", to_tokens, constant=TO_TOKENS, heads=8)
    assert_accurate(out, twins.image_to_token_attention, *to_tokens.values(), heads=8)
    to_image = token_to_image(tokens, 2100, 128, 8, 256)
    out = library.run_all_ways("TokenToImageAttention", to_image, constant=TO_IMAGE, heads=8)
    assert_accurate(out, twins.token_to_image_attention, *to_image.values(), heads=8)


def test_formulas(assert_close: Any) -> None:
    case = image_to_token(7, 3, 8, 2, 5, 9)
    out = formulas.image_to_token_attention(*_doubles(case), heads=2, epsilon=1e-3)
    assert_close(out, twins.image_to_token_attention(*case.values(), heads=2, epsilon=1e-3), "formula")
    case = token_to_image(3, 7, 8, 2, 9)
    out = formulas.token_to_image_attention(*_doubles(case), heads=2)
    assert_close(out, twins.token_to_image_attention(*case.values(), heads=2), "formula")


def _doubles(case: dict[str, Array]) -> list[torch.Tensor]:
    return [torch.from_numpy(x).double() for x in case.values()]


def test_they_are_what_the_decoder_s_modules_give(library: Library) -> None:
    torch.manual_seed(5)
    dim, width, heads = 24, 16, HRSAM_PROBE.decoder.heads
    attention, norm = Attention(dim=dim, width=width, heads=heads), torch.nn.LayerNorm(dim)
    image, positions, tokens, places = (torch.randn(n, dim) for n in (70, 70, 5, 5))
    weights = {name: x.detach() for name, x in attention.named_parameters()}
    with torch.no_grad():
        known = attention.q_proj(positions)
        case = {
            "query": known,
            "query_input": image,
            "query_weight": weights["q_proj.weight"],
            "query_bias": torch.zeros(width),
            "key": attention.k_proj(tokens + places),
            "value": attention.v_proj(tokens),
            "image": image,
            "out_weight": weights["out_proj.weight"],
            "out_bias": weights["out_proj.bias"],
            "norm_weight": norm.weight,
            "norm_bias": norm.bias,
        }
        expected = norm(image + attention((image + positions)[None], (tokens + places)[None], tokens[None])[0])
    arrays = {name: x.detach().numpy() for name, x in case.items()}
    out = library.run("ImageToTokenAttention", arrays, heads=heads)[0]
    np.testing.assert_allclose(out, expected.detach(), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        case = {
            "query": attention.q_proj(tokens + places),
            "image": image,
            "key": positions @ weights["k_proj.weight"].T,
            "key_weight": weights["k_proj.weight"],
            "value_weight": weights["v_proj.weight"],
            "value": weights["v_proj.bias"][None],
        }
        expected = attention((tokens + places)[None], (image + positions)[None], image[None])[0]
    out = library.run("TokenToImageAttention", {name: x.numpy() for name, x in case.items()}, heads=heads)[0]
    np.testing.assert_allclose(attention.out_proj(torch.from_numpy(out)).detach(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [3, 20])
def test_image_tokens_do_not_see_each_other(library: Library, tokens: int) -> None:
    """And a number that is none stays with its token."""
    case = image_to_token(60, tokens, 16, 2, 5, 9)
    out = library.run("ImageToTokenAttention", case, heads=2)[0]
    rows = slice(11, 37)
    of_image = {name: case[name][rows] for name in ("query", "query_input", "image")}
    np.testing.assert_array_equal(library.run("ImageToTokenAttention", case | of_image, heads=2)[0], out[rows])
    broken = {name: case[name].copy() for name in ("query", "query_input", "image")}
    for i, x in enumerate(broken.values()):
        x[20 + i, 1] = np.nan
    again = library.run("ImageToTokenAttention", case | broken, heads=2)[0]
    assert np.isnan(again[20:23]).all()
    again[20:23] = out[20:23]
    np.testing.assert_array_equal(again, out)


@pytest.mark.parametrize("tokens", [3, 20])
def test_tokens_do_not_see_each_other(library: Library, tokens: int) -> None:
    case = token_to_image(tokens, 150, 16, 2, 9)
    out = library.run("TokenToImageAttention", case, heads=2)[0]
    query = case["query"].copy()
    query[1, 3] = np.nan  # of the first head
    again = library.run("TokenToImageAttention", case | {"query": query}, heads=2)[0]
    assert np.isnan(again[1, :8]).all()
    again[1, :8] = out[1, :8]
    np.testing.assert_array_equal(again, out)


@pytest.mark.parametrize("tokens", [3, 20])
def test_scores_of_any_size(library: Library, tokens: int) -> None:
    """Scores far apart, most of them near the lowest number, and image tokens whose score is minus infinity."""
    case = token_to_image(tokens, 300, 16, 2, 9)
    for size in (1e3, 1e30):
        case["key"] = np.float32(size) * token_to_image(tokens, 300, 16, 2, 9)["key"]
        out = library.run("TokenToImageAttention", case, heads=2)[0]
        best = twins.token_to_image_attention(*case.values(), heads=2)
        np.testing.assert_allclose(out, best, rtol=1e-4, atol=1e-4)
    case = token_to_image(tokens, 300, 16, 2, 9)
    case["query"] = np.abs(case["query"])
    without = {name: case[name][100:] for name in ("image", "key")}
    expected = twins.token_to_image_attention(*(case | without).values(), heads=2)
    case["key"][:100] = -np.inf
    np.testing.assert_allclose(library.run("TokenToImageAttention", case, heads=2)[0], expected, rtol=1e-4, atol=1e-5)


def test_no_image_tokens(library: Library) -> None:
    assert library.run("ImageToTokenAttention", image_to_token(0, 3, 8, 2, 4, 5), heads=2)[0].shape == (0, 5)


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("query", zeros(5, 9), r"expected query float32 \[L, D=8\], got float32 \[5, 9\]"),
        ("query_input", zeros(4, 4), r"expected query_input float32 \[L=5, I=4\], got float32 \[4, 4\]"),
        ("query_weight", zeros(7, 4), r"expected out_weight float32 \[C, D=7\], got float32 \[6, 8\]"),
        ("query_weight", zeros(8, 0), r"expected C, D and I of at least 1, got 6, 8 and 0"),
        ("query_bias", zeros(4), r"expected query_bias float32 \[D=8\], got float32 \[4\]"),
        ("key", zeros(0, 8), r"expected T of at least 1, got 0"),
        ("value", zeros(4, 8), r"expected value float32 \[T=3, D=8\], got float32 \[4, 8\]"),
        ("image", zeros(5, 8), r"expected image float32 \[L=5, C=6\], got float32 \[5, 8\]"),
        ("out_bias", zeros(8), r"expected out_bias float32 \[C=6\], got float32 \[8\]"),
        ("norm_weight", zeros(5), r"expected norm_weight float32 \[C=6\], got float32 \[5\]"),
        ("norm_bias", np.zeros(6), r"expected norm_bias float32 \[C=6\], got float64 \[6\]"),
    ],
)
def test_bad_inputs_of_image_to_token(library: Library, name: str, value: Array, message: str, constant: bool) -> None:
    case = image_to_token(5, 3, 8, 2, 4, 6) | {name: value}
    library.fails(message, "ImageToTokenAttention", case, constant=TO_TOKENS if constant else (), heads=2)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("query", zeros(3, 9), r"expected query float32 \[T, D=8\], got float32 \[3, 9\]"),
        ("query", zeros(0, 8), r"expected T and L of at least 1, got 0 and 5"),
        ("image", zeros(0, 6), r"expected T and L of at least 1, got 3 and 0"),
        ("image", zeros(5, 7), r"expected image float32 \[L, C=6\], got float32 \[5, 7\]"),
        ("key", zeros(4, 8), r"expected key float32 \[L=5, D=8\], got float32 \[4, 8\]"),
        ("key_weight", zeros(8, 0), r"expected C and D of at least 1, got 0 and 8"),
        ("value_weight", zeros(6, 8), r"expected value_weight float32 \[D=8, C=6\], got float32 \[6, 8\]"),
        ("value", np.zeros((1, 8)), r"expected value float32 \[L, D=8\], got float64 \[1, 8\]"),
        ("value", zeros(4, 8), r"expected a row of value, or L=5, got 4"),
    ],
)
def test_bad_inputs_of_token_to_image(library: Library, name: str, value: Array, message: str, constant: bool) -> None:
    case = token_to_image(3, 5, 8, 2, 6) | {name: value}
    library.fails(message, "TokenToImageAttention", case, constant=TO_IMAGE if constant else (), heads=2)


@pytest.mark.parametrize("heads", [3, 0])
def test_heads(library: Library, heads: int) -> None:
    message = "expected D a multiple of heads=3, got 8" if heads else "expected heads of at least 1, got 0"
    library.fails(message, "ImageToTokenAttention", image_to_token(5, 3, 8, 2, 4, 6), heads=heads)
    library.fails(message, "TokenToImageAttention", token_to_image(3, 5, 8, 2, 6), heads=heads)
