"""Routes: thin over `service.Service`. Each module makes a router of its own."""

from __future__ import annotations

from fastapi import Response


def json_bytes(content: bytes, status: int = 200) -> Response:
    """JSON that is text already."""
    return Response(content, status, media_type="application/json")
