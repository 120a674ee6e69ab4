"""A network behind one call: pixels in, probabilities out, checked and proven, on the provider that was asked for.

Make an engine in the process that runs it, never before a fork: a session's threads don't survive one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.examples import BATCH_TOLERANCE, GOLDEN_TOLERANCE, answers_of, pixels_of
from service.inference import selection
from service.inference.session import Opening, Pixels, Run
from service.modelfile import ModelFile
from service.problems import StartError
from service.recipe import Golden

ON_ONE_THREAD = Opening()


class EngineFault(Exception):
    """The engine broke its contract: no answer, the wrong number of rows, or numbers that are no probabilities."""


class Engine:
    """One model on one execution provider.

    `run` may be called from any thread; one call at a time uses the planned threads best.

    Attributes:
        model: what it runs.
        session: what the provider made of it.
        reason: why that provider, in words.
        alone_s: seconds of a single picture, the quickest run of the proof.
    """

    alone_s = 0.0

    def __init__(self, model: ModelFile, provider: str = "auto", opening: Opening = ON_ONE_THREAD) -> None:
        """Open the model.

        Args:
            model: opened and checked.
            provider: auto, cpu, openvino or cuda.
            opening: threads, and where a provider may keep what it derives from the model.
        Raises:
            StartError: the provider can't be had, ONNX Runtime refuses the model, or it isn't as decision 1 has it.
        """
        self.model = model
        self._turn = threading.Lock()  # two runs at once, as while `widen` proves its session, need the arena twice, for good
        self.session, self.reason = selection.open_session(model, provider, opening)
        self._ran: set[int] = set()  # batch sizes

    @property
    def provider(self) -> str:
        """What the session really runs on: cpu, openvino or cuda."""
        return self.session.provider

    @property
    def precision(self) -> str:
        """What it computes in: fp32, bf16, fp16 or int8."""
        return self.session.precision

    def widen(self, company: int) -> None:
        """Let runs for which every CPU is free use them all, where that needs a session of its own; it is proven as the first is.

        Args:
            company: the largest batch of such runs.
        Raises:
            StartError, EngineFault: as `prove`; all goes on without.
        """
        def prove(run: Run) -> None:
            self._prove(self.model.golden, company, run, f"{self.provider}, on all CPUs")

        self.session.widen(prove)

    def run(self, pixels: NDArray[np.uint8], alone: bool = False) -> NDArray[np.float32]:
        """Probabilities of a batch.

        Args:
            pixels: (N, height, width, 3) uint8, RGB, N from 1 up.
            alone: all processors are free for it.
        Returns:
            (N, classes) float32; each row sums to 1.
        Raises:
            EngineFault: the runtime failed, or returned something else.
        """
        return self._run(pixels, lambda batch: self.session.run(batch, alone))

    def _run(self, pixels: Pixels, run: Run) -> NDArray[np.float32]:
        try:
            # (N, height, width, 3) uint8 → (N, classes) float32
            with self._turn:
                found = run(pixels)
        except Exception as error:  # the runtime's exceptions have no common ancestor of their own
            raise EngineFault(f"engine failed on {len(pixels)} pictures: {error}") from error
        probabilities: NDArray[np.float32] = np.asarray(found)
        if probabilities.shape != (len(pixels), len(self.model.labels)):
            raise EngineFault(
                f"engine returned {probabilities.shape} for {len(pixels)} pictures and {len(self.model.labels)} classes")
        if not np.isfinite(probabilities).all():
            raise EngineFault(f"engine returned numbers that are not finite, for {len(pixels)} pictures")
        self._ran.add(len(pixels))
        return probabilities

    def warm(self, cap: int) -> None:
        """Run what has a first time, so that no request pays for it.

        Raises:
            EngineFault: as `run`.
        """
        try:
            with self._turn:
                self.session.warm(cap, self._ran)
        except Exception as error:  # as in `run`
            raise EngineFault(f"engine failed on batches of up to {cap}: {error}") from error

    def prove(self, golden: Sequence[Golden] | None = None, company: int = 0) -> float:
        """Ask for the golden examples, alone and in company, and compare.

        Args:
            golden: the model's own unless given.
            company: pictures in a batch, such as the cap; all examples unless given. Never fewer than two.
        Returns:
            The largest difference of a probability from the recorded one.
        Raises:
            StartError: this machine doesn't reproduce them, or a picture's answer depends on its company.
            EngineFault: as `run`.
        """
        examples = self.model.golden if golden is None else golden
        worst, self.alone_s = self._prove(examples, company, self.session.run, f"{self.provider} in {self.precision}")
        return worst

    def _prove(
        self, examples: Sequence[Golden], company: int, run: Run, where: str,
    ) -> tuple[float, float]:
        """As `prove`, by one way to run; and the seconds of the quickest single picture."""
        recipe, rows, seconds = self.model.recipe, [], []
        pixels = pixels_of(recipe, examples)
        expected = answers_of(examples)
        for row in pixels:
            start = time.monotonic()
            rows.append(self._run(row[None], run))
            seconds.append(time.monotonic() - start)
        alone = np.concatenate(rows)
        worst = float(np.abs(alone - expected).max())
        allowed = GOLDEN_TOLERANCE[self.precision]
        if not worst <= allowed:
            row, column = np.unravel_index(np.abs(alone - expected).argmax(), alone.shape)
            raise StartError(
                f"{self.model.path}: golden picture {row} gives {alone[row, column]:.6f} for class {column} on {where}; "
                f"expected {expected[row, column]:.6f} within {allowed:.0e}")
        order = [*reversed(range(len(pixels)))]  # in other places than alone, then again until the last batch is full
        size = max(company or len(order), 2)
        order = [order[place % len(order)] for place in range(-(-len(order) // size) * size)]
        batches = [order[start:start + size] for start in range(0, len(order), size)]
        apart = max(float(np.abs(self._run(pixels[batch], run) - alone[batch]).max()) for batch in batches)
        if not apart <= (allowed := BATCH_TOLERANCE[self.precision]):
            raise StartError(
                f"{self.model.path}: a picture's probabilities differ by {apart:.1e} between alone and in a batch; "
                f"expected at most {allowed:.0e} (is it quantised with ranges taken over the whole batch?)")
        return worst, min(seconds)
