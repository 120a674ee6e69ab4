"""The allocator's switches, where there are any."""

from __future__ import annotations

import subprocess
import sys

from service import heap


def test_threads_share_heaps():
    """In a process of its own: it can't be taken back."""
    code = """
import ctypes, sys, threading
from service import heap
if not heap.share(1):
    sys.exit(77)  # no glibc
kept = []
def work():
    kept.append(ctypes.CDLL(None).malloc(5000))
threads = [threading.Thread(target=work) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
ctypes.CDLL(None).malloc_info(0, ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stdout"))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode in (0, 77), ended.stderr
    assert ended.returncode == 77 or ended.stdout.count("<heap ") == 1


def test_large_blocks_stay_out_of_the_heaps():
    """Once one was freed, glibc would take the next from a heap; in a process of its own, as above."""
    code = """
import ctypes, sys
from service import heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if not heap.keep_large_out():
    sys.exit(77)
for _ in range(3):
    libc.free(libc.malloc(9 * 2**20))
kept, size = libc.malloc(9 * 2**20), 0
for line in open("/proc/self/smaps"):
    words = line.split()
    if "-" in words[0] and not words[0].endswith(":"):
        start, end = (int(word, 16) for word in words[0].split("-"))
        size = end - start if start <= kept < end else size
        print("heap" if start <= kept < end and line.rstrip().endswith("[heap]") else "", end="")
print(size >> 20)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode in (0, 77), ended.stderr
    assert ended.returncode == 77 or "heap" not in ended.stdout


def test_what_is_free_is_given_back_without_harm():
    """Anywhere, at any time."""
    heap.trim()
    assert len(bytes(10_000)) == 10_000


SMAPS = """\
55d0a0000000-55d0a0001000 r--p 00000000 08:01 1234                       /usr/bin/python3
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr
55d0a0001000-55d0a0004000 r-xp 00001000 08:01 1234                       /usr/bin/python3
Rss:                  12 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr
55d0a0005000-55d0a0006000 r-xp 00005000 08:01 1235                       /opt/a lib.so
Rss:                   4 kB
Anonymous:             4 kB
Swap:                  0 kB
VmFlags: rd mr
55d0a0007000-55d0a0008000 rwxp 00005000 08:01 1235                       /opt/a lib.so
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr
7fff00000000-7fff00002000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr
7fff10000000-7fff10002000 r-xp 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr
7fff20000000-7fff20002000 r-xs 00000000 00:01 77                         /memfd:code (deleted)
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr
7fff28000000-7fff28002000 r-xp 00000000 103:02 99887766                  /opt/written and swapped out.so
Anonymous:             0 kB
Swap:                  4 kB
VmFlags: rd mr
7fff30000000-7fff30003000 r-xp 0000f000 103:02 99887766                  /opt/a lib.so
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr
"""


def test_only_clean_code_of_files_is_let_go(tmp_path, monkeypatch):
    """What was written would be lost: a breakpoint, code that was made while running."""
    monkeypatch.setattr(heap, "MAPS", tmp_path / "smaps")
    assert list(heap._code()) == []
    (tmp_path / "smaps").write_text(SMAPS)
    assert list(heap._code()) == [(0x55d0a0001000, 0x55d0a0004000), (0x7fff30000000, 0x7fff30003000)]


def test_code_is_mapped_again_when_it_runs():
    """In a process of its own, so that what is measured is its alone."""
    code = """
import sys
from service import heap
from pathlib import Path
import numpy
def held():
    place, total = None, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        place = heap.CODE.match(line) or (None if "-" in line.split()[0] else place)
        if place and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total
if not Path("/proc/self/smaps").exists():
    sys.exit(77)
before = held()
heap.trim()
after = held()
assert 0 < after < before / 2, (before, after)
assert numpy.linalg.inv(numpy.eye(3) * 4)[0, 0] == 0.25
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode in (0, 77), ended.stderr
