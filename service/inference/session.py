"""The interface of a model that one execution provider has opened, and how ONNX Runtime opens it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service import board
from service.modelfile import WAY_OUT, ModelFile
from service.problems import StartError

CPU_PROVIDER = "CPUExecutionProvider"

Pixels = NDArray[np.uint8]  # (N, height, width, 3), RGB
Probabilities = NDArray[np.float32]  # (N, classes)
Run = Callable[[Pixels], Any]


class Opening(NamedTuple):
    """How a model is to be opened.

    Attributes:
        threads: of one run, while the other worker processes are busy.
        alone_threads: of one run, while they are idle.
        cache: folder for what a provider derives from a model; none: nothing is kept.
        on_own_cpus: entered while threads are started that stay on this process's own CPUs.
    """

    threads: int = 1
    alone_threads: int = 0
    cache: Path | None = None
    on_own_cpus: Callable[[], AbstractContextManager[None]] = nullcontext


class Session(ABC):
    """A model that one provider has opened.

    Attributes:
        provider: cpu, openvino or cuda: what it really runs on.
        precision: what it computes in: fp32, bf16, fp16 or int8.
        shape: of a picture: height, width, 3.
    """

    provider: ClassVar[str]

    def __init__(self, model: ModelFile, precision: str) -> None:
        size = model.recipe.input
        self.precision = precision
        self.shape = (size.height, size.width, 3)  # of a picture

    @property
    @abstractmethod
    def weights(self) -> str:
        """Where they are, in words."""

    @property
    def cached(self) -> bool:
        """It was made from a file in the cache folder, not from the model's own."""
        return False

    @abstractmethod
    def run(self, pixels: Pixels, alone: bool = False) -> Any:
        """(N, height, width, 3) uint8 → (N, classes) float32.

        Args:
            alone: every CPU is free for this run.
        Raises:
            Exception: whatever ONNX Runtime raises; its exceptions have no common ancestor.
        """

    def warm(self, cap: int, ran: Container[int]) -> None:
        """Run what has a first time, so that no request pays for it.

        On CPUs that is the smallest batch, which touches all weights, and the largest, which fetches all memory: no size
        in between has an excess in its first run.

        Args:
            cap: the largest batch.
            ran: sizes that have run already.
        Raises:
            Exception: as `run`.
        """
        for count in {1, cap}:
            if count not in ran:
                self.run(np.zeros((count, *self.shape), np.uint8))

    def widen(self, prove: Callable[[Run], None]) -> None:  # noqa: B027 - most need none
        """Prepare runs that may use every CPU, if that needs a session of its own; it is used once `prove` returns."""

    def forget_cache(self) -> None:  # noqa: B027 - most keep none
        """Remove what the cache folder holds of this model; the next start makes it again."""


class Provider(Protocol):
    """One execution provider; a module of this package."""

    NAME: str  # as in QUADRANT_PROVIDER

    def missing(self) -> str:
        """What this machine lacks for it, in one line; empty if nothing is known to be missing."""

    def declines(self, model: ModelFile) -> str:
        """Why `auto` doesn't choose it for this model on this processor; empty if it does."""

    def open_model(self, model: ModelFile, opening: Opening) -> Session:
        """Open the model.

        Raises:
            StartError: it can't, in one line.
        """


def options(threads: int) -> onnxruntime.SessionOptions:
    """Session options that hold for every provider."""
    found = onnxruntime.SessionOptions()
    # Left to itself, ONNX Runtime counts the host's cores, not the container's (onnxruntime#29510).
    found.intra_op_num_threads = threads
    found.inter_op_num_threads = 1
    # Spinning threads would take the cores that decoding needs beside them (rf-detr#1456).
    found.add_session_config_entry("session.intra_op.allow_spinning", "0")
    found.add_session_config_entry("session.inter_op.allow_spinning", "0")
    found.log_severity_level = 3  # errors; what matters of the rest is said by the service itself
    return found


def create(
    model: ModelFile, settings: onnxruntime.SessionOptions, providers: list[Any] | None = None, path: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Make a session, one at a time in all worker processes, since each needs much memory for a moment.

    Args:
        model: opened and checked.
        providers: as ONNX Runtime takes them; none: those in the settings.
        path: of a file to load in place of the model's own.
    Raises:
        StartError: ONNX Runtime refuses it, the files changed meanwhile, or its inputs and outputs aren't as decision 1 has them.
    """
    model.require_unchanged()
    path = path or model.path
    try:
        # By its path: ONNX Runtime maps the file of external weights, so that all processes share one copy of them.
        with board.seat().one_at_a_time():
            session = onnxruntime.InferenceSession(str(path), settings, **({"providers": providers} if providers else {}))
    except Exception as error:  # the runtime's exceptions have no common ancestor of their own
        raise StartError(f"{path}: ONNX Runtime refuses it: {first_line(error)}") from error
    model.require_unchanged()  # what it opened in between is what was checked
    _check(model, session)
    return session


def first_line(error: Exception) -> str:
    """Of an error's message; its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check(model: ModelFile, session: onnxruntime.InferenceSession) -> None:
    """Hold inputs and outputs against decision 1.

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


def _shown(tensor: Any) -> str:
    kind = tensor.type.removeprefix("tensor(").removesuffix(")")
    return f"{ {'float': 'float32'}.get(kind, kind)} ({', '.join(map(str, tensor.shape))})"
