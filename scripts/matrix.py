"""Runs the built wheel in environments of many versions, one after the other, and prints a table (docs/versions.md).

Each environment is a virtual environment below the cache folder, with the wheel and what pip finds for it. In each the
command line is tried, doctor, and a session with the operator library and one without; masks are compared with those of
this environment's own session, pixel by pixel. Of some extras tests of the checkout run. Bounds come from the wheel's
metadata, so that what is tried is what is promised. Environments and downloads are kept: a second run does what
changed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from email.parser import Parser
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
PHOTOGRAPH = ROOT / "exporters" / "photograph.jpg"
CLICKS = ((295, 112, 1), (380, 12, 0), (193, 116, 1))  # on the photograph
ONNXRUNTIME = ("1.20.0", "1.22.0", "1.24.1", "1.26.0", "1.28.0", "1.30.0", "1.32.0")
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
USUAL = "3.11"  # of the environments that try something else
COMMANDS = ("export", "verify", "segment", "encode", "train", "eval", "ablate", "bench", "info", "doctor")
RUNTIME = ("numpy", "onnxruntime", "opencv-python-headless", "typer")
EXPORT = ("torch", "onnx", "onnxscript")
# Extras whose tests run with the lowest versions, those of napari on a screen: xvfb-run ./scripts/matrix.
TESTED = {
    "serve": ("tests/apps/server", "tests/annotations"),
    "napari": ("tests/apps/napari_plugin",),
}
TOOLS = ("pytest", "pytest-qt", "httpx", "hypothesis")  # of these tests

SESSION = """
import sys, json
import cv2, numpy as np
from inter2former_deploy.runtime import Segmenter
bundle, photograph, clicks, custom_ops, target = sys.argv[1:]
image = np.ascontiguousarray(cv2.imread(photograph)[..., ::-1])
session = Segmenter(bundle, custom_ops=custom_ops == "1").open(image)
masks = [session.click(x, y, bool(positive)) for x, y, positive in json.loads(clicks)]
masks.append(session.undo())
np.save(target, np.array(masks))
"""
HELP = """
import sys
from inter2former_deploy.apps.cli import main
for command in sys.argv[1:]:
    try:
        main([command, "--help"])
    except SystemExit as end:
        assert not end.code, f"i2f {command} --help exits with {end.code}"
"""
VERSIONS = """
import json, platform
from importlib.metadata import distributions
installed = {d.metadata["Name"].lower(): d.version for d in distributions()}
print(json.dumps({"python": platform.python_version(), **installed}))
"""


@dataclass(frozen=True)
class Environment:
    """One row of the table."""

    name: str
    python: str
    pins: Mapping[str, str] = field(default_factory=dict)  # of packages by name; the newest of all others
    extra: str = ""
    tests: Sequence[str] = ()  # of the checkout

    @property
    def requirements(self) -> list[str]:
        return [f"{name}=={version}" for name, version in self.pins.items()]


def environments(bounds: Mapping[str, Mapping[str, str]], lowest_python: str) -> Iterator[Environment]:
    """All rows; bounds by extra ("" for the runtime) and package."""
    yield Environment("lowest", lowest_python, bounds[""])
    for version in ONNXRUNTIME:
        if _numbers(version) >= _numbers(bounds[""]["onnxruntime"]):
            yield Environment(f"onnxruntime-{version}", USUAL, {"onnxruntime": version})
    for python in PYTHONS:
        if _numbers(python) >= _numbers(lowest_python):
            yield Environment(f"python-{python}", python)
    export = {name: bounds["export"][name] for name in bounds["export"]}
    yield Environment("export-lowest", lowest_python, {**bounds[""], **export}, "export")
    yield Environment("export-newest", USUAL, {}, "export")
    for extra, tests in TESTED.items():
        yield Environment(f"{extra}-lowest", lowest_python, {**bounds[""], **bounds[extra]}, extra, tests)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def read_metadata(wheel: Path) -> Message:
    """What a wheel says about itself."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def read_bounds(wheel: Path) -> tuple[dict[str, dict[str, str]], str]:
    """Lower bounds by extra and package, and the lowest Python, of a wheel's metadata."""
    metadata = read_metadata(wheel)
    bounds: dict[str, dict[str, str]] = {"": {}}
    for line in metadata.get_all("Requires-Dist", []):
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
        found = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?\s*>=\s*([\w.]+)", requirement.strip())
        if found:
            bounds.setdefault(extra[1] if extra else "", {})[found[1].lower().replace("_", "-")] = found[2]
    python = re.fullmatch(r">=([\d.]+)", metadata["Requires-Python"].strip())
    if python is None:
        raise ValueError(f"{wheel}: Requires-Python is {metadata['Requires-Python']}")
    return bounds, python[1]


