"""What may be used, in the words of Linux, and the plan that follows."""

from __future__ import annotations

import os

import pytest

from service import planning
from service.settings import Settings

CPUS = 64


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of 64 CPUs, all in the affinity mask."""
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
    """Engine threads of all processes together fill the CPUs, and never outnumber them."""
    plan = planning.plan(Settings(), cpus, memory=8 * 2**30)
    assert 1 <= plan.workers * plan.engine_threads <= cpus
    assert plan.workers * (plan.engine_threads + 1) >= cpus or plan.workers == planning.MOST_WORKERS
    assert plan.request_threads > plan.batch_cap
    assert plan.workers * plan.decode_memory <= 8 * 2**30
    assert plan.decode_memory >= planning.LEAST_DECODE_MEMORY


def test_every_number_has_its_reason():
    """Whoever wonders about the plan reads why."""
    plan = planning.plan(Settings(), 8, 2**30)
    numbers = {name for name in plan.__dataclass_fields__ if name != "reasons"}
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
    """Its time hardly grows with the batch until there."""
    assert planning.plan(Settings(provider="cuda"), 8, 2**30).batch_cap > planning.plan(Settings(), 8, 2**30).batch_cap
