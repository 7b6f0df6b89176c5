"""The PyTorch reference modules behind the runtime's interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inter2former_deploy import families
from inter2former_deploy.core.prompts import Frame, Prediction
from inter2former_deploy.runtime.checks import check_image
from inter2former_deploy.runtime.session import Session


@dataclass(frozen=True)
class Encoded:
    """A picture as the encoder left it."""

    frame: Frame
    features: Any  # what the model's `encode` gives


class ReferenceSegmenter:
    """Opens images like `runtime.Segmenter`, with pre- and postprocessing of the runtime and the modules between.

    Args:
        model: of any family, in evaluation mode.
        size: model resolution, a multiple of 16.
    """

    def __init__(self, model: Any, size: int) -> None:
        from inter2former_deploy.training.experts import ExpertLoad

        self.model, self.size = model.eval(), size
        self.experts = ExpertLoad(model, training=False)
        self._interface, self._graphs = families.interface(model.config.family), families.graphs(model.config.family)

    def encode(self, image: NDArray[np.uint8]) -> Encoded:
        """What `open` needs of an image, uint8 RGB `[H, W, 3]`.

        Raises:
            TypeError, ValueError: it is no such image.
        """
        import torch

        checked = check_image(image)
        frame = self._interface.make_frame(checked.shape[0], checked.shape[1], self.size)
        picture = torch.from_numpy(self._interface.make_input(checked, frame))
        with torch.inference_mode():
            x = self._graphs.MODULES["encoder"](self.model).normalize(picture)
            return Encoded(frame, self.model.encode(x.contiguous()))

    def open(self, image: NDArray[np.uint8] | Encoded) -> Session:
        """A session on an image, uint8 RGB `[H, W, 3]`, or on what `encode` made of it.

        Raises:
            TypeError, ValueError: it is no such image.
        """
        import torch

        encoded = image if isinstance(image, Encoded) else self.encode(image)

        def decode(prompts: Mapping[str, NDArray[Any]]) -> Prediction:
            with torch.inference_mode():
                return self._graphs.predict(self.model, encoded.features, prompts)

        return Session(encoded.frame, self._interface.make_prompts(self.size), decode)
