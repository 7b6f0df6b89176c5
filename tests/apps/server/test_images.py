"""/v1/images and /v1/sessions: what programs send and are answered, and how little is computed for it."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from apps.server.conftest import MakeClient, running
from served import png, scene, send

from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime import Segmenter, Session

HEIGHT, WIDTH = 60, 80


@pytest.fixture(scope="module")
def segmenter(bundle: Path) -> Segmenter:
    return Segmenter(bundle, num_threads=1)


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One more entry with every decode."""
    counted: list[int] = []
    decode = Segmenter._decode

    def counting(self: Segmenter, *arguments: Any) -> Any:
        counted.append(1)
        return decode(self, *arguments)

    monkeypatch.setattr(Segmenter, "_decode", counting)
    return counted


def click(x: float, y: float, positive: bool = True) -> dict[str, Any]:
    return {"click": [x, y], "positive": positive}


def predict(client: httpx.Client, key: str, *prompts: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/images/{key}/predict", json={"prompts": prompts, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def mask_of(answer: dict[str, Any]) -> np.ndarray:
    return Runs.from_json(answer["mask"], HEIGHT, WIDTH).mask()


def test_a_picture_is_kept_once_whatever_way_it_comes(make_client: MakeClient, tmp_path: Path):
    content = png(scene())
    (tmp_path / "a.png").write_bytes(content)
    client = make_client(folders=(tmp_path,))
    for answer in (
        client.post("/v1/images", content=content, headers={"Content-Type": "image/png"}),
        client.post("/v1/images", files={"file": ("x.jpg", content, "image/jpeg")}),
        client.post("/v1/images", json={"path": "a.png"}),
    ):
        assert answer.status_code == 201
        image = answer.json()
        assert (image["width"], image["height"], image["error"]) == (WIDTH, HEIGHT, None)
    assert client.get(f"/v1/images/{image['id']}").json()["id"] == image["id"]
    predict(client, image["id"])
    assert "i2f_encoded_total 1" in client.get("/metrics").text
    assert client.get(f"/v1/images/{image['id']}").json()["state"] == "ready"


def test_all_prompts_and_answers_are_those_of_the_runtime(client: httpx.Client, segmenter: Segmenter):
    image = scene()
    key, session = send(client, image), segmenter.open(image)
    start = np.zeros((HEIGHT, WIDTH), bool)
    start[20:40, 30:60] = True
    prompts: list[dict[str, Any]] = []
    for prompt, expected in (
        (click(30, 20), session.click(30, 20)),
        ({"box": [10, 5, 70, 50]}, session.box(10, 5, 70, 50)),
        ({"stroke": [[12, 12], [40, 30.5]], "positive": False}, session.stroke([(12, 12), (40, 30.5)], False)),
        ({"mask": Runs.of(start).to_json()}, session.start(start)),
        (click(5.5, 6.5, False), session.click(5.5, 6.5, False)),
    ):
        prompts.append(prompt)
        answer = predict(client, key, *prompts)
        runs = Runs.of(expected)
        assert answer == {"mask": runs.to_json(), "box": list(runs.box or (0, 0, 0, 0)), "area": runs.area}
    drawn = client.post(f"/v1/images/{key}/predict", json={"prompts": prompts, "answer": "png"})
    assert drawn.headers["content-type"] == "image/png"
    decoded = cv2.imdecode(np.frombuffer(drawn.content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, session.mask * np.uint8(255))
    outlined = predict(client, key, *prompts, answer="polygons")
    crossings = np.zeros((HEIGHT, WIDTH + 1), int)  # vertical sides of outlines: inside is behind an odd number of them
    for ring in itertools.chain.from_iterable(outlined["polygons"]):
        for (x, y0), (_, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
            crossings[min(y0, y1) : max(y0, y1), x] += 1
    np.testing.assert_array_equal(crossings.cumsum(1)[:, :WIDTH] % 2 == 1, session.mask)
    assert predict(client, key)["area"] == 0


def test_the_brush_paints_pixels_whose_centre_is_near(client: httpx.Client, segmenter: Segmenter):
    image = scene()
    key, session = send(client, image), segmenter.open(image)
    points, radius = [(20.0, 10.0), (50.25, 40.0), (55.0, 12.0)], 3.5
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    near = np.zeros((HEIGHT, WIDTH), bool)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        for share in np.linspace(0, 1, 2001):  # the line as many points
            near |= np.hypot(x - x0 - share * (x1 - x0), y - y0 - share * (y1 - y0)) <= radius
    before = session.click(30, 20)
    paint = {"paint": points, "radius": radius, "erase": False}
    painted = mask_of(predict(client, key, click(30, 20), paint))
    np.testing.assert_array_equal(painted, before | near)
    erased = mask_of(predict(client, key, click(30, 20), paint | {"erase": True}))
    np.testing.assert_array_equal(erased, before & ~near)
    session.start(painted)
    np.testing.assert_array_equal(mask_of(predict(client, key, click(30, 20), paint, click(9, 9))), session.click(9, 9))
    wiped = {"paint": [[40, 30]], "radius": 200, "erase": True}
    fresh = segmenter.open(image).click(9, 9)
    np.testing.assert_array_equal(mask_of(predict(client, key, click(30, 20), wiped, click(9, 9))), fresh)
    np.testing.assert_array_equal(mask_of(predict(client, key, click(30, 20))), before)


def test_sessions_of_one_prompt_at_a_time(client: httpx.Client, segmenter: Segmenter):
    image = scene()
    key, session = send(client, image), segmenter.open(image, (10, 10, 70, 50))
    made = client.post(f"/v1/images/{key}/sessions", json={"region": [10, 10, 70, 50]}).json()
    address = f"/v1/sessions/{made['id']}"
    first = client.post(f"{address}/prompts", json=click(30, 20)).json()
    assert first["mask"] == Runs.of(session.click(30, 20)).to_json()
    assert client.post(f"{address}/prompts", json=click(5, 5)).status_code == 400  # outside the region
    second = client.post(f"{address}/prompts", json=click(60, 40, False)).json()
    assert second["mask"] == Runs.of(session.click(60, 40, False)).to_json()
    assert client.get(address).json()["prompts"] == [click(30, 20), click(60, 40, False)]
    assert client.delete(f"{address}/prompts/last").json() == first
    assert client.delete(f"{address}/prompts/last").json()["area"] == 0
    assert client.delete(f"{address}/prompts/last").status_code == 409
    assert client.delete(address).status_code == 204
    assert client.get(address).status_code == 404


def test_many_sessions_at_once_give_the_runtimes_masks(client: httpx.Client, segmenter: Segmenter):
    pictures = [scene(seed=seed) for seed in range(2)]
    keys = [send(client, picture) for picture in pictures]

    def session(number: int) -> None:
        random = np.random.default_rng(number)
        local: Session = segmenter.open(pictures[number % 2])
        made = client.post(f"/v1/images/{keys[number % 2]}/sessions").json()["id"]
        for _ in range(10):
            x, y = random.uniform(0, WIDTH), random.uniform(0, HEIGHT)
            positive = bool(random.integers(2))
            answer = client.post(f"/v1/sessions/{made}/prompts", json=click(x, y, positive)).json()
            assert answer["mask"] == Runs.of(local.click(x, y, positive)).to_json()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(session, range(8)))


def test_one_more_click_is_one_decode(client: httpx.Client, decodes: list[int]):
    key = send(client, scene())

    def asked(*prompts: dict[str, Any], **more: Any) -> int:
        before = len(decodes)
        predict(client, key, *prompts, **more)
        return len(decodes) - before

    one, two, three = click(30, 20), click(10, 10, False), click(70, 50)
    assert asked(one) == 1
    assert asked(one, two) == 1
    assert asked(one, two, three) == 1
    assert asked(one, two) == 0  # undo
    assert asked(one, two, click(5, 5)) == 1
    assert asked(one, two, click(5, 5)) == 0


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Encodings wait for this."""
    event, encode = Event(), Segmenter._encode

    def waiting(self: Segmenter, *arguments: Any) -> Any:
        assert event.wait(30)
        return encode(self, *arguments)

    monkeypatch.setattr(Segmenter, "_encode", waiting)
    yield event
    event.set()


def test_the_queue_is_seen_and_bounded(make_client: MakeClient, held: Event):
    client = make_client({"queue": 2})
    keys = [send(client, scene(seed=seed)) for seed in range(3)]
    full = client.post("/v1/images", content=png(scene(seed=3)), headers={"Content-Type": "image/png"})
    assert full.status_code == 503
    assert full.json()["error"]["code"] == "busy"
    assert int(full.headers["Retry-After"]) >= 1
    states = [client.get(f"/v1/images/{key}").json() for key in keys]
    assert [(state["state"], state["position"]) for state in states] == [("encoding", 0), ("queued", 1), ("queued", 2)]
    assert "i2f_queue_length 2" in client.get("/metrics").text
    held.set()
    assert all(predict(client, key, click(5, 5))["mask"] for key in keys)


def test_who_has_left_is_not_waited_for(
    client: httpx.Client, held: Event, decodes: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("inter2former_deploy.apps.server.service.LOOK_SECONDS", 0.05)
    key = send(client, scene())
    with pytest.raises(httpx.ReadTimeout):
        client.post(f"/v1/images/{key}/predict", json={"prompts": [click(5, 5)]}, timeout=0.3)
    while "i2f_left_total 1" not in client.get("/metrics").text:
        pass
    held.set()
    predict(client, key, click(9, 9))
    assert len(decodes) == 1


def test_encodings_are_kept_on_disk(make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = make_client(cache=tmp_path / "cache")
    expected = predict(first, send(first, scene()), click(30, 20))
    monkeypatch.setattr(Segmenter, "_encode", None)  # whoever calls it fails
    second = make_client(cache=tmp_path / "cache")
    assert predict(second, send(second, scene()), click(30, 20)) == expected


def test_encodings_that_no_longer_fit_are_made_again(make_client: MakeClient):
    client = make_client({"encodings": 1, "decoded": 1})
    keys = [send(client, scene(seed=seed)) for seed in range(2)]
    first = predict(client, keys[0], click(30, 20))
    predict(client, keys[1], click(30, 20))
    assert client.get(f"/v1/images/{keys[0]}").json()["state"] == "none"
    assert predict(client, keys[0], click(30, 20)) == first
    assert "i2f_encodings 1\n" in client.get("/metrics").text


def test_pictures_that_were_sent_long_ago_are_forgotten(make_client: MakeClient):
    client = make_client({"images": len(png(scene())) + 1})
    keys = [send(client, scene(seed=seed)) for seed in range(2)]
    assert client.get(f"/v1/images/{keys[0]}").status_code == 404
    assert client.get(f"/v1/images/{keys[1]}").status_code == 200


def test_an_answer_does_not_wait_until_its_head_is_acknowledged(bundle: Path) -> None:
    """Head and body are two packets; without this option the kernel holds back the second for 40 ms."""
    with running(bundle) as server, httpx.Client(base_url=server.address) as client:
        assert client.get("/health").status_code == 200
        (connection,) = server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
