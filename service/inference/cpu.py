"""ONNX Runtime's own CPU provider: one session for this process's share of the CPUs, another for all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import onnxruntime

from service import logs
from service.inference import prepack_cache, session
from service.inference.session import CPU_PROVIDER, Opening, Pixels, Run, Session
from service.modelfile import ModelFile
from service.problems import StartError

log = logs.get(__name__)

NAME = "cpu"

# Where packed weights can't be kept on disk, each int8 session packs its own: without, int8 takes several times as long. fp32
# goes without: 2 to 4 pictures take 1.3 times as long, 16 as long, and all processes share the model's file.
PACKS_ITSELF = frozenset({"int8"})

# A first region that is enough for AlexNet (24 MB at a cap of 16), then of twice the size; ONNX Runtime's list of what is where
# takes a 32nd of it at once. A free piece is cut to what is asked for.
NEXT_POWER_OF_TWO = 0
ARENA = {"arena_extend_strategy": NEXT_POWER_OF_TWO, "initial_chunk_size_bytes": 2**25, "max_dead_bytes_per_chunk": 2**16}


def missing() -> str:
    """Nothing, ever."""
    return ""


def declines(model: ModelFile) -> str:
    """It runs everything."""
    return ""


def open_model(model: ModelFile, opening: Opening) -> CpuSession:
    """Open a model on the CPU.

    Raises:
        StartError: ONNX Runtime refuses it.
    """
    return CpuSession(model, opening)


class CpuSession(Session):
    """Two sessions that share one arena and, where they are packed, one file of weights."""

    provider = NAME

    def __init__(self, model: ModelFile, opening: Opening) -> None:
        super().__init__(model, model.recipe.precision)
        self._model, self._opening = model, opening
        self._packed = prepack_cache.find(model, opening.cache)
        with opening.on_own_cpus():
            self._narrow = self._open_packed(opening.threads)
        self._wide = self._narrow  # until `widen`
        self._input = self._narrow.get_inputs()[0].name

    @property
    def weights(self) -> str:
        """Where they are, in words."""
        return self._packed.reason

    @property
    def cached(self) -> bool:
        """It maps packed weights."""
        return self._packed.path is not None

    def run(self, pixels: Pixels, alone: bool = False) -> Any:
        """As `Session.run`."""
        return (self._wide if alone else self._narrow).run(None, {self._input: pixels})[0]

    def widen(self, prove: Callable[[Run], None]) -> None:
        """Make a second session with more threads, as one session can't use more threads for one run than for another."""
        if self._opening.alone_threads > self._opening.threads:
            wide = self._open(self._opening.alone_threads)
            prove(lambda pixels: wide.run(None, {self._input: pixels})[0])
            self._wide = wide

    def forget_cache(self) -> None:
        """Remove the packed weights."""
        if self._packed.path:
            prepack_cache.forget(self._packed.path)
            self._packed = prepack_cache.Found(None, "their packed form was damaged")

    def _open_packed(self, threads: int) -> onnxruntime.InferenceSession:
        """Of the packed form; of the model itself where there is none, or it is damaged."""
        if self.cached:
            try:
                return self._open(threads)
            except StartError as error:
                log.warning("packed_weights_damaged", reason=str(error))
                self.forget_cache()
        return self._open(threads)

    def _open(self, threads: int) -> onnxruntime.InferenceSession:
        options = session.options(threads)
        packs = self.cached or self.precision in PACKS_ITSELF
        options.add_session_config_entry("session.disable_prepacking", "0" if packs else "1")
        options.enable_mem_pattern = False  # a block for each batch size seen: no quicker, and 23 MB more for AlexNet
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        return session.create(self._model, options, [CPU_PROVIDER], self._packed.path)


@functools.cache
def _share_arena() -> None:
    """One arena for all sessions of this process: a model's two sessions take turns in it.

    In large regions of address space, of which memory is taken as it is touched: what a layer gives back and what its neighbours
    gave back are one piece for the next. With a region for each request that has no room, they never are.
    """
    place = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg(ARENA))