class Matrix:
    """Makes and tries environments."""

    def __init__(self, cache: Path, wheel: Path, bundle: Path, pythons: Mapping[str, str]) -> None:
        self.cache, self.wheel, self.bundle, self.pythons = cache, wheel, bundle, pythons
        self.requirements = read_metadata(wheel).get_all("Requires-Dist", [])
        self.references = {
            custom_ops: self.masks(Path(sys.executable), custom_ops, cache / "reference.npy") for custom_ops in (1, 0)
        }

    def run(self, environment: Environment) -> dict[str, str]:
        """One row of the table, by column."""
        row = {"environment": environment.name}
        try:
            python = self.make(environment)
        except FailureError as error:
            return row | {"installs": f"**no**: {error}"}
        versions = json.loads(_out([python, "-c", VERSIONS], self.cache))
        row["Python"] = versions["python"]
        row |= {name: versions.get(name, "") for name in (EXPORT if environment.extra == "export" else RUNTIME)}
        row["installs"] = "yes"
        row["command line"] = _tried(self.try_commands, python)
        row["doctor"] = _tried(self.try_doctor, python)
        for column, custom_ops in (("with the library", 1), ("without", 0)):
            row[column] = _tried(self.compare, python, custom_ops)
        if environment.extra == "export":
            row["export, verify"] = _tried(self.try_export, python)
        if environment.tests:
            row["tests"] = _tried(self.try_tests, python, environment.tests)
        return row

    def make(self, environment: Environment) -> Path:
        """The Python of the environment, which is made unless it is there."""
        base = self.pythons.get(environment.python)
        if base is None:
            raise FailureError(f"no Python {environment.python} found (--python {environment.python}=PATH)")
        folder = self.cache / environment.name
        python, stamp = folder / "bin" / "python", folder / "made"
        wanted = json.dumps([base, self.requirements, environment.requirements, environment.extra])
        pip = [python, self.pip(), "--disable-pip-version-check", "install", "--quiet", "--only-binary=:all:"]
        if not stamp.is_file() or stamp.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            _out([base, "-m", "venv", "--without-pip", str(folder)], self.cache)
            target = f"{self.wheel}[{environment.extra}]" if environment.extra else str(self.wheel)
            _out([*pip, target, *environment.requirements, *(TOOLS if environment.tests else ())], self.cache)
            stamp.write_text(wanted)
        _out([*pip, "--no-deps", "--force-reinstall", self.wheel], self.cache)
        return python

    def pip(self) -> Path:
        """A pip that runs in every Python, from its wheel."""
        folder = self.cache / "pip"
        if not list(folder.glob("pip-*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "pip"]
            _out(command, self.cache)
        return next(iter(folder.glob("pip-*.whl"))) / "pip"

    def masks(self, python: Path, custom_ops: int, target: Path) -> np.ndarray:
        """Those of a session: after each click, and after an undo."""
        arguments = [str(self.bundle), str(PHOTOGRAPH), json.dumps(CLICKS), str(custom_ops), str(target)]
        _out([python, "-c", SESSION, *arguments], self.cache)
        return np.asarray(np.load(target))

    def compare(self, python: Path, custom_ops: int) -> str:
        masks, expected = self.masks(python, custom_ops, self.cache / "masks.npy"), self.references[custom_ops]
        if masks.shape != expected.shape:
            raise FailureError(f"masks of shape {masks.shape}")
        different = int((masks != expected).sum())
        if different > 1e-4 * masks.size:
            raise FailureError(f"{different} of {masks.size} pixels differ")
        return f"same masks but for {different} of {masks.size} pixels" if different else "same masks"

    def try_commands(self, python: Path) -> str:
        i2f = python.with_name("i2f")
        _out([i2f, "--help"], self.cache)
        usages = [line for line in _out([python, "-c", HELP, *COMMANDS], self.cache).splitlines() if "Usage: " in line]
        if len(usages) != len(COMMANDS):
            raise FailureError(f"help of {len(usages)} of {len(COMMANDS)} commands")
        _out([python, "-m", "inter2former_deploy", "info", self.bundle, "--json"], self.cache)
        target, encoded = self.cache / "mask.png", self.cache / "encoded"
        shutil.rmtree(encoded, ignore_errors=True)
        _out([i2f, "encode", PHOTOGRAPH, "-o", encoded, "--bundle", self.bundle], self.cache)
        clicks = [word for x, y, fg in CLICKS for word in ("--fg" if fg else "--bg", f"{x},{y}")]
        for way in ([], ["--cache", encoded, "--overlay", self.cache / "overlay.jpg"]):
            target.unlink(missing_ok=True)
            _out([i2f, "segment", self.bundle, PHOTOGRAPH, *clicks, "-o", target, *way], self.cache)
            if not target.is_file():
                raise FailureError("i2f segment wrote no mask")
        return "works"

    def try_doctor(self, python: Path) -> str:
        done = subprocess.run(
            [python.with_name("i2f"), "doctor", "--json"], capture_output=True, text=True, cwd=self.cache, check=False
        )
        try:
            findings = json.loads(done.stdout)["findings"]
        except (ValueError, KeyError):
            raise FailureError(_last(done.stderr)) from None
        wrong = [f"{finding['name']}: {finding['detail']}" for finding in findings if not finding["ok"]]
        if wrong:
            raise FailureError(_cell(re.sub(r"/[\w./+-]*/", "", "; ".join(wrong))))
        return "all is well"

    def try_tests(self, python: Path, tests: Sequence[str]) -> str:
        """Warnings are not errors: old versions of other packages warn of each other."""
        command = [python.with_name("pytest"), "-q", "-o", "filterwarnings=default", "--disable-warnings", *tests]
        return _out(command, ROOT).strip().splitlines()[-1].partition(" in ")[0]

    def try_export(self, python: Path) -> str:
        i2f, target = python.with_name("i2f"), self.cache / "exported"
        _out([i2f, "export", "-o", target, "--force", "--config", "probe", "--size", "64"], self.cache)
        _out([i2f, "verify", target], self.cache)
        return "pass"


class FailureError(Exception):
    """Something does not work in an environment."""


def _tried(check: Callable[..., str], *arguments: object) -> str:
    try:
        return check(*arguments)
    except FailureError as error:
        return f"**no**: {error}"


def _out(command: Sequence[object], folder: Path) -> str:
    """What a command prints; run elsewhere than in the checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    if done.returncode:
        raise FailureError(_last(done.stderr) or f"{command[0]} exits with {done.returncode}")
    return done.stdout


def _last(text: str) -> str:
    """The error at the end of what a program printed: for a table, short and without folders."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(i2f: |ERROR: |[\w.]*(Error|Exception)\b)", line)]
    last = " ".join((errors or lines or [""])[-1].split())
    return _cell(re.sub(r"/[\w./+-]*/", "", last))


