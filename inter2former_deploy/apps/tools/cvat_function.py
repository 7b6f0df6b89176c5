"""A function for CVAT's agent: segments with clicks and a box on the annotator's or team's own machine.

    cvat-cli function create-native inter2former --function-file cvat_function.py -p bundle=str:/path/of/bundle
    cvat-cli function run-agent ID --function-file cvat_function.py -p bundle=str:/path/of/bundle

Needs cvat-sdk and this package in one environment; docs/tools/cvat.md says more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cvat_sdk.auto_annotation as cvataa
import numpy as np

from inter2former_deploy.apps.tools.cvat import mask_points, prompts_of
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime import EncodedImage, Segmenter

if TYPE_CHECKING:
    from PIL import Image


class Interactor:
    """What `cvat-cli function` looks for in this file.

    Args:
        bundle: the folder that `i2f export` wrote.
        decoder: one of its decoders; the first if empty.
        threads: to use; as many as usable CPUs if 0.
    """

    def __init__(self, bundle: str, decoder: str = "", threads: int = 0) -> None:
        self._segmenter = Segmenter(bundle, decoder=decoder or None, num_threads=threads or None)

    @property
    def spec(self) -> cvataa.InteractionFunctionSpec:
        """Clicks of both kinds, and a box that may be left out."""
        return cvataa.InteractionFunctionSpec(min_pos_points=1, min_neg_points=0, min_bounding_boxes=0)

    def preprocess_image(self, context: cvataa.InteractionFunctionContext, image: Image.Image) -> EncodedImage:
        """Encode a picture once; the agent keeps what this returns."""
        return self._segmenter.encode(np.asarray(image.convert("RGB")))

    def detect(
        self, context: cvataa.InteractionFunctionContext, pp_image: EncodedImage, prompts: cvataa.InteractionPrompts
    ) -> Sequence[cvataa.InteractionResultShape]:
        """The object as one mask; nothing where the model finds none."""
        width, height = pp_image.window.picture_width, pp_image.window.picture_height
        session = self._segmenter.open(pp_image)
        for prompt in prompts_of(prompts.pos_points, prompts.neg_points, prompts.bounding_box, width, height):
            session.add(prompt)
        runs = Runs.of(session.mask)
        return [cvataa.InteractionResultShape(type="mask", points=mask_points(runs))] if runs.area else []


def create(bundle: str, decoder: str = "", threads: int = 0) -> Interactor:
    """Called by cvat-cli with the parameters of `-p`."""
    return Interactor(bundle, decoder, threads)
