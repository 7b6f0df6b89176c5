"""The handler of the nuclio function: the last pictures stay encoded, as CVAT sends a picture with every click."""

from __future__ import annotations

import base64
import json
from typing import Any

from inter2former_deploy.apps.tools.cvat import prompts_of
from inter2former_deploy.core.pictures import read_image
from inter2former_deploy.runtime import Segmenter

BUNDLE = "/opt/bundle"
KEPT = 1 << 30  # bytes of encoded pictures


def init_context(context: Any) -> None:
    """Load the bundle, once a worker."""
    context.user_data.segmenter = Segmenter(BUNDLE, cache_bytes=KEPT)


def handler(context: Any, event: Any) -> Any:
    """The mask of a request's clicks and box, `{"mask": rows of 0 and 1}`, which every version of CVAT takes."""
    try:
        asked = event.body if isinstance(event.body, dict) else json.loads(event.body)
        image = read_image(_picture_of(asked), tell=lambda line: None)
        height, width, _ = image.shape
        boxes = asked.get("obj_bbox") or None
        prompts = prompts_of(asked.get("pos_points") or [], asked.get("neg_points") or [], boxes, width, height)
        session = context.user_data.segmenter.open(image)
        for prompt in prompts:
            session.add(prompt)
    except (TypeError, ValueError) as error:
        return context.Response(body=str(error), headers={}, content_type="text/plain", status_code=400)
    body = json.dumps({"mask": session.mask.astype(int).tolist()}, separators=(",", ":"))
    return context.Response(body=body, headers={}, content_type="application/json", status_code=200)


def _picture_of(asked: Any) -> bytes:
    """The encoded file of a request; ValueError if there is none."""
    image = asked.get("image") if isinstance(asked, dict) else None
    if not isinstance(image, str):
        raise ValueError("the request has no picture: expected a JSON object with 'image', an encoded file in base64")
    try:
        return base64.b64decode(image, validate=True)
    except ValueError as error:
        raise ValueError(f"'image' is no base64: {error}") from error
