#!/usr/bin/env python3
"""Write docs/i2f.1, the man page of `i2f`, from the command itself; --check only compares.

python scripts/man_page.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "i2f.1"
WIDTH = 200  # of a line of the source that Typer lays out


def man_page() -> str:
    """The page in the macros of man(7)."""
    import typer.main

    import inter2former_deploy
    from inter2former_deploy.apps.cli import app

    command = typer.main.get_command(app)
    version = inter2former_deploy.__version__
    lines = [
        '.\\" Made by scripts/man_page.py: change the command, not this file.',
        f'.TH I2F 1 "" "inter2former-deploy {version}" "User Commands"',
        ".SH NAME",
        f"i2f \\- {_text(_first(command.help))}",
        ".SH SYNOPSIS",
        ".B i2f",
        "[\\fIoptions\\fR] \\fIcommand\\fR [\\fIarguments\\fR]",
        ".SH DESCRIPTION",
        *_paragraphs(command.help),
        ".SH OPTIONS",
        *_parameters(command, "i2f"),
        ".SH COMMANDS",
    ]
    for name, each in _commands(command, "i2f"):
        usage = " ".join(each.collect_usage_pieces(_context(each, name)))
        lines += [f".SS {_text(name)} {_text(usage)}", *_paragraphs(each.help), *_parameters(each, name)]
    lines += [
        ".SH EXIT STATUS",
        *_paragraphs(command.epilog),
        ".SH ENVIRONMENT",
        ".TP",
        ".B INTER2FORMER_TIER",
        "The instruction\\-set tier that the operators use, instead of the best of the machine.",
        ".SH SEE ALSO",
        "docs/ of inter2former\\-deploy, which the site has as well.",
    ]
    return "\n".join(lines) + "\n"


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """All commands below a group, with their full names."""
    for each in group.commands.values():
        if hasattr(each, "commands"):
            yield from _commands(each, f"{name} {each.name}")
        else:
            yield f"{name} {each.name}", each


def _context(command: Any, name: str) -> Any:
    return command.context_class(command, info_name=name, terminal_width=WIDTH, help_option_names=["-h", "--help"])


def _parameters(command: Any, name: str) -> Iterator[str]:
    context = _context(command, name)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and (name == "i2f" or "--help" not in record[0]):
            yield from (".TP", f"\\fB{_text(record[0])}\\fR", _text(" ".join(record[1].split())) or "\\&")


def _first(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split()).rstrip(".")


def _paragraphs(text: str | None) -> Iterator[str]:
    for paragraph in (text or "").strip().split("\n\n"):
        if paragraph.startswith("\b"):  # keep its lines
            yield from (".PP", ".nf", *map(_text, paragraph[1:].strip("\n").split("\n")), ".fi")
        else:
            yield from (".PP", _text(" ".join(paragraph.split())))


def _text(text: str) -> str:
    """Plain text as roff: nothing in it is a request or an escape."""
    text = text.replace("\\", "\\(rs").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def main() -> None:
    """Write the page, or with --check end with 1 if it is another than the one that is there."""
    page = man_page()
    if sys.argv[1:] == ["--check"]:
        if page != PAGE.read_text():
            sys.exit(f"{PAGE} is not what the command says: python scripts/man_page.py writes it anew")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
