"""The PyTorch reference modules behind the runtime's interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR
from inter2former_deploy.families.inter2former.masks import Box, BoxLogits
from inter2former_deploy.families.inter2former.pictures import Frame, model_input
from inter2former_deploy.families.inter2former.prompts import LabelMapPrompts
from inter2former_deploy.runtime.checks import check_image
from inter2former_deploy.runtime.session import Session

if TYPE_CHECKING:
    from inter2former_deploy.families.inter2former.modules.model import Inter2Former


@dataclass(frozen=True)
class Encoded:
    """A picture as the encoder left it."""

    frame: Frame
    features: Any  # what the model's `encode` gives


class ReferenceSegmenter:
    """Opens images like `runtime.Segmenter`, with pre- and postprocessing of the runtime and the modules between.

    Args:
        model: in evaluation mode.
        size: model resolution, a multiple of 16.
    """

    def __init__(self, model: Inter2Former, size: int) -> None:
        from inter2former_deploy.training.experts import ExpertLoad

        self.model, self.size = model.eval(), size
        self.experts = ExpertLoad(model, training=False)

    def encode(self, image: NDArray[np.uint8]) -> Encoded:
        """What `open` needs of an image, uint8 RGB `[H, W, 3]`.

        Raises:
            TypeError, ValueError: it is no such image.
        """
        import torch

        checked = check_image(image)
        frame = Frame(checked.shape[0], checked.shape[1], self.size)
        bgr = torch.from_numpy(model_input(checked, frame)[..., ::-1].copy())
        with torch.inference_mode():
            x = ((bgr - torch.tensor(MEAN_BGR)) / torch.tensor(STD_BGR)).permute(2, 0, 1)[None]
            return Encoded(frame, self.model.encode(x.contiguous()))

    def open(self, image: NDArray[np.uint8] | Encoded) -> Session:
        """A session on an image, uint8 RGB `[H, W, 3]`, or on what `encode` made of it.

        Raises:
            TypeError, ValueError: it is no such image.
        """
        import torch

        encoded = image if isinstance(image, Encoded) else self.encode(image)

        def decode(prompts: Mapping[str, NDArray[Any]]) -> BoxLogits:
            with torch.inference_mode():
                logits = self.model.decode(encoded.features, torch.from_numpy(prompts["labels"])[None])[0, 0]
            return BoxLogits(Box(0, 0, self.size, self.size), logits.numpy())

        return Session(encoded.frame, LabelMapPrompts(self.size), decode)
