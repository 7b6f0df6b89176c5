"""What the server is and how it does: `/v1/health`, `/v1/model`, `/metrics`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

import inter2former_deploy
from inter2former_deploy.apps.server.service import Service
from inter2former_deploy.families.config import read_config


class Health(BaseModel):
    """The server answers."""

    status: str


class Model(BaseModel):
    """The model that segments."""

    family: str
    name: str
    decoder: str
    size: int
    prompts: list[str]
    version: str


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["model"])

    @routes.get("/v1/health")
    async def health() -> Health:
        """Whether the server answers. Needs no token."""
        return Health(status="ok")

    @routes.get("/v1/model")
    async def model() -> Model:
        """Which model segments, at which size."""
        return Model(**describe(service))

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(service.metrics.text(service.gauges), media_type="text/plain; version=0.0.4")

    return routes


def describe(service: Service) -> dict[str, Any]:
    """What clients are told of the model."""
    manifest = service.bundle.manifest
    decoder = service.settings.decoder or next(iter(manifest.decoders))
    return {
        "family": manifest.family,
        "name": read_config(manifest.decoder(decoder).config).name,
        "decoder": decoder,
        "size": manifest.size,
        "prompts": ["click", "box", "stroke", "mask", "paint"],
        "version": inter2former_deploy.__version__,
    }
