"""What this machine may be used for, and what follows: processes, threads, batch cap, memory for decoding.

Counts what may be used (affinity mask, cgroup quotas of both versions), never what the host has. Each planned number
comes with its reason in words.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service import settings as names
from service.recipe import Layer
from service.settings import Settings

SET_BY = "set by"  # begins the reason of a number that the operator chose
CGROUP_OF_THIS_PROCESS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 2**60  # cgroup v1 writes a number near 2^63 for "no limit"

CPUS_A_WORKER = 4  # Pillow and ONNX Runtime work outside the interpreter's lock: one process fills several cores
# Measured on 2 CPUs, AlexNet in int8 (docs/decisions.md, 25 and 28): a second process answers 1.25 to 1.45 times the pictures of
# one at 32 connections.
LEAST_WORKERS = 2
MOST_ALONE_THREADS = 8  # a single picture gains little beyond
LONE_BATCH = 8  # most pictures of a run on all CPUs while the other processes are idle: its session keeps memory for so many
ENOUGH_MEMORY = 2**30  # bytes, for a second process
MOST_WORKERS = 16
# Beside a GPU they decode and little else: five times as many requests for each CPU, so that Python is the limit sooner.
CPUS_A_GPU_WORKER = 2
MOST_GPU_WORKERS = 8  # each has some hundred MB of the GPU for CUDA alone, and the weights again
BATCH_CAP = {"cpu": 16, "cuda": 64}  # a CPU gains little beyond; a GPU's latency hardly grows until there
# Of what two layers of a batch hold in memory, one read and one written. EfficientNet-Lite0 is as quick in batches of 4 as of 16
# (10.1 ms a picture on one thread), and two workers take 340 instead of 515 MB.
MOST_ACTIVATIONS = 40_000_000  # bytes
FLOAT_BYTES = 4
CUDA_LIBRARY, CUDA_DRIVER = "libonnxruntime_providers_cuda.so", "libcuda.so.1"  # of onnxruntime-gpu; of NVIDIA's driver
LEAST_REQUEST_THREADS, MOST_REQUEST_THREADS = 32, 128  # slow senders hold a thread each: more than there are cores
LEAST_DECODE_MEMORY, MOST_DECODE_MEMORY = 128 * 2**20, 4 * 2**30  # bytes, a process


@dataclass(frozen=True)
class Plan:
    """The numbers that the service runs with.

    Attributes:
        decode_memory: bytes that pictures being decoded may take together, a process.
        alone_threads: of an engine run while the other processes are idle.
        gpu: the engine's work is done by one.
        own_cpus: of each process, that it keeps to while the others are busy; 0: it runs where the system puts it.
        reasons: a sentence for each number.
    """

    workers: int
    request_threads: int
    engine_threads: int
    batch_cap: int
    queue_capacity: int
    decode_memory: int
    reasons: dict[str, str]
    alone_threads: int = 0
    gpu: bool = False
    own_cpus: int = 0


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
        reasons[name] = reason if given is None else f"{SET_BY} {names.variable(name)}"
        return number if given is None else given

    gpu, found = _gpu(settings.provider)
    each, most = (CPUS_A_GPU_WORKER, MOST_GPU_WORKERS) if gpu else (CPUS_A_WORKER, MOST_WORKERS)
    least = LEAST_WORKERS if not gpu and cpus >= LEAST_WORKERS and memory >= ENOUGH_MEMORY else 1
    workers = decide("workers", min(most, max(least, cpus // each)),
                     f"{_count(cpus, 'usable CPU')}, a process for every {each}{', to decode for one GPU' if gpu else ''}"
                     f"{f', {least} at least' if least > max(1, cpus // each) else ''}")
    share = -(-cpus // workers)  # rounded up: no CPU stays idle
    processes = _count(workers, "process", "processes")
    engine_threads = decide("engine_threads", share, f"{_count(cpus, 'usable CPU')} over {processes}")
    alone_threads = engine_threads if gpu or workers == 1 else max(engine_threads, min(cpus, MOST_ALONE_THREADS))
    reasons["alone_threads"] = ("as engine threads" if alone_threads == engine_threads else
                                f"for up to {LONE_BATCH} pictures while the other processes have none")
    own_cpus, reasons["own_cpus"] = _own(settings, cpus, workers, engine_threads, gpu)
    batch_cap = decide("batch_cap", BATCH_CAP["cuda" if gpu else "cpu"], f"for a GPU{found}" if gpu else f"for CPUs{found}")
    fewest = max(LEAST_REQUEST_THREADS, 2 * batch_cap) if gpu else LEAST_REQUEST_THREADS
    request_threads = decide("request_threads", min(MOST_REQUEST_THREADS, max(fewest, 8 * share)),
                             f"two batches' worth: one on the GPU, one being decoded; {MOST_REQUEST_THREADS} at most" if gpu else
                             f"{LEAST_REQUEST_THREADS} or 8 a CPU: a slow sender holds one, without work")
    decode_memory = decide("decode_memory", min(MOST_DECODE_MEMORY, max(LEAST_DECODE_MEMORY, memory // 2 // workers)),
                           f"half of {memory / 2**30:.1f} GiB over {processes}, within {_gib(LEAST_DECODE_MEMORY)} and "
                           f"{_gib(MOST_DECODE_MEMORY)}")
    reasons["queue_capacity"] = f"set by {names.variable('queue_capacity')}, or its default"
    return Plan(workers, request_threads, engine_threads, batch_cap, settings.queue_capacity, decode_memory, reasons,
                alone_threads, gpu, own_cpus)


def batch_cap(planned: Plan, layers: Sequence[Layer]) -> int:
    """Most pictures in one engine run of this model: the planned number, or fewer where its activations would fill the memory.

    Args:
        layers: the model's layer table; empty where it isn't known.
    """
    sizes = [FLOAT_BYTES * math.prod(layer.output) for layer in layers]
    largest = max(map(sum, itertools.pairwise(sizes)), default=0)
    if planned.gpu or planned.reasons["batch_cap"].startswith(SET_BY) or not largest:
        return planned.batch_cap
    fits = max(1, MOST_ACTIVATIONS // largest)
    return min(planned.batch_cap, 1 << fits.bit_length() - 1)


def _own(settings: Settings, cpus: int, workers: int, engine_threads: int, gpu: bool) -> tuple[int, str]:
    """CPUs that each process keeps to, and the reason."""
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else 0
    reason = ""
    if settings.cpu_affinity == "off":
        reason = f"set by {names.variable('cpu_affinity')}"
    elif workers == 1:
        reason = "there is one process"
    elif gpu:
        reason = "the GPU is what is busy"
    elif mask != cpus:
        reason = f"a quota of {_count(cpus, 'CPU')}, whichever they are" if mask else "this system binds no threads"
    elif engine_threads * workers != cpus:
        reason = f"{_count(cpus, 'CPU')} are not {workers} × {_count(engine_threads, 'engine thread')}"
    return (0, reason) if reason else (engine_threads, "while the other processes are busy; while they are idle, any")


def lacking_for_cuda() -> str:
    """What is missing here for CUDA, told without ONNX Runtime; empty when nothing seems to be.

    Whether it works, only a session can show: the plan is made before there is one, and a process that has asked CUDA itself
    can't be forked any more.
    """
    found = importlib.util.find_spec("onnxruntime")
    if not any(Path(place, "capi", CUDA_LIBRARY).exists() for place in (found and found.submodule_search_locations) or ()):
        return "this onnxruntime is built without CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").split(",")[0].strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all GPUs"
    import ctypes  # not for those who end above

    try:
        ctypes.CDLL(CUDA_DRIVER)
    except OSError:
        return f"there is no NVIDIA driver ({CUDA_DRIVER})"
    return ""


def _gpu(provider: str) -> tuple[bool, str]:
    """Whether to plan for a GPU; what `auto` saw, to be set behind a reason."""
    if provider != "auto":
        return provider == "cuda", ""
    lacking = lacking_for_cuda()
    return not lacking, f": auto, and {lacking}" if lacking else ": auto, and CUDA's provider and NVIDIA's driver are here"


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
