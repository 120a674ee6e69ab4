"""A picture's bytes as a file for Pillow, which stops the decoder once the deadline has passed.

Pillow's decoders ask for their input piece by piece, and nothing else interrupts them. Whoever reads here past the deadline gets
`DeadlineExceeded` instead of bytes.
"""

from __future__ import annotations

import io
import math
import time

from service.problems import DeadlineExceeded

START_OF_SCAN = b"\xff\xda"


def check(deadline: float) -> None:
    """Raise once it has passed.

    Args:
        deadline: on the clock of `time.monotonic`.
    Raises:
        DeadlineExceeded: it has.
    """
    if time.monotonic() >= deadline:
        raise stopped()


def stopped() -> DeadlineExceeded:
    """What is raised by whoever stops."""
    return DeadlineExceeded("no answer in time; decoding this picture was stopped")


class Feed(io.BytesIO):
    """The file."""

    def __init__(self, data: bytes, deadline: float = math.inf) -> None:
        """Args: the encoded picture; the deadline, on the clock of `time.monotonic`."""
        super().__init__(data)
        self._deadline = deadline

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file.

        Raises:
            DeadlineExceeded: the deadline has passed.
        """
        check(self._deadline)
        return super().read(size)

    def read_scan(self, size: int) -> bytes:
        """At most `size` bytes of a JPEG, in which at most one scan begins.

        A scan of a few bytes may cover all of the picture: a block of 64 KiB holds thousands, each some 30 ms of work.

        Raises:
            DeadlineExceeded: the deadline has passed.
        """
        block = self.read(size)
        # From 1: the marker at 0 is the one that this block was left for; its first byte may have ended the block before.
        following = block.find(START_OF_SCAN, 1)
        if following > 0:
            self.seek(following - len(block), io.SEEK_CUR)
            return block[:following]
        return block
