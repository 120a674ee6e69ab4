"""glibc's allocator: few heaps for many threads, and what a load has freed given back. Elsewhere nothing happens."""

from __future__ import annotations

import ctypes
from typing import Any

M_ARENA_MAX = -8  # malloc.h


def share(heaps: int) -> bool:
    """Let all threads of this process, and of those that it forks, share this many heaps.

    By default each thread may get its own, up to eight a CPU, and what one has freed serves no other.

    Returns:
        Whether the allocator took it.
    """
    libc = _libc()
    return hasattr(libc, "mallopt") and bool(libc.mallopt(M_ARENA_MAX, heaps))


def trim() -> None:
    """Give free pages back to the system."""
    libc = _libc()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _libc() -> Any:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no handle of its own program
        return None
