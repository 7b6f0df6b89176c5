"""For programs: pictures that are sent, their masks, and sessions: `/v1/images`, `/v1/sessions`."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from inter2former_deploy.apps.server import answers
from inter2former_deploy.apps.server.errors import ApiError, bad_request
from inter2former_deploy.apps.server.routes import json_bytes
from inter2former_deploy.apps.server.service import Service, Source
from inter2former_deploy.apps.server.sessions import ClientSession, Sessions
from inter2former_deploy.apps.server.wire import (
    ImageAnswer,
    MaskAnswer,
    PolygonsAnswer,
    PromptJson,
    Prompts,
    Sides,
    image_json,
    prompts_of,
)

Form: TypeAlias = Literal["runs", "png", "polygons"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class File(_Model):
    """A file below an allowed folder."""

    path: Annotated[str, Field(min_length=1, max_length=1000)]


class Predict(_Model):
    """All prompts of an object, in order."""

    prompts: Prompts
    region: Sides | None = None
    answer: Form = "runs"


class NewSession(_Model):
    """What is segmented of the picture."""

    region: Sides | None = None


class SessionAnswer(_Model):
    """A session, and until when it lives if nothing is asked of it."""

    id: str
    image: str
    region: Sides | None
    prompts: list[PromptJson]
    expires: datetime


MASKS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": 'The mask: with "answer" "png" as picture, with "polygons" as outlines.',
        "model": MaskAnswer | PolygonsAnswer,
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    }
}
SENT = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                    "additionalProperties": False,
                }
            },
            "application/json": {"schema": File.model_json_schema()},
        },
    }
}


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["images"])
    limits = service.settings.limits
    sessions = Sessions(limits.sessions, limits.session_seconds)
    service.gauges["i2f_sessions"] = "Sessions that live.", lambda: float(len(sessions))

    def image_of(source: Source) -> dict[str, Any]:
        return image_json(source.id, source.height, source.width, service.status(source, source.region(None)))

    async def masked(
        source: Source, sent: list[PromptJson], sides: list[int] | None, answer: Form, request: Request
    ) -> Response:
        region = source.region(sides)
        prompts = prompts_of(sent, source.height, source.width, limits.prompts)
        make = {"runs": answers.runs_json, "png": answers.png, "polygons": answers.polygons_json}[answer]
        body = await service.predict(source, prompts, region, gone=request.is_disconnected, answer=make)
        return Response(body, media_type="image/png") if answer == "png" else json_bytes(body)

    @routes.post("/v1/images", status_code=201, response_model=ImageAnswer, openapi_extra=SENT)
    async def add(request: Request, encode: bool = True) -> dict[str, Any]:
        """Send a picture: as body with its own content type, as "file" of a form, or as the path of a file here.

        It is encoded at once, unless `encode` is false: then when it, or a region of it, is first segmented. A picture
        that is here already is not kept twice: its id is a hash of the file's content.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            try:
                file = File.model_validate_json(await request.body())
            except ValidationError as error:
                raise bad_request('the body must be {"path": "..."}') from error
            source = await run_in_threadpool(service.add_file, file.path)
        else:
            source = await run_in_threadpool(service.add, await _content(request, kind))
        if encode:
            service.open(source, source.region(None))
        return image_of(source)

    @routes.get("/v1/images/{image}", response_model=ImageAnswer)
    async def one(image: str) -> dict[str, Any]:
        """A picture, and where its encoding is."""
        return image_of(service.uploads.get(image))

    @routes.post("/v1/images/{image}/predict", responses=MASKS)
    async def predict(image: str, body: Predict, request: Request) -> Response:
        """The mask of all prompts together. Waits until the picture is encoded."""
        return await masked(service.uploads.get(image), body.prompts, body.region, body.answer, request)

    def told(session: ClientSession) -> dict[str, Any]:
        return {
            "id": session.id,
            "image": session.source.id,
            "region": None if session.region.is_whole else list(session.region.sides),
            "prompts": session.prompts,
            "expires": datetime.fromtimestamp(session.expires, timezone.utc),
        }

    async def of_session(session: ClientSession, prompts: list[PromptJson], answer: Form, request: Request) -> Response:
        response = await masked(session.source, prompts, list(session.region.sides), answer, request)
        session.prompts = prompts
        return response

    @routes.post("/v1/images/{image}/sessions", status_code=201, response_model=SessionAnswer)
    async def make(image: str, body: NewSession | None = None) -> dict[str, Any]:
        """Begin a session on a picture, or on a region of it."""
        source = service.uploads.get(image)
        region = source.region(None if body is None else body.region)
        return told(sessions.make(source, region))

    @routes.get("/v1/sessions/{session}", response_model=SessionAnswer)
    async def read(session: str) -> dict[str, Any]:
        """The prompts so far."""
        return told(sessions.get(session))

    @routes.delete("/v1/sessions/{session}", status_code=204)
    async def delete(session: str) -> Response:
        """End a session."""
        sessions.delete(session)
        return Response(status_code=204)

    @routes.post("/v1/sessions/{session}/prompts", responses=MASKS)
    async def add_prompt(
        session: str, body: PromptJson, request: Request, answer: Annotated[Form, Query()] = "runs"
    ) -> Response:
        """Add a prompt. One that is refused changes nothing."""
        found = sessions.get(session)
        async with found.lock:
            return await of_session(found, [*found.prompts, body], answer, request)

    @routes.delete("/v1/sessions/{session}/prompts/last", responses=MASKS)
    async def undo(session: str, request: Request, answer: Annotated[Form, Query()] = "runs") -> Response:
        """Take the last prompt back."""
        found = sessions.get(session)
        async with found.lock:
            if not found.prompts:
                raise ApiError(409, "empty", "there is no prompt to take back")
            return await of_session(found, found.prompts[:-1], answer, request)

    return routes


async def _content(request: Request, kind: str) -> bytes:
    """The picture's file in a request.

    Raises:
        ApiError: there is none.
    """
    if kind == "multipart/form-data":
        try:
            async with request.form(max_files=1, max_fields=0) as form:
                file = form.get("file")
                if not isinstance(file, UploadFile):
                    raise bad_request('the form must have a file "file"')
                return await file.read()
        except MultiPartException as error:
            raise bad_request("the form cannot be read") from error
    if kind.startswith("image/") or kind == "application/octet-stream":
        return await request.body()
    raise ApiError(415, "type", "send a picture as image/*, as a form with a file, or the path of one as JSON")
