"""Prompt encoder and mask decoder of HRSAM against the golden arrays, and the prompts that they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from inter2former_deploy.core.prompts import Click
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.prompt import points_of

Models = Callable[[str], HRSAM]
GRID = (10, 12)
SIZE = (160, 192)
CASES = {"one": (1, False), "four": (4, False), "pad": (5, False), "mask": (4, True), "onemask": (1, True)}


@pytest.fixture(scope="module")
def arrays(golden: Any) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in golden("hrsam_decoder").items()}


@pytest.fixture(scope="module")
def model(hrsam_models: Models) -> HRSAM:
    return hrsam_models("hrsam_probe")


def prompts(arrays: dict[str, torch.Tensor], case: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Clicks, labels and previous logits of a case, a batch of one."""
    points, masked = CASES[case]
    previous = arrays["mask"][None, None] if masked else None
    return arrays["points_xy"][None, :points], arrays["labels"][None, :points], previous


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_golden(model: HRSAM, arrays: dict[str, torch.Tensor], assert_close: Any, case: str) -> None:
    xy, labels, previous = prompts(arrays, case)
    embedding = arrays["embedding"][None]
    sparse, dense = model.neck.sparse(xy, labels, SIZE), model.neck.dense(previous, GRID)
    assert_close(sparse[0], arrays[f"{case}_sparse"], "hrsam decoder")

    tokens, image = model.decode_head.attend(embedding, model.neck.position_map(GRID), sparse, dense)
    assert_close(tokens[0], arrays[f"{case}_tokens_out"], "hrsam decoder")
    prediction = model.predict(embedding, xy, labels, previous)
    assert_close(prediction.masks[0], arrays[f"{case}_masks"], "hrsam decoder")
    assert_close(prediction.iou[0], arrays[f"{case}_iou"], "hrsam decoder")
    first = model.decode(embedding, xy, labels, previous)
    assert_close(first[0], arrays[f"{case}_masks"][:1], "hrsam decoder")
    if case in ("one", "mask"):
        assert_close(image[0].flatten(1).T, arrays[f"{case}_image_out"], "hrsam decoder")
    if case == "one":
        assert_close(dense.flatten(), arrays["one_dense"], "hrsam decoder")
    if case == "mask":
        assert_close(dense[0], arrays["mask_dense"], "hrsam decoder")
        assert_close(model.decode_head.mask_weights(tokens, 4)[0], arrays["mask_hyper"], "hrsam decoder")
        upscaled = model.decode_head.output_upscaling(image)
        assert_close(upscaled[0, :8], arrays["mask_upscaled_8"], "hrsam decoder")


@torch.inference_mode()
def test_golden_positions(model: HRSAM, arrays: dict[str, torch.Tensor], assert_close: Any) -> None:
    """Made at 64 x 64, resized from there."""
    position_map = model.neck.position_map
    assert_close(position_map(GRID)[0], arrays["position_10x12"], "hrsam decoder")
    assert_close(position_map((64, 64))[0, :, ::9, ::9], arrays["position_64_every9"], "hrsam decoder")
    assert_close(position_map((128, 128))[0, :, ::17, ::17], arrays["position_128_every17"], "hrsam decoder")


@torch.inference_mode()
def test_golden_box(model: HRSAM, arrays: dict[str, torch.Tensor], assert_close: Any) -> None:
    """A box is two points more, and then no "not a point" follows."""
    box, no_clicks = arrays["box_xyxy"][None], torch.zeros(1, 0, 2)
    sparse = model.neck.sparse(no_clicks, torch.zeros(1, 0, dtype=torch.int64), SIZE, box)
    assert_close(sparse[0], arrays["box_sparse"], "hrsam decoder")

    xy, labels, _ = prompts(arrays, "four")
    both = model.neck.sparse(xy, labels, SIZE, box)
    assert_close(both[0], torch.cat((arrays["four_sparse"][:4], arrays["box_sparse"])), "hrsam decoder")
    embedding = arrays["embedding"][None]
    boxed, plain = model.predict(embedding, xy, labels, None, box), model.predict(embedding, xy, labels)
    assert boxed.masks.shape == (1, 4, 40, 48)
    assert (boxed.masks - plain.masks).abs().max() > 0.1
    assert_close(model.decode(embedding, xy, labels, None, box), boxed.masks[:, :1], "hrsam decoder")


