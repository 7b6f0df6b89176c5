"""The image encoder of HRSAM and HRSAM++ against the golden arrays, stage by stage, and its properties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from inter2former_deploy.families.hrsam.config import HRSAM_PROBE, HRSAMPP_PROBE, HRSAMConfig
from inter2former_deploy.families.hrsam.encoder import ImageEncoder, drop_path
from inter2former_deploy.families.hrsam.model import HRSAM

Models = Callable[[str], HRSAM]
BOTH = ("hrsam", "hrsampp")


@pytest.fixture(scope="module")
def arrays(golden: Any) -> dict[str, Any]:
    return dict(golden("hrsam_encoder"))


def random_image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", ["48x48", "128x128", "176x176", "96x160"])  # less than a window; not square
@pytest.mark.parametrize("name", BOTH)
@torch.inference_mode()
def test_golden(hrsam_models: Models, arrays: dict[str, Any], assert_close: Any, name: str, size: str) -> None:
    embedding = hrsam_models(f"{name}_probe").encode(torch.from_numpy(arrays[f"in_{size}"])[None])
    assert_close(embedding[0], arrays[f"{name}_out_{size}"], "hrsam encoder")


@pytest.mark.parametrize("name", BOTH)
@torch.inference_mode()
def test_golden_stages(hrsam_models: Models, arrays: dict[str, Any], assert_close: Any, name: str) -> None:
    """Tokens before the first block and after every part, in the order in which the parts ran."""
    encoder = hrsam_models(f"{name}_probe").backbone
    stages: list[tuple[str, torch.Tensor]] = []
    start: list[torch.Tensor] = []
    handles = [encoder.blocks[0].register_forward_pre_hook(lambda _, inputs: start.append(inputs[0]))]
    for stage in dict.fromkeys(arrays[f"{name}_stages"].tolist()):
        module = encoder.get_submodule(stage)
        handles.append(module.register_forward_hook(lambda _, __, out, stage=stage: stages.append((stage, out))))
    try:
        encoder(torch.from_numpy(arrays["in_128x128"])[None])
    finally:
        for handle in handles:
            handle.remove()
    assert [stage for stage, _ in stages] == arrays[f"{name}_stages"].tolist()
    assert_close(start[0], arrays[f"{name}_tokens0"], "hrsam encoder")
    for (_, found), expected in zip(stages, arrays[f"{name}_tokens"], strict=True):
        assert_close(found, expected, "hrsam encoder")


@pytest.mark.parametrize("name", BOTH)
@torch.inference_mode()
def test_images_of_a_batch_are_independent(hrsam_models: Models, assert_close: Any, name: str) -> None:
    """The release mixes up images of larger batches; here each gets what it gets alone."""
    encoder = hrsam_models(f"{name}_probe").backbone
    images = random_image(5, 3, 96, 64)
    together = encoder(images)
    for i in range(5):
        assert_close(together[i], encoder(images[i : i + 1])[0], "hrsam encoder")


@pytest.mark.parametrize("name", BOTH)
@torch.inference_mode()
def test_threads_change_nothing(hrsam_models: Models, assert_close: Any, name: str) -> None:
    encoder, image = hrsam_models(f"{name}_probe").backbone, random_image(1, 3, 96, 128)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(encoder(image))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_close(other, results[0], "hrsam encoder")


@pytest.mark.parametrize("name", BOTH)
@torch.inference_mode()
def test_without_state_space(hrsam_models: Models, name: str) -> None:
    """The paper's baseline: the same entries without those of the modules; what is left still computes."""
    whole = hrsam_models(f"{name}_probe")
    baseline = HRSAM(whole.config.without_state_space()).eval()
    kept = {name: t for name, t in whole.state_dict().items() if "mamba_blocks" not in name}
    baseline.load_state_dict(kept)
    image = random_image(1, 3, 48, 64)
    x = baseline.encode(image)
    assert x.shape == (1, 256, 3, 4)
    assert (x - whole.encode(image)).abs().max() > 0.1

    # Modules that add nothing are as good as none.
    silent = HRSAM(whole.config).eval()
    silent.load_state_dict(
        {name: torch.zeros_like(t) if ".out_proj." in name and "mamba" in name else t
         for name, t in whole.state_dict().items()}
    )  # fmt: skip
    assert torch.equal(silent.encode(image), x)


