"""What may be used, in the words of Linux, and the plan that follows."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from service import planning
from service.recipe import Layer
from service.settings import Settings

CPUS = 64


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of 64 CPUs, all in the affinity mask, without a GPU."""
    monkeypatch.setattr(planning, "lacking_for_cuda", lambda: "there is no GPU in this test")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CPUS)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 256)


V1 = "4:memory:/pod/box\n2:cpu,cpuacct:/pod/box\n1:name=systemd:/\n0::/\n"


@pytest.mark.parametrize(("cgroup", "files", "cpus"), [
    pytest.param("0::/\n", {}, CPUS, id="nothing there"),
    pytest.param("0::/\n", {"cpu.max": "max 100000"}, CPUS, id="v2 without limit"),
    pytest.param("0::/\n", {"cpu.max": "200000 100000"}, 2, id="v2 in a container"),
    pytest.param("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "350000 100000"}, 3, id="v2, a limit further up"),
    pytest.param("0::/a/b\n", {"a/b/cpu.max": "50000 100000"}, 1, id="v2, half a CPU"),
    pytest.param("0::/host/path\n", {"cpu.max": "400000 100000"}, 4, id="v2, path of the host"),
    pytest.param("0::/../..\n", {"cpu.max": "400000 100000"}, 4, id="v2, path above the container"),
    pytest.param(V1, {"cpu,cpuacct/pod/box/cpu.cfs_quota_us": "600000", "cpu,cpuacct/pod/box/cpu.cfs_period_us": "100000"}, 6,
                 id="v1"),
    pytest.param(V1, {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "50000"}, 3, id="v1 in a container"),
    pytest.param(V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, CPUS, id="v1 without limit"),
    pytest.param("0::/\n", {"cpu.max": "garbage"}, CPUS, id="garbage"),
])
def test_cpus_are_what_may_be_used(tmp_path, cgroup, files, cpus):
    """64 threads on a quota of 2 CPUs stand still most of the time."""
    (tmp_path / "cgroup").write_text(cgroup)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(f"{text}\n")
    assert planning.usable_cpus(tmp_path / "cgroup", tmp_path / "fs") == cpus


def test_the_affinity_mask_counts(tmp_path, monkeypatch):
    """`taskset`, and Kubernetes' static CPU manager."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 9})
    assert planning.usable_cpus(tmp_path / "none", tmp_path) == 3


@pytest.mark.parametrize(("cgroup", "name", "text", "limited"), [
    pytest.param("0::/a\n", "a/memory.max", "268435456", True, id="v2"),
    pytest.param("0::/a\n", "a/memory.max", "max", False, id="v2 without limit"),
    pytest.param(V1, "memory/pod/memory.limit_in_bytes", "268435456", True, id="v1, further up"),
    pytest.param(V1, "memory/pod/box/memory.limit_in_bytes", "9223372036854771712", False, id="v1 without limit"),
])
def test_memory_is_what_may_be_used(tmp_path, cgroup, name, text, limited):
    """Beyond it the kernel kills the process, whatever the host has free."""
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "fs" / name).parent.mkdir(parents=True)
    (tmp_path / "fs" / name).write_text(f"{text}\n")
    found = planning.memory_limit(tmp_path / "cgroup", tmp_path / "fs")
    assert (found == 268435456) == limited
    assert found > 0


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 8, 16, 96, 255])
def test_a_plan_uses_the_machine_and_no_more(cpus):
    """Engine threads of all processes together fill the CPUs, none of which stays idle where they can't be divided evenly."""
    plan = planning.plan(Settings(), cpus, memory=8 * 2**30)
    assert 1 <= plan.engine_threads <= cpus
    assert cpus <= plan.workers * plan.engine_threads < cpus + plan.workers
    assert plan.engine_threads <= plan.alone_threads <= max(plan.engine_threads, planning.MOST_ALONE_THREADS)
    assert plan.workers <= cpus
    assert plan.request_threads > plan.batch_cap
    assert plan.workers * plan.decode_memory <= 8 * 2**30
    assert plan.decode_memory >= planning.LEAST_DECODE_MEMORY


def test_two_processors_get_two_processes_where_memory_allows():
    """Each with one processor, and both while the other is idle: measured."""
    plan = planning.plan(Settings(), 2, memory=8 * 2**30)
    assert (plan.workers, plan.engine_threads, plan.alone_threads) == (2, 1, 2)
    assert plan.reasons["workers"] == "2 usable CPUs, a process for every 4, 2 at least"
    small = planning.plan(Settings(), 2, memory=planning.ENOUGH_MEMORY - 1)
    assert (small.workers, small.engine_threads) == (1, 2)


def test_every_number_has_its_reason():
    """Whoever wonders about the plan reads why."""
    plan = planning.plan(Settings(), 8, 2**30)
    numbers = {name for name in plan.__dataclass_fields__ if name not in ("reasons", "gpu")}
    assert set(plan.reasons) == numbers
    assert plan.reasons["workers"] == "8 usable CPUs, a process for every 4"


def test_what_is_set_wins():
    """The plan advises; who runs the service decides."""
    settings = Settings(workers=3, request_threads=5, engine_threads=2, batch_cap=7, queue_capacity=11, decode_memory=2**20)
    plan = planning.plan(settings, 8, 2**30)
    assert (plan.workers, plan.request_threads, plan.engine_threads) == (3, 5, 2)
    assert (plan.batch_cap, plan.queue_capacity, plan.decode_memory) == (7, 11, 2**20)
    assert plan.reasons["batch_cap"] == "set by QUADRANT_BATCH_CAP"


def test_a_gpu_takes_larger_batches():
    """Its time hardly grows with the batch until there; and enough requests are there at once to fill them."""
    gpu, cpu = planning.plan(Settings(provider="cuda"), 8, 2**30), planning.plan(Settings(), 8, 2**30)
    assert gpu.batch_cap > cpu.batch_cap
    assert gpu.request_threads > gpu.batch_cap
    assert gpu.reasons["batch_cap"] == "for a GPU"


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 1), (4, 2), (16, 8), (96, planning.MOST_GPU_WORKERS)])
def test_several_processes_decode_for_one_gpu(cpus, workers):
    """One alone can't decode as fast as a GPU classifies; too many would fill its memory."""
    found = planning.plan(Settings(provider="cuda"), cpus, 2**34)
    assert found.workers == workers
    assert found.reasons["workers"].endswith("a process for every 2, to decode for one GPU")


