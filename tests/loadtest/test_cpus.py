"""How many cores the ceiling may use: as many as the service may, or the ratio between them means nothing."""

from __future__ import annotations

import os

import pytest

from loadtest.cpus import usable_cpus


@pytest.mark.parametrize(("line", "files", "cpus"), [
    pytest.param("0::/a/b", {}, 8, id="no quota: the affinity mask"),
    pytest.param("0::/a/b", {"a/b/cpu.max": "200000 100000"}, 2, id="v2"),
    pytest.param("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3, id="v2, of the group above"),
    pytest.param("0::/a/b", {"a/b/cpu.max": "150000 100000"}, 2, id="one CPU and a half"),
    pytest.param("0::/a/b", {"a/b/cpu.max": "20000 100000"}, 1, id="a fifth of one"),
    pytest.param("0::/a/b", {"a/b/cpu.max": "1600000 100000"}, 8, id="more than the mask"),
    pytest.param("0::/host/only", {"cpu.max": "400000 100000"}, 4, id="v2 in a container: the mount's own top"),
    pytest.param("4:cpu,cpuacct:/a", {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
                 4, id="v1"),
    pytest.param("4:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 8, id="v1 without a limit"),
    pytest.param("4:memory:/a", {"a/cpu.max": "100000 100000"}, 8, id="a hierarchy of something else"),
    pytest.param("nonsense", {}, 8, id="a file of another kind"),
])  # fmt: skip
def test_quotas_cut_the_affinity_mask(line, files, cpus, tmp_path, monkeypatch):
    """More threads than CPUs' worth of time would stand still for parts of each period, and slow the ceiling."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (own := tmp_path / "own").write_text(line + "\n")
    for name, text in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert usable_cpus(own, tmp_path / "groups") == cpus


def test_without_cgroups_the_mask_counts(tmp_path):
    """Not every machine has them."""
    assert usable_cpus(tmp_path / "none", tmp_path) >= 1
