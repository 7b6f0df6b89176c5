"""The files by which GitHub and pre-commit run this repository's own scripts: nobody sees them run here."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
JOBS = [
    pytest.param(job, id=f"{path.stem}-{name}")
    for path in WORKFLOWS
    for name, job in yaml.safe_load(path.read_text())["jobs"].items()
]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_only_read(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert not [name for name, job in workflow["jobs"].items() if "permissions" in job]
    assert workflow["concurrency"]["group"]


@pytest.mark.parametrize("job", JOBS)
def test_steps_are_scripts_or_pinned_actions(job: dict[str, Any]) -> None:
    assert job["timeout-minutes"] <= 150
    for step in job["steps"]:
        if "run" in step:
            for line in step["run"].splitlines():
                script, *options = shlex.split(line)
                assert re.fullmatch(r"\./scripts/[\w-]+", script)
                assert os.access(ROOT / script, os.X_OK)
                text = (ROOT / script).read_text()
                for option in options:
                    # what a script does not name itself goes to pytest, which "$@" at the end of its line says
                    known = option in text or not option.startswith("--") or re.search(r'pytest.*"\$@"$', text, re.S)
                    assert known, f"{script} knows no {option}"
        else:
            assert re.search(r"@([0-9a-f]{40}|v\d+\.\d+\.\d+)$", step["uses"]), step["uses"]
            if step["uses"].startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_every_long_run_has_a_job() -> None:
    run = {line for (job,) in (p.values for p in JOBS) for step in job["steps"] for line in [step.get("run", "")]}
    scripts = {line.split()[0].removeprefix("./scripts/") for line in run if line}
    assert {"lint", "test", "matrix", "sanitize", "fuzz", "test-aarch64", "build-wheels", "docs"} <= scripts
    assert not [line for line in run if "sanitize" in line and "--every" in line]


def test_hooks_have_the_versions_of_the_constraints() -> None:
    pinned = set((ROOT / "scripts" / "constraints.txt").read_text().splitlines())
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format", "clang-format"]
    assert {package for hook in hooks for package in hook["additional_dependencies"]} <= pinned


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_forms_have_what_github_asks(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    for field in form["body"]:
        assert field["type"] in ("input", "textarea", "checkboxes")
        assert field["attributes"]["label"]