def test_auto_that_will_be_cuda_gets_its_plan(monkeypatch):
    """The default setting, on a machine with a GPU; who reads the plan learns what auto went by."""
    monkeypatch.setattr(planning, "lacking_for_cuda", lambda: "")
    found, asked = planning.plan(Settings(), 16, 2**34), planning.plan(Settings(provider="cuda"), 16, 2**34)
    assert (found.workers, found.request_threads, found.batch_cap) == (asked.workers, asked.request_threads, asked.batch_cap)
    assert found.reasons["batch_cap"] == "for a GPU: auto, and CUDA's provider and NVIDIA's driver are here"
    assert planning.plan(Settings(provider="cpu"), 16, 2**34).reasons["batch_cap"] == "for CPUs"


def test_auto_without_a_gpu_says_what_is_lacking():
    """Whoever put a GPU into the machine wants to know why it isn't used."""
    assert planning.plan(Settings(), 16, 2**34).reasons["batch_cap"] == "for CPUs: auto, and there is no GPU in this test"


LACKING = planning.lacking_for_cuda  # before the fixture replaces it


@pytest.mark.parametrize(("provider", "visible", "driver", "lacking"), [
    pytest.param(True, None, True, "", id="all there"),
    pytest.param(True, "1,0", True, "", id="some of the GPUs"),
    pytest.param(False, None, True, "this onnxruntime is built without CUDA", id="the build for CPUs"),
    pytest.param(True, "", True, "CUDA_VISIBLE_DEVICES hides all GPUs", id="hidden"),
    pytest.param(True, "-1", True, "CUDA_VISIBLE_DEVICES hides all GPUs", id="hidden, the other way"),
    pytest.param(True, None, False, "there is no NVIDIA driver (libcuda.so.1)", id="no driver"),
])
def test_what_cuda_lacks_is_seen_from_outside(tmp_path, monkeypatch, provider, visible, driver, lacking):
    """By the library that only onnxruntime-gpu brings, and by the driver's."""
    (tmp_path / "capi").mkdir()
    if provider:
        (tmp_path / "capi" / planning.CUDA_LIBRARY).touch()
    spec = ModuleSpec("onnxruntime", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    def load(name: str) -> None:
        if not driver:
            raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert LACKING() == lacking


def test_without_onnxruntime_there_is_no_cuda(monkeypatch):
    """The plan can be printed before everything is installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert LACKING() == "this onnxruntime is built without CUDA"


def test_a_plan_needs_no_onnxruntime():
    """The master process plans, and forks: a session's libraries in it would cost its start, and CUDA its children."""
    code = "import sys; from service import planning, settings; planning.plan(settings.Settings(), 8, 2**30); " \
           "print('onnxruntime' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(("settings", "cpus", "own", "reason"), [
    ({}, 64, 4, "while the other processes are busy; while they are idle, any"),
    ({"workers": 32}, 64, 2, "while the other"),
    ({"workers": 1}, 64, 0, "there is one process"),
    ({}, 8, 0, "a quota of 8 CPUs, whichever they are"),
    ({"workers": 3}, 64, 0, "64 CPUs are not 3 × 22 engine threads"),
    ({"workers": 32, "engine_threads": 3}, 64, 0, "64 CPUs are not 32 × 3 engine threads"),
    ({"provider": "cuda"}, 64, 0, "the GPU is what is busy"),
    ({"cpu_affinity": "off"}, 64, 0, "set by QUADRANT_CPU_AFFINITY")], ids=str)
