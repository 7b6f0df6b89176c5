"""The image encoder against the golden arrays, and its parts against plain float64 formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inter2former_deploy.families.inter2former.config import PROBE
from inter2former_deploy.families.inter2former.modules.encoder import WindowEncoder, resize
from inter2former_deploy.operators import formulas
from inter2former_deploy.operators.windows import WindowLayout


@pytest.fixture(scope="module")
def encoder(probe_weights: dict[str, Any]) -> WindowEncoder:
    encoder = WindowEncoder(config=PROBE.encoder, out_channels=PROBE.decoder.dim)
    prefix = "backbone."
    encoder.load_state_dict({k.removeprefix(prefix): v for k, v in probe_weights.items() if k.startswith(prefix)})
    return encoder.eval()


@pytest.mark.parametrize("size", [128, 176, 192])
@torch.inference_mode()
def test_golden(encoder: WindowEncoder, golden: Any, assert_close: Any, size: int) -> None:
    arrays = golden("encoder")
    embedding = encoder(torch.from_numpy(arrays[f"in_{size}"]))
    assert_close(embedding, arrays[f"out_{size}"], "encoder")


@torch.inference_mode()
def test_images_of_a_batch_are_independent(encoder: WindowEncoder, assert_close: Any) -> None:
    images = torch.randn(3, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    together = encoder(images)
    for i in range(3):
        assert_close(together[i : i + 1], encoder(images[i : i + 1]), "encoder")


@pytest.mark.parametrize("size", [16, 32, 64])  # down to one token; less than a window; exactly one window
@torch.inference_mode()
def test_small_images(encoder: WindowEncoder, size: int) -> None:
    embedding = encoder(torch.randn(1, 3, size, size))
    assert embedding.shape == (1, 256, size // 16, size // 16)
    assert embedding.isfinite().all()


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 3, 64, 72), (1, 3, 72, 72), (1, 1, 64, 64), (1, 64, 64, 3)])
def test_other_shapes_are_refused(encoder: WindowEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected an image \[B, 3, H, W\], H and W multiples of 16"):
        encoder(torch.zeros(shape))


def test_a_model_takes_square_images(probe_model: Any) -> None:
    with pytest.raises(ValueError, match=r"a square image \[B, 3, S, S\], .* got \[1, 3, 64, 80\]"):
        probe_model.encode(torch.zeros(1, 3, 64, 80))


def test_every_parameter_learns_but_the_unused_class_slot(encoder: WindowEncoder) -> None:
    trained = WindowEncoder(config=PROBE.encoder, out_channels=PROBE.decoder.dim)
    trained.load_state_dict(encoder.state_dict())
    # At this size every block pads the main map, so that every padding vector is used.
    trained(torch.randn(2, 3, 96, 96)).square().mean().backward()
    for name, parameter in trained.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert trained.pos_embed.grad is not None
    assert (trained.pos_embed.grad[:, 0] == 0).all()


def plain_window_attention(
    x: torch.Tensor, padding: torch.Tensor, *, side: int, offset: int, heads: int
) -> torch.Tensor:
    """Queries, keys and values [h, w, 3, heads, head_dim] of a map, float64, pixel by pixel -> [h, w, heads*head_dim].

    Each query looks up the keys of its window one by one; a slot outside the map holds `padding`.
    """
    h, w, _, _, dim = x.shape

    def turn(vector: torch.Tensor, row: int, column: int) -> torch.Tensor:
        pairs = torch.view_as_complex(vector.reshape(heads, dim // 2, 2))
        frequencies = 10000.0 ** (-2 * torch.arange(dim // 4, dtype=torch.float64) / (dim // 2))
        angles = 0.5 * torch.cat((row * frequencies, column * frequencies))
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), -angles)).flatten(-2)

    out = torch.zeros(h, w, heads, dim, dtype=torch.float64)
    for i in range(offset, offset + h):
        for j in range(offset, offset + w):
            keys, values = [], []
            for row in range(i // side * side, i // side * side + side):
                for column in range(j // side * side, j // side * side + side):
                    inside = offset <= row < offset + h and offset <= column < offset + w
                    slot = x[row - offset, column - offset] if inside else padding
                    keys.append(turn(slot[1], row, column))
                    values.append(slot[2])
            query = turn(x[i - offset, j - offset, 0], i, j)
            scores = torch.einsum("hd,khd->kh", query, torch.stack(keys)) * dim**-0.5
            out[i - offset, j - offset] = torch.einsum("kh,khd->hd", scores.softmax(0), torch.stack(values))
    return out.flatten(-2)


@pytest.mark.parametrize(
    ("height", "width", "shifted", "offset"),
    [
        (8, 8, False, 0),
        (8, 8, True, 2),
        (4, 4, True, 0),
        (3, 2, True, 0),
        (3, 5, True, 2),
        (6, 9, False, 0),
        (6, 6, True, 2),
    ],
)
def test_window_attention(assert_close: Any, height: int, width: int, shifted: bool, offset: int) -> None:
    side, heads, dim = 4, 2, 8
    generator = torch.Generator().manual_seed(height * 10 + width)
    x = torch.randn(2, height, width, 3, heads, dim, generator=generator, dtype=torch.float64)
    padding = torch.randn(3, heads, dim, generator=generator, dtype=torch.float64)
    layout = WindowLayout.of(height, width, side, shifted=shifted)
    anchor = torch.randn(2, 5, 3 * heads * dim, generator=generator, dtype=torch.float64)  # another map's tokens

    qkv = torch.cat((x.flatten(3).flatten(1, 2), anchor), dim=1).flatten(0, 1)  # of two images
    out = formulas.window_attention(
        qkv, padding.flatten()[None], heads, side, [height, 1], [width, 5], [layout.offset, 0]
    )

    assert layout.offset == offset
    out = torch.unflatten(out, 0, (2, -1))[:, : height * width]
    for i in range(2):
        expected = plain_window_attention(x[i], padding, side=side, offset=offset, heads=heads)
        assert_close(out[i].view(expected.shape), expected, "window attention")


@pytest.mark.parametrize(("before", "after"), [((4, 4), (16, 16)), ((3, 5), (7, 4)), ((1, 2), (3, 1))])
def test_resize(assert_close: Any, before: tuple[int, int], after: tuple[int, int]) -> None:
    x = torch.randn(2, *before, 6, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2), size=after, mode="bilinear", align_corners=False)
    assert_close(resize(x, *after), expected.permute(0, 2, 3, 1), "resize")
