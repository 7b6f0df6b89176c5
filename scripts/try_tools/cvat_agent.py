"""Drives CVAT's own agent: cvat-cli creates the function at a stand-in server and answers one request of it.

    python3 -m venv cvat && cvat/bin/pip install cvat-cli==2.80.0 .
    cvat/bin/python scripts/try_tools/cvat_agent.py BUNDLE PICTURE SHOT.png

The stand-in gives what a CVAT with agents gives: the function's id, requests with clicks, the picture. Prints what the
client sent, and draws the mask that it answered with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from cvat_sdk.masks import decode_mask
from PIL import Image

import inter2former_deploy.apps.tools

bundle, picture, shot = sys.argv[1:]
FUNCTION = Path(inter2former_deploy.apps.tools.__file__).parent / "cvat_function.py"
CLI = Path(sys.executable).with_name("cvat-cli")
image = Image.open(picture).convert("RGB")
sent: dict[str, Any] = {}
requests = [
    {
        "ar_id": f"request-{number}",
        "ar_params": {
            "type": "interact",
            "task": 1,
            "frame": 0,
            "pos_points": points,
            "neg_points": [[380, 14]],
            "obj_bbox": [],
        },
    }
    for number, points in enumerate(([[295.5, 112.5]], [[295.5, 112.5], [193.5, 116.5]]), 1)
]
function: dict[str, Any] = {"id": 7, "provider": "native", "kind": "interactor", "startswith_box": False}
task = {
    "id": 1,
    "name": "photographs",
    "mode": "annotation",
    "size": 1,
    "data_chunk_size": 1,
    "data_original_chunk_type": "imageset",
    "data_compressed_chunk_type": "imageset",
    "updated_date": "2026-11-30T00:00:00Z",
    "created_date": "2026-11-30T00:00:00Z",
    "labels": {"url": "http://stand.in/api/labels?task_id=1"},
    "jobs": {"url": "http://stand.in/api/jobs?task_id=1", "count": 1, "completed": 0, "validation": 0},
    "url": "http://stand.in/api/tasks/1",
    "project_id": None,
    "organization": None,
    "organization_id": None,
    "dimension": "2d",
    "media_type": "image",
    "image_quality": 70,
    "data": 1,
}
meta = {
    "chunks_updated_date": "2026-11-30T00:00:00Z",
    "chunk_size": 1,
    "size": 1,
    "start_frame": 0,
    "stop_frame": 0,
    "image_quality": 70,
    "deleted_frames": [],
    "frames": [{"width": image.width, "height": image.height, "name": Path(picture).name, "related_files": 0}],
}


class StandIn(BaseHTTPRequestHandler):
    """Says what it is asked, and answers as far as the agent goes."""

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, value: Any, status: int = 200) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.cvat+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> Any:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return json.loads(content) if content else {}

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        print("GET", self.path, flush=True)
        if path.rstrip("/") == "/api/tasks/1/data":
            self.reply(Path(picture).read_bytes())
        else:
            self.reply(*answers(path))

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self.body()
        print("POST", path, {k: v for k, v in body.items() if k != "shapes"}, flush=True)
        if path == "/api/functions":
            function.update({"startswith_box_optional": False, **body})
        if path.endswith("/complete"):
            (sent[path],) = body["shapes"]
        self.reply(*answers(path))


def answers(path: str) -> tuple[Any, int]:
    """What CVAT would say."""
    if path == "/api/server/about":
        return {"name": "CVAT", "version": "2.80.0", "description": "", "logo_url": "", "subtitle": ""}, 200
    if path == "/api/functions":
        return function, 201
    if path.endswith("/acquire"):
        return {"ar_assignment": requests.pop(0) if requests else None}, 200
    found = {"/api/functions/7": function, "/api/tasks/1": task, "/api/tasks/1/data/meta": meta}
    labels = {"count": 0, "next": None, "previous": None, "results": []}
    return found.get(path, labels), 200


with ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {**os.environ, "CVAT_ACCESS_TOKEN": "token", "OMP_NUM_THREADS": "1"}
    client = [CLI, "--insecure", "--server-host", f"http://127.0.0.1:{server.server_port}", "function"]
    parameters = ["--function-file", FUNCTION, "-p", f"bundle=str:{bundle}", "-p", "threads=int:1"]
    for command in (["create-native", "inter2former"], ["run-agent", "7", "--burst"]):
        done = subprocess.run(
            [*client, *command, *parameters], env=environment, check=False, capture_output=True, text=True
        )
        print("cvat-cli function", *command, "->", done.returncode, done.stdout.strip(), flush=True)
        if done.returncode or "Failed" in done.stderr:
            raise SystemExit(done.stderr)
masks = [decode_mask(entry["points"], image_width=image.width, image_height=image.height) for entry in sent.values()]
for path, mask in zip(sent, masks, strict=True):
    print(path, f"{int(mask.sum())} pixels")
pixels = np.asarray(image).copy()
pixels[masks[-1]] = (pixels[masks[-1]] // 2 + np.array([0, 60, 127])).astype(np.uint8)
Image.fromarray(pixels).save(shot)