def test_processes_have_cpus_of_their_own_where_they_can(settings, cpus, own, reason):
    """As many each, all of them known, as many as the engine uses."""
    plan = planning.plan(Settings(**settings), cpus, memory=2**36)
    assert plan.own_cpus == own
    assert plan.reasons["own_cpus"].startswith(reason)


def test_a_system_that_binds_no_threads_has_none(monkeypatch):
    """As macOS."""
    monkeypatch.delattr(os, "sched_setaffinity")
    assert planning.plan(Settings(), CPUS, memory=2**36).own_cpus == 0


def layer(*output: int) -> Layer:
    return Layer("c", "convolution", (3, 3), (1, 1), (1, 1, 1, 1), output[-1], output, 0, 0)


SMALL, LARGE, HUGE = [layer(40, 40, 64), layer(40, 40, 64)], [layer(112, 112, 96), layer(112, 112, 96)], [layer(900, 900, 64)] * 2


@pytest.mark.parametrize(("settings", "layers", "expected"), [
    pytest.param({}, SMALL, 16, id="a small network"),
    pytest.param({}, LARGE, 4, id="9.6 MB a picture"),
    pytest.param({}, HUGE, 1, id="415 MB a picture"),
    pytest.param({}, [], 16, id="a network whose layers aren't known"),
    pytest.param({"provider": "cuda"}, LARGE, 64, id="a GPU"),
    pytest.param({"batch_cap": 32}, LARGE, 32, id="set by the operator"),
])
def test_batches_of_large_networks_are_smaller(settings, layers, expected):
    """A batch of 16 pictures of EfficientNet-Lite0 takes 170 MB more in two processes, and isn't quicker than 4 times 4."""
    assert planning.batch_cap(planning.plan(Settings(**settings), CPUS, memory=2**36), layers) == expected
