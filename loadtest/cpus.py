"""How many CPUs this process may keep busy: affinity mask and cgroup quotas of both versions, not what the host has."""

from __future__ import annotations

import math
import os
from pathlib import Path

OWN, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cpus(own: Path = OWN, groups: Path = GROUPS) -> int:
    """At least 1. A quota of 1.5 CPUs counts as 2: with one thread, a third of it would never be used.

    Args:
        own: file that names the cgroups of this process.
        groups: where their folders are.
    """
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for line in _read(own).splitlines() for folder in _folders(line, groups) if (quota := _quota(folder))]
    return max(1, min([mask, *(math.ceil(quota) for quota in quotas)]))


def _folders(line: str, groups: Path) -> list[Path]:
    """Of a line such as `0::/path` (v2) or `4:cpu,cpuacct:/path` (v1): the cgroup and all above it."""
    _, controllers, path = [*line.split(":", 2), "", ""][:3]
    if controllers and "cpu" not in controllers.split(","):
        return []
    tops = [groups / controllers, groups / "cpu"] if controllers else [groups, groups / "unified"]
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [top.joinpath(*parts[:depth]) for top in tops for depth in range(len(parts) + 1)]


def _quota(folder: Path) -> float | None:
    """CPUs' worth of time; None without a limit."""
    found = _read(folder / "cpu.max").split()  # v2: "max 100000", "150000 100000"
    if len(found) != 2:
        found = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]  # v1: -1 for no limit
    return int(found[0]) / int(found[1]) if all(text.isdigit() and int(text) for text in found) else None


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
