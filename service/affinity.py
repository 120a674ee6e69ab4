"""Which processors a thread computes on: those of its own process while the other processes are busy, any while they are idle.

Left to itself, Linux puts a thread that is woken beside the one that woke it, or where it was before, and moves it to an idle
processor only milliseconds later: two processes share one processor meanwhile (docs/decisions.md, 33).

"Any" are those that the process had when it started: CPUs that a container gets later are used after a restart.

Source: sched_setaffinity(2), which Linux has for each thread; elsewhere nothing is done.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service import logs

log = logs.get(__name__)


class Processors:
    """Of one process: its own, and all of the service."""

    def __init__(self, count: int, home: int) -> None:
        """Find them.

        Args:
            count: of each process; 0: none has its own.
            home: this process's place among the homes of so many, from 0 up; -1: it has none.
        """
        every = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        own = every[home * count:(home + 1) * count] if home >= 0 else []
        self.every = frozenset(every)
        self.own = frozenset(own) if count and len(own) == count else self.every
        self._thread = threading.local()

    def use(self, own: bool) -> None:
        """From now on the calling thread runs on the process's own processors alone, or on any."""
        wanted = self.own if own else self.every
        if wanted is getattr(self._thread, "uses", self.every):
            return
        try:
            os.sched_setaffinity(0, wanted)
        except OSError as error:  # a container's processors may be changed while it runs
            log.warning("processors_not_kept", processors=sorted(wanted), reason=str(error))
            wanted = self.own = self.every  # nobody is bound any more
        self._thread.uses = wanted

    @contextmanager
    def inherited(self) -> Iterator[None]:
        """Threads that are started inside stay on the process's own processors."""
        self.use(True)
        try:
            yield
        finally:
            self.use(False)
