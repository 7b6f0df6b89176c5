from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from inter2former_deploy.apps.server.encodings import Encodings
from inter2former_deploy.apps.server.errors import ApiError
from inter2former_deploy.apps.server.service import Service
from inter2former_deploy.apps.server.settings import Settings
from inter2former_deploy.runtime import Segmenter
from inter2former_deploy.runtime.region import Region

REGION = Region.whole(2, 3)
SECONDS = 60


def test_as_many_are_made_at_a_time_as_there_are_threads() -> None:
    together, told = threading.Barrier(3), list[str]()

    def encode(region: Region, image: Any) -> Any:
        together.wait(SECONDS)  # passes only if three are made at once
        return image

    encodings = Encodings(encode, keep=9, queue=9, threads=3, tell=told.append)
    futures = [encodings.request(str(number), REGION, lambda n=number: n) for number in range(6)]
    assert [future.result(SECONDS) for future in futures] == list(range(6))
    assert [encodings.status(str(number)).state for number in range(6)] == ["ready"] * 6
    assert encodings.made == 6
    assert set(told) == set("012345")
    encodings.close()


def test_one_that_fails_leaves_the_others_and_is_told_of() -> None:
    def encode(region: Region, image: Any) -> Any:
        if image == 1:
            raise ApiError(503, "busy", "no replica answers")
        return image

    encodings = Encodings(encode, keep=9, queue=9, threads=2, tell=lambda key: None)
    futures = [encodings.request(str(number), REGION, lambda n=number: n) for number in range(3)]
    assert (futures[0].result(SECONDS), futures[2].result(SECONDS)) == (0, 2)
    with pytest.raises(ApiError, match="no replica answers"):
        futures[1].result(SECONDS)
    assert (encodings.status("1").state, encodings.status("1").error) == ("failed", "no replica answers")
    encodings.close()


class Elsewhere:
    """A model that is in another place: what it is asked is what a service must send."""

    nbytes, at_a_time, gauges = 1, 2, {"i2f_elsewhere": ("One.", lambda: 1.0)}

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.closed = False

    def encode(self, region: Region, image: Any) -> Any:
        return region.sides, image.shape

    def predict(self, key: str, encoding: Any, prompts: Any, client: str, preview: bool, still_wanted: Any) -> Any:
        still_wanted()
        self.asked.append((key, encoding, list(prompts), client, preview))
        return np.ones((2, 2), bool)

    def close(self) -> None:
        self.closed = True


def test_a_service_asks_the_model_that_it_is_given(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    import cv2

    monkeypatch.setattr(Segmenter, "__init__", lambda *_, **__: pytest.fail("the model is loaded here"))
    model = Elsewhere()
    service = Service(Settings(bundle=bundle), model)
    source = service.add(cv2.imencode(".png", np.zeros((4, 5, 3), np.uint8))[1].tobytes())
    region = source.region([1, 1, 3, 3])
    with ThreadPoolExecutor(1) as other:  # Playwright, in the same process, keeps a loop in this thread
        runs = other.submit(lambda: asyncio.run(service.runs(source, [], region))).result()
    assert runs.area == 4
    assert model.asked == [(f"{source.id}/1,1,3,3", ((1, 1, 3, 3), (4, 5, 3)), [], "", False)]
    assert "i2f_elsewhere 1.0" in service.metrics.text(service.gauges)
    service.close()
    assert model.closed
