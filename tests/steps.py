"""Steps of a session as the examples take them on their command lines: `+x,y`, `-x,y` and `undo`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inter2former_deploy.runtime import Session


def take(session: Session, step: str) -> NDArray[np.bool_]:
    """The mask after a step, bool `[H, W]`."""
    if step == "undo":
        return session.undo()
    x, y = map(float, step[1:].split(","))
    return session.click(x, y, step[0] == "+")
