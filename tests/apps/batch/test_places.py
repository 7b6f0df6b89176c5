from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inter2former_deploy.apps.batch.places import below, open_folder, pictures_below, read_bytes, read_picture
from inter2former_deploy.core.errors import PictureError
from inter2former_deploy.core.pictures import MAX_PIXELS


@pytest.fixture
def store() -> Iterator[str]:
    """The URL of an empty object store: fsspec's own, in memory."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    fsspec.filesystem("memory").store.clear()
    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(params=["path", "url"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "folder") if request.param == "path" else str(request.getfixturevalue("store"))


def test_a_folder_keeps_files(place: str) -> None:
    folder = open_folder(place, "--output")
    assert folder.names() == []
    assert folder.beginning("a.txt", 2) is None
    folder.remove("a.txt")
    folder.write("b.txt", b"other")
    folder.write("a.txt", b"first")
    folder.write("a.txt", b"longer than before")
    assert folder.names() == ["a.txt", "b.txt"]
    assert folder.beginning("a.txt", 6) == (b"longer", 18)
    assert folder.beginning("a.txt", 99) == (b"longer than before", 18)
    assert folder.read("b.txt") == read_bytes(folder.path("b.txt"), 5) == b"other"
    assert folder.path("a.txt") == f"{place}/a.txt"
    with pytest.raises(ValueError, match=re.escape(f"{place}/b.txt has more than 4 bytes: a list of that size")):
        read_bytes(folder.path("b.txt"), 4, "list")
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is no list {place}/c.txt")):
        read_bytes(folder.path("c.txt"), 4, "list")
    folder.remove("a.txt")
    assert folder.names() == ["b.txt"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(str(tmp_path), "--output")
    folder.write("a.txt", b"old")

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(data[:1])
            raise OSError(28, "No space left on device", self.name)

    monkeypatch.setattr(Path, "open", lambda self, mode, **_: Full(self, mode))
    with pytest.raises(OSError, match=r"/a\.txt cannot be written: No space left"):
        folder.write("a.txt", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.txt", b"old")]


def test_pictures_of_an_object_store(store: str) -> None:
    folder = open_folder(f"{store}/photos", "--output")
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    content = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    for name in ("b.png", "deep/A.PNG", ".hidden/c.png", ".c.png", "notes.txt"):
        folder.write(name, content)
    folder.write("cut.png", content[:60])
    pictures, others = pictures_below(f"{store}/photos/")
    base = f"{store}/photos".replace("memory://", "memory:///")
    assert pictures == [f"{base}/b.png", f"{base}/cut.png", f"{base}/deep/A.PNG"]
    assert others == [f"{base}/notes.txt"]
    options = {"convert_colours": True, "max_pixels": MAX_PIXELS, "tell": lambda line: None}
    np.testing.assert_array_equal(read_picture(pictures[0], **options), image)
    with pytest.raises(PictureError, match=rf"^{base}/cut\.png is cut off or damaged"):
        read_picture(pictures[1], **options)
    with pytest.raises(FileNotFoundError, match="there is no image memory://bucket/photos/x"):
        read_picture(f"{store}/photos/x.png", **options)
    with pytest.raises(ValueError, match="there is no picture below memory://bucket/nothing/"):
        pictures_below(f"{store}/nothing/")


@pytest.mark.parametrize("url", ["file:///etc", "local:///etc", "simplecache::memory://x", "nothing-known://x"])
def test_only_object_stores_have_urls(store: str, url: str) -> None:
    with pytest.raises(ValueError, match="--output"):
        open_folder(url, "--output")


def test_what_a_list_names_lies_in_its_folder(tmp_path: Path) -> None:
    photos, outside = tmp_path / "photos", tmp_path / "outside"
    (photos / "deep").mkdir(parents=True)
    outside.mkdir()
    (outside / "a.jpg").touch()
    (photos / "link").symlink_to(outside)
    (photos / "inner").symlink_to(photos / "deep")
    (photos / "loop").symlink_to(photos / "loop")
    assert below(str(photos), "deep/../a.jpg") == f"{photos}/deep/../a.jpg"
    assert below(str(photos), "inner/b.jpg") == f"{photos}/inner/b.jpg"
    assert below(str(photos), f"{photos}/a.jpg") == f"{photos}/a.jpg"
    for name in ("", ".", "../outside/a.jpg", f"{outside}/a.jpg", "link/a.jpg", "a\0b", "s3://b/a.jpg", "/etc/passwd"):
        with pytest.raises(ValueError, match="does not lie in"):
            below(str(photos), name)


def test_what_a_list_names_lies_below_its_url() -> None:
    url = "s3://bucket/photos"
    assert below(url, "deep/a.jpg") == below(f"{url}/", f"{url}/deep/a.jpg") == f"{url}/deep/a.jpg"
    for name in ("", "../a.jpg", "a//b.jpg", "./a.jpg", "/a.jpg", "s3://bucket/other/a.jpg", "s3://bucket/photos2/a.jpg",
                 f"{url}/../a.jpg", "http://example.org/a.jpg", "a\0b"):  # fmt: skip
        with pytest.raises(ValueError, match="does not lie in"):
            below(url, name)
