"""Routes: thin over `service.Service`. Each module makes a router of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response

from inter2former_deploy.apps.server.wire import ErrorAnswer


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of refusals, beside those that every route may give."""
    told = {400: "A value that cannot be.", 404: "An id that nobody knows.", 409: "Too late.", 413: "Too large."}
    told |= {415: "Of another type.", 422: "No picture that can be read.", 503: "Too much at once: come again."}
    return {code: {"model": ErrorAnswer, "description": told[code]} for code in codes}


def json_bytes(content: bytes, status: int = 200) -> Response:
    """JSON that is already text."""
    return Response(content, status, media_type="application/json")


def gone(request: Request) -> Callable[[], Awaitable[bool]]:
    """Whether the client has left meanwhile."""
    return request.is_disconnected
