"""Masks as they are sent. Made in the decoding threads, so that nobody waits for a large one."""

from __future__ import annotations

import json

import cv2

from inter2former_deploy.apps.server.runs import measure
from inter2former_deploy.core.prompts import Mask
from inter2former_deploy.runtime.region import Region


def runs_json(mask: Mask, region: Region, **more: int) -> bytes:
    """A `MaskAnswer`, and what else is told."""
    measured = measure(mask, region)
    answer = {"mask": measured.runs.to_json(), "box": list(measured.box), "area": measured.area, **more}
    return json.dumps(answer, separators=(",", ":")).encode()


def png(mask: Mask, region: Region) -> bytes:
    """A grey PNG of the whole picture: 255 inside, 0 outside."""
    _, data = cv2.imencode(".png", region.paste(mask).astype("uint8") * 255, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return data.tobytes()
