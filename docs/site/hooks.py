"""What MkDocs needs to make a site of Markdown that is written to be read in the repository.

Pages that lie outside docs/ become pages of the site; links, which lead from file to file of the repository, lead from
page to page; lists may follow a paragraph without an empty line. The commands are listed from the command itself, and
the package is laid out as it is installed, for the reference of its docstrings.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {  # in the repository: in the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    ".github/SECURITY.md": "project/security.md",
    ".github/CODE_OF_CONDUCT.md": "project/conduct.md",
    "custom_ops/OPERATORS.md": "reference/operators.md",
    "inter2former_deploy/weights/README.md": "reference/weights.md",
    "examples/cpp/README.md": "examples/cpp.md",
    "examples/node/README.md": "examples/node.md",
    "examples/python/README.md": "examples/notebook.md",
}
SOURCES = {site: source for source, site in PAGES.items()}
SITE_SOURCES = ROOT / "build" / "site-sources"
# As pyproject.toml has them: where the packages lie, and where they are installed.
NESTED = ("exporters", "runtime")
COMMANDS = "reference/cli.md"  # the page to which the commands are added

LINK = re.compile(r"(?<!\\)(?P<text>!?\[(?:[^\[\]]|!?\[[^\[\]]*\](?:\([^()]*\))?)*\])\((?P<target>[^()\s]+)\)")
FENCE = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.MULTILINE | re.DOTALL)


def on_startup(command: str, dirty: bool) -> None:
    """Make the folder of the sources, which mkdocstrings looks for before `on_config` fills it."""
    SITE_SOURCES.mkdir(parents=True, exist_ok=True)


def on_config(config: MkDocsConfig) -> None:
    """Lay the sources out as they are installed: mkdocstrings reads them and imports nothing."""
    package = SITE_SOURCES / "inter2former_deploy"
    shutil.rmtree(package, ignore_errors=True)
    for source in (ROOT / "inter2former_deploy", *(ROOT / name for name in NESTED)):
        for file in source.rglob("*.py"):
            inside = file.relative_to(ROOT)
            copy = package.parent / inside if inside.parts[0] == package.name else package / inside
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for source, site in PAGES.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / source)))
    return files


def command_line() -> str:
    """All commands, by Typer's own generator."""
    import typer.cli
    import typer.main

    from inter2former_deploy.apps.cli import app

    command = typer.main.get_command(app)
    _whole_summaries(command)
    with typer.Context(command, info_name="i2f") as context:
        text = typer.cli.get_docs_for_click(obj=command, ctx=context, indent=1, name="i2f")
    return text.replace("```console\n$ ", "```text\n")


def _whole_summaries(command: Any) -> None:
    """Have lists of commands say the first paragraph of each, which otherwise is cut off after 45 characters."""
    for inner in getattr(command, "commands", {}).values():
        inner.short_help = " ".join((inner.help or "").partition("\n\n")[0].split())
        _whole_summaries(inner)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Change what is not code: links, lists."""
    here = page.file.src_uri
    if here == COMMANDS:
        markdown += command_line()
    source = SOURCES.get(here, f"docs/{here}")
    pieces, at = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [_prose(markdown[at : fence.start()], source, here), fence[0]]
        at = fence.end()
    return "".join([*pieces, _prose(markdown[at:], source, here)])


def _prose(text: str, source: str, here: str) -> str:
    text = re.sub(r"^( *)(?![*|# ])(?!\d+\. )(\S.*)\n(?=\1\* )", r"\1\2\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"^  (?=(\*|\d+\.) )", "    ", text, flags=re.MULTILINE)

    def moved(link: re.Match[str]) -> str:
        label = LINK.sub(moved, link["text"][1:-1]) if link["text"].startswith("[") else link["text"][2:-1]
        target = _moved(link["target"], source, here)
        if target is None:  # of the repository alone
            return label
        mark = "!" if link["text"].startswith("!") else ""
        return f"{mark}[{label}]({target})"

    return LINK.sub(moved, text)


def _moved(target: str, source: str, here: str) -> str | None:
    """A link of a file of the repository as a link of a page; None if it leads to no page."""
    if re.match(r"[a-z]+:|#", target):
        return target
    path, hash_, anchor = target.partition("#")
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    readme = posixpath.join(wanted, "README.md")
    site: Any = PAGES.get(wanted) or PAGES.get(readme)
    if site is None and wanted.startswith("docs/"):
        site = wanted.removeprefix("docs/")
    if site is None:
        return None if (ROOT / wanted).exists() else target  # MkDocs says that there is no such file
    return os.path.relpath(site, posixpath.dirname(here) or ".") + hash_ + anchor