def _cell(text: str) -> str:
    return textwrap.shorten(text.replace("|", "/"), 160, placeholder=" ...")


def find_pythons(given: Sequence[str]) -> dict[str, str]:
    """Interpreters by version: those given, of the PATH, and of pyenv."""
    found = {}
    for version in PYTHONS:
        candidates = [shutil.which(f"python{version}"), sys.executable]
        candidates += sorted(map(str, (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")))
        for candidate in filter(None, candidates):
            asked = [candidate, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:
                found[version] = candidate
    return found | dict(pair.split("=", 1) for pair in given)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row.get(column, "") for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def built_wheel(cache: Path) -> Path:
    folder = cache / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    _out([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT], cache)
    return next(iter(folder.glob("*.whl")))


def exported_bundle(cache: Path) -> Path:
    folder = cache / "bundle"
    if not folder.is_dir():
        print("exporting the bundled model", file=sys.stderr)
        _out([Path(sys.executable).with_name("i2f"), "export", "-o", folder, "--size", "256"], cache)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help="rows whose name begins so; may be repeated")
    parser.add_argument("--wheel", type=Path, help="the wheel to try; built if not given")
    parser.add_argument("--bundle", type=Path, help="what to run; the bundled model is exported if not given")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "matrix", help="folder of environments")
    parser.add_argument("--python", action="append", default=[], metavar="3.14=PATH", help="an interpreter")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    arguments = parser.parse_args()
    cache: Path = arguments.cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    wheel = (arguments.wheel or built_wheel(cache)).absolute()
    bounds, lowest_python = read_bounds(wheel)
    wanted = [
        environment
        for environment in environments(bounds, lowest_python)
        if not arguments.only or any(environment.name.startswith(name) for name in arguments.only)
    ]
    if arguments.list:
        print("\n".join(environment.name for environment in wanted))
        return 0
    bundle = (arguments.bundle or exported_bundle(cache)).absolute()
    matrix = Matrix(cache, wheel, bundle, find_pythons(arguments.python))
    rows = []
    for environment in wanted:
        rows.append(matrix.run(environment))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    for parts in ([r for r in rows if "torch" not in r], [r for r in rows if "torch" in r]):
        if parts:
            print(table(parts), end="\n\n")
    return int(any("**no**" in value for row in rows for value in row.values()))


if __name__ == "__main__":
    sys.exit(main())
