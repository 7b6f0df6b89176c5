"""The routes of annotation tools, asked as the tools ask: masks are the runtime's, errors harm nobody."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from brushes import decode_brush
from PIL import Image, ImageDraw

from inter2former_deploy.apps.server.routes import x_anylabeling
from inter2former_deploy.apps.server.settings import LabelStudio
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime import Segmenter

MakeClient = Callable[..., httpx.Client]
HEIGHT, WIDTH = 90, 120
PICTURE = "/data/upload/1/a.png"
BRUSH_CONFIG = (
    '<View><Image name="img" value="$image"/><BrushLabels name="brush" toName="img"><Label value="Obj"/></BrushLabels>'
    '<KeyPointLabels name="kp" toName="img" smart="true"><Label value="Obj"/></KeyPointLabels></View>'
)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def file(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def tool(make_client: MakeClient) -> httpx.Client:
    """A client that sends no header of ours."""
    return bare(make_client())


def bare(client: httpx.Client) -> httpx.Client:
    client.headers.pop("X-I2F", None)
    return client


def expected(bundle: Path, image: np.ndarray, *prompts: tuple[Any, ...]) -> np.ndarray:
    session = Segmenter(bundle, num_threads=1).open(image)
    for name, *arguments in prompts:
        getattr(session, name)(*arguments)
    return session.mask


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def encoded_pictures(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith("i2f_encoded_total "))
    return float(value)


# ---- X-AnyLabeling


def ask(client: httpx.Client, file: bytes, *marks: dict[str, Any], **params: Any) -> dict[str, Any]:
    body = {
        "model": "any",
        "image": "data:image/png;base64," + text(file),
        "params": {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.0, "marks": list(marks), **params},
    }
    answer = client.post("/v1/predict", json=body)
    assert answer.status_code == 200
    return answer.json()


def test_x_anylabeling_finds_the_model_and_its_tools(tool: httpx.Client) -> None:
    models = tool.get("/v1/models").json()
    assert models["success"] is True
    ((name, model),) = models["data"].items()
    assert {"button_add_point", "button_add_rect", "button_finish_object"} <= {w["name"] for w in model["widgets"]}
    slider = next(w for w in model["widgets"] if w["name"] == "mask_fineness_slider")
    assert 1 <= slider["value"] <= 100
    assert tool.get(f"/v1/models/{name}/info").json()["data"] == model
    assert tool.get("/health").json()["status"] == "healthy"


def test_x_anylabeling_gets_the_runtimes_outline(
    tool: httpx.Client, bundle: Path, image: np.ndarray, file: bytes
) -> None:
    """Clicks mean the middle of their pixels, rectangles hold those of their corners."""
    marks = [{"type": "rectangle", "data": [100, 80, 20, 10]}, {"type": "point", "data": [60, 40], "label": 1}]
    mask = expected(bundle, image, ("box", 20, 10, 101, 81), ("click", 60.5, 40.5, True))
    answer = ask(tool, file, *marks)
    shapes = answer["data"]["shapes"]
    assert answer["success"] is True
    assert answer["data"]["replace"] is False
    assert mask.any()
    assert shapes == x_anylabeling.shapes(Runs.of(mask), 0.0)
    ask(tool, file, *marks, {"type": "point", "data": [70, 40], "label": 0})
    assert encoded_pictures(tool) == 1


def test_x_anylabelings_polygons_follow_the_mask() -> None:
    """Closed, few points, a part each; specks and holes are left out."""
    y, x = np.mgrid[:100, :160] + 0.5
    disc = np.hypot(x - 50, y - 50) < 40
    mask = (disc & (np.hypot(x - 50, y - 50) > 5)) | ((x > 110) & (x < 140) & (y > 20) & (y < 60))
    mask[95, 150] = True
    found = x_anylabeling.shapes(Runs.of(mask))
    assert {(shape["label"], shape["shape_type"]) for shape in found} == {("AUTOLABEL_OBJECT", "polygon")}
    rings = [np.array(shape["points"]) for shape in found]
    for ring in rings:
        np.testing.assert_array_equal(ring[0], ring[-1])
    round_one, square = rings
    assert 8 <= len(round_one) < 60
    np.testing.assert_array_equal(np.sort(square[:-1], 0), [[110, 20], [110, 20], [140, 60], [140, 60]])
    fill = Image.new("1", (160, 100))
    ImageDraw.Draw(fill).polygon([tuple(point - 0.5) for point in round_one], fill=1)
    assert np.count_nonzero(np.asarray(fill) & disc) / np.count_nonzero(np.asarray(fill) | disc) > 0.97


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}",
        json.dumps({"model": "m", "image": "no picture", "params": {"marks": [{"type": "point", "data": [1, 2]}]}}),
        json.dumps({"model": "m", "image": text(b"abc"), "params": {"marks": [{"type": "point", "data": [1, 2]}]}}),
        json.dumps({"model": "m", "image": "", "params": {"marks": [{"type": "star", "data": [1, 2]}]}}),
        json.dumps({"model": "m", "image": "", "params": {"marks": "many"}}),
    ],
)
def test_x_anylabelings_shapes_survive_every_error(tool: httpx.Client, body: bytes | str) -> None:
    answer = tool.post("/v1/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    found = answer.json()
    assert found["success"] is False
    assert found["error"]["message"]
    assert found["data"] == {"shapes": [], "description": "", "replace": False}


def test_refusals_of_the_guard_keep_shapes_too(make_client: MakeClient, file: bytes) -> None:
    client = bare(make_client(token="a-token-of-some-length"))
    mark = {"type": "point", "data": [60, 40], "label": 1}
    refused = ask(client, file, mark)
    assert (refused["success"], refused["error"]["code"], refused["data"]["replace"]) == (False, "token", False)
    client.headers["Token"] = "a-token-of-some-length"
    assert ask(client, file, mark)["success"] is True
    other = client.post("/v1/predict", json={}, headers={"Origin": "http://elsewhere.example"}).json()
    assert (other["error"]["code"], other["data"]["replace"]) == ("origin", False)


def test_no_marks_change_nothing(tool: httpx.Client, file: bytes) -> None:
    assert ask(tool, file)["data"] == {"shapes": [], "description": "", "replace": False}


# ---- CVAT's nuclio


def test_cvat_lists_one_interactor(tool: httpx.Client) -> None:
    functions = tool.get("/api/functions").json()
    ((name, function),) = functions.items()
    assert function["metadata"]["name"] == name
    assert function["metadata"]["annotations"]["type"] == "interactor"
    assert function["metadata"]["annotations"]["min_neg_points"] == "0"
    assert tool.get(f"/api/functions/{name}").json() == function
    assert tool.get("/api/functions/other").status_code == 404


def test_cvat_gets_the_whole_mask(tool: httpx.Client, bundle: Path, image: np.ndarray, file: bytes) -> None:
    body = {
        "image": text(file),
        "pos_points": [[60.5, 40.25]],
        "neg_points": [[-0.5, 3.0]],
        "obj_bbox": [[100, 80], [20, 10]],
    }
    answer = tool.post("/api/function_invocations", json=body, headers={"x-nuclio-function-name": "inter2former"})
    prompts = (("box", 20, 10, 100, 80), ("click", 60.5, 40.25, True), ("click", 0, 3, False))
    np.testing.assert_array_equal(np.array(answer.json()["mask"]) == 1, expected(bundle, image, *prompts))
    assert set(np.unique(answer.json()["mask"])) == {0, 1}
    nothing = tool.post("/api/function_invocations", json={"image": text(file)})
    assert nothing.status_code == 400
    assert "no click" in nothing.json()["error"]["message"]


# ---- Label Studio


class FakeLabelStudio(BaseHTTPRequestHandler):
    """Its picture and its tokens: a personal access token is exchanged for another one."""

    content = b""
    asked: tuple[str, ...] = ()

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        type(self).asked += (self.path,)
        if self.headers["Authorization"] != "Bearer access":
            self.answer(401, b"")
        elif self.path == "/data/upload/1/a.png":
            self.answer(200, self.content)
        else:
            self.answer(302, b"", Location="/data/upload/1/a.png")

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked += (self.path,)
        right = self.path == "/api/token/refresh/" and sent == {"refresh": "personal.access.token-xyz"}
        self.answer(200 if right else 401, b'{"access": "access"}')


@pytest.fixture
def label_studio(file: bytes) -> Iterator[str]:
    FakeLabelStudio.content, FakeLabelStudio.asked = file, ()
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeLabelStudio) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def keypoint(x: float, y: float, positive: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.3, "keypointlabels": ["Obj"], "labels": ["Obj"]},
        "is_positive": positive,
        "from_name": "kp",
        "to_name": "img",
        "type": "keypointlabels",
        **more,
    }


def smart(client: httpx.Client, *marks: dict[str, Any], address: str = PICTURE, config: str = BRUSH_CONFIG) -> Any:
    body = {
        "tasks": [{"id": 1, "data": {"image": address}}],
        "project": "1.2",
        "label_config": config,
        "params": {"login": None, "password": None, "context": {"result": list(marks)}},
    }
    return client.post("/predict", json=body)


def test_label_studio_draws_with_the_brush(
    make_client: MakeClient, bundle: Path, image: np.ndarray, label_studio: str
) -> None:
    told = LabelStudio(label_studio, "personal.access.token-xyz")
    client = bare(make_client(label_studio=told))
    assert client.post("/setup", json={"project": "1.2", "schema": BRUSH_CONFIG}).json()["model_version"]
    answer = smart(client, keypoint(50, 40), keypoint(10, 90, positive=False)).json()
    (found,) = answer["results"][0]["result"]
    assert (found["type"], found["from_name"], found["to_name"]) == ("brushlabels", "brush", "img")
    assert (found["original_width"], found["original_height"]) == (WIDTH, HEIGHT)
    assert found["value"]["brushlabels"] == ["Obj"]
    mask = expected(bundle, image, ("click", 60, 36, True), ("click", 12, 81, False))
    np.testing.assert_array_equal(decode_brush(found["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0, mask)
    smart(client, keypoint(50, 40))
    assert FakeLabelStudio.asked == ("/api/token/refresh/", "/data/upload/1/a.png")  # once for all clicks
    assert encoded_pictures(client) == 1


def test_label_studio_draws_polygons(
    make_client: MakeClient, bundle: Path, image: np.ndarray, label_studio: str
) -> None:
    client = bare(make_client(label_studio=LabelStudio(label_studio, "personal.access.token-xyz")))
    config = BRUSH_CONFIG.replace("BrushLabels", "PolygonLabels").replace('name="brush"', 'name="poly"')
    rectangle = keypoint(20, 10)
    rectangle |= {"type": "rectanglelabels", "value": {"x": 20, "y": 10, "width": 60, "height": 50, "rotation": 0}}
    found = smart(client, rectangle, config=config).json()["results"][0]["result"]
    mask = expected(bundle, image, ("box", 24, 9, 96, 54))
    assert mask.any()
    assert {(one["type"], one["from_name"], one["value"]["closed"]) for one in found} == {
        ("polygonlabels", "poly", True)
    }
    rings = [np.round(np.array(one["value"]["points"]) * [WIDTH / 100, HEIGHT / 100]).astype(int) for one in found]
    assert all(ring.min() >= 0 and (ring <= [WIDTH, HEIGHT]).all() for ring in rings)
    fill = Image.new("1", (WIDTH, HEIGHT))
    for ring in rings:
        ImageDraw.Draw(fill).polygon([tuple(point) for point in ring.tolist()], fill=1)
    assert np.count_nonzero(np.asarray(fill) & mask) > 0.8 * np.count_nonzero(mask)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://169.254.169.254/latest", "not at the Label Studio"),
        ("//elsewhere.example/a.png", "not at the Label Studio"),
        ("file:///etc/passwd", "not at the Label Studio"),
        ("/elsewhere", "answers 302"),
        ("/data/../../data/upload/1/none.png", "answers 302"),
    ],
)
def test_pictures_come_from_the_one_label_studio(
    make_client: MakeClient, label_studio: str, address: str, message: str
) -> None:
    client = bare(make_client(label_studio=LabelStudio(label_studio, "personal.access.token-xyz")))
    answer = smart(client, keypoint(50, 40), address=address)
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]


def test_label_studios_mistakes_are_told(make_client: MakeClient, label_studio: str) -> None:
    client = bare(make_client(label_studio=LabelStudio(label_studio, "another-old-token-123")))
    assert "refuses the token" in smart(client, keypoint(50, 40)).json()["error"]["message"]
    right = bare(make_client(label_studio=LabelStudio(label_studio, "personal.access.token-xyz")))
    for mark, config, message in (
        (keypoint(50, 40, original_width=7), BRUSH_CONFIG, "shows the picture as 7 x 90"),
        (keypoint(50, 40, image_rotation=90), BRUSH_CONFIG, "turn it back"),
        (keypoint(50, 40, type="ellipselabels"), BRUSH_CONFIG, "use keypoints and rectangles"),
        (keypoint(50, 40), '<View><Image name="img" value="$image"/></View>', "no BrushLabels"),
        (keypoint(50, 40), '<!DOCTYPE x [<!ENTITY a "b">]><View/>', "document type"),
        (keypoint(50, 40), "<View>", "cannot be read"),
    ):
        answer = smart(right, mark, config=config)
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]
    assert "--label-studio" in smart(bare(make_client()), keypoint(50, 40)).json()["error"]["message"]


def test_tasks_that_are_only_read_get_no_prediction(tool: httpx.Client) -> None:
    body = {"tasks": [{"data": {"image": "/a"}}], "params": {"context": None}, "label_config": BRUSH_CONFIG}
    assert tool.post("/predict", json=body).json() == {"results": []}
    assert tool.post("/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 200


def test_tools_routes_are_not_for_pages(tool: httpx.Client) -> None:
    for path in ("/predict", "/setup", "/webhook", "/api/function_invocations"):
        assert tool.post(path, json={}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
