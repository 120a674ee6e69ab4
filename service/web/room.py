"""Memory that the bodies of all requests of a process may take together: paid for before the first byte is read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.problems import Overloaded

SHARE = 2  # bodies get half of what decoding gets: they are what it starts from
# How often a body lies in memory while it is taken apart: JSON's text, the base64 in it, the bytes behind that.
COPIES = {"application/json": 4, "multipart/form-data": 3}


class Room:
    """Bytes for bodies.

    `held` may be called from any thread. Who finds it empty may enter with any body that is allowed at all, so that a
    small machine refuses nobody for good.
    """

    def __init__(self, total: int, longest: int) -> None:
        """Start empty.

        Args:
            total: bytes for all.
            longest: bytes of the longest body, which one without a length may turn out to be.
        """
        self._total, self._longest, self._taken = total, longest, 0
        self._lock = threading.Lock()

    @contextmanager
    def held(self, environ: dict[str, Any], kind: str) -> Iterator[None]:
        """Hold room for the body of one request, until it is answered.

        Raises:
            Overloaded: the others' bodies leave too little.
        """
        length = environ.get("CONTENT_LENGTH") or "0"
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        announced = int(length) if length.isascii() and length.isdigit() and not chunked else self._longest
        needed = min(announced, self._longest) * COPIES.get(kind, 1)
        with self._lock:
            if self._taken and self._taken + needed > self._total:
                raise Overloaded(
                    f"bodies of other requests hold {self._taken:,} bytes, this one takes about {needed:,}; this server has"
                    f" {self._total:,} for all: try again in 1 s", retry_after_s=1, body_memory=self._total)
            self._taken += needed
        try:
            yield
        finally:
            with self._lock:
                self._taken -= needed
