"""HRSAM's two ways of training: losses, gradients through the whole model, steps that learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from inter2former_deploy.core.prompts import Click
from inter2former_deploy.families.hrsam.config import HRSAM_PROBE, HRSAMPP_PROBE
from inter2former_deploy.families.hrsam.losses import distillation_loss, mask_loss
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.prompt import points_of


def test_distillation_loss() -> None:
    embedding, teacher = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    expected = ((embedding - teacher) ** 2).sum((1, 2, 3)) / 36
    torch.testing.assert_close(distillation_loss(embedding, teacher), expected)
    with pytest.raises(ValueError, match=r"of one shape, got \[2, 4, 3, 3\] and of the teacher \[1, 4, 3, 3\]"):
        distillation_loss(embedding, teacher[:1])


def test_mask_loss_is_at_the_targets_size() -> None:
    logits = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    target = torch.randint(0, 2, (2, 1, 20, 13))
    target[1, :, :5] = 255
    z = F.interpolate(logits, size=(20, 13), mode="bilinear", align_corners=False)
    p = torch.sigmoid(torch.where(target == 1, z, -z))
    weight = torch.where(target == 255, 0, (1 - p) ** 2)
    expected = (-0.5 * weight * p.log()).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    torch.testing.assert_close(mask_loss(logits, target), expected, rtol=1e-5, atol=1e-6)
    assert (mask_loss(logits, torch.full_like(target, 255)) == 0).all()


def test_distillation_learns() -> None:
    """Only the encoder learns, with fresh state-space modules and drop path."""
    torch.manual_seed(0)
    model = HRSAM(HRSAM_PROBE, drop_path=0.2).train()
    for part in (model.neck, model.decode_head):
        part.requires_grad_(False)
    image, teacher = torch.randn(2, 3, 48, 48), torch.randn(2, 256, 3, 3)
    optimizer = torch.optim.AdamW(model.backbone.parameters(), lr=5e-3)
    losses = []
    for _ in range(8):
        loss = distillation_loss(model.encode(image), teacher).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-2:]) < 0.9 * losses[0]


def test_fine_tuning_step() -> None:
    """Rounds without gradient give the previous logits; then everything learns, the encoder through the embedding."""
    torch.manual_seed(0)
    model = HRSAM(HRSAMPP_PROBE)
    image = torch.randn(2, 3, 64, 64)
    target = torch.zeros(2, 1, 64, 64)
    target[:, :, 10:40, 20:50] = 1
    clicks = [[Click(35.0, 25.0, True)], [Click(30.0, 30.0, True), Click(5.0, 5.0, False)]]
    xy, labels = points_of(clicks)

    model.eval()
    with torch.no_grad():
        embedding = model.encode(image)
        previous = model.decode(embedding, xy[:, :1], labels[:, :1])
        previous = model.decode(embedding, xy, labels, previous)
    assert not previous.requires_grad
    model.train()
    loss = mask_loss(model(image, xy, labels, previous), target).mean()
    loss.backward()

    heads = tuple(f"decode_head.output_hypernetworks_mlps.{i}." for i in (1, 2, 3))
    unused = ("neck.point_embeds.2.", "neck.point_embeds.3.", "neck.no_mask_embed.", "decode_head.iou_prediction_head.")
    for name, parameter in model.named_parameters():
        learns = not name.startswith(heads + unused)
        if not name.endswith("attn.padding"):  # whole windows have no padding slots
            assert (parameter.grad is not None) == learns, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.backbone.lateral_convs.parameters())

    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    optimizer.step()
    with torch.no_grad():
        assert mask_loss(model(image, xy, labels, previous), target).mean() < loss


def test_training_and_evaluation_are_one_function_without_drop_path(assert_close: Any) -> None:
    torch.manual_seed(0)
    model = HRSAM(HRSAM_PROBE)
    image, (xy, labels) = torch.randn(1, 3, 48, 64), points_of([[Click(9.0, 30.0, True)]])
    trained = model.train()(image, xy, labels)
    with torch.no_grad():
        evaluated = model.eval()(image, xy, labels)
    assert_close(trained, evaluated, "hrsam encoder")
