"""Pictures as files that stop whoever reads them too late."""

from __future__ import annotations

import time

import pytest

from service.feed import Feed, check
from service.problems import DeadlineExceeded

SCAN = b"\xff\xda"


def blocks(data: bytes, size: int) -> list[bytes]:
    file = Feed(data)
    return [*iter(lambda: file.read_scan(size), b"")]


def test_it_is_a_file_of_the_bytes():
    """Whoever reads it in time gets them all."""
    file = Feed(b"abcdef", time.monotonic() + 600)
    assert (file.read(2), file.read(), file.read(1)) == (b"ab", b"cdef", b"")


def test_a_late_reader_gets_an_error_instead_of_bytes():
    """Each read looks at the clock."""
    file = Feed(b"abcdef", time.monotonic())
    for read in (file.read, lambda: file.read(1), lambda: file.read_scan(1)):
        with pytest.raises(DeadlineExceeded):
            read()


def test_without_a_deadline_nobody_is_late():
    """Export and the proof have all the time they need."""
    check(float("inf"))
    assert Feed(b"a").read() == b"a"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("data", [
    b"", b"abc", SCAN, SCAN * 5, b"ab" + SCAN + b"cd" + SCAN, b"\xff" + SCAN + b"\xff" * 3 + SCAN,
    b"\xda\xff\xff\xda\xda\xff"], ids=bytes.hex)
def test_in_one_block_begins_one_scan_at_most(data, size):
    """Wherever blocks end: a marker whose first byte was in the block before counts too."""
    found = blocks(data, size)
    assert b"".join(found) == data
    assert all(0 < len(block) <= size for block in found)
    before = b""
    for block in found:
        assert (before[-1:] + block).count(SCAN) <= 1
        before = block
