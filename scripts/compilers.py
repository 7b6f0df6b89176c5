"""Compiles the operators with every compiler that they are meant for, warnings as errors, and prints a table.

    ./scripts/compilers                      # all of them
    ./scripts/compilers --only g++-1         # those whose names begin so; --list prints all
    ./scripts/compilers --only g++-10 --build

GCC 10 to 14 and Clang 14 to 19 are taken from this system where it has them. Others are Debian's, unpacked with what
they need below build/compilers and run in that folder as their root, which needs root or sudo; nothing is installed.
The Clang of the package ziglang brings the headers of macOS and of MinGW-w64, and compiles for both.

Each source is compiled once a tier, without optimization but to object code: whether a function that must be inlined
may use its instructions is found there, not by the syntax. --build builds the library and the unit tests of the
primitives as they are delivered (-O3), and runs these tests where the compiler is one for this machine. Ends with 1
where something does not compile.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "compilers"
JOBS = int(os.environ.get("JOBS", "2"))
# The release of Debian that has a compiler, for systems that lack it.
SUITES = {
    "bullseye": ("g++-10",),
    "bookworm": ("g++-11", "g++-12", "clang-14", "clang-15", "clang-16"),
    "trixie": ("g++-13", "g++-14", "clang-17", "clang-18", "clang-19"),
}
ZIG = "0.14.1"  # of the package ziglang: Clang 19
TARGETS = {  # name: what Clang or Zig calls it, what CMake calls system and processor
    "clang-cl": ("x86_64-pc-windows-msvc", "Windows", "AMD64"),
    "macos-arm64": ("aarch64-macos.14.0", "Darwin", "arm64"),
    "windows-x64": ("x86_64-windows-gnu", "Windows", "AMD64"),
}
CLANG_CL = "clang++-19"  # which is clang-cl by another name
ELSEWHERE = """#!/bin/sh
# {package} of Debian {suite}, in its own root, where it sees this repository
[ "$(id -u)" = 0 ] || exec sudo -n "$0" "$@"
exec unshare --mount sh -c 'mount --bind {repository} {root}{repository} &&
  PATH=$PATH:/usr/bin:/bin exec unshare --root={root} --wd="$PWD" /usr/bin/{compiler} "$@"' sh "$@"
"""
# Zig has its own names for processors; MinGW-w64 lacks a macro of Microsoft's headers that onnxruntime's uses.
ACROSS = """#!/bin/bash
[[ "$*" != *CompilerId* ]] || set -- -c "$@"  # links nothing to learn what it is
[[ "$*" != *-mavx512f* ]] || set -- -mevex512 "$@"  # Clang itself takes the one for the other
exec {python} -m ziglang c++ -target {target} '-D_Return_type_success_(x)=' \\
  "${{@/#-march=armv8.2-a+/-mcpu=apple_m1+}}"
"""
# clang-cl, with what stands for Microsoft's headers: those of MinGW-w64 and of libc++, which ask for another
# compiler than Microsoft's. CMake still learns what it is.
AS_MICROSOFT = """#!/bin/bash
others=(-fmsc-version=0 /clang:-fgnuc-version=4.2.1 -D__MINGW32__ -D__MINGW64__ '-D_Return_type_success_(x)='
  -D_LIBCPP_ABI_VERSION=1 -D_LIBCPP_ABI_NAMESPACE=__1 -D_LIBCPP_HARDENING_MODE_DEFAULT=2 -D_LIBCPP_NO_VCRUNTIME
  -D_LIBCPP_HAS_THREAD_API_WIN32 -D_LIBCPP_HAS_NO_VENDOR_AVAILABILITY_ANNOTATIONS
  /clang:-isystem{lib}/libcxx/include /clang:-isystem{lib}/libcxxabi/include /clang:-isystem{lib}/include
  /clang:-isystem{lib}/libc/include/any-windows-any)
[[ "$*" != *CompilerId* ]] || others=()
exec {compiler} --driver-mode=cl --target={target} "${{others[@]}}" "$@"
"""
ARCHIVER = """#!/bin/sh
exec {python} -m ziglang lib "$@"
"""


@dataclass(frozen=True)
class Result:
    """What a compiler made of the sources."""

    name: str
    version: str
    tiers: str
    sources: int
    problems: tuple[str, ...]

    def row(self) -> str:
        told = "compiles" if not self.problems else f"{len(self.problems)} fail"
        return f"| {self.name} | {self.version} | {self.tiers} | {self.sources} | {told} |"


def command_of(package: str) -> str:
    """The compiler's own name in a package of Debian."""
    return package.replace("clang-", "clang++-")


