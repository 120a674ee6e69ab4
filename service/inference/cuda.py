"""ONNX Runtime on an NVIDIA GPU: its options, and a runner that asks in few batch sizes, from buffers that stay where they are.

Each shape that a GPU meets for the first time costs it the choice of its algorithms and memory that is never given back.
So a batch is filled up to the next of a few sizes, and each of these has its buffers on the device.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.inference import session
from service.inference.session import CPU_PROVIDER, Opening, Pixels, Session
from service.modelfile import ModelFile
from service.problems import StartError

NAME = "cuda"
PROVIDER = "CUDAExecutionProvider"
CAP = 64  # pictures in a batch, until `warm` says what is planned

# Record each bucket's work once and replay it whole: saves the launches, which count in small batches of small networks.
# Off, as nobody has measured it here yet (docs/performance.md, CUDA); and with it ONNX Runtime refuses any model of which a
# single node runs on the CPU.
GRAPHS = False


def missing() -> str:
    """What is missing for CUDA before a session is even tried."""
    if PROVIDER not in onnxruntime.get_available_providers():
        return "this onnxruntime is built without CUDA: install onnxruntime-gpu in its place"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's and cuDNN's libraries where pip has put them
    return ""


def declines(model: ModelFile) -> str:
    """A GPU that works is always taken."""
    return ""


def open_model(model: ModelFile, opening: Opening) -> CudaSession:
    """Open a model on the GPU.

    Raises:
        StartError: CUDA doesn't work here, or ONNX Runtime refuses the model.
    """
    return CudaSession(model, opening)


class CudaSession(Session):
    """A session whose batches run in buffers that stay on the device."""

    provider = NAME

    def __init__(self, model: ModelFile, opening: Opening) -> None:
        super().__init__(model, model.recipe.precision)
        settings = session.options(opening.threads)
        try:
            found = session.create(model, settings, [(PROVIDER, options()), CPU_PROVIDER])
        except StartError as error:
            raise StartError(f"CUDA does not work here: {error}") from error
        # Asked for CUDA, ONNX Runtime falls back to the CPU and tells nobody (onnxruntime#23372): look at what was made.
        if found.get_providers()[0] != PROVIDER:
            raise StartError("CUDA does not work here: the session came up without it (its log names the missing library)")
        self._runner = Runner(found, self.shape, len(model.labels))

    @property
    def weights(self) -> str:
        """Where they are, in words."""
        return "on the device"

    def run(self, pixels: Pixels, alone: bool = False) -> NDArray[np.float32]:
        """As `Session.run`."""
        return self._runner.run(pixels)

    def warm(self, cap: int, ran: Container[int]) -> None:
        """Run every bucket: each has its buffers, and its algorithms are chosen at its first run."""
        self._runner.warm(cap)


def options(graphs: bool = GRAPHS) -> dict[str, str]:
    """What ONNX Runtime's CUDA provider is told.

    Args:
        graphs: record and replay; the session must then be run by a `Runner` with graphs, and by no one else.
    """
    return {
        # TF32 would round what goes into products to 10 bits: 1e-3, far beyond the rule (docs/decisions.md, 6).
        "use_tf32": "0",
        # An exhaustive search (the default) would be repeated for each bucket at each start, and may choose otherwise each time.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default doubles what it holds; several processes and models share one GPU. There is no gpu_mem_limit: what a
        # model needs isn't known beforehand, and a limit would end requests where the GPU has room.
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1" if graphs else "0",
    }


def buckets(cap: int) -> tuple[int, ...]:
    """The batch sizes that the GPU sees: 1, 2, 4, … and the cap itself. Filling up costs less than half of a batch."""
    return (*(2**power for power in range((cap - 1).bit_length())), cap)


@functools.cache
def _only_thread() -> ThreadPoolExecutor:
    """Where all runners with graphs run: ONNX Runtime keeps graphs by thread, so that what the loading thread recorded would be
    recorded anew by the one that answers; and while one is recorded, CUDA forbids most calls in all threads."""
    return ThreadPoolExecutor(1, "cuda")


class _Slot(NamedTuple):
    """One bucket's buffers; their addresses are for good, as a recorded graph holds them."""

    pixels: Any  # OrtValue on the device: (bucket, height, width, 3) uint8
    probabilities: Any  # OrtValue on the device: (bucket, classes) float32
    binding: Any  # of both to the session
    run_options: Any
    filled: NDArray[np.uint8]  # here: a batch of fewer pictures is written into its first rows


