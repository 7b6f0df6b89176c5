"""/openapi.json says what is done: schemathesis asks each route a few things and looks at the answers."""

from __future__ import annotations

import importlib
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from apps.server.conftest import MakeClient
from hypothesis import HealthCheck, given, settings
from served import png, scene, send

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

EXAMPLES = 3  # of a route; scripts/measure_serve.py asks more


@pytest.fixture
def server(make_client: MakeClient, tmp_path: Path) -> httpx.Client:
    (tmp_path / "a.png").write_bytes(png(scene()))
    return make_client(pictures=tmp_path)


def test_answers_are_as_openapi_says(server: httpx.Client):
    image, picture = send(server, scene(seed=1)), server.get("/v1/pictures").json()["pictures"][0]["id"]
    session = server.post(f"/v1/images/{image}/sessions").json()["id"]
    known = {"image": image, "session": session, "picture": picture, "key": str(uuid.uuid4())}
    known_checks = importlib.import_module("schemathesis.specs.openapi.checks")
    names = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
    checks = [schemathesis.checks.not_a_server_error, *(getattr(known_checks, name) for name in names)]
    schema = schemathesis.openapi.from_dict(server.get("/openapi.json").json())
    asked = []
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/v1/events":  # which does not end
            continue

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy())
        def ask(case: Any) -> None:
            for name in case.path_parameters or {}:
                case.path_parameters[name] = known.get(name, case.path_parameters[name])
            answer = case.call(base_url=str(server.base_url), headers={"X-I2F": "1"})
            case.validate_response(answer, checks=checks)

        ask()
        asked.append(operation.path)
    assert len(asked) > 15
    assert "i2f_failures_total 0" in server.get("/metrics").text
