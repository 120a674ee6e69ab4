"""The service where Linux's own calls are missing, as on macOS."""

from __future__ import annotations

import sys
from pathlib import Path

from tests import models, running

MISSING = ("sched_getaffinity", "sched_setaffinity", "memfd_create")
WITHOUT = f"""
import os, runpy, sys
for name in {MISSING!r}:
    delattr(os, name)
sys.argv = ["service", "serve", "--port", "0"]
runpy.run_module("service", run_name="__main__")
"""


def test_it_serves_without_what_only_linux_has(tmp_path: Path):
    """Two processes, no CPUs of their own, nothing to lock in memory."""
    models.build(tmp_path / "models" / "quadrants" / "1" / "model.onnx")
    environ = {"QUADRANT_MODELS": str(tmp_path / "models"), "QUADRANT_WORKERS": "2"}
    with running.service(tmp_path / "log", environ, (sys.executable, "-c", WITHOUT)) as service:
        reply = service.ask("/classify", models.png(models.quadrant_picture(2)))
        assert reply.status == 200, reply.body
        assert reply.json["predictions"][0]["id"] == "q2"
        plan = service.ask("/info").json["plan"]
        assert plan["own_cpus"]["reason"].startswith("this system binds no threads")
        assert service.stop() == 0
