"""What the worker processes of one service know of each other: pictures in the house, connections, which processors are whose.

Numbers in memory that is shared over the fork. Each process writes its own row alone and only reads the others', so that they
need no lock; a reader may see a number that is a moment old. Beside them a lock, for what should not be done by several at once.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

FREE, STARTING, SERVING = range(3)
STATE, HOUSE, CONNECTIONS, HOME = range(4)
SPARE = 4  # rows a planned process: a reload starts all new ones before the old ones go
NONE_TAKEN = sys.maxsize  # connections of a process that takes none any more
GIVE_WAY_S, LOOK_S = 5.0, 0.002


class Board:
    """A row a process; made before the first fork."""

    def __init__(self, rows: int, crowded: bool = False, homes: int = 0) -> None:
        """Make it.

        Args:
            rows: so many processes at once.
            crowded: processors are too few for all to load at once.
            homes: groups of processors that are shared out, one for each planned process; 0: none are.
        """
        self.crowded = crowded
        self._thread = threading.Lock()
        self._file: int | None = None
        self._rows = memoryview(mmap.mmap(-1, rows * 4 * 8)).cast("q", (rows, 4))
        self._homes = memoryview(mmap.mmap(-1, max(1, homes) * 8)).cast("q")  # processes in each
        self._has_homes = homes > 0

    def take(self) -> int:
        """In the master, before a fork: a row for the new process.

        Returns:
            Its number; -1 where all are taken, as after many TTIN: such a process knows nothing of others, and they not of it.
        """
        for row in range(len(self._rows)):
            if self._rows[row, STATE] == FREE:
                self._rows[row, STATE] = STARTING
                home = self._rows[row, HOME] = min(range(len(self._homes)), key=self._homes.__getitem__)
                self._homes[home] += 1
                return row
        return -1

    def leave(self, row: int) -> None:
        """In the master: the process of this row has ended."""
        if row >= 0:
            self._rows[row, HOUSE] = self._rows[row, CONNECTIONS] = 0
            self._rows[row, STATE] = FREE
            self._homes[self._rows[row, HOME]] -= 1

    def home(self, row: int) -> int:
        """Number of the home of this row's process; -1 where there are none."""
        return int(self._rows[row, HOME]) if self._has_homes else -1

    def in_home(self, home: int) -> int:
        """Processes that have it, those that start or end among them."""
        return int(self._homes[home])

    def seat(self, row: int) -> Seat:
        """For the process that has this row, after the fork."""
        return Seat(self, row)

    def others(self, row: int, column: int) -> list[int]:
        """A number of each other process that serves."""
        return [int(self._rows[each, column]) for each in range(len(self._rows))
                if each != row and self._rows[each, STATE] == SERVING]

    def earlier(self, row: int) -> bool:
        """A process of a lower row is starting, and none serves yet."""
        states = [self._rows[each, STATE] for each in range(len(self._rows))]
        return STARTING in states[:row] and SERVING not in states

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """One thread of all processes; a process that ends lets the next one in (POSIX record locks)."""
        with self._thread:
            if self._file is None:
                yield
                return
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def lock(self) -> None:
        """In the master: have something to lock, if the system gives it."""
        with suppress(OSError, AttributeError):  # Linux alone
            self._file = os.memfd_create("quadrant-board")

    def write(self, row: int, column: int, number: int) -> None:
        """Tell the others."""
        self._rows[row, column] = number


class Seat:
    """One process's own row, and its view of the others."""

    def __init__(self, board: Board, row: int) -> None:
        self._board, self._row = board, row
        self.home = board.home(row)

    def serve(self) -> None:
        """From now on it takes connections; until then others count on nothing from it."""
        self._board.write(self._row, STATE, SERVING)

    def give_way(self, ended: Callable[[], bool]) -> None:
        """While the first process starts: two that load at once on few processors are late both.

        Args:
            ended: there is nothing more to wait for.
        """
        until = time.monotonic() + GIVE_WAY_S
        while self._board.crowded and self._board.earlier(self._row) and not ended() and time.monotonic() < until:
            time.sleep(LOOK_S)

    def one_at_a_time(self) -> AbstractContextManager[None]:
        """For what needs much memory for a moment: no other process is inside at the same time."""
        return self._board.one_at_a_time()

    def tell_house(self, pictures: int) -> None:
        """So many pictures are decoded, wait or run here."""
        self._board.write(self._row, HOUSE, pictures)

    def tell_connections(self, count: int) -> None:
        """So many connections are open here."""
        self._board.write(self._row, CONNECTIONS, count)

    @property
    def alone(self) -> bool:
        """No other process has a picture in the house: all processors are this one's."""
        return not any(self._board.others(self._row, HOUSE))

    @property
    def housed(self) -> bool:
        """It has a home, and no other process has the same, as while a reload starts new ones."""
        return self.home >= 0 and self._board.in_home(self.home) == 1

    @property
    def at_home(self) -> bool:
        """It is to keep to its home: another process is busy in its own."""
        return self.housed and not self.alone

    @property
    def fewest_connections(self) -> int:
        """Of another process that serves; very many where there is none."""
        return min(self._board.others(self._row, CONNECTIONS), default=sys.maxsize)


class Stranger(Seat):
    """A process that has no row: it never believes that it is alone, and leaves nothing to others."""

    def __init__(self) -> None:
        super().__init__(Board(1), 0)

    @property
    def alone(self) -> bool:
        """It can't know."""
        return False


_board = Board(1)
_seat: Seat = Board(1).seat(0)  # of a process without siblings, as in tests and on the command line


def open_for(processes: int, cpus: int, homes: bool = False) -> None:
    """In the master, before it forks.

    Args:
        processes: that are planned.
        cpus: of all together.
        homes: each has processors of its own.
    """
    global _board
    _board = Board(SPARE * processes, crowded=cpus < 2 * processes, homes=processes if homes else 0)
    _board.lock()


def take() -> int:
    """As `Board.take`."""
    return _board.take()


def leave(row: int) -> None:
    """As `Board.leave`."""
    _board.leave(row)


def sit(row: int) -> None:
    """In a worker, after the fork: what it tells and sees from now on."""
    global _seat
    _seat = _board.seat(row) if row >= 0 else Stranger()


def seat() -> Seat:
    """Of this process."""
    return _seat
