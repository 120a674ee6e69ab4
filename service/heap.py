"""What a process keeps of memory: few heaps for many threads, no large blocks in them; what only a load needed is given back.

Heaps with glibc, code with Linux; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -8, -3, -1  # malloc.h
LARGE = 4 * 2**20  # bytes: no photo's, batch's or convolution's
MADV_DONTNEED = 4  # madvise(2)
MAPS = Path("/proc/self/smaps")
CODE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ [1-9]\d* +/")  # of a file


def share(heaps: int) -> bool:
    """Let all threads of this process, and of those that it forks, share this many heaps.

    By default each thread may get its own, up to eight a CPU, and what one has freed serves no other.

    Returns:
        Whether the allocator took it.
    """
    libc = _libc()
    return hasattr(libc, "mallopt") and bool(libc.mallopt(M_ARENA_MAX, heaps))


def keep_large_out() -> bool:
    """From now on, keep large blocks out of the heaps; each is the system's again once it is freed.

    By default glibc takes them from a heap once one was freed, where they leave holes: up to 25 MB after a session was made. Like
    that a session is made a tenth of a second sooner, so that this is for what comes after the first.

    Returns:
        Whether the allocator took it.
    """
    libc = _libc()
    # The one alone would set the other to 128 KiB: what a heap has free at its end would go, and come again, with each batch.
    return hasattr(libc, "mallopt") and bool(libc.mallopt(M_MMAP_THRESHOLD, LARGE) and libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGE))


def trim() -> None:
    """Give free pages back to the system, and let go of code: what runs again is mapped again, from the page cache."""
    libc = _libc()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    if hasattr(libc, "madvise"):
        for start, end in _code():
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED)


def _code() -> Iterator[tuple[int, int]]:
    """Where the code of programs and libraries is mapped, from and to; none of which a page was written, as by a debugger.

    Nothing here unloads a library, so that such a place stays what it is until it is let go.
    """
    place, clean = None, True
    with suppress(OSError):
        for line in MAPS.read_text().splitlines():
            if found := CODE.match(line):
                place, clean = (int(found[1], 16), int(found[2], 16)), True
            elif line.startswith(("Anonymous:", "Swap:")):
                clean = clean and line.split()[1] == "0"
            elif line.startswith("VmFlags:"):  # the last of each
                if place and clean:
                    yield place
                place = None


def _libc() -> Any:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no handle of its own program
        return None
