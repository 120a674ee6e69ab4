"""How long each stage of the start took, from the first process's birth to a worker that is ready.

One clock for the master and what it forks: a worker goes on where the master was. To be used by one thread.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_took: dict[str, float] = {}  # stage → seconds, in the order of their ends
_last = time.monotonic()


def _since_birth() -> float:
    """Seconds that this process has existed, to a hundredth; 0 where the system doesn't tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, IndexError, ValueError, AttributeError):
        return 0.0


_took["python"] = _since_birth()


def mark(stage: str) -> None:
    """What has passed since the last mark belongs to this stage."""
    global _last
    now = time.monotonic()
    _took[stage] = _took.get(stage, 0.0) + now - _last
    _last = now


def restart() -> None:
    """Forget all; begin now. For a worker that replaces another."""
    global _last
    _took.clear()
    _last = time.monotonic()


def took() -> dict[str, float]:
    """Seconds of each stage so far, in their order, to a tenth of a millisecond."""
    return {stage: round(seconds, 4) for stage, seconds in _took.items()}
