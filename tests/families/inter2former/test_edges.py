"""The edge network against the golden arrays, and the properties that its ill-conditioned maps do have."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import conv2d, pad

from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR
from inter2former_deploy.families.inter2former.config import PROBE
from inter2former_deploy.families.inter2former.modules.edges import CannyNet
from inter2former_deploy.operators.edge_formulas import NEIGHBOURS, gradient_direction

MAPS = ("grad_mag", "grad_ori", "thin", "thresh", "early")


@pytest.fixture(scope="module")
def network(probe_weights: dict[str, Any]) -> CannyNet:
    network = CannyNet(config=PROBE.edges, channels=PROBE.decoder.pyramid[::-1])
    prefix = "edge_detector."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in probe_weights.items() if k.startswith(prefix)})
    return network.eval()


def normalise(picture: Any) -> torch.Tensor:
    """A picture [H, W, 3], BGR, 0..255 -> the model input [1, 3, H, W]."""
    image = (torch.as_tensor(picture).float() - torch.tensor(MEAN_BGR)) / torch.tensor(STD_BGR)
    return image.permute(2, 0, 1)[None]


@torch.inference_mode()
def test_features_of_the_golden_maps(network: CannyNet, golden: Any, assert_close: Any) -> None:
    arrays = golden("cannynet")
    maps = torch.cat([torch.from_numpy(arrays[name]) for name in MAPS], dim=1)
    for i, features in enumerate(network.features(maps)):
        assert_close(features, arrays[f"out_{i}"], "edge features")


def reproducible(picture: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [H, W] of a picture whose gradient direction, and whose survival of thinning, rounding cannot decide.

    By the float64 gradient: it must not vanish, nor lie on the border of two bins, nor on the line between 0 and 360
    degrees; and the magnitude must differ from both neighbours' along every axis that the direction may take.
    """
    noise = 1e-5  # of the float32 gradients of a picture in [0, 1], with a margin; their largest value is about 8
    planes = torch.as_tensor(picture).double().permute(2, 0, 1)[:, None] / 255  # the channels as a batch
    gauss = torch.exp(-0.5 * (torch.arange(5, dtype=torch.float64) - 2) ** 2)
    gauss = gauss / gauss.sum()
    blurred = conv2d(planes, gauss.outer(gauss)[None, None], padding=2)
    sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]], dtype=torch.float64)
    gx, gy = (conv2d(blurred, kernel[None, None], padding=1)[:, 0] for kernel in (sobel, sobel.T))

    x, y = gx.sum(0), gy.sum(0)
    bins = (torch.atan2(y, x) / math.pi * 4) % 1  # 0.5 on a border
    direction = torch.hypot(x, y) * (bins - 0.5).abs() * math.pi / 4 > noise
    direction &= (x > 0) | (y.abs() > noise)

    magnitude = torch.hypot(gx, gy).sum(0)
    padded = pad(magnitude, (1, 1, 1, 1))
    h, w = magnitude.shape
    neighbours = torch.stack([padded[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w] for dy, dx in NEIGHBOURS])
    untied = ((magnitude - neighbours).abs() > noise).unflatten(0, (2, 4)).all(0)  # [axis, H, W]
    axis = torch.round(torch.atan2(y, x) / math.pi * 4).long() % 4
    return direction, direction & untied.gather(0, axis[None])[0]


@torch.inference_mode()
def test_golden_maps(
    network: CannyNet, golden: Any, assert_close: Any, capsys: pytest.CaptureFixture[str], record_property: Any
) -> None:
    arrays = golden("cannynet")
    maps = dict(zip(MAPS, network.canny_maps(normalise(arrays["image"]))[0], strict=True))
    expected = {name: torch.from_numpy(arrays[name][0, 0]) for name in MAPS}
    assert_close(maps["grad_mag"], expected["grad_mag"], "canny maps")
    assert_close(maps["early"], expected["early"], "canny maps")

    differs = {name: (maps[name] - expected[name]).abs() > 1e-4 for name in MAPS}
    shares = {name: f"{differ.double().mean():.2%}" for name, differ in differs.items()}
    record_property("differing pixels", shares)
    with capsys.disabled():
        print(f"\nCanny maps, share of pixels that differ from the golden ones: {shares}")

    # Convolutions that round differently from the release's may only differ where rounding decides; with the release's
    # own library and memory layout (torch 2.13 with oneDNN on AVX-512), no pixel does.
    direction, survival = reproducible(arrays["image"])
    assert direction.double().mean() > 0.5  # so that the next assertions compare something
    assert not (differs["grad_ori"] & direction).any()
    assert not (differs["thin"] & survival).any()
    assert not (differs["thresh"] & survival).any()


def test_direction_is_the_rounded_angle() -> None:
    generator = torch.Generator().manual_seed(0)
    gx, gy = torch.randn(2, 10000, generator=generator)
    steps = (torch.atan2(gy.double(), gx.double()) / math.pi * 180 + 180) / 45
    clear = ((steps % 1) - 0.5).abs() > 1e-5
    assert clear.sum() > 9900
    expected = steps.round().float() * 45
    assert torch.equal(gradient_direction(gx, gy)[clear], expected[clear])
    assert set(expected.tolist()) == {45.0 * k for k in range(9)}


@pytest.mark.parametrize(
    ("gx", "gy", "degrees"),
    [
        (0.0, 0.0, 180),
        (-0.0, 0.0, 180),
        (0.0, -0.0, 180),
        (-0.0, -0.0, 180),
        (1.0, 0.0, 180),
        (1.0, -0.0, 180),
        (-1.0, 0.0, 360),
        (-1.0, -0.0, 360),
        (-1.0, 1e-30, 360),
        (-1.0, -1e-30, 0),
        (0.0, 1.0, 270),
        (-0.0, 1.0, 270),
        (0.0, -1.0, 90),
        (-0.0, -1.0, 90),
        (1.0, 1.0, 225),
        (-1.0, 1.0, 315),
        (-1.0, -1.0, 45),
        (1.0, -1.0, 135),
        (1e30, 1e30, 225),
    ],
)
def test_direction_on_the_axes(gx: float, gy: float, degrees: float) -> None:
    assert gradient_direction(torch.tensor([gx]), torch.tensor([gy])).item() == degrees


def test_parameters_learn_and_the_image_does_not(network: CannyNet, golden: Any) -> None:
    image = normalise(golden("cannynet")["image"]).requires_grad_()
    features = network(image)
    sum(f.square().mean() for f in features).backward()
    assert image.grad is None
    gradients = {name: p.grad for name, p in network.named_parameters()}
    network.zero_grad()
    assert not any("canny" in name for name in gradients)
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


@torch.inference_mode()
def test_images_of_a_batch_are_independent(network: CannyNet, golden: Any, assert_close: Any) -> None:
    image = normalise(golden("cannynet")["image"])
    maps = network.canny_maps(torch.cat((image, image.flip(3))))
    # From the same maps: other batch sizes round differently, and the maps magnify that.
    for together, alone in zip(network.features(maps), network.features(maps[1:]), strict=True):
        assert_close(together[1:], alone, "edge features")
    assert_close(maps[:1, 0], network.canny_maps(image)[:, 0], "canny maps")
