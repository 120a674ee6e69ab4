"""What figures of speed depend on: the machine and the state of the code."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from loadtest.cpus import usable_cpus

ROOT = Path(__file__).parents[1]
TELLING = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8")  # they decide how fast a model is


def facts() -> dict[str, Any]:
    """Number of CPUs, the processor's name, those of its features that speed depends on."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    flags = found.get("flags", "").split()
    return {"cpus": usable_cpus(), "processor": found.get("model name") or platform.machine(),
            "features": [each for each in TELLING if each in flags]}


def commit() -> str:
    """Of the code that was measured; with a + where files differ from it."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True,
                              timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
