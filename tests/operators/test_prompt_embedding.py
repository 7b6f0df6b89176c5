from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from operators import twins
from operators.harness import Library, assert_accurate

Array = NDArray[Any]
RELEASED = (5, 32, 64, 128, 256)  # channels of the label table and after each convolution


def parameters(channels: tuple[int, ...], seed: int = 0) -> dict[str, Array]:
    """Table, weights and biases under the operator's input names."""
    rng = np.random.default_rng([seed, *channels])
    result = {"label_table": 0.7 * rng.standard_normal((5, channels[0]), np.float32)}
    for i, (before, after) in enumerate(pairwise(channels)):
        weight = rng.standard_normal((after, before, 3, 3), np.float32) / np.sqrt(4.5 * before)
        result |= {f"w{i}": weight.astype(np.float32), f"b{i}": 0.1 * rng.standard_normal(after, np.float32)}
    return result


def inputs(labels: Array, channels: tuple[int, ...] = RELEASED, seed: int = 0) -> dict[str, Array]:
    """All inputs for a label map."""
    grid = labels.shape[0] >> (len(channels) - 1)
    embedding = np.random.default_rng(seed).standard_normal((grid, grid, channels[-1]), np.float32)
    return {"labels": labels, "embedding": embedding, **parameters(channels, seed)}


def check(library: Library, labels: Array, channels: tuple[int, ...] = RELEASED, **attributes: Any) -> None:
    fed = inputs(labels, channels)
    constant = [name for name in fed if name not in ("labels", "embedding")]
    tokens = library.run_all_ways("PromptEmbedding", fed, constant=constant, **attributes)
    assert_accurate(tokens, twins.prompt_embedding, *fed.values(), **attributes)


