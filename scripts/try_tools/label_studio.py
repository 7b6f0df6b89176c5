"""Drives Label Studio's own page in Chromium: a task, smart keypoints on the object and beside it, the answer kept.

    python3 -m venv ls && ls/bin/pip install label-studio==1.23.2
    SSRF_PROTECTION_ENABLED=false ML_BLOCK_LOCAL_IP=false ls/bin/label-studio start --no-browser --port 8766 \
        --username user@example.com --password password-1
    python scripts/try_tools/label_studio.py token http://127.0.0.1:8766 > token.txt
    i2f serve BUNDLE --port 8765 --label-studio http://127.0.0.1:8766 --label-studio-token-file token.txt
    python scripts/try_tools/label_studio.py try http://127.0.0.1:8766 http://127.0.0.1:8765 PICTURE SHOT.png

`token` prints a personal access token of that user, as the account page gives it. `try` prints what Label Studio
answered, what its page sent and got and what it stored, and writes a picture of the page with the suggestion. Its
clicks are those of a cup in a picture of 600 x 400 (skimage.data.coffee). Needs playwright and Chromium.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

USER, PASSWORD = "user@example.com", "password-1"
CONFIG = """<View>
  <Image name="img" value="$image"/>
  <BrushLabels name="brush" toName="img"><Label value="Obj" background="#0078ff"/></BrushLabels>
  <KeyPointLabels name="kp" toName="img" smart="true"><Label value="Obj" smart="true"/></KeyPointLabels>
</View>"""
what, studio, *arguments = sys.argv[1:]
SECONDS = 30_000  # ms


def login(context: Any) -> dict[str, str]:
    """Log in; gives the header that requests of the same session need."""
    page = context.new_page()
    page.goto(f"{studio}/user/login")
    page.fill("#email", USER)
    page.fill("#password", PASSWORD)
    page.click("button[type=submit], input[type=submit]")
    page.wait_for_url(lambda url: "login" not in url)
    page.close()
    cookies = {cookie["name"]: cookie["value"] for cookie in context.cookies()}
    return {"X-CSRFToken": cookies["csrftoken"], "Referer": studio}


with sync_playwright() as driver:
    chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(SECONDS)
    headers = login(context)

    def post(path: str, **given: Any) -> Any:
        answer = context.request.post(studio + path, headers=headers, **given)
        if not answer.ok:
            raise SystemExit(f"{path}: {answer.status} {answer.text()[:300]}")
        return answer.json()

    if what == "token":
        print(post("/api/token")["token"])
        chromium.close()
        sys.exit()
    server, picture, shot = arguments
    project = post("/api/projects", data={"title": "Interactive", "label_config": CONFIG})["id"]
    content = {"name": Path(picture).name, "mimeType": "image/jpeg", "buffer": Path(picture).read_bytes()}
    print("import:", post(f"/api/projects/{project}/import", multipart={"file": content}).get("task_count"))
    backend = {"url": server, "project": project, "title": "Inter2Former", "is_interactive": True}
    print("backend:", post("/api/ml", data=backend).get("state"))

    page = context.new_page()

    def tell(response: Any) -> None:
        if "interactive-annotating" in response.url:
            results = response.json().get("data", {}).get("result", [])
            told = [(entry["type"], entry["from_name"], len(entry["value"].get("rle", []))) for entry in results]
            print("got:", response.status, told, flush=True)

    def sent(request: Any) -> None:
        if "interactive-annotating" in request.url:
            marks = json.loads(request.post_data)["context"]["result"]
            print(
                "sent:",
                [
                    (m["type"], round(m["value"]["x"], 3), round(m["value"]["y"], 3), m.get("is_positive"))
                    for m in marks
                ],
                flush=True,
            )

    page.on("request", sent)
    page.on("response", tell)
    page.goto(f"{studio}/projects/{project}/data?labeling=1")
    page.locator("canvas").first.wait_for()
    page.wait_for_timeout(3000)
    page.get_by_text("Auto-Annotation").first.click()
    page.wait_for_timeout(1000)

    def choose_label() -> None:
        page.locator(".lsf-label").filter(has_text="Obj").last.click()

    def choose_smart_keypoints() -> None:
        """A label brings its plain tool; the smart one stands beside the last tool when the mouse is over that."""
        page.locator(".lsf-tool_smart").first.hover()
        page.locator(".lsf-toolbar__smart [aria-label=key-point-tool]").click()

    def click(x: float, y: float, *modifiers: str) -> None:
        box = page.locator("canvas").first.bounding_box()
        assert box is not None
        scale = box["width"] / 600
        choose_label()
        choose_smart_keypoints()
        page.wait_for_timeout(300)
        with page.expect_response(lambda answer: "interactive-annotating" in answer.url):
            for key in modifiers:
                page.keyboard.down(key)
            page.mouse.click(box["x"] + x * scale, box["y"] + y * scale)
            for key in modifiers:
                page.keyboard.up(key)
        page.wait_for_timeout(1500)

    try:
        click(295.5, 112.5)
        click(193.5, 116.5)
        click(377.5, 140.5)
        click(380.5, 14.5, "Alt")
        click(370.5, 40.5)
    finally:
        page.screenshot(path=shot)
    page.locator(".lsf-auto-accept__action_type_accept").click()
    with page.expect_response(
        lambda answer: "/annotations" in answer.url and answer.request.method == "POST"
    ) as stored:
        page.get_by_label("Submit current annotation").click()
    kept = [(entry["type"], entry["value"]["brushlabels"]) for entry in stored.value.json()["result"]]
    print("accepted and submitted:", stored.value.status, kept)
    chromium.close()
