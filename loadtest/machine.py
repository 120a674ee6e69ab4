"""A model, photos and cores, ready for each of the layouts; and what a photo costs alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from loadtest.engines import Engine, Offer, offer
from loadtest.inprocess import Model
from loadtest.layouts import Found, Layout, Processes, Task, Threads, Together


class Machine:
    """All layouts for one model and these photos, each made when it is first asked for."""

    def __init__(self, file: Path, photos: Sequence[bytes], cpus: int) -> None:
        self._file, self._photos, self._cpus = file, photos, cpus
        self._models: dict[tuple[Engine | None, int, bool, int], Model] = {}
        self._layouts: dict[tuple[str, Engine, bool], Layout] = {}

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        for layout in self._layouts.values():
            layout.close()

    def model(self, engine: Engine | None = None, threads: int = 1, spinning: bool = False, at_once: int = 1) -> Model:
        """A session that has so many threads a run and so many runs at once; by the CPU provider unless an engine is named."""
        # The CPU provider runs as many at once as are called.
        key = (None, threads, spinning, 1) if engine is None or engine.provider == "cpu" else (engine, threads, False, at_once)
        if key not in self._models:
            self._models[key] = Model(self._file, threads, spinning, engine, at_once)
        return self._models[key]

    def offer(self) -> Offer:
        """What the model's recipe allows it to run in here."""
        recipe = self.model().recipe
        return offer(recipe.precision, recipe.gates)

    def measure(self, layout: str, engine: Engine, spinning: bool, task: Task) -> Found:
        """Photos a second of a layout, and its answers.

        Raises:
            ClickException: a process fails.
        """
        key = (layout, engine, spinning)
        if key not in self._layouts:
            self._layouts[key] = self._layout(*key)
        return self._layouts[key].measure(task)

    def reference(self, engine: Engine, decoding: str) -> NDArray[np.float32]:
        """Each photo alone, on one thread: (photos, classes) probabilities.

        Raises:
            ClickException: a photo can't be decoded.
        """
        model, found = self.model(engine), []
        room = model.room(1)
        for number, photo in enumerate(self._photos):
            try:
                model.fill(room[0], photo, decoding)
            except OSError as error:
                raise click.ClickException(f"photo {number + 1} of {len(self._photos)} can't be decoded: {error}") from error
            found.append(model.probabilities(room)[0].copy())
        return np.stack(found)

    def one_picture_ms(self, engine: Engine, spinning: bool, seconds: float) -> float:
        """Median of one photo alone: decoded exactly, then run with the threads of all cores."""
        model, taken = self.model(engine, self._cpus, spinning), list[float]()
        room, end = model.room(1), time.perf_counter() + seconds
        while len(taken) <= len(self._photos) or time.perf_counter() < end:
            start = time.perf_counter()
            model.fill(room[0], self._photos[len(taken) % len(self._photos)], "exact")
            model.run(room)
            taken.append(time.perf_counter() - start)
        return 1000 * statistics.median(taken[1:])  # the first one warms

    def _layout(self, layout: str, engine: Engine, spinning: bool) -> Layout:
        if layout == "processes":
            return Processes(self._file, self._photos, self._cpus, engine)
        if layout == "threads":
            return Threads(self.model(engine, at_once=self._cpus), self._photos, self._cpus)
        return Together(self.model(engine, self._cpus, spinning), self._photos, self._cpus, layout == "ahead")