@torch.inference_mode()
def test_baseline_of_hrsampp_is_inter2formers_encoder(hrsam_models: Models, assert_close: Any) -> None:
    """Where the maps are larger than a window, so that the rule of shifts does not matter, both are one function."""
    from inter2former_deploy.families.inter2former.config import EncoderConfig
    from inter2former_deploy.families.inter2former.modules.encoder import WindowEncoder

    encoder = replace(HRSAMPP_PROBE.encoder, anchor_size=96, state_space=False)
    state = hrsam_models("hrsampp_probe").backbone.state_dict()
    state = {name: t for name, t in state.items() if "mamba" not in name}
    ours = ImageEncoder(config=encoder, out_channels=256)
    shared = {name: getattr(encoder, name) for name in EncoderConfig.__dataclass_fields__}
    theirs = WindowEncoder(config=EncoderConfig(**shared), out_channels=256)
    for module in (ours, theirs):
        module.load_state_dict(state)
    image = random_image(1, 3, 128, 128)
    assert_close(ours(image), theirs(image), "hrsam encoder")


@pytest.mark.parametrize(
    "shape",
    [(3, 64, 64), (1, 3, 64, 72), (1, 3, 72, 64), (1, 1, 64, 64), (1, 64, 64, 3), (1, 3, 0, 64), (0, 3, 64, 64)],
)
def test_other_shapes_are_refused(hrsam_models: Models, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected an image \[B, 3, H, W\], H and W multiples of 16, got"):
        hrsam_models("hrsam_probe").encode(torch.zeros(shape))


@pytest.mark.parametrize("config", [HRSAM_PROBE, HRSAMPP_PROBE], ids=lambda config: config.name)
def test_every_parameter_learns_but_the_unused_class_slot(hrsam_models: Models, config: HRSAMConfig) -> None:
    encoder = ImageEncoder(config=config.encoder, out_channels=256, drop_path=0.2)
    encoder.load_state_dict(hrsam_models(config.name).backbone.state_dict())
    torch.manual_seed(0)
    # At this size every block pads the main map, so that every padding vector is used.
    encoder.train()(torch.randn(3, 3, 48, 80)).square().mean().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert encoder.pos_embed.grad is not None
    assert (encoder.pos_embed.grad[:, 0] == 0).all()


def test_drop_path_skips_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    before, branch = torch.randn(600 * 3, 2), torch.randn(600 * 3, 2)
    x = drop_path(before, before + branch, 0.25, 600)
    gain = torch.unflatten((x - before) / branch, 0, (600, 3))  # of each sample the same
    skipped = (gain == 0).all(2).all(1)
    assert 0.2 < skipped.float().mean() < 0.3
    assert torch.equal(torch.unflatten(x, 0, (600, 3))[skipped], torch.unflatten(before, 0, (600, 3))[skipped])
    torch.testing.assert_close(x[gain.flatten(0, 1) != 0], (before + branch / 0.75)[gain.flatten(0, 1) != 0])


def test_drop_path_only_while_training(hrsam_models: Models, assert_close: Any) -> None:
    """The first block never skips; without training nothing does."""
    reference = hrsam_models("hrsam_probe").backbone
    encoder = ImageEncoder(config=HRSAM_PROBE.encoder, out_channels=256, drop_path=0.9)
    encoder.load_state_dict(reference.state_dict())
    image = random_image(1, 3, 64, 64)
    first: list[torch.Tensor] = []
    encoder.blocks[0].register_forward_hook(lambda _, __, out: first.append(out))
    torch.manual_seed(0)
    with torch.no_grad():
        expected = reference(image)
        assert torch.equal(encoder.eval()(image), expected)
        encoder.train()
        assert (encoder(image) - expected).abs().max() > 0.1
        assert torch.equal(*first)
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match="drop_path must be at least 0 and below 1"):
            ImageEncoder(config=HRSAM_PROBE.encoder, out_channels=256, drop_path=rate)


@torch.inference_mode()
def test_anchor_map_is_of_one_size(hrsam_models: Models) -> None:
    """The anchor map is a bilinear resize of the image without antialias, enlarged where the image is smaller."""
    encoder = hrsam_models("hrsampp_probe").backbone
    for shape in ((1, 3, 48, 32), (1, 3, 64, 64), (1, 3, 128, 96)):
        image = random_image(*shape)
        main, anchor = encoder._maps(image)
        assert main is image
        assert torch.equal(anchor, F.interpolate(image, size=(64, 64), mode="bilinear"))


@torch.no_grad()
def test_exported_graph_has_a_node_for_each_operator(hrsam_models: Models) -> None:
    encoder, image = hrsam_models("hrsampp_probe").backbone, random_image(1, 3, 48, 64)
    program = torch.export.export(encoder, (image,))
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    operators = {name: calls.count(f"inter2former.{name}.default") for name in ("cycle_scan", "window_attention")}
    assert operators == {"cycle_scan": 6, "window_attention": 5}
    assert torch.equal(program.module()(image), encoder(image))
