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


SLOW = "scripts/try_documents.py"
# Patterns of the commands in blocks, of which the first that fits counts; the file that runs them, or why none does.
RUN_BY: tuple[tuple[str, str], ...] = (
    (r"i2f bench .*--config hrsam", "not run: full size, minutes; measured by hand, docs/using-hrsam.md"),
    (r"i2f export --config hrsampp_vit_b", "not run: full size, minutes; scripts/verify_vit_b is its like"),
    (r"i2f encode (s3://.* --ray|s3://|photos/.* --ray)", "scripts/try_ray.py"),
    (r"i2f serve bundle --ray", "scripts/try_ray.py"),
    (r"i2f (segment|encode) .*huge\.tif", "tests/apps/cli/test_segment.py"),
    (r"i2f (info|segment |encode|annotations formats)", "tests/docs/test_documents.py"),
    (r"i2f serve .*--label-studio", "tests/apps/server/test_tools.py"),
    (r"i2f .*iter_160000\.pth", "tests/families/hrsam/test_bundle.py"),
    (r"i2f train .*(--config hrsampp_vit_b|--teacher)", "tests/training/test_hrsam.py"),
    (r"i2f train", "tests/training/test_training.py"),
    (r"i2f ablate", "tests/apps/evaluation/test_ablation.py"),
    (r"i2f --(install|show)-completion", "tests/docs/test_documents.py"),
    (r"i2f eval composites:", "tests/data/test_composites.py"),
    (r"i2f (doctor|export|verify|eval|annotate|annotations|serve|web|segment-batch|bench)", SLOW),
    (r"curl .*/v1/images", "tests/apps/server/test_images.py"),
    (r"python3 -m venv|\. venv/bin|(\.venv/bin/)?pip install ('?\.\[(?!napari)|torch|-e)", "scripts/setup"),
    (r"pip install '?inter2former-deploy", "scripts/matrix.py"),
    (r"cmake |build/cpp/segment|python -c .import cv2|export .*LIBRARY", "tests/examples/test_cpp.py"),
    (r"npm ci|node segment\.mjs|cd examples/node", "tests/examples/test_node.py"),
    (r"jupyter |pip install notebook|cd examples/python|python scripts/notebook", "tests/examples/test_notebook.py"),
    (r"\./scripts/(test|lint|docs|matrix|test-aarch64)( |$)", ".github/workflows/checks.yml"),
    (r"\./scripts/(sanitize|fuzz|coverage|tidy|compilers)( |$)", ".github/workflows/nightly.yml"),
    (r"\./scripts/build-wheels", ".github/workflows/wheels.yml"),
    (r"python scripts/man_page\.py", "scripts/docs"),
    (r"napari |pip install '?\.\[napari", "tests/apps/napari_plugin/test_widget.py"),
    (r"-c .*cvat_function|cvat-cli|export CVAT|pip install cvat-cli", "tests/apps/tools/test_cvat.py"),
    (r"python -m http\.server", "tests/apps/web/test_web.py"),
    (r"docker ", "not run: needs Docker and its hub; docs/shell.md says what of the Dockerfile was tried"),
    (r"(python |\./)scripts/\S+", "not run: minutes to hours, by hand; its document shows what came"),
    (r"xanylabeling", "not run: another program's own command"),
)  # fmt: skip
