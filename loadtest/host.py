"""What figures of speed depend on: the machine and the state of the code."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from loadtest import engines
from loadtest.cpus import usable_cpus
from loadtest.targets import AMX, PLAIN

ROOT = Path(__file__).parents[1]
TELLING = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8",
           "amx_bf16")  # they decide how fast a model is


def facts() -> dict[str, Any]:
    """Number of CPUs, the processor's name, those of its features that speed depends on, and whose targets hold here."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    flags = found.get("flags", "").split()
    features = [each for each in TELLING if each in flags]
    which, reason = kind(features)
    return {"cpus": usable_cpus(), "processor": found.get("model name") or platform.machine(), "features": features,
            "sort": sort(features), "kind": which, "reason": reason}


def kind(features: Collection[str]) -> tuple[str, str]:
    """Which targets hold here, and why: those of AMX where the processor has it and OpenVINO's plugin can use it.

    Args:
        features: of the processor, as `facts` finds them.
    """
    if missing := [each for each in TELLING if each.startswith("amx_") and each not in features]:
        return PLAIN, f"the processor has no {missing[0]}"
    devices, reason = engines.plugin()
    return (AMX, "") if devices else (PLAIN, reason)


def sort(features: Collection[str]) -> str:
    """The processor's widest instructions for networks, in words."""
    found = [name for name, flag in (("AMX", "amx_int8"), ("AVX-512 VNNI", "avx512_vnni"), ("AVX-512", "avx512f"),
                                     ("AVX2", "avx2")) if flag in features]  # fmt: skip
    return found[0] if found else "no AVX2"


def commit() -> str:
    """Of the code that was measured; with a + where files differ from it."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True,
                              timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
