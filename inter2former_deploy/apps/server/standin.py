"""Objects in memory alone, until they are stored."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import Any

from inter2former_deploy.core.pictures import picture_files, read_image


class ConflictError(Exception):
    """Somebody else has written meanwhile."""

    def __init__(self, now: Any) -> None:
        super().__init__("somebody else has written meanwhile")
        self.now = now


class Project:
    """Pictures of a folder, classes and objects."""

    def __init__(self, url: str | None, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock()
        self.pictures_by_id: dict[str, dict[str, Any]] = {}
        for path in picture_files(folder)[0]:
            data = path.read_bytes()
            key = hashlib.sha256(data).hexdigest()[:32]
            height, width = read_image(data, tell=lambda line: None).shape[:2]
            self.pictures_by_id[key] = {"name": str(path.relative_to(folder)), "width": width, "height": height}
        self.objects: dict[str, dict[str, dict[str, Any]]] = {key: {} for key in self.pictures_by_id}
        self.classes = {"version": 1, "classes": [{"name": "object", "colour": "#2f7dff"}]}

    def put(self, picture: str, key: str, new: dict[str, Any]) -> dict[str, Any]:
        """Store."""
        with self._lock:
            old = self.objects[picture].get(key)
            if (old["version"] if old else 0) != new["version"]:
                raise ConflictError(old)
            stored = {**new, "id": key, "version": new["version"] + 1}
            stored["changed"] = datetime.now(timezone.utc).isoformat()
            self.objects[picture][key] = stored | {"deleted": False}
            return stored

    def delete(self, picture: str, key: str, version: int) -> dict[str, Any]:
        """Delete."""
        with self._lock:
            old = self.objects[picture].get(key)
            if old is None or old["version"] != version:
                raise ConflictError(old)
            old |= {"deleted": True, "version": version + 1}
            return old

    def put_classes(self, version: int, classes: list[dict[str, Any]]) -> dict[str, Any]:
        """Store classes."""
        with self._lock:
            if version != self.classes["version"]:
                raise ConflictError(self.classes)
            self.classes = {"version": version + 1, "classes": classes}
            return self.classes

    def of(self, picture: str) -> list[dict[str, Any]]:
        """Objects of a picture."""
        return [
            {name: value for name, value in one.items() if name != "deleted"}
            for one in self.objects[picture].values()
            if not one["deleted"]
        ]
