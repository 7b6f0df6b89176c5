"""Errors as clients see them: `{"error": {"code", "message"}}`, without paths and without traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException


class ApiError(HTTPException):
    """A request that is refused.

    Args:
        status: of HTTP.
        code: one word for programs.
        message: for people; says what is wrong and what to do.
        headers: of the response.
        more: beside "error" in the body.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code, self.more = code, dict(more or {})

    def body(self) -> dict[str, Any]:
        """What the client is sent."""
        return {"error": {"code": self.code, "message": self.detail}, **self.more}


def bad_request(message: str) -> ApiError:
    """A value that cannot be."""
    return ApiError(400, "bad_request", message)


def not_found(what: str) -> ApiError:
    """An id that nobody knows."""
    return ApiError(404, "not_found", f"there is no such {what}")


def busy(message: str, seconds: float) -> ApiError:
    """Too much at once: the client may come again."""
    return ApiError(503, "busy", message, headers={"Retry-After": str(max(1, round(seconds)))})
