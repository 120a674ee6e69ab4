"""Metrics over several processes, each in a fresh interpreter: prometheus_client decides at its import."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service import metrics
from service.problems import StartError

PREPARE = """
import os, sys
from service import metrics
folder = metrics.prepare_directory()
"""
WORKERS = PREPARE + """
from service.metrics import QUEUE_DEPTH, REQUESTS
def worker(requests, depth):
    if pid := os.fork():
        os.waitpid(pid, 0)
        return pid
    REQUESTS.labels("classify", "200").inc(requests)
    QUEUE_DEPTH.set(depth)
    os._exit(0)
pids = [worker(3, 5), worker(4, 7)]
"""


def python(code: str, **environ: str) -> str:
    environ = {"PATH": os.environ.get("PATH", ""), **environ}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def value(page: str, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", page, re.MULTILINE)
    assert found, page
    return float(found[1])


def test_the_page_counts_all_workers():
    """A scrape meets one worker by chance; it must tell of all."""
    page = python(WORKERS + "print(metrics.exposition()[0].decode())")
    assert value(page, 'quadrant_requests_total{endpoint="classify",status="200"}') == 7
    assert value(page, "quadrant_queue_depth") == 12


def test_a_dead_worker_keeps_its_counts_and_loses_its_gauges():
    """A counter that falls looks like a restart; a queue of the dead would never empty."""
    page = python(WORKERS + "metrics.mark_dead(pids[0]); print(metrics.exposition()[0].decode())")
    assert value(page, 'quadrant_requests_total{endpoint="classify",status="200"}') == 7
    assert value(page, "quadrant_queue_depth") == 7


def test_files_of_an_earlier_run_go_and_nothing_else(tmp_path):
    """Their counts would be added to the new ones; other people's files are not ours."""
    (tmp_path / "counter_1.db").write_bytes(b"old")
    (tmp_path / "accounts.db").write_bytes(b"somebody's own")
    (tmp_path / "notes.txt").write_text("mine")
    python(PREPARE, PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["accounts.db", "notes.txt"]


def test_a_temporary_folder_goes_with_its_process():
    """Restarts don't fill the disk, and no forked child takes the folder away."""
    folder = python(WORKERS + "assert folder.exists(); print(folder)").strip()
    assert not Path(folder).exists()


def test_importing_the_instruments_too_early_is_told():
    """Otherwise every worker would count for itself, and nobody would notice for weeks."""
    code = "import prometheus_client\n" + PREPARE
    with pytest.raises(AssertionError, match=r"StartError: prometheus_client was imported before"):
        python(code)


def test_a_folder_that_can_not_be_written_is_told(tmp_path, monkeypatch):
    """With its name."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "file" / "inside"))
    with pytest.raises(StartError, match="file/inside"):
        metrics.prepare_directory()


def test_one_process_needs_no_folder():
    """`create_app` in a test, or a notebook, has metrics as well."""
    refuse = "from service import metrics; metrics.REFUSED.labels('overloaded').inc(); "
    page = python(refuse + "print(metrics.exposition()[0].decode())")
    assert value(page, 'quadrant_refused_total{code="overloaded"}') == 1


def test_every_instrument_ends_in_its_unit_and_every_gauge_has_a_mode():
    """A gauge without a mode shows one line a process, for ever."""
    from prometheus_client import Gauge, Histogram

    from service import instruments

    for name, found in vars(instruments).items():
        if isinstance(found, Gauge):
            assert found._multiprocess_mode in ("livesum", "livemin", "livemax"), name
        if isinstance(found, Histogram):
            assert name.endswith(("_SECONDS", "_SIZE")), name
    with pytest.raises(AttributeError, match="nonsense"):
        metrics.nonsense  # noqa: B018 - to look it up is the point
