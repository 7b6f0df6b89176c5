"""Documents say what is so: links lead somewhere, code parses, commands and options exist, and the quick ones run."""

from __future__ import annotations

import ast
import functools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer.main
from documents import DOCUMENTS, ROOT, RUN_BY, Command, blocks, commands, prose

from inter2former_deploy.apps.cli import app, main

ALL = [command for document in DOCUMENTS for command in commands(document)]
LINK = re.compile(r"\]\(([^()\s]+)\)")
# What a document may show of JSON that is no JSON: dots for what is left away.
DOTS = re.compile(r"(, )?\.\.\.")


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(prose(document)):
        if re.match("https?:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), f"{document.relative_to(ROOT)} leads to {target}, which is not there"
        assert found.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(found), f"{document.relative_to(ROOT)} leads to {target}: there is no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_parses(document: Path) -> None:
    for block in blocks(document):
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "json":
            text = DOTS.sub("", block.text)
            for value in text.splitlines() if text.count("\n{") else [text]:  # a line each, or one value
                json.loads(value)
        elif block.language == "sh":
            parsed = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
            assert parsed.returncode == 0, parsed.stderr + block.text


@functools.cache
def the_command() -> Any:
    return typer.main.get_command(app)


def leaf(words: tuple[str, ...]) -> tuple[Any, list[str], str]:
    """The command of Typer that a command line of `i2f` names, its own words, and its full name."""
    command: Any = the_command()
    rest, name = list(words[1:]), "i2f"
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{shlex.join(words)}: there is no command {name} {rest[0]}"
        name += f" {rest[0]}"
        command = command.commands[rest.pop(0)]
    return command, rest, name


@pytest.mark.parametrize("command", sorted({c for c in ALL if c.words[0] == "i2f"}, key=str), ids=str)
def test_commands_and_options_exist(command: Command) -> None:
    typed, words, name = leaf(command.words)
    if command.whole and not hasattr(typed, "commands"):
        typed.make_context(name, words)  # all that it needs is there, and every value is of its type
    else:
        words = [word for word in words if word != "..."]
        if words and words[-1].startswith("--"):
            words.append("1")  # an option that a sentence names without its value, or a flag
        typed.make_parser(typed.context_class(typed, info_name=name)).parse_args(words)


def test_every_document_is_in_the_site() -> None:
    """MkDocs refuses what its navigation lacks, and is not among what the tests need."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    pages = set(re.findall(r"[:-] (\S+\.md)$", navigation, re.MULTILINE))
    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(documents) > 10
    assert documents - pages == set()


def test_scripts_that_documents_name_exist() -> None:
    named = {word for c in ALL for word in c.words if re.match(r"(\./)?scripts/\w", word)}
    named |= {n for d in DOCUMENTS for n in re.findall(r"`(?:python )?(?:\./)?(scripts/[\w./-]+)", d.read_text())}
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_command_is_run_somewhere_or_said_not_to_be() -> None:
    texts = {str(command): command.document for command in ALL if command.whole}
    used = set()
    for text, document in texts.items():
        fits = [pattern for pattern, _ in RUN_BY if re.match(pattern, text)]
        assert fits, f"{document}: nothing runs {text}, and tests/documents.py does not say why"
        used.add(fits[0])
    assert {pattern for pattern, _ in RUN_BY} == used, "patterns that no document needs"
    files = [by for _, by in RUN_BY if not by.startswith("not run: ")]
    assert [file for file in files if not (ROOT / file).is_file()] == []


# ---- Commands that take a moment, on a tiny model.

QUICK = ("info", "segment ", "encode", "annotations formats")
ELSEWHERE = ("huge.tif", "s3://", "--ray")  # a picture of 66 megapixels, object stores and clusters


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands name."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(ROOT / "runtime" / "tiny", folder / "bundle")
    picture = np.random.default_rng(0).integers(0, 256, (620, 640, 3), np.uint8)
    (folder / "photos").mkdir()
    (folder / "exporters").mkdir()
    for name in ("cat.jpg", "photo.jpg", "photos/cat.jpg", "exporters/photograph.jpg"):
        cv2.imwrite(str(folder / name), picture)
    mask = np.zeros((620, 640), np.uint8)
    mask[100:300, 100:400] = 255
    cv2.imwrite(str(folder / "drawn.png"), mask)
    points = [{"type": "point", "data": [320, 240], "label": 1}, {"type": "rectangle", "data": [100, 80, 420, 300]}]
    (folder / "prompts.json").write_text(json.dumps(points))
    return folder


def quick() -> Iterator[Command]:
    for command in dict.fromkeys(ALL):
        text = " ".join(command.words[1:])
        complete = command.whole or "bundle" in command.words
        if (
            command.words[0] == "i2f"
            and text.startswith(QUICK)
            and complete
            and not any(word in text for word in ELSEWHERE)
        ):
            yield command


def test_quick_commands_run(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the documents, since some go on with what others wrote."""
    monkeypatch.chdir(desk)
    ran = 0
    for command in quick():
        with pytest.raises(SystemExit) as ended:
            main(command.words[1:])
        assert ended.value.code == 0, f"{command.document}: {command}\n{capsys.readouterr().err}"
        ran += 1
    assert ran > 12
    assert cv2.imread("mask.png", cv2.IMREAD_UNCHANGED).shape == (620, 640)
    assert json.loads(Path("session.json").read_text())["prompts"]


# ---- What is made from the command itself.


def test_the_man_page_is_what_the_command_says() -> None:
    check = [sys.executable, ROOT / "scripts" / "man_page.py", "--check"]
    assert subprocess.run(check, capture_output=True, text=True, check=False).stderr == ""
    page = (ROOT / "docs" / "i2f.1").read_text()
    assert all(f".SS i2f {name}" in page for name in ("export", "segment", "annotations import", "bench click"))


def test_the_man_page_is_sound() -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    drawn = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", ROOT / "docs" / "i2f.1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert drawn.stderr == ""
    assert "EXIT STATUS" in drawn.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("i2f ser", {"serve"}), ("i2f export --precision ", {"fp32", "bf16", "int8"})],
)
def test_completion(typed: str, offered: set[str], monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("_I2F_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split(" ")) - 1))
    with pytest.raises(SystemExit):
        main([])
    assert set(capfd.readouterr().out.split()) == offered


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stdout + built.stderr) == (0, "")
    pages = {
        name: (tmp_path / "site" / f"{name}.html").read_text()
        for name in ("index", "reference/runtime", "reference/cli")
    }
    assert 'id="inter2former_deploy.runtime.session.Session.click"' in pages["reference/runtime"]
    assert "cache_bytes" in pages["reference/runtime"]
    assert "i2f annotations import" in pages["reference/cli"]
    assert 'href="annotate.html"' in pages["index"]  # README.md leads to docs/annotate.md
