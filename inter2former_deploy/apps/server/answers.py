"""Masks as they are sent. Made in the decoding threads, so that nobody waits for a large one."""

from __future__ import annotations

import json
from typing import Any

import cv2

from inter2former_deploy.annotations.masks import outlines
from inter2former_deploy.core.prompts import Mask
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime.region import Region

NOWHERE = (0, 0, 0, 0)  # the box of an empty mask


def runs_of(mask: Mask, region: Region) -> Runs:
    """The run lengths of a region's mask, as a mask of the picture; at the region's cost."""
    return Runs.of(mask, (region.left, region.top), (region.picture_height, region.picture_width))


def runs_json(mask: Mask, region: Region, **more: int) -> bytes:
    """A `MaskAnswer`, and what else is told."""
    runs = runs_of(mask, region)
    return _json({"mask": runs.to_json(), "box": runs.box or NOWHERE, "area": runs.area, **more})


def polygons_json(mask: Mask, region: Region) -> bytes:
    """A `PolygonsAnswer`."""
    runs = runs_of(mask, region)
    polygons = [[ring.tolist() for ring in (part.ring, *part.holes)] for part in outlines(runs)]
    size = [runs.height, runs.width]
    return _json({"polygons": polygons, "size": size, "box": runs.box or NOWHERE, "area": runs.area})


def png(mask: Mask, region: Region) -> bytes:
    """A grey PNG of the whole picture: 255 inside, 0 outside."""
    _, data = cv2.imencode(".png", region.paste(mask).astype("uint8") * 255, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return data.tobytes()


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
