"""From HRSAM's logits to masks. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from inter2former_deploy.core.prompts import Floats, Mask
from inter2former_deploy.families.hrsam.pictures import Frame


@dataclass(frozen=True, eq=False)
class MaskLogits:
    """What the decoder of HRSAM predicts."""

    values: Floats  # raw logits of the whole square, padding included, foreground where > 0, [S/4, S/4]

    def mask(self, frame: Frame) -> Mask:
        """The object in the image, bool `[H, W]`."""
        found: Mask = frame.logits_to_image(self.values) > 0
        return found

    def logits(self, frame: Frame) -> Floats:
        """A copy of the logits, `[S/4, S/4]`."""
        return self.values.copy()

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""
        return self.values.nbytes