def unpack(suite: str, packages: Iterable[str], root: Path) -> None:
    """Packages of Debian with all that they depend on, in a folder of their own."""
    done = root / "complete"
    there = set(done.read_text().split()) if done.exists() else set()
    if there >= set(packages):
        return
    wanted = sorted(there.union(packages))
    apt = WORK / f"{suite}-apt"
    for folder in (root, apt):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (root / "tmp", apt / "lists/partial", apt / "cache/archives/partial"):
        folder.mkdir(parents=True)
    (apt / "status").touch()
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources.list").write_text(f"deb [signed-by={keys}] http://deb.debian.org/debian {suite} main\n")
    (apt / "apt.conf").write_text(
        f'APT::Architecture "amd64";\nAPT::Architectures {{ "amd64"; }};\nDir::State::lists "{apt}/lists";\n'
        f'Dir::State::status "{apt}/status";\nDir::Cache "{apt}/cache";\n'
        f'Dir::Etc::sourcelist "{apt}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
    )
    print(f"compilers: fetching {' '.join(wanted)} of Debian {suite}", flush=True)
    environment = os.environ | {"APT_CONFIG": str(apt / "apt.conf")}
    install = ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", "--download-only"]
    for words in (["apt-get", "update", "-qq"], [*install, *wanted]):
        subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
    for archive in (apt / "cache/archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, root], check=True)
    for name in ("bin", "lib", "lib64"):  # where releases have merged them into /usr, packages lack these links
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    shutil.rmtree(apt)
    done.write_text(" ".join(wanted))


def compilers(chosen: Sequence[str]) -> dict[str, Path]:
    """A program for each chosen name that takes the options of a compiler."""
    found: dict[str, Path] = {}
    wanted = {*chosen, CLANG_CL} if "clang-cl" in chosen else set(chosen)
    programs = WORK / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for suite, packages in SUITES.items():
        missing = []
        for package in packages:
            if command_of(package) in wanted:
                here = shutil.which(command_of(package))
                if here:
                    found[command_of(package)] = Path(here)
                else:
                    missing.append(package)
        root = WORK / suite
        if missing:
            unpack(suite, missing, root)
            (root / str(ROOT).lstrip("/")).mkdir(parents=True, exist_ok=True)
        for package in missing:
            name = command_of(package)
            parts = {"package": package, "suite": suite, "repository": ROOT, "root": root, "compiler": name}
            found[name] = script(programs / name, ELSEWHERE.format(**parts))
    for name in TARGETS.keys() & wanted:
        zig = WORK / f"zig-{ZIG}"
        if not (zig / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", zig], check=True)
            subprocess.run([zig / "bin/pip", "install", "--quiet", f"ziglang=={ZIG}"], check=True)
            (zig / "complete").touch()
        (lib,) = zig.glob("lib/python*/site-packages/ziglang/lib")
        parts = {"python": zig / "bin/python", "lib": lib, "compiler": found.get(CLANG_CL), "target": TARGETS[name][0]}
        found[name] = script(programs / name, (AS_MICROSOFT if name == "clang-cl" else ACROSS).format(**parts))
        script(programs / "archiver", ARCHIVER.format(**parts))
    return found


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def configure(name: str, compiler: Path) -> Path:
    """CMake's folder for a compiler; the header of onnxruntime lies in this repository, where every root sees it."""
    folder = WORK / "of" / name
    folder.mkdir(parents=True, exist_ok=True)
    options = [f"-DCMAKE_CXX_COMPILER={compiler}", "-DI2F_WARNINGS_AS_ERRORS=ON", "-DI2F_TESTS=ON"]
    if name in TARGETS:
        _, system, processor = TARGETS[name]
        options += [f"-DCMAKE_SYSTEM_NAME={system}", f"-DCMAKE_SYSTEM_PROCESSOR={processor}"]
        options.append("-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY")  # nothing is linked
    if name == "clang-cl":
        options += [f"-DCMAKE_{tool}={WORK / 'bin' / 'archiver'}" for tool in ("AR", "LINKER", "MT")]
    header = WORK / "onnxruntime" / "onnxruntime_c_api.h"
    if header.exists():
        options.append(f"-DONNXRUNTIME_INCLUDE_DIR={header.parent}")
    done = subprocess.run(
        ["cmake", "-S", ROOT / "custom_ops", "-B", folder, *options], capture_output=True, text=True, check=False
    )
    (folder / "cmake.log").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        sys.exit(f"compilers: CMake does not take {name}\n{done.stdout}{done.stderr}")
    return folder


def keep_header() -> None:
    """Copies onnxruntime's header to where all compilers see it."""
    if (WORK / "onnxruntime").exists():
        return
    cache = (configure("default", Path(shutil.which("c++") or "c++")) / "CMakeCache.txt").read_text()
    (headers,) = re.findall(r"^ONNXRUNTIME_HEADERS:\w+=(.+)$", cache, re.MULTILINE)
    shutil.copytree(headers, WORK / "onnxruntime")


def compiled(entry: dict[str, str]) -> str:
    """Compiles one source without optimization; what the compiler says, or nothing."""
    words = shlex.split(entry["command"])
    none = "/Od" if "--" in words else "-O0"  # the first after the options of clang-cl
    words = [word for word in words if not re.fullmatch(r"(/clang:)?-O3|/O2|/Ob2", word)]
    words.insert(1, none)
    done = subprocess.run(words, cwd=entry["directory"], capture_output=True, text=True, check=False)
    tier = re.search(r"-DI2F_TIER=(\w+)", entry["command"])
    source = f"{Path(entry['file']).relative_to(ROOT)} {tier[1] if tier else ''}"
    return "" if done.returncode == 0 else f"{source}\n{done.stderr[-2000:]}"


def built(folder: Path, here: bool) -> list[str]:
    """Builds library and unit tests as they are delivered, and runs the tests; what went wrong."""
    targets = ["--target", "inter2former_ops", "primitives"]
    done = subprocess.run(
        ["cmake", "--build", folder, "-j", str(JOBS), *targets], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return [(done.stdout + done.stderr)[-3000:]]
    problems = []
    for program in sorted((folder / "tests").glob("primitives_*")) if here else ():
        ran = subprocess.run([program, "20011"], capture_output=True, text=True, check=False)
        known = -4  # SIGILL: a tier that this machine lacks
        print(f"  {program.name}: {'lacks the tier' if ran.returncode == known else ran.stdout.strip()}", flush=True)
        if ran.returncode not in (0, known):
            problems.append(ran.stdout + ran.stderr)
    return problems


def tried(name: str, compiler: Path, build: bool) -> Result:
    folder = configure(name, compiler)
    cache = "\n".join(path.read_text() for path in folder.glob("CMakeFiles/*/CMakeCXXCompiler.cmake"))
    identity, version = (re.findall(rf'CMAKE_CXX_COMPILER_{what} "([^"]*)"', cache)[0] for what in ("ID", "VERSION"))
    (tiers,) = re.findall(r"tiers: (\S+)", (folder / "cmake.log").read_text())
    entries = json.loads((folder / "compile_commands.json").read_text())
    if build:
        problems = built(folder, name not in TARGETS)
    else:
        with ThreadPoolExecutor(JOBS) as threads:
            problems = [problem for problem in threads.map(compiled, entries) if problem]
    return Result(name, f"{identity} {version}", tiers.replace(";", ", "), len(entries), tuple(problems))


def main() -> int:
    names = [command_of(package) for packages in SUITES.values() for package in packages] + list(TARGETS)
    names.sort(key=lambda name: (name in TARGETS, name))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help="those whose names begin so")
    parser.add_argument("--build", action="store_true", help="the whole build as it is delivered, and its unit tests")
    parser.add_argument("--list", action="store_true", help="print the names")
    options = parser.parse_args()
    chosen = [name for name in names if name.startswith(tuple(options.only or [""]))]
    if options.list or not chosen:
        print(*names, sep="\n")
        return 0 if options.list else 2
    keep_header()
    results = []
    programs = compilers(chosen)
    for name in chosen:
        results.append(tried(name, programs[name], options.build))
        print(results[-1].row(), *results[-1].problems, sep="\n", flush=True)
    print("\n| compiler | version | tiers | sources | with warnings as errors |\n|---|---|---|---|---|")
    print(*(result.row() for result in results), sep="\n")
    return int(any(result.problems for result in results))


if __name__ == "__main__":
    sys.exit(main())
