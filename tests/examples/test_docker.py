"""The build in the container has what the package is built of: nobody sees Docker run here."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "examples" / "docker"


def test_the_container_gets_every_file_of_the_build() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    cmake = (ROOT / "custom_ops" / "CMakeLists.txt").read_text()
    named = set(re.findall(r'^(?:readme|cmake\.source-dir) = "(.+)"$', project, re.MULTILINE))
    named |= set(re.findall(r'^license-files = \["(.+)"\]$', project, re.MULTILINE))
    packages = project.partition("[tool.scikit-build.wheel.packages]\n")[2].partition("\n\n")[0]
    named |= set(re.findall(r'= "(.+)"$', packages, re.MULTILINE))
    named |= set(re.findall(r"\.\./([\w./]+)", cmake))  # of the folders above it
    named |= set(re.findall(r"/source/([\w./]+)", (DOCKER / "Dockerfile").read_text()))
    assert len(named) >= 8
    first, *lines = (DOCKER / "Dockerfile.dockerignore").read_text().split()
    assert first == "**"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in named | let_in)
    assert named | {"pyproject.toml"} == let_in
