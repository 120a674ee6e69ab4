"""What this machine may be used for, and what follows: processes, threads, batch cap, memory for decoding.

Counts what may be used (affinity mask, cgroup quotas of both versions), never what the host has. Each planned number
comes with its reason in words.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service import settings as names
from service.settings import Settings

CGROUP_OF_THIS_PROCESS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 2**60  # cgroup v1 writes a number near 2^63 for "no limit"

CPUS_A_WORKER = 4  # Pillow and ONNX Runtime work outside the interpreter's lock: one process fills several cores
MOST_WORKERS = 16
BATCH_CAP = {"cpu": 16, "cuda": 64}  # a CPU gains little beyond; a GPU's latency hardly grows until there
LEAST_REQUEST_THREADS, MOST_REQUEST_THREADS = 32, 128  # slow senders hold a thread each: more than there are cores
LEAST_DECODE_MEMORY, MOST_DECODE_MEMORY = 128 * 2**20, 4 * 2**30  # bytes, a process


@dataclass(frozen=True)
class Plan:
    """The numbers that the service runs with.

    Attributes:
        decode_memory: bytes that pictures being decoded may take together, a process.
        reasons: a sentence for each field.
    """

    workers: int
    request_threads: int
    engine_threads: int
    batch_cap: int
    queue_capacity: int
    decode_memory: int
    reasons: dict[str, str]


def plan(settings: Settings, cpus: int | None = None, memory: int | None = None) -> Plan:
    """Decide what the settings leave open.

    Args:
        cpus: that may be used; found out unless given.
        memory: bytes that may be used; found out unless given.
    """
    cpus = usable_cpus() if cpus is None else cpus
    memory = memory_limit() if memory is None else memory
    reasons: dict[str, str] = {}

    def decide(name: str, number: int, reason: str) -> int:
        given: int | None = getattr(settings, name)
        reasons[name] = reason if given is None else f"set by {names.variable(name)}"
        return number if given is None else given

    workers = decide("workers", min(MOST_WORKERS, max(1, cpus // CPUS_A_WORKER)),
                     f"{_count(cpus, 'usable CPU')}, a process for every {CPUS_A_WORKER}")
    share = max(1, cpus // workers)
    processes = _count(workers, "process", "processes")
    engine_threads = decide("engine_threads", share, f"{_count(cpus, 'usable CPU')} over {processes}")
    request_threads = decide("request_threads", min(MOST_REQUEST_THREADS, max(LEAST_REQUEST_THREADS, 8 * share)),
                             f"{LEAST_REQUEST_THREADS} or 8 a CPU: a slow sender holds one, without work")
    cuda = settings.provider == "cuda"
    batch_cap = decide("batch_cap", BATCH_CAP["cuda" if cuda else "cpu"], "for a GPU" if cuda else "for CPUs")
    decode_memory = decide("decode_memory", min(MOST_DECODE_MEMORY, max(LEAST_DECODE_MEMORY, memory // 2 // workers)),
                           f"half of {memory / 2**30:.1f} GiB over {processes}, within {_gib(LEAST_DECODE_MEMORY)} and "
                           f"{_gib(MOST_DECODE_MEMORY)}")
    reasons["queue_capacity"] = f"set by {names.variable('queue_capacity')}, or its default"
    return Plan(workers, request_threads, engine_threads, batch_cap, settings.queue_capacity, decode_memory, reasons)


def usable_cpus(cgroup: Path = CGROUP_OF_THIS_PROCESS, root: Path = CGROUPS) -> int:
    """CPUs that this process may use: the affinity mask, cut by the cgroup quota (rounded down: beyond it, it stands still)."""
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([mask, *(int(quota) for quota in _quotas(cgroup, root))]))


def memory_limit(cgroup: Path = CGROUP_OF_THIS_PROCESS, root: Path = CGROUPS) -> int:
    """Bytes that this process may use: the machine's memory, cut by the cgroup's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _folders("memory", cgroup, root):
        for name in ("memory.max", "memory.limit_in_bytes"):  # cgroup v2, v1
            if (text := _read(folder / name)).isdigit() and 0 < int(text) < UNLIMITED:
                limits.append(int(text))
    return min(limits)


def _quotas(cgroup: Path, root: Path) -> Iterator[float]:
    """CPUs' worth of time, from each limit that applies."""
    for folder in _folders("cpu", cgroup, root):
        found = _read(folder / "cpu.max").split()  # cgroup v2: "max 100000", "150000 100000"
        if len(found) != 2:
            found = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]  # v1: -1 for no limit
        if all(text.isdigit() for text in found) and int(found[1]) > 0:
            yield int(found[0]) / int(found[1])


def _folders(controller: str, cgroup: Path, root: Path) -> Iterator[Path]:
    """The folders whose limits apply: this process's cgroup and all above it, in the hierarchies that matter.

    In a container the path may be the host's and not be there; the mount's own top is then the container's.
    """
    for line in _read(cgroup).splitlines():
        parts = line.split(":", 2)  # "0::/path" (v2), "4:cpu,cpuacct:/path" (v1)
        if len(parts) != 3:
            continue
        _, controllers, path = parts
        if controllers and controller not in controllers.split(","):
            continue
        tops = [root / controllers, root / controller] if controllers else [root, root / "unified"]
        for top in dict.fromkeys(tops):
            inner = top / path.strip("/")
            yield top
            while inner != top and top in inner.parents:
                yield inner
                inner = inner.parent


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _gib(count: int) -> str:
    return f"{count / 2**30:g} GiB"
