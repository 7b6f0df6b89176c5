"""How many CPUs this process may use: what every number of threads starts from.

The number of cores is the wrong answer in a container or under `taskset`: threads beyond the mask share its cores, and
threads beyond a quota use it up early and then all wait for the next period. Libraries that choose their own number see
at most one of the two. This one is the least of affinity and quota, and it is always passed on: onnxruntime, for one,
pins its threads to cores outside the mask when it chooses their number itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class CpuLimits:
    """What limits a process, and by how much."""

    cores: int  # logical ones of the machine
    affinity: int  # of these, those that the process may run on
    quota: float | None = None  # cores' worth of time that its control groups grant it; None: no limit
    quota_file: Path | None = None  # what says so

    @property
    def threads(self) -> int:
        """The number of threads that uses all of it: whole cores of time, and at least 1."""
        return self.affinity if self.quota is None else max(1, min(self.affinity, int(self.quota)))


def available_cpus() -> int:
    """Threads that this process can keep busy: the least of its CPU affinity and its control groups' quota."""
    return cpu_limits().threads


def cpu_limits(root: Path = Path("/")) -> CpuLimits:
    """The limits of this process.

    Args:
        root: of the file system in which control groups are looked up.
    """
    cores = os.cpu_count() or 1
    counted = getattr(os, "process_cpu_count", None)  # Python 3.13 and later; PYTHON_CPU_COUNT has a say in it
    if counted is not None:
        affinity = counted() or cores
    else:
        affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    quota, file = min(_quotas(root), key=lambda found: found[0], default=(None, None))
    return CpuLimits(cores, affinity, quota, file)


def _quotas(root: Path) -> Iterator[tuple[float, Path]]:
    """Cores' worth of time of every control group that holds this process, where one is set, and the file of it.

    A group's limit holds for the groups in it, so that all levels up to the root of the hierarchy count.
    """
    for version, folder, top in _groups(root):
        for group in (folder, *folder.parents):
            found = _quota_v1(group) if version == 1 else _quota_v2(group)
            if found is not None:
                yield found
            if group == top:
                break


def _quota_v2(group: Path) -> tuple[float, Path] | None:
    file = group / "cpu.max"  # "max 100000" or "50000 100000": microseconds of each period
    words = _read(file).split()
    return _share(words[0], words[1], file) if len(words) == 2 else None


def _quota_v1(group: Path) -> tuple[float, Path] | None:
    file = group / "cpu.cfs_quota_us"  # -1: no limit
    return _share(_read(file), _read(group / "cpu.cfs_period_us"), file)


def _share(limit: str, period: str, file: Path) -> tuple[float, Path] | None:
    try:
        microseconds, out_of = int(limit), int(period)
    except ValueError:  # "max", or nothing that the kernel writes
        return None
    return (microseconds / out_of, file) if microseconds > 0 and out_of > 0 else None


def _groups(root: Path) -> Iterator[tuple[int, Path, Path]]:
    """Version, folder of this process's group, and folder of the topmost visible one, of each CPU hierarchy."""
    paths = {}  # of the group within its hierarchy, by version
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            paths[2] = path
        elif "cpu" in controllers.split(","):
            paths[1] = path
    for line in _read(root / "proc/self/mountinfo").splitlines():
        # 36 35 98:0 /root /mount/point rw,noatime master:1 - cgroup cgroup rw,cpu,cpuacct
        before, separator, after = line.partition(" - ")
        place, kind = before.split(), after.split()
        if not separator or len(place) < 5 or len(kind) < 3:
            continue
        version = {"cgroup": 1, "cgroup2": 2}.get(kind[0])
        if version not in paths or (version == 1 and "cpu" not in kind[2].split(",")):
            continue
        top = root / _unescaped(place[4]).lstrip("/")
        # A container may see a part of the hierarchy only, and be told a path outside of it: then it is in the topmost.
        shown, told = PurePosixPath(_unescaped(place[3])), PurePosixPath(paths[version])
        inside = told.relative_to(shown) if told.is_relative_to(shown) and ".." not in told.parts else PurePosixPath()
        yield version, top / inside, top


def _unescaped(text: str) -> str:
    """Mountinfo writes blanks, tabs, line ends and backslashes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
