"""CVAT's nuclio: the server stands in for its dashboard and for one function, an interactor.

CVAT finds it at CVAT_NUCLIO_HOST and CVAT_NUCLIO_PORT. It sends the whole picture with every click; it is encoded once.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from inter2former_deploy.apps.server.errors import bad_request, not_found
from inter2former_deploy.apps.server.routes import json_bytes
from inter2former_deploy.apps.server.routes.model import describe
from inter2former_deploy.apps.server.routes.tools import source_of
from inter2former_deploy.apps.server.service import Service
from inter2former_deploy.apps.tools.cvat import ANNOTATIONS, Point, prompts_of
from inter2former_deploy.core.prompts import Mask
from inter2former_deploy.runtime.region import Region

INVOKE = "/api/function_invocations"  # what CVAT calls with CVAT_NUCLIO_INVOKE_METHOD=dashboard
PATHS = ("/api/functions", "/api/functions/", INVOKE)
NAME = "inter2former"


class Asked(BaseModel):
    """All clicks of the object, and its box."""

    image: str
    pos_points: Annotated[list[Point], Field(max_length=1000)] = []
    neg_points: Annotated[list[Point], Field(max_length=1000)] = []
    obj_bbox: Annotated[list[Point], Field(max_length=2)] | None = None


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["cvat"])
    function = {
        "metadata": {
            "name": NAME,
            "annotations": {**ANNOTATIONS, "name": f"Inter2Former ({describe(service)['name']})"},
        },
        "spec": {"description": "Interactive segmentation with clicks and a box"},
        "status": {"state": "ready", "httpPort": service.settings.port},
    }

    @routes.get("/api/functions")
    async def functions() -> dict[str, Any]:
        """The functions of this nuclio: one."""
        return {NAME: function}

    @routes.get("/api/functions/{name}")
    async def one(name: str) -> dict[str, Any]:
        """That one."""
        if name != NAME:
            raise not_found("function")
        return function

    @routes.post(INVOKE, response_class=Response)
    async def invoke(asked: Asked) -> Response:
        """The object that clicks and box are of: `{"mask": rows of 0 and 1}` of the whole picture."""
        source = await source_of(service, asked.image)
        try:
            prompts = prompts_of(asked.pos_points, asked.neg_points, asked.obj_bbox, source.width, source.height)
        except (TypeError, ValueError) as error:
            raise bad_request(str(error)) from error
        return json_bytes(await service.predict(source, prompts, answer=rows_json))

    return routes


def rows_json(mask: Mask, region: Region) -> bytes:
    """A mask as every CVAT takes it: all rows of the picture, 0 and 1."""
    return json.dumps({"mask": region.paste(mask).astype(int).tolist()}, separators=(",", ":")).encode()
