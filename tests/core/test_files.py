from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inter2former_deploy.core.files import (
    check_apart,
    check_new_bundle,
    check_new_file,
    check_new_folder,
    check_space,
    replacing,
    write_file,
)


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with replacing(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [*tmp_path.iterdir()] == [path]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write_a_part() -> None:
        with replacing(path) as unfinished:
            unfinished.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_a_part()
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_pieces_are_written_whole_however_little_the_system_takes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[:100_001])

    monkeypatch.setattr(Path, "open", lambda self, mode, **_: Slow(self, mode))
    content = np.random.default_rng(0).bytes(700_000)
    write_file(tmp_path / "a", [content[:5], b"", memoryview(content)[5:600_000], content[600_000:]])
    assert (tmp_path / "a").read_bytes() == content


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"


def test_a_name_may_be_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".png")
    with replacing(path) as unfinished:
        unfinished.write_text("whole")
    assert path.read_text() == "whole"


def test_new_files_and_folders_are_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    check_new_file(tmp_path / "file", "--output")
    check_new_file(tmp_path / "new", "--output")
    check_new_folder(tmp_path, "--output")
    check_new_folder(tmp_path / "new" / "newer", "--output")
    with pytest.raises(ValueError, match=f"^--output {tmp_path} is a folder: name a file$"):
        check_new_file(tmp_path, "--output")
    with pytest.raises(ValueError, match=f"^--output {tmp_path}/no/a: there is no folder {tmp_path}/no$"):
        check_new_file(tmp_path / "no" / "a", "--output")
    with pytest.raises(ValueError, match=f"^--output {tmp_path}/file/a: {tmp_path}/file is a file, not a folder$"):
        check_new_folder(tmp_path / "file" / "a", "--output")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # as for a user who is not root
    for check in (check_new_file, check_new_folder):
        with pytest.raises(ValueError, match=f"the folder {tmp_path} may not be written to"):
            check(tmp_path / "new", "--output")


def test_files_of_a_command_are_apart(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "gone")
    check_apart({"IMAGE": tmp_path / "a", "--output": tmp_path / "c", "--overlay": tmp_path / "d"})
    for one, other in [("a", "a"), ("a", "b"), ("c", "gone"), ("x/../new", "new")]:
        with pytest.raises(ValueError, match="is the same file as IMAGE: name another"):
            check_apart({"IMAGE": tmp_path / one, "--output": tmp_path / other})


def test_space_is_looked_at_first(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_space(tmp_path / "new" / "newer", free // 2, "it")
    with pytest.raises(OSError, match=rf"^it needs about [\d.]+ GB in {tmp_path}/new, [\d.]+ GB are free: make room"):
        check_space(tmp_path / "new", 2 * free, "it")


def test_places_of_bundles(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    check_new_bundle(folder, force=False, keep_failed=True)
    folder.mkdir()
    check_new_bundle(folder, force=False)
    (folder / "manifest.json").touch()
    check_new_bundle(folder, force=True)
    with pytest.raises(FileExistsError, match="bundle exists: replace it with --force"):
        check_new_bundle(folder, force=False)
    (tmp_path / "bundle.failed").mkdir()
    (tmp_path / "bundle.failed" / "thesis.txt").touch()
    check_new_bundle(folder, force=True)
    with pytest.raises(FileExistsError, match=r"bundle\.failed exists and is no bundle"):
        check_new_bundle(folder, force=True, keep_failed=True)
    (folder / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="bundle exists and is no bundle"):
        check_new_bundle(folder, force=True)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        check_new_bundle(tmp_path / "no" / "bundle", force=False)
