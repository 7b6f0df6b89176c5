"""What the documents say: their links, their blocks of code, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/*/*.md", ".github/*.md", "inter2former_deploy/weights/*.md")
    for path in ROOT.glob(pattern)
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    document: str  # its path in the repository
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command that a document shows."""

    document: str
    words: tuple[str, ...]
    whole: bool  # of a block, to be typed as it stands; else in a sentence, where parts may be left away

    def __str__(self) -> str:
        return shlex.join(self.words)


def blocks(document: Path) -> list[Block]:
    """All fenced blocks of code."""
    name = str(document.relative_to(ROOT))
    return [Block(name, language, text) for language, text in _FENCE.findall(document.read_text())]


def prose(document: Path) -> str:
    """A document without its blocks of code."""
    return _FENCE.sub("", document.read_text())


def commands(document: Path) -> Iterator[Command]:
    """All commands in blocks of shell code, and those of this project in sentences."""
    for block in blocks(document):
        if block.language == "sh":
            for words in shell_commands(block.text):
                yield Command(block.document, words, whole=True)
    for span in _SPAN.findall(prose(document)):
        if span.startswith("i2f "):
            for words in shell_commands(span):
                yield Command(str(document.relative_to(ROOT)), words, whole=False)


def shell_commands(text: str) -> Iterator[tuple[str, ...]]:
    """The words of each command, without assignments before it."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|"):
                if words:
                    yield tuple(words)
                words = []
            elif words or not re.fullmatch(r"\w+=.*", word):
                words.append(word)