def blocks(side: int, size: int, share: float = 1.0, seed: int = 0) -> Array:
    """Squares of `size` pixels of one label, `share` of them other than possible background."""
    rng = np.random.default_rng([side, size, seed])
    labels = np.where(rng.random((side, side)) < share, rng.integers(0, 5, (side, side)), 1).astype(np.uint8)
    return labels[np.ix_(*[np.arange(side) // size * size] * 2)]


@pytest.mark.parametrize("dense", [0, 1])
@pytest.mark.parametrize("label", range(5))
def test_one_label(library: Library, label: int, dense: int) -> None:
    """Nothing is mixed: every token is a constant, of its place at the border."""
    check(library, np.full((96, 96), label, np.uint8), dense=dense)


@pytest.mark.parametrize("dense", [0, 1])
@pytest.mark.parametrize("size", [1, 5, 23, 50, 110])
def test_blocks(library: Library, size: int, dense: int) -> None:
    check(library, blocks(208, size), dense=dense)


@pytest.mark.parametrize(
    "at", [(0, 0), (0, 70), (70, 0), (143, 143), (64, 64), (63, 63), (79, 80), (64, 127), (80, 95)]
)
@pytest.mark.parametrize("label", [0, 4])
def test_one_pixel(library: Library, at: tuple[int, int], label: int) -> None:
    """A crop of 48 x 48 or less around one pixel, at every place of a token and of the map."""
    labels = np.ones((144, 144), np.uint8)
    labels[at] = label
    check(library, labels)


def test_objects(library: Library) -> None:
    """What a session sees: discs of clicks in a predicted object, the background around it possible or definite."""
    y, x = np.ogrid[:336, :336]
    labels = np.ones((336, 336), np.uint8)
    labels[np.hypot(y - 150, (x - 190) * 0.7) < 70] = 3
    labels[np.hypot(y - 150, x - 190) <= 5] = 4
    labels[np.hypot(y - 60, x - 30) <= 5] = 0
    check(library, labels)
    check(library, np.where(labels == 1, np.uint8(2), labels))


@pytest.mark.parametrize(
    "channels", [(5, 8), (1, 1), (3, 65), (5, 3, 7), (5, 17, 33, 9), (2, 64, 129), (5, 4, 4, 4, 4, 4)], ids=str
)
def test_channels(library: Library, channels: tuple[int, ...]) -> None:
    """Any number of convolutions, channels around the width of vectors and panels."""
    patch = 1 << (len(channels) - 1)
    check(library, blocks(6 * patch, patch + 1, 0.3), channels)
    check(library, np.ones((3 * patch, 3 * patch), np.uint8), channels)


@pytest.mark.parametrize("side", [16, 32, 1024 + 16])
def test_sides(library: Library, side: int) -> None:
    """One token; two; and a map wider than what one strip of a row holds."""
    labels = blocks(side, 7, 0.01)
    labels[side // 2, 2 : side - 3] = 4
    check(library, labels, (2, 4, 4, 4, 4))


def test_random_shapes(library: Library) -> None:
    rng = np.random.default_rng(20)
    for _ in range(15):
        levels = int(rng.integers(1, 6))
        channels = tuple(int(n) for n in rng.integers(1, 40, levels + 1))
        side = int(rng.integers(1, max(2, 160 >> levels))) << levels
        labels = blocks(side, int(rng.integers(1, 30)), rng.random(), seed=int(rng.integers(1000)))
        check(library, labels, channels, dense=int(rng.integers(2)))


def test_no_tokens(library: Library) -> None:
    assert library.run("PromptEmbedding", inputs(np.zeros((0, 0), np.uint8)))[0].shape == (0, 256)


def test_nan_and_infinity(library: Library) -> None:
    """They go where the formula takes them: NaN passes ReLU, an infinite weight makes NaN of padding."""
    labels = blocks(160, 19, 0.2)
    for name, value in (
        ("w2", np.nan),
        ("w3", np.inf),
        ("b1", -np.inf),
        ("label_table", np.nan),
        ("embedding", np.inf),
    ):
        fed = inputs(labels)
        spoilt = fed[name].copy()
        spoilt.flat[spoilt.size // 2] = value
        tokens = library.run("PromptEmbedding", fed | {name: spoilt})[0]
        with np.errstate(invalid="ignore"):
            expected = twins.prompt_embedding(*(fed | {name: spoilt}).values())
        np.testing.assert_array_equal(np.isnan(tokens), np.isnan(expected), err_msg=name)
        np.testing.assert_array_equal(np.isinf(tokens), np.isinf(expected), err_msg=name)


@pytest.mark.parametrize("value", [5, 128, 255])
@pytest.mark.parametrize("at", [(0, 0), (47, 47), (20, 9), (0, 47)])
def test_labels_out_of_range(library: Library, value: int, at: tuple[int, int]) -> None:
    labels = np.ones((48, 48), np.uint8)
    labels[at] = value
    library.fails(f"expected labels 0 to 4, got {value}", "PromptEmbedding", inputs(labels))
    uniform = inputs(np.full((48, 48), value, np.uint8))
    library.fails(f"expected labels 0 to 4, got {value}", "PromptEmbedding", uniform)


def test_bad_inputs(library: Library) -> None:
    good = inputs(np.ones((32, 32), np.uint8))

    def fails(message: str, changes: dict[str, Array], **attributes: Any) -> None:
        library.fails(message, "PromptEmbedding", good | changes, **attributes)

    def zeros(*shape: int, dtype: type = np.float32) -> Array:
        return np.zeros(shape, dtype)

    fails(r"expected labels uint8 \[H, W\], got float32 \[32, 32\]", {"labels": zeros(32, 32)})
    fails(
        r"expected labels uint8 \[H, W\], both multiples of 16, got \[32, 40\]",
        {"labels": zeros(32, 40, dtype=np.uint8)},
    )
    embedding = r"expected embedding float32 \[h=2, w=2, C=256\], got "
    fails(embedding + r"float32 \[4, 256\]", {"embedding": zeros(4, 256)})
    fails(embedding + r"float32 \[2, 2, 255\]", {"embedding": zeros(2, 2, 255)})
    fails(embedding + r"float64 \[2, 2, 256\]", {"embedding": zeros(2, 2, 256, dtype=np.float64)})
    fails(r"expected label_table float32 \[5, T\], got float32 \[4, 5\]", {"label_table": zeros(4, 5)})
    fails(r"expected w0 float32 \[C_out, C_in=5, 3, 3\], got float32 \[32, 4, 3, 3\]", {"w0": zeros(32, 4, 3, 3)})
    fails(r"expected w1 float32 \[C_out, C_in=32, 3, 3\], got float32 \[64, 32, 3, 1\]", {"w1": zeros(64, 32, 3, 1)})
    fails(r"expected b3 float32 \[C_out=256\], got float32 \[257\]", {"b3": zeros(257)})
    fails("expected one channel at least, got none", {"label_table": zeros(5, 0), "w0": zeros(32, 0, 3, 3)})
    fails("expected attribute dense to be 0 or 1, got 2", {}, dense=2)
    fails("expected no attribute patch, got one", {}, patch=16)


@pytest.mark.parametrize(("count", "pairs"), [(4, "odd"), (3 + 2 * 11, "too many")])
def test_bad_number_of_weights(library: Library, count: int, pairs: str) -> None:
    names = ("labels", "embedding", "label_table", *(f"w{i}" for i in range(count - 3)))
    fed = {name: np.zeros((1, 1), np.float32) for name in names}
    library.fails(f"expected 1 to 10 pairs of weight and bias, got {count} inputs", "PromptEmbedding", fed)
