from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_bundle import write_toy_bundle

from inter2former_deploy.core import threads
from inter2former_deploy.core.contract import ENCODER_FILE
from inter2former_deploy.core.threads import CpuLimits, available_cpus, cpu_limits

V1 = "31 25 0:27 {root} {mount} rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "30 23 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OTHERS = (
    "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n33 25 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\nodd line\n"
)


def machine(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A file system with what the kernel says about control groups."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": OTHERS + mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v2(mount: str = "/sys/fs/cgroup", root: str = "/") -> str:
    return V2.format(mount=mount, root=root)


def v1(mount: str = "/sys/fs/cgroup/cpu,cpuacct", root: str = "/") -> str:
    return V1.format(mount=mount, root=root)


CASES = {
    "v2, not limited": ("0::/\n", v2(), {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    "v2, in its own namespace": ("0::/\n", v2(), {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
    "v2, the root has no file": ("0::/a\n", v2(), {"sys/fs/cgroup/a/cpu.max": "400000 100000\n"}, 4),
    "v2, limited by a group above": (
        "0::/pod/app/worker\n",
        v2(),
        {
            "sys/fs/cgroup/pod/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/pod/app/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/app/worker/cpu.max": "300000 100000\n",
        },
        2,
    ),
    "v2, limited by the innermost": (
        "0::/pod/app\n",
        v2(),
        {"sys/fs/cgroup/pod/cpu.max": "800000 100000\n", "sys/fs/cgroup/pod/app/cpu.max": "50000 100000\n"},
        0.5,
    ),
    "v2, another group's limit": ("0::/a\n", v2(), {"sys/fs/cgroup/b/cpu.max": "100000 100000\n"}, None),
    "v2, above what is mounted": (
        "0::/docker/abc/worker\n",
        v2(root="/docker/abc"),
        {"sys/fs/cgroup/worker/cpu.max": "max 100000\n", "sys/fs/cgroup/cpu.max": "100000 50000\n"},
        2,
    ),
    "v2, outside of what is mounted": ("0::/../x\n", v2(), {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
    "v2, mounted at a name with a blank": (
        "0::/\n",
        v2(mount="/mnt/c\\040g"),
        {"mnt/c g/cpu.max": "300000 100000\n"},
        3,
    ),
    "v1": (
        "4:cpu,cpuacct:/\n1:name=systemd:/\n",
        v1(),
        {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        2.5,
    ),
    "v1, not limited": (
        "4:cpu,cpuacct:/\n",
        v1(),
        {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "v1, limited by a group above": (
        "4:cpuacct,cpu:/pod/app\n",
        v1(),
        {
            "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/pod/app/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/pod/app/cpu.cfs_period_us": "100000\n",
        },
        1,
    ),
    "v1, told the host's path": (
        "4:cpu,cpuacct:/docker/abc\n",
        v1(root="/docker/abc"),
        {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "both, with the limit in v1": (
        "4:cpu:/a\n0::/a\n",
        v1("/sys/fs/cgroup/cpu") + v2("/sys/fs/cgroup/unified"),
        {
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/unified/a/cgroup.procs": "1\n",
        },
        2,
    ),
    "cpuset is not cpu": (
        "4:cpuset:/\n",
        "31 25 0:27 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n",
        {
            "sys/fs/cgroup/cpuset/cpu.cfs_quota_us": "100000",
            "sys/fs/cgroup/cpuset/cpu.cfs_period_us": "100000",
        },
        None,
    ),
    "v2, one word": ("0::/\n", v2(), {"sys/fs/cgroup/cpu.max": "100000\n"}, None),
    "v2, empty": ("0::/\n", v2(), {"sys/fs/cgroup/cpu.max": ""}, None),
    "v2, no numbers": ("0::/\n", v2(), {"sys/fs/cgroup/cpu.max": "many 100000\n"}, None),
    "v2, no period": ("0::/\n", v2(), {"sys/fs/cgroup/cpu.max": "100000 0\n"}, None),
    "v2, nothing": ("0::/\n", v2(), {"sys/fs/cgroup/cpu.max": "0 100000\n"}, None),
    "v1, no period": ("4:cpu:/\n", v1("/cg"), {"cg/cpu.cfs_quota_us": "100000\n"}, None),
    "lines of no form": ("4\n::\n0::/\n", "a - b\n - cgroup2 x y\n" + v2(), {"sys/fs/cgroup/cpu.max": "9 3"}, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_quota(case: str, tmp_path: Path) -> None:
    groups, mounts, files, expected = CASES[case]
    limits = cpu_limits(machine(tmp_path, groups, mounts, files))
    assert limits.quota == expected
    assert (limits.quota_file is None) == (expected is None)
    assert limits.quota_file is None or limits.quota_file.is_file()


def test_systems_without_control_groups(tmp_path: Path) -> None:
    assert cpu_limits(tmp_path).quota is None
    machine(tmp_path, "", "", {})
    assert cpu_limits(tmp_path).quota is None


@pytest.mark.parametrize(
    ("affinity", "quota", "number"), [(8, None, 8), (8, 16.0, 8), (8, 3.9, 3), (8, 0.2, 1), (2, 2.0, 2), (1, 1.5, 1)]
)
def test_threads(affinity: int, quota: float | None, number: int) -> None:
    assert CpuLimits(64, affinity, quota).threads == number


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_affinity(tmp_path: Path) -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{one}]);"
        "from inter2former_deploy.core.threads import *; print(cpu_limits())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "affinity=1," in done.stdout
    assert f"cores={os.cpu_count()}," in done.stdout
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))


def test_the_parity_gate_tells_onnxruntime_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inter2former_deploy.exporters.parity import Graph

    monkeypatch.setattr(threads, "cpu_limits", lambda: CpuLimits(64, 8, 3.5))
    encoder = write_toy_bundle(tmp_path / "bundle") / ENCODER_FILE
    for given, expected in ((None, 3), (5, 5)):
        graph = Graph(encoder, ["image_embedding"], custom_ops=False, num_threads=given)
        assert graph._session.get_session_options().intra_op_num_threads == expected