class Runner:
    """Runs a session in buckets.

    `run` may be called from any thread; one call at a time is on the device.

    Attributes:
        cap: most pictures that are run at once; more are run in portions.
    """

    def __init__(
        self, session: Any, shape: tuple[int, int, int], classes: int, device: str = "cuda", graphs: bool | None = None
    ) -> None:
        """Take over a session with one input and one output.

        Args:
            session: an `onnxruntime.InferenceSession`, made with `options(graphs)` where the device is cuda.
            shape: of a picture: height, width, 3.
            device: where the buffers are: cuda, or cpu for a session that runs there.
            graphs: record each bucket and replay it; `GRAPHS` unless given.
        """
        self.cap = CAP
        self._session, self._shape, self._classes, self._device = session, shape, classes, device
        self._input, self._output = session.get_inputs()[0].name, session.get_outputs()[0].name
        self._slots: dict[int, _Slot] = {}
        self._warm = 0  # the largest cap that was warmed
        self._one_at_a_time = threading.Lock()
        self._graphs = GRAPHS if graphs is None else graphs
        self._thread = _only_thread() if self._graphs else None

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities of a batch.

        Args:
            pixels: (N, height, width, 3) uint8, N from 1 up.
        Returns:
            (N, classes) float32, the caller's own.
        Raises:
            ValueError: pixels are of another shape or type.
            Exception: whatever ONNX Runtime raises; its exceptions have no common ancestor.
        """
        if pixels.shape[1:] != self._shape or pixels.dtype != np.uint8 or not len(pixels):
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}; expected uint8 (N, {', '.join(map(str, self._shape))})")
        if self._thread is not None:
            return self._thread.submit(self._portions, pixels).result()
        with self._one_at_a_time:
            return self._portions(pixels)

    def warm(self, cap: int) -> None:
        """Run every bucket up to the cap once: buffers are made, algorithms chosen, graphs recorded.

        A smaller cap than before lowers nothing.

        Raises:
            Exception: as `run`.
        """
        self._warm = self.cap = max(self._warm, cap)
        for size in buckets(cap):
            self.run(np.zeros((size, *self._shape), np.uint8))

    def _portions(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = [self._ask(pixels[start : start + self.cap]) for start in range(0, len(pixels), self.cap)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _ask(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, height, width, 3), N up to the cap → (N, classes)."""
        count = len(pixels)
        size = next(bucket for bucket in buckets(self.cap) if bucket >= count)
        slot = self._slots.get(size) or self._made(size)
        if count < size:
            slot.filled[:count] = pixels  # the rows behind keep older pictures: their answers are cut off
            pixels = slot.filled
        slot.pixels.update_inplace(pixels)
        self._session.run_with_iobinding(slot.binding, slot.run_options)
        # A copy: on the CPU `numpy` shows the buffer itself, which the next batch writes into.
        answers: NDArray[np.float32] = slot.probabilities.numpy()[:count].copy()
        return answers

    def _made(self, size: int) -> _Slot:
        """A bucket's buffers, kept."""
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        pixels = make([size, *self._shape], np.uint8, self._device)
        probabilities = make([size, self._classes], np.float32, self._device)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input, pixels)
        binding.bind_ortvalue_output(self._output, probabilities)
        run_options = onnxruntime.RunOptions()
        if self._graphs:
            run_options.add_run_config_entry("gpu_graph_id", str(size))  # one graph a bucket; -1 would record none
        self._slots[size] = _Slot(pixels, probabilities, binding, run_options, np.zeros((size, *self._shape), np.uint8))
        return self._slots[size]
