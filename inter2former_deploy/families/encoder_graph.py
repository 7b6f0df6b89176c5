"""encoder.onnx as a module: the families share their encoder, but for HRSAM's state-space modules."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR


class EncoderGraph(nn.Module):
    """encoder.onnx.

    Args:
        model: The whole model; its `backbone` is the encoder.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = cast(nn.Module, model.backbone)
        for name, numbers in (("mean", MEAN_BGR), ("std", STD_BGR)):
            self.register_buffer(name, torch.tensor(numbers)[:, None, None], persistent=False)

    def normalize(self, image: Tensor) -> Tensor:
        """RGB [H, W, 3] in 0-255 -> what the modules take, normalised BGR [1, 3, H, W]."""
        planes = image.permute(2, 0, 1).flip(0)  # onnxruntime is slow where the channels of a pixel are the inner axis
        return ((planes - self.mean) / self.std)[None]

    def forward(self, image: Tensor) -> Tensor:
        """RGB [H, W, 3] in 0-255 -> image embedding [h, w, C]."""
        embedding: Tensor = self.backbone(self.normalize(image))[0].permute(1, 2, 0)
        return embedding
