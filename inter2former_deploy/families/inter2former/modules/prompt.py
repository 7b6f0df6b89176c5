"""Dynamic prompt embedding (DPE): reference labels become tokens, convolved only around the object."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inter2former_deploy.families.inter2former.config import PATCH
from inter2former_deploy.operators import formulas


class PromptEmbedding(nn.Module):
    """Four 3x3 stride-2 convolutions over embedded labels, added to the image tokens.

    The label embedding is an argument: in a checkpoint it is an entry of the neck.
    """

    def __init__(self, *, in_channels: int, channels: tuple[int, ...], dense: bool = False) -> None:
        """Build the convolutions.

        Args:
            in_channels: Channels of the label embedding.
            channels: Of the four convolutions; the last is the width of a token.
            dense: Convolve the whole map, not only around the object.
        """
        super().__init__()
        self.dense = dense
        layers: list[nn.Module] = []
        for c_in, c_out in zip((in_channels, *channels), channels, strict=False):
            layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.ReLU()]
        self.stem = nn.Sequential(*layers)

    def forward(self, labels: Tensor, embedding: Tensor, label_table: Tensor) -> Tensor:
        """Tokens of one image with its labels.

        Args:
            labels: uint8 [S, S], 0..4.
            embedding: Image embedding, [h, w, C].
            label_table: Label embedding, [5, T].

        Returns:
            [h*w, C].
        """
        return self._embed(labels, embedding, label_table, self.dense)

    def box(self, labels: Tensor) -> Tensor:
        """Where labels are convolved, int64 [4]: left, top, right, bottom in tokens, right and bottom exclusive."""
        if self.dense:
            height, width = (side // PATCH for side in labels.shape)
            return torch.tensor((0, 0, width, height), device=labels.device)
        return formulas.label_box(labels)

    def crop(self, labels: Tensor, embedding: Tensor, label_table: Tensor) -> Tensor:
        """Tokens of the `box`, [hb*wb, C], from the labels and the embedding there; arguments as in `forward`."""
        return self._embed(labels, embedding, label_table, dense=True)

    def _embed(self, labels: Tensor, embedding: Tensor, label_table: Tensor, dense: bool) -> Tensor:
        w0, b0, w1, b1, w2, b2, w3, b3 = self.stem.parameters()
        return formulas.prompt_embedding(labels, embedding, label_table, w0, b0, w1, b1, w2, b2, w3, b3, dense)
