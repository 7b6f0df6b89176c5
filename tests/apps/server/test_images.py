"""/v1/images and /v1/sessions: what programs send and are answered."""

from __future__ import annotations

from pathlib import Path

import httpx
from served import scene, send

from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime import Segmenter


def test_one(client: httpx.Client, bundle: Path):
    image = scene()
    key = send(client, image)
    answer = client.post(f"/v1/images/{key}/predict", json={"prompts": [{"click": [30, 20], "positive": True}]}).json()
    session = Segmenter(bundle, num_threads=1).open(image)
    assert answer["mask"] == Runs.of(session.click(30, 20)).to_json()
