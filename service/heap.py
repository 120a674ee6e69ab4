"""What a process no longer needs of its memory: few heaps for many threads, and after a load what only that needed given back.

Heaps with glibc, code with Linux; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # malloc.h
LARGE = 4 * 2**20  # bytes: no photo's, nor a batch's; each piece of weights (`pieces.MOST_BYTES`)
MADV_DONTNEED = 4  # madvise(2)
MAPS = Path("/proc/self/smaps")
CODE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ [1-9]\d* +/")  # of a file


def share(heaps: int) -> bool:
    """Let all threads of this process, and of those that it forks, share this many heaps, and keep what is large out of them.

    By default each thread may get a heap of its own, up to eight a CPU, and what one has freed serves no other. And once a large
    block was freed, glibc takes the next ones from a heap, where they leave holes: 20 MB after a session was made.

    Returns:
        Whether the allocator took it.
    """
    libc = _libc()
    return hasattr(libc, "mallopt") and bool(libc.mallopt(M_ARENA_MAX, heaps) and libc.mallopt(M_MMAP_THRESHOLD, LARGE))


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
