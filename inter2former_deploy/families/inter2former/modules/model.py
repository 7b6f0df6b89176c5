"""The whole model: what is computed once an image, and what is computed at every click."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from inter2former_deploy.families.inter2former.config import PATCH, ModelConfig
from inter2former_deploy.families.inter2former.modules.edges import CannyNet
from inter2former_deploy.families.inter2former.modules.encoder import WindowEncoder
from inter2former_deploy.families.inter2former.modules.neck import DecoderNeck
from inter2former_deploy.families.inter2former.modules.upsampling import LocalUpsampling


class ImageFeatures(NamedTuple):
    """All that the decoder takes of a batch of images."""

    embedding: Tensor  # [B, C, h, w]
    edges: tuple[Tensor, ...]  # coarse to fine, [B, C_i, 2**(i+1) * h, 2**(i+1) * w]


class Inter2Former(nn.Module):
    """Inter2Former: dense tokens of an image, refined click by click (arXiv 2507.09612, Figure 2).

    The entries of its state dict are those of a released checkpoint.

    Args:
        config: All numbers of the model.
    """

    step: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        pyramid = config.decoder.pyramid
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # a counter of the training framework
        self.backbone = WindowEncoder(config=config.encoder, out_channels=config.decoder.dim)
        self.neck = DecoderNeck(config=config.decoder)
        self.decode_head = LocalUpsampling(pyramid=pyramid, upsampling=config.decoder.upsampling)
        self.edge_detector = CannyNet(config=config.edges, channels=pyramid[::-1])

    def encode(self, image: Tensor) -> ImageFeatures:
        """What depends on the images alone.

        Args:
            image: [B, 3, S, S], BGR, (picture - `MEAN_BGR`) / `STD_BGR`, S a multiple of 16.

        Returns:
            Image embedding and edge features.

        Raises:
            ValueError: The images have another shape.
        """
        if image.ndim != 4 or image.shape[2] != image.shape[3]:
            raise ValueError(f"expected a square image [B, 3, S, S], S a multiple of {PATCH}, got {list(image.shape)}")
        return ImageFeatures(self.backbone(image), self.edge_detector(image))

    def decode(self, features: ImageFeatures, labels: Tensor) -> Tensor:
        """The logits of a click.

        Args:
            features: Of `encode`.
            labels: Reference labels 0..4, uint8 [B, S, S].

        Returns:
            [B, 1, S, S], foreground where > 0; `OUTSIDE_LOGIT` outside the upsampled box.

        Raises:
            ValueError: The labels have another type, or a shape that does not fit the features.
        """
        batch, _, h, w = features.embedding.shape
        if labels.dtype != torch.uint8 or labels.shape != (batch, PATCH * h, PATCH * w):
            expected = [batch, PATCH * h, PATCH * w]
            raise ValueError(f"expected uint8 labels {expected}, got {labels.dtype} {list(labels.shape)}")
        tokens, _ = self.neck(features.embedding, labels)
        logits: Tensor = self.decode_head(tokens, features.edges).logits
        return logits

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        """`decode(encode(image), labels)`."""
        return self.decode(self.encode(image), labels)
