"""The whole model of HRSAM or HRSAM++: what is computed once an image, and what is computed at every click."""

from __future__ import annotations

from torch import Tensor, nn

from inter2former_deploy.families.hrsam.config import HRSAMConfig
from inter2former_deploy.families.hrsam.decoder import MaskDecoder, Prediction
from inter2former_deploy.families.hrsam.encoder import ImageEncoder
from inter2former_deploy.families.hrsam.prompt import PromptEncoder, check_batch
from inter2former_deploy.families.inter2former.config import PATCH


class HRSAM(nn.Module):
    """HRSAM, or HRSAM++ with an anchor map (arXiv 2407.02109).

    The entries of its state dict are those of a released checkpoint.

    Args:
        config: All numbers of the model.
        drop_path: Of the encoder while training, see `ImageEncoder`.
    """

    def __init__(self, config: HRSAMConfig, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.backbone = ImageEncoder(config=config.encoder, out_channels=config.decoder.dim, drop_path=drop_path)
        self.neck = PromptEncoder(config=config.decoder)
        self.decode_head = MaskDecoder(config=config.decoder)

    def encode(self, image: Tensor) -> Tensor:
        """What depends on the images alone.

        Args:
            image: [B, 3, H, W], BGR, (picture - `MEAN_BGR`) / `STD_BGR`, H and W multiples of 16.

        Returns:
            The image embedding, [B, C, H/16, W/16].

        Raises:
            ValueError: The images have another shape.
        """
        embedding: Tensor = self.backbone(image)
        return embedding

    def decode(
        self, embedding: Tensor, xy: Tensor, labels: Tensor, previous: Tensor | None = None, box: Tensor | None = None
    ) -> Tensor:
        """The logits of a click: the first mask of SAM's decoder, which is the one that sessions use.

        Args:
            embedding: Of `encode`, [B, C, h, w].
            xy: All clicks so far, x to the right and y down, pixels of the model input, [B, n, 2]; n may be 0.
            labels: 1 positive, 0 negative, -1 not a point, integers [B, n].
            previous: The logits of the click before, as they were returned, or None.
            box: A box around the object (left, top, right, bottom), pixels of the model input, [B, 4], or None.

        Returns:
            [B, 1, 4*h, 4*w], foreground where > 0.

        Raises:
            ValueError: A shape does not fit, or a label is none of the three.
        """
        return self.decode_head.first_mask(*self._prompts(embedding, xy, labels, previous, box))

    def predict(
        self, embedding: Tensor, xy: Tensor, labels: Tensor, previous: Tensor | None = None, box: Tensor | None = None
    ) -> Prediction:
        """All masks and their estimated IoUs; arguments and errors of `decode`."""
        prediction: Prediction = self.decode_head(*self._prompts(embedding, xy, labels, previous, box))
        return prediction

    def forward(self, image: Tensor, xy: Tensor, labels: Tensor, previous: Tensor | None = None) -> Tensor:
        """`decode(encode(image), ...)`."""
        return self.decode(self.encode(image), xy, labels, previous)

    def _prompts(
        self, embedding: Tensor, xy: Tensor, labels: Tensor, previous: Tensor | None, box: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments of the mask decoder."""
        dim = self.config.decoder.dim
        if embedding.ndim != 4 or embedding.shape[1] != dim:
            raise ValueError(f"expected an image embedding [B, {dim}, h, w], got {list(embedding.shape)}")
        batch, _, h, w = embedding.shape
        sparse, dense = self.neck.sparse(xy, labels, (PATCH * h, PATCH * w), box), self.neck.dense(previous, (h, w))
        check_batch(batch, xy, previous)
        return embedding, self.neck.position_map((h, w)), sparse, dense