@torch.inference_mode()
def test_samples_of_a_batch_are_independent(model: HRSAM, arrays: dict[str, torch.Tensor], assert_close: Any) -> None:
    """Samples with fewer clicks are filled up with points that are none: as in the case `pad` they are not neutral."""
    clicks = [Click(*at, bool(label)) for at, label in zip(arrays["points_xy"].tolist(), arrays["labels"], strict=True)]
    xy, labels = points_of([clicks[:4], clicks[:1], []])
    assert labels.tolist() == [[1, 0, 1, 0], [1, -1, -1, -1], [-1] * 4]
    assert (xy[labels == -1] == 0).all()
    embedding = arrays["embedding"].expand(3, -1, -1, -1)
    previous = arrays["mask"].expand(3, 1, -1, -1)
    masks = model.predict(embedding, xy, labels, previous).masks
    assert_close(masks[0], arrays["mask_masks"], "hrsam decoder")
    for i in range(3):
        alone = model.predict(embedding[:1], xy[i : i + 1], labels[i : i + 1], previous[:1])
        assert_close(masks[i], alone.masks[0], "hrsam decoder")


@torch.inference_mode()
def test_autocast_leaves_positions_in_float32(model: HRSAM, arrays: dict[str, torch.Tensor]) -> None:
    xy, labels, _ = prompts(arrays, "four")
    expected = model.neck.sparse(xy, labels, SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.neck.sparse(xy, labels, SIZE), expected)


@torch.inference_mode()
def test_positions_of_padding_points_do_not_matter(model: HRSAM, arrays: dict[str, torch.Tensor]) -> None:
    xy, labels, _ = prompts(arrays, "pad")
    moved = xy.clone()
    moved[0, 4] = torch.tensor([-500.0, float("nan")])
    assert torch.equal(model.neck.sparse(xy, labels, SIZE), model.neck.sparse(moved, labels, SIZE))


def test_every_parameter_learns_but_those_of_other_prompts(model: HRSAM, arrays: dict[str, torch.Tensor]) -> None:
    trained = HRSAM(model.config)
    trained.load_state_dict(model.state_dict())
    embedding = arrays["embedding"][None].requires_grad_()
    for case in ("pad", "mask"):
        prediction = trained.predict(embedding, *prompts(arrays, case))
        (prediction.masks.square().mean() + prediction.iou.square().mean()).backward()
    unused = {"neck.point_embeds.2.weight", "neck.point_embeds.3.weight"}  # of boxes
    for name, parameter in trained.named_parameters():
        if not name.startswith("backbone."):
            assert (parameter.grad is None) == (name in unused), name
            assert parameter.grad is None or parameter.grad.abs().max() > 0, name
    assert embedding.grad is not None
    assert embedding.grad.abs().max() > 0


def test_other_prompts_are_refused(model: HRSAM, arrays: dict[str, torch.Tensor]) -> None:
    embedding = arrays["embedding"][None]
    xy, labels, previous = prompts(arrays, "mask")
    assert previous is not None
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((embedding[:, :128], xy, labels), r"expected an image embedding \[B, 256, h, w\], got \[1, 128, 10, 12\]"),
        ((embedding[0], xy, labels), r"expected an image embedding"),
        ((embedding, xy[0], labels), r"expected clicks .* \[B, n, 2\]"),
        ((embedding, xy.long(), labels), r"expected clicks of floating-point numbers"),
        ((embedding, xy, labels[:, :3]), r"expected an integer label for each click, \[1, 4\]"),
        ((embedding, xy, labels.float()), r"expected an integer label"),
        ((embedding, xy, labels + 1), r"labels of clicks must be 1"),
        ((embedding, xy.repeat(2, 1, 1), labels.repeat(2, 1)), r"expected clicks of 1 samples"),
        ((embedding, xy, labels, previous[0]), r"previous mask \[B, 1, 40, 48\], got \[1, 40, 48\]"),
        ((embedding, xy, labels, previous[..., :40]), r"previous mask \[B, 1, 40, 48\], got \[1, 1, 40, 40\]"),
        ((embedding, xy, labels, previous.repeat(2, 1, 1, 1)), r"previous mask of 1 samples"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            model.decode(*arguments)
    with pytest.raises(ValueError, match=r"expected boxes \[1, 4\], got \[4\]"):
        model.predict(embedding, xy, labels, None, arrays["box_xyxy"])
