"""X-AnyLabeling's remote server: `/v1/models`, `/v1/predict`.

The client takes whatever is not a success for a result that replaces every shape of the picture, and the user's work is
gone. So everything that goes wrong here, refusals of the guard included, is a success of HTTP that changes nothing.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from inter2former_deploy.annotations.masks import outlines
from inter2former_deploy.apps.server.errors import ApiError, bad_request, not_found
from inter2former_deploy.apps.server.routes.model import describe
from inter2former_deploy.apps.server.routes.tools import (
    box_near,
    click_near,
    ring_area,
    ring_length,
    smooth_ring,
    source_of,
)
from inter2former_deploy.apps.server.security import App, Message, Receive, Send
from inter2former_deploy.apps.server.service import Service
from inter2former_deploy.core.prompts import Box, Click
from inter2former_deploy.core.runs import Runs

PATHS = ("/v1/models", "/v1/models/", "/v1/predict")
PREDICT = "/v1/predict"
LABEL = "AUTOLABEL_OBJECT"  # by which the client knows shapes that wait for a label
LEAST_PART = 0.02  # of the largest part's area: smaller parts are specks that the user would have to delete
ARC_SHARE = 0.001  # of a ring's length, how far a point may be moved: the client's "mask fineness"
WIDGETS = (
    "button_add_point",
    "button_remove_point",
    "button_add_rect",
    "button_clear",
    "button_finish_object",
    "mask_fineness_slider",
    "mask_fineness_value_label",
)


class Mark(BaseModel):
    """A point (label 1 on the object, 0 not) or a rectangle, by indices of pixels."""

    type: Literal["point", "rectangle"]
    data: Annotated[list[float], Field(min_length=2, max_length=4)]
    label: int = 1


class Params(BaseModel):
    """What the user set and drew; no marks when they were cleared."""

    marks: Annotated[list[Mark], Field(max_length=1000)] = []
    epsilon_factor: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = ARC_SHARE


class Request(BaseModel):
    """A prediction that is asked for."""

    model: str
    image: str
    params: Params = Params()


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["x-anylabeling"])
    name = str(describe(service)["name"])
    model: dict[str, Any] = {
        "display_name": f"Inter2Former ({name})",
        "widgets": [
            {"name": widget, **({"value": 10} if widget == "mask_fineness_slider" else {"value": None})}
            for widget in WIDGETS
        ],
        "params": {},
        "capabilities": {},
        "batch_processing_mode": None,
    }

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models that X-AnyLabeling may choose of."""
        return {"success": True, "data": {name: model}}

    @routes.get("/v1/models/{model_id}/info")
    async def info(model_id: str) -> dict[str, Any]:
        """One of them."""
        if model_id != name:
            raise not_found("model")
        return {"success": True, "data": model}

    @routes.post(PREDICT)
    async def predict(body: Annotated[Request | Any, Body()] = None) -> dict[str, Any]:
        """Polygons of the object that the marks are of. The whole file comes with every mark, and is encoded once.

        Whatever else is sent is answered with `success` false, and changes nothing.
        """
        try:
            asked = Request.model_validate(body)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error
        if not asked.params.marks:
            return _answer([])
        source = await source_of(service, asked.image)
        try:
            prompts = [_prompt(mark, source.width, source.height) for mark in asked.params.marks]
        except (TypeError, ValueError) as error:
            raise bad_request(str(error)) from error
        runs = await service.runs(source, prompts)
        return _answer(shapes(runs, asked.params.epsilon_factor))

    return routes


def _prompt(mark: Mark, width: int, height: int) -> Click | Box:
    """A prompt: the client cuts coordinates to the indices of pixels."""
    if mark.type == "point":
        x, y = mark.data[:2]
        return click_near(x + 0.5, y + 0.5, mark.label != 0, width, height)
    if len(mark.data) != 4:
        raise ValueError("a rectangle must have four numbers")
    (x0, x1), (y0, y1) = sorted(mark.data[::2]), sorted(mark.data[1::2])
    return box_near((x0, y0), (x1 + 1, y1 + 1), width, height)


def shapes(runs: Runs, arc_share: float = ARC_SHARE) -> list[dict[str, Any]]:
    """A mask as the client's polygons, one a part; they have no holes.

    Args:
        runs: the mask.
        arc_share: of a ring's length, how far a point may be moved.
    """
    parts = outlines(runs)
    least = LEAST_PART * max(map(ring_area, parts), default=0)
    polygons = [smooth_ring(part.ring, arc_share * ring_length(part)) for part in parts if ring_area(part) >= least]
    return [
        {"label": LABEL, "shape_type": "polygon", "points": [*points, points[0]]}  # closed by its first point
        for points in polygons
    ]


def _answer(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"success": True, "data": {"shapes": found, "description": "", "replace": False}}


class KeepShapes:
    """Around the application: what goes wrong at `/v1/predict` is answered so that no shape is lost.

    Args:
        app: the guarded application.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", PREDICT):
            await self._app(scope, receive, send)
            return
        refused: list[bytes] = []
        failed = False

        async def kept(message: Message) -> None:
            nonlocal failed
            if message["type"] == "http.response.start":
                failed = message["status"] >= 400
                if not failed:
                    await send(message)
                return
            if not failed:
                await send(message)
                return
            refused.append(message.get("body", b""))
            if not message.get("more_body", False):
                body = _unchanged(b"".join(refused))
                headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, kept)


def _unchanged(refusal: bytes) -> bytes:
    try:
        error = json.loads(refusal)["error"]
    except (ValueError, KeyError, TypeError):
        error = ApiError(500, "internal", "the server failed at this request").body()["error"]
    data = {"shapes": [], "description": "", "replace": False}
    return json.dumps({"success": False, "error": error, "data": data}).encode()
