"""Four ways to spread the work of classifying photos over all cores, and how fast each goes.

    threads    a thread a core, each with batches of its own, through one session of 1 thread a run
    processes  a process a core, each with a session of its own with 1 thread
    together   all cores decode a batch, then one run uses all
    ahead      the same, with the next batch decoded meanwhile
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import click
from numpy.typing import NDArray

from loadtest.engines import Engine
from loadtest.inprocess import Answer, Model

LAYOUTS = ("threads", "processes", "together", "ahead")
SPUN = ("together", "ahead")  # a run of 1 thread has no others that could spin
LONGEST_S = 300.0  # for one step of a process


class Task(NamedTuple):
    """What to measure.

    Attributes:
        part: all of it; or decode alone, or model alone, on photos decoded before.
        decoding: exact or scaled.
        seconds: at least so long, and at least each photo once.
    """

    part: str
    batch: int
    decoding: str
    seconds: float


class Found(NamedTuple):
    """Photos a second, and the answers by the number of the photo; none where only decoding was measured."""

    images_per_s: float
    answers: dict[int, Answer]


class Layout(Protocol):
    """One of the four ways, ready to be measured again and again."""

    def measure(self, task: Task) -> Found:
        """Run warm, then for the time asked for."""

    def close(self) -> None:
        """End its threads and processes."""


class Worker:
    """Classifies batches of its own, alone: the photos in turn, from its own place on."""

    def __init__(self, model: Model, photos: Sequence[bytes], place: int, workers: int) -> None:
        self._model, self._photos = model, photos
        self._first, self._share = place * len(photos) // workers, -(-len(photos) // workers)
        self._batch = model.room(0)
        self._chosen: list[int] = []
        self._answers: dict[int, Answer] = {}

    def warm(self, task: Task) -> None:
        """Everything once, so that the measurement pays for no first time."""
        self._batch, self._answers = self._model.room(task.batch), {}
        self._decode(0, task.decoding)
        if task.part != "decode":
            self._classify()

    def measure(self, task: Task) -> Found:
        """What was warmed before."""
        def step(done: int) -> None:
            if task.part != "model":
                self._decode(done, task.decoding)
            if task.part != "decode":
                self._classify()

        return Found(repeat(step, task, self._share), self._answers)

    def _decode(self, done: int, decoding: str) -> None:
        self._chosen = turn(self._first + done, len(self._batch), len(self._photos))
        for row, photo in zip(self._batch, self._chosen, strict=True):
            self._model.fill(row, self._photos[photo], decoding)

    def _classify(self) -> None:
        self._answers.update(zip(self._chosen, self._model.run(self._batch), strict=True))


class Threads:
    """A thread a core, one session for all."""

    def __init__(self, model: Model, photos: Sequence[bytes], cpus: int) -> None:
        self._workers = [Worker(model, photos, place, cpus) for place in range(cpus)]
        self._pool = ThreadPoolExecutor(cpus)

    def measure(self, task: Task) -> Found:
        """As `Layout` has it."""
        list(self._pool.map(lambda worker: worker.warm(task), self._workers))
        return _sum(list(self._pool.map(lambda worker: worker.measure(task), self._workers)))

    def close(self) -> None:
        """As `Layout` has it."""
        self._pool.shutdown()


class Processes:
    """A process a core, each with a session of its own; made by spawning, since a session doesn't survive a fork."""

    def __init__(self, file: Path, photos: Sequence[bytes], cpus: int, engine: Engine | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._lines, self._processes = [], []
        for place in range(cpus):
            ours, theirs = context.Pipe()
            process = context.Process(target=_child, args=(theirs, file, photos, place, cpus, engine), daemon=True)
            process.start()
            theirs.close()
            self._lines.append(ours)
            self._processes.append(process)
        try:
            self._answers()
        except click.ClickException:
            self.close()
            raise

    def measure(self, task: Task) -> Found:
        """As `Layout` has it.

        Raises:
            ClickException: a process fails, ends, or doesn't answer.
        """
        for order in ("warm", "measure"):
            for line in self._lines:
                line.send((order, task))
            found = self._answers(task.seconds)
        return _sum(found)

    def close(self) -> None:
        """As `Layout` has it."""
        for line in self._lines:
            line.close()  # which ends the process
        for process in self._processes:
            process.join(LONGEST_S)

    def _answers(self, seconds: float = 0.0) -> list[Any]:
        found = []
        for line in self._lines:
            try:
                fault, answer = line.recv() if line.poll(LONGEST_S + seconds) else ("it does not answer", None)
            except (EOFError, OSError):
                fault, answer = "it has ended", None
            if fault:
                raise click.ClickException(f"a process of the layout processes: {fault}")
            found.append(answer)
        return found


class Together:
    """All cores decode a batch, then one run uses all; with `ahead`, the next batch is decoded during the run."""

    def __init__(self, model: Model, photos: Sequence[bytes], cpus: int, ahead: bool) -> None:
        self._model, self._photos, self._cpus, self._ahead = model, photos, cpus, ahead
        self._pool = ThreadPoolExecutor(cpus)

    def measure(self, task: Task) -> Found:
        """As `Layout` has it."""
        answers: dict[int, Answer] = {}
        rooms = [self._model.room(task.batch) for _ in range(2)]
        chosen: list[list[int]] = [[], []]

        def decode(done: int) -> list[Future[None]]:
            place = done // task.batch % 2
            chosen[place] = turn(done, task.batch, len(self._photos))
            return self._decode(rooms[place], chosen[place], task.decoding)

        def classify(done: int) -> None:
            place = done // task.batch % 2
            answers.update(zip(chosen[place], self._model.run(rooms[place]), strict=True))

        def step(done: int) -> None:
            # Ahead, the batch of this step was decoded in the step before; a step decodes and classifies one batch either way.
            work = decode(done + task.batch) if self._ahead and task.part == "all" else []
            if task.part == "decode" or (task.part == "all" and not self._ahead):
                _finish(decode(done))
            if task.part != "decode":
                classify(done)
            _finish(work)

        for done in (task.batch, 0):
            _finish(decode(done))
            if task.part != "decode":
                classify(done)
        return Found(repeat(step, task, len(self._photos)), answers)

    def close(self) -> None:
        """As `Layout` has it."""
        self._pool.shutdown()

    def _decode(self, room: NDArray[Any], chosen: Sequence[int], decoding: str) -> list[Future[None]]:
        rows: Iterator[tuple[NDArray[Any], int]] = zip(room, chosen, strict=True)
        take = iter(list(rows))  # whoever is free takes the next: photos differ in size

        def some() -> None:
            for row, photo in take:
                self._model.fill(row, self._photos[photo], decoding)

        return [self._pool.submit(some) for _ in range(self._cpus)]


def turn(first: int, batch: int, photos: int) -> list[int]:
    """Numbers of the photos of one batch: in turn, from the first one again behind the last."""
    return [number % photos for number in range(first, first + batch)]


def repeat(step: Callable[[int], None], task: Task, least: int) -> float:
    """Photos a second of a step, which gets the number of photos done before it and does a batch."""
    done, start = 0, time.perf_counter()
    while True:
        step(done)
        done += task.batch
        taken = time.perf_counter() - start
        if taken >= task.seconds and done >= least:
            return done / taken


def _sum(found: Sequence[Found]) -> Found:
    """Rates of workers that ran beside each other, and their answers."""
    answers = {photo: answer for each in found for photo, answer in each.answers.items()}
    return Found(sum(each.images_per_s for each in found), answers)


def _finish(work: Sequence[Future[None]]) -> None:
    wait(work)
    for each in work:
        each.result()


def _child(line: Connection, file: Path, photos: Sequence[bytes], place: int, workers: int, engine: Engine | None) -> None:
    """A process of `Processes`: answers each order with a fault or None, and what was found."""
    try:
        worker = Worker(Model(file, 1, False, engine), photos, place, workers)
        line.send((None, None))
        while True:
            order, task = line.recv()
            line.send((None, getattr(worker, order)(task)))
    except (EOFError, KeyboardInterrupt):  # the other end is closed: done
        return
    except Exception as error:
        with suppress(OSError):
            line.send((f"{type(error).__name__}: {error}", None))
