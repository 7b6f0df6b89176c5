"""The steps that train HRSAM, in the release's two ways: distillation of the encoder, and fine-tuning of all on masks.

A stage of the encoder alone distils a teacher's embeddings (SAM ViT-H's, in the release); neck and decoder rest. Any
other stage fine-tunes everything by clicks, and imitates the teacher besides where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.core.clicks import IGNORED, TRAINING_FACTOR, next_click
from inter2former_deploy.core.masks import iou
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.families.hrsam.config import HRSAMConfig
from inter2former_deploy.families.hrsam.losses import distillation_loss, mask_loss
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.prompt import points_of
from inter2former_deploy.families.hrsam.ssm import StateSpaceModule
from inter2former_deploy.families.inter2former.modules.losses import jaccard_loss

from .batches import Batch
from .interaction import draw_rounds
from .loop import Trainer, initialise_encoder


class HRSAMTrainer(Trainer):
    """A `Trainer` of HRSAM or HRSAM++."""

    model: HRSAM

    def _make_model(self, model_config: HRSAMConfig, teacher_channels: int) -> HRSAM:
        if teacher_channels not in (0, model_config.decoder.dim):
            raise ValueError(
                f"the teacher's features must have {model_config.decoder.dim} channels, as the image embedding of "
                f"{model_config.name} has, got {teacher_channels}"
            )
        if not teacher_channels and any(stage.encoder_only for stage in self.config.stages):
            raise ValueError("a stage of HRSAM's encoder alone imitates a teacher: name its features with --teacher")
        model = HRSAM(model_config)
        initialise_encoder(model.backbone)
        for module in model.modules():
            if isinstance(module, StateSpaceModule):
                module.reset_scan()
        return model

    def _make_heads(self, model_config: HRSAMConfig, teacher_channels: int) -> nn.ModuleDict:
        return nn.ModuleDict()  # embeddings are compared as they are

    def _losses(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        encoder_only = self.config.stage(self.step).encoder_only
        self.model.train()
        self.model.backbone.drop_path = self.config.drop_path if encoder_only else 0.0
        with self.autocast():
            embedding = self.model.encode(batch.images.to(self.device)).float()
        loss, entry = embedding.new_zeros(()), {}
        if batch.teacher is not None:
            teacher = batch.teacher.to(self.device)
            has = ~teacher.flatten(1).isnan().any(1)
            distillation = distillation_loss(embedding[has], teacher[has]).mean()
            loss = self.config.distillation * distillation
            entry["distillation"] = distillation.item()
        if encoder_only:
            return loss + 0 * embedding.sum(), entry  # of pictures that have no features there is nothing to learn
        fine_tuning, of_clicks = self._fine_tuning(batch, embedding)
        return loss + fine_tuning, entry | of_clicks

    def _fine_tuning(self, batch: Batch, embedding: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The loss of the first mask after simulated clicks, and what to log of it."""
        masks = batch.masks.flatten(0, 1)  # [B*T, S, S]
        targets = batch.masks.shape[1]
        owner = torch.arange(len(batch.images), device=self.device).repeat_interleave(targets)
        prompts = self._simulate(embedding.detach()[owner], masks.numpy(), self._rngs(len(batch.images), targets))
        self.model.train()
        logits = self._decode(embedding[owner], prompts)
        goal = masks[:, None].to(self.device)
        full = mask_loss(logits, goal).mean()
        resized = _resized(logits, masks.shape[1])
        jaccard = jaccard_loss(resized, goal).mean()
        predicted = (resized[:, 0] > 0).cpu().numpy()
        return full + self.config.jaccard * jaccard, {
            "full": full.item(),
            "jaccard": jaccard.item(),
            "iou": float(np.mean([iou(p, m, m != IGNORED) for p, m in zip(predicted, masks.numpy(), strict=True)])),
        }

    def _simulate(
        self, embedding: Tensor, masks: NDArray[np.uint8], rngs: Sequence[np.random.Generator]
    ) -> list[_Prompts]:
        """The clicks of a random number of rounds on each sample, and the logits of its last round."""
        prompts = [_Prompts() for _ in masks]
        rounds = [draw_rounds(rng, self.config) for rng in rngs]

        def click(i: int, foreground: NDArray[np.bool_], factor: float) -> None:
            new = next_click(foreground, masks[i], prompts[i].clicks, factor=factor, rng=rngs[i])
            if new is not None:
                prompts[i].clicks.append(new)

        for i, mask in enumerate(masks):
            click(i, np.zeros(mask.shape, bool), 1.0)
        self.model.eval()
        for done in range(max(rounds)):
            active = [i for i, k in enumerate(rounds) if k > done]
            with torch.no_grad():
                logits = self._decode(embedding[active], [prompts[i] for i in active])
                found = (_resized(logits, masks.shape[1])[:, 0] > 0).cpu().numpy()
            for i, own, foreground in zip(active, logits, found, strict=True):
                prompts[i].previous = own
                click(i, foreground, TRAINING_FACTOR)
        return prompts

    def _decode(self, embedding: Tensor, prompts: Sequence[_Prompts]) -> Tensor:
        """Logits of the first mask, [n, 1, S/4, S/4], of samples with a previous mask and without."""
        logits: list[tuple[int, Tensor]] = []
        for known in (False, True):
            these = [i for i, prompt in enumerate(prompts) if (prompt.previous is not None) == known]
            if these:
                xy, labels = (x.to(self.device) for x in points_of([prompts[i].clicks for i in these]))
                previous = torch.stack([x for i in these if (x := prompts[i].previous) is not None]) if known else None
                with self.autocast():
                    decoded = self.model.decode(embedding[these], xy, labels, previous).float()
                logits += zip(these, decoded, strict=True)
        return torch.stack([values for _, values in sorted(logits, key=lambda item: item[0])])


class _Prompts:
    """What a simulated user has told of a sample."""

    def __init__(self) -> None:
        self.clicks: list[Click] = []
        self.previous: Tensor | None = None  # logits [1, S/4, S/4], without gradient


def _resized(logits: Tensor, side: int) -> Tensor:
    return F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)
