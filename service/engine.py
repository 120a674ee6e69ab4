"""ONNX Runtime behind one call: pixels in, probabilities out; on the provider that was asked for, with threads as planned.

Make an engine in the process that runs it, never before a fork: a session's threads don't survive one.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service import board, cuda, logs, packed
from service.examples import BATCH_TOLERANCE, GOLDEN_TOLERANCE, answers_of, pixels_of
from service.modelfile import WAY_OUT, ModelFile
from service.planning import LONE_BATCH
from service.problems import StartError
from service.recipe import Golden

log = logs.get(__name__)

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

# Whose weights each session orders for itself where their packed form can't be kept on disk (`packed`). int8 takes several times
# as long without. fp32 without: 2 to 4 pictures take 1.3 times as long, 8 and 16 1.1 times, and all processes share the model's
# file (docs/performance.md, Memory and start).
PREPACKED = frozenset({"int8"})

# A first region that is enough for AlexNet (24 MB at a cap of 16), then of twice the size; ONNX Runtime's list of what is where
# takes a 32nd of it at once. A free piece is cut to what is asked for.
NEXT_POWER_OF_TWO = 0
ARENA = {"arena_extend_strategy": NEXT_POWER_OF_TWO, "initial_chunk_size_bytes": 2**25, "max_dead_bytes_per_chunk": 2**16}


class EngineFault(Exception):
    """The engine broke its contract: no answer, the wrong number of rows, or numbers that are no probabilities."""


class Engine:
    """One model in one ONNX Runtime session.

    `run` may be called from any thread; one call at a time uses the planned threads best.

    Attributes:
        model: what it runs.
        provider: cpu or cuda: what the session really runs on.
        reason: why that one, in words.
        alone_s: seconds of a single picture, the quickest run of the proof.
    """

    alone_s = 0.0

    def __init__(
        self, model: ModelFile, provider: str = "auto", threads: int = 1, kept: Path | None = None,
    ) -> None:
        """Make the session.

        Args:
            model: opened and checked.
            provider: cpu, cuda or auto.
            threads: of one run.
            kept: folder of packed weights; without one each session orders its own.
        Raises:
            StartError: the provider can't be had, ONNX Runtime refuses the model, or it isn't as decision 1 has it.
        """
        self.model = model
        self._kept = kept
        self._turn = threading.Lock()  # two runs at once, as while `widen` proves its session, need the arena twice, for good
        self._packed: packed.Found | None = None  # only CPUs have any
        self._threads = threads
        self._session, self.provider, self.reason = self._open(provider, threads)
        self._wide = self._session  # on all processors, once there is one (`widen`)
        self._input = _check(model, self._session)
        size = model.recipe.input
        self._shape = (size.height, size.width, 3)
        self._runner = cuda.Runner(self._session, self._shape, len(model.labels)) if self.provider == "cuda" else None
        self._ran: set[int] = set()  # batch sizes

    @property
    def weights(self) -> str:
        """Where they are, in words."""
        return self._packed.reason if self._packed else "on the device"

    @property
    def packed(self) -> bool:
        """It runs on the packed form of the model, not on the model's own file."""
        return self._packed is not None and self._packed.path is not None

    def forget_packed(self) -> None:
        """Remove the packed form; the next start makes it anew."""
        if self._packed and self._packed.path:
            packed.forget(self._packed.path)
            self._packed = packed.Found(None, "their packed form was damaged")

    def widen(self, threads: int) -> None:
        """Make and prove a second session of more threads, for runs for which all processors are free; on CPUs.

        One session can't use more threads for one run than for another. `run` uses it from the moment when it is proven.

        Raises:
            StartError, EngineFault: as `prove`; all goes on without.
        """
        if threads > self._threads and self.provider == "cpu":
            wide = _session(self.model, [CPU], threads, self._packed)
            self._prove(self.model.golden, LONE_BATCH, wide, "cpu, on all processors")
            self._wide = wide

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
        return self._run(pixels, self._wide if alone else self._session)

    def _run(self, pixels: NDArray[np.uint8], session: Any) -> NDArray[np.float32]:
        try:
            # (N, height, width, 3) uint8 → (N, classes) float32
            with self._turn:
                found = self._runner.run(pixels) if self._runner else session.run(None, {self._input: pixels})[0]
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

        On CPUs that is the smallest batch, which touches all weights, and the largest, which fetches all memory: no size
        in between has an excess in its first run. A size that has run already is left out.

        Raises:
            EngineFault: as `run`.
        """
        if self._runner:
            try:
                self._runner.warm(cap)
            except Exception as error:  # as in `run`
                raise EngineFault(f"engine failed on batches of up to {cap}: {error}") from error
            return
        for count in {1, cap} - self._ran:
            self.run(np.zeros((count, *self._shape), np.uint8))

    def prove(self, golden: Sequence[Golden] | None = None, company: int = 0) -> float:
        """Ask for the golden examples, alone and in company, and compare.

        Args:
            golden: the model's own unless given.
            company: pictures in a batch, such as the cap; never fewer than each example twice.
        Returns:
            The largest difference of a probability from the recorded one.
        Raises:
            StartError: this machine doesn't reproduce them, or a picture's answer depends on its company.
            EngineFault: as `run`.
        """
        examples = self.model.golden if golden is None else golden
        worst, self.alone_s = self._prove(examples, company, self._session, self.provider)
        return worst

    def _prove(
        self, examples: Sequence[Golden], company: int, session: Any, where: str,
    ) -> tuple[float, float]:
        """As `prove`, with one of the two sessions; and the seconds of the quickest single picture."""
        recipe, rows, seconds = self.model.recipe, [], []
        pixels = pixels_of(recipe, examples)
        expected = answers_of(examples)
        for row in pixels:
            start = time.monotonic()
            rows.append(self._run(row[None], session))
            seconds.append(time.monotonic() - start)
        alone = np.concatenate(rows)
        worst = float(np.abs(alone - expected).max())
        allowed = GOLDEN_TOLERANCE[recipe.precision]
        if not worst <= allowed:
            row, column = np.unravel_index(np.abs(alone - expected).argmax(), alone.shape)
            raise StartError(
                f"{self.model.path}: golden picture {row} gives {alone[row, column]:.6f} for class {column} on {where}; "
                f"expected {expected[row, column]:.6f} within {allowed:.0e}")
        order = [*range(len(pixels)), *reversed(range(len(pixels)))]  # twice, then again until the batch is full
        order = [order[place % len(order)] for place in range(max(company, len(order)))]
        apart = float(np.abs(self._run(pixels[order], session) - alone[order]).max())
        if not apart <= (allowed := BATCH_TOLERANCE[recipe.precision]):
            raise StartError(
                f"{self.model.path}: a picture's probabilities differ by {apart:.1e} between alone and in a batch; "
                f"expected at most {allowed:.0e} (is it quantised with ranges taken over the whole batch?)")
        return worst, min(seconds)

    def _open(self, wanted: str, threads: int) -> tuple[onnxruntime.InferenceSession, str, str]:
        """A session, the provider that it really has, and the reason."""
        lacking = _lacking_cuda() if wanted in ("cuda", "auto") else ""
        if wanted == "cuda" and lacking:
            raise StartError(f'QUADRANT_PROVIDER is "cuda", but {lacking}')
        if wanted == "cpu" or lacking:
            return self._on_cpu(threads), "cpu", "set by QUADRANT_PROVIDER" if wanted == "cpu" else f"auto: {lacking}"
        # Asked for CUDA, ONNX Runtime falls back to the CPU and tells nobody (onnxruntime#23372): look at what was made.
        problem = "the session came up without it (its log names the library that is missing)"
        try:
            session = _session(self.model, [(CUDA, cuda.options()), CPU], threads)
            if session.get_providers()[0] == CUDA:
                return session, "cuda", "set by QUADRANT_PROVIDER" if wanted == "cuda" else "auto: CUDA works"
        except StartError as error:
            problem = str(error)
        if wanted == "cuda":
            raise StartError(f'QUADRANT_PROVIDER is "cuda", but CUDA does not work here: {problem}')
        return self._on_cpu(threads), "cpu", f"auto: CUDA does not work here: {problem}"

    def _on_cpu(self, threads: int) -> onnxruntime.InferenceSession:
        """A session of the packed form; of the model itself where there is none."""
        self._packed = self._packed or packed.find(self.model, self._kept)
        if self._packed.path:
            try:
                return _session(self.model, [CPU], threads, self._packed)
            except StartError as error:
                log.warning("packed_weights_damaged", reason=str(error))
                self.forget_packed()
        return _session(self.model, [CPU], threads)


def _lacking_cuda() -> str:
    """What is missing for CUDA before a session is even tried; empty when nothing is."""
    if CUDA not in onnxruntime.get_available_providers():
        return "this onnxruntime is built without CUDA: install onnxruntime-gpu in its place"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's and cuDNN's libraries where pip has put them
    return ""


def _session(
    model: ModelFile, providers: list[Any], threads: int, kept: packed.Found | None = None,
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Left to itself, ONNX Runtime counts the host's cores, not the container's (onnxruntime#29510).
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would take the cores that decoding needs beside them (rf-detr#1456).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    packed_graph = kept.path if kept else None
    orders = packed_graph or model.recipe.precision in PREPACKED
    options.add_session_config_entry("session.disable_prepacking", "0" if orders else "1")
    if providers == [CPU]:
        options.enable_mem_pattern = False  # a block for each batch size seen: no quicker, and 23 MB more for AlexNet
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = 3  # errors; what matters of the rest is said by the service itself
    model.require_unchanged()
    path = packed_graph or model.path
    try:
        # By its path: ONNX Runtime maps the file of external weights, so that all processes share one copy of them.
        # One after the other in all processes: each orders the weights, packed ones once more to compare them.
        with board.seat().one_at_a_time():
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the runtime's exceptions have no common ancestor of their own
        raise StartError(f"{path}: ONNX Runtime refuses it: {_first_line(error)}") from error
    model.require_unchanged()  # what it opened in between is what was checked
    return session


@functools.cache
def _share_arena() -> None:
    """One arena for all sessions of this process: a model's two sessions take turns in it.

    In large regions of address space, of which memory is taken as it is touched: what a layer gives back and what its neighbours
    gave back are one piece for the next. With a region for each request that has no room, they never are.
    """
    place = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg(ARENA))


def _check(model: ModelFile, session: onnxruntime.InferenceSession) -> str:
    """Hold inputs and outputs against decision 1; the input's name.

    Raises:
        StartError: they are different.
    """
    size, classes = model.recipe.input, len(model.labels)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise StartError(f"{model.path} has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each: {WAY_OUT}")
    (given,), (answer,) = inputs, outputs
    sides = [size.height, size.width, 3]
    if given.type != "tensor(uint8)" or list(given.shape[1:]) != sides or isinstance(given.shape[0], int):
        raise StartError(
            f'{model.path}: input "{given.name}" is {_shown(given)}; '
            f"expected uint8 (batch, {size.height}, {size.width}, 3): {WAY_OUT}")
    if answer.type != "tensor(float)" or len(answer.shape) != 2 or answer.shape[1] not in (classes, None):
        raise StartError(
            f'{model.path}: output "{answer.name}" is {_shown(answer)}; '
            f"expected float32 (batch, {classes}), as there are {classes} labels: {WAY_OUT}")
    name: str = given.name
    return name


def _shown(tensor: Any) -> str:
    kind = tensor.type.removeprefix("tensor(").removesuffix(")")
    return f"{ {'float': 'float32'}.get(kind, kind)} ({', '.join(map(str, tensor.shape))})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
