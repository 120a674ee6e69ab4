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


def test_what_is_free_is_given_back_without_harm():
    """Anywhere, at any time."""
    heap.trim()
    assert len(bytes(10_000)) == 10_000
