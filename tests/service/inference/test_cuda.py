"""The runner for a GPU, held to the plain engine on the CPU's provider, which binds buffers in the same way."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import pytest

from service import examples
from service.engine import Engine, EngineFault
from service.inference import cuda
from service.inference.session import CPU_PROVIDER
from service.modelfile import ModelFile
from service.problems import StartError
from tests import models

SHAPE = (models.SIDE, models.SIDE, 3)
CLASSES = len(models.LABELS)


class Watched:
    """A session that remembers how it was asked: batch sizes, options, threads, bindings with the address of their output."""

    def __init__(self, session: Any) -> None:
        self.session, self.sizes, self.options, self.threads, self.bindings = session, [], [], set(), set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run_with_iobinding(self, binding: Any, run_options: Any) -> None:
        self.session.run_with_iobinding(binding, run_options)
        (found,) = binding.get_outputs()
        self.sizes.append(found.shape()[0])
        self.options.append(run_options)
        self.threads.add(threading.get_ident())
        self.bindings.add((binding, found.data_ptr()))


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def plain(tiny_model: ModelFile) -> Engine:
    return Engine(tiny_model, "cpu")


@pytest.fixture
def session(plain: Engine) -> Watched:
    return Watched(plain.session._narrow)


@pytest.fixture
def runner(session: Watched) -> cuda.Runner:
    return cuda.Runner(session, SHAPE, CLASSES, "cpu")


@pytest.mark.parametrize(("cap", "expected"), [
    (1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (16, (1, 2, 4, 8, 16)), (48, (1, 2, 4, 8, 16, 32, 48)),
])
def test_buckets_double_up_to_the_cap(cap, expected):
    """Few shapes for the GPU to meet, and none beyond what was planned."""
    assert cuda.buckets(cap) == expected


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 11, 12, 13, 30])
def test_answers_are_the_plain_engines(plain, runner, count):
    """Whatever is filled up, cut off or run in portions."""
    runner.warm(12)
    found = runner.run(pixels(count))
    assert (found.shape, found.dtype) == ((count, CLASSES), np.float32)
    assert np.abs(found - plain.run(pixels(count))).max() <= examples.BATCH_TOLERANCE["fp32"]
    assert np.abs(found - models.expected(pixels(count))).max() < 1e-6


def test_the_device_sees_buckets_only(session, runner):
    """Each new shape would cost it a search and memory for good."""
    runner.warm(12)
    assert session.sizes == [1, 2, 4, 8, 12]
    session.sizes.clear()
    for count in range(1, 26):
        runner.run(pixels(count))
    assert set(session.sizes) == {1, 2, 4, 8, 12}
    assert session.sizes[:5] == [1, 2, 4, 4, 8]
    assert session.sizes[-3:] == [12, 12, 1]


def test_a_smaller_cap_lowers_nothing(session, runner):
    """The loader times one picture after it has warmed all."""
    runner.warm(6)
    runner.warm(1)
    session.sizes.clear()
    runner.run(pixels(5))
    assert session.sizes == [6]


def test_buffers_stay_where_they_are(session, runner):
    """A recorded graph holds their addresses; and memory that isn't asked for anew can't run out."""
    runner.warm(4)
    for _ in range(3):
        for count in (1, 2, 3, 4):
            runner.run(pixels(count))
    assert len(session.bindings) == len(cuda.buckets(4))


def test_what_was_in_a_buffer_before_shows_in_no_answer(runner):
    """Rows behind a small batch keep older pictures."""
    runner.warm(8)
    for count, seed in ((8, 1), (5, 2), (6, 3), (1, 4), (7, 5)):
        assert np.abs(runner.run(pixels(count, seed)) - models.expected(pixels(count, seed))).max() < 1e-6


def test_an_answer_belongs_to_its_caller(runner):
    """The next batch writes into the same buffer."""
    first = runner.run(pixels(3, 1))
    kept = first.copy()
    runner.run(pixels(3, 2))
    assert (first == kept).all()


def test_pixels_that_lie_apart_are_taken_too(runner):
    """Slices of a larger array, as callers cut them."""
    wide = pixels(8)
    assert np.abs(runner.run(wide[::2]) - models.expected(wide[::2])).max() < 1e-6


@pytest.mark.parametrize("graphs", [False, True])
def test_callers_from_many_threads_get_their_own_answers(session, graphs):
    """They share the buffers."""
    runner = cuda.Runner(session, SHAPE, CLASSES, "cpu", graphs)
    runner.warm(4)

    def differs(seed: int) -> float:
        batch = pixels(1 + seed % 4, seed)
        return float(np.abs(runner.run(batch) - models.expected(batch)).max())

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(differs, range(64))) < 1e-6


def test_graphs_are_one_a_bucket_and_of_one_thread(session):
    """ONNX Runtime replays by the id alone: another bucket's graph would read another bucket's pictures."""
    runner = cuda.Runner(session, SHAPE, CLASSES, "cpu", graphs=True)
    runner.warm(6)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(runner.run, [pixels(count) for count in (1, 2, 3, 4, 5, 6)]))
    assert [each.get_run_config_entry("gpu_graph_id") for each in session.options] == [str(size) for size in session.sizes]
    assert set(session.sizes) == {1, 2, 4, 6}
    assert len(session.threads) == 1


def test_a_failure_reaches_the_caller_and_the_next_one_is_served(session, runner, monkeypatch):
    """Out of memory for one batch must not lock the device for good."""
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(session, "run_with_iobinding", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            runner.run(pixels(2))
    assert np.abs(runner.run(pixels(2)) - models.expected(pixels(2))).max() < 1e-6


@pytest.mark.parametrize("wrong", [
    pytest.param(np.zeros((2, 9, 9, 3), np.uint8), id="size"),
    pytest.param(np.zeros((2, *SHAPE), np.float32), id="type"),
    pytest.param(np.zeros((0, *SHAPE), np.uint8), id="none"),
])
def test_other_pixels_are_refused(runner, wrong):
    """NumPy would fit some of them into the buffer, silently."""
    with pytest.raises(ValueError, match=r"expected uint8 \(N, 8, 8, 3\)"):
        runner.run(wrong)


@pytest.mark.parametrize("graphs", [False, True])
def test_options_keep_the_rule_and_the_memory(graphs):
    """TF32 breaks the tolerance, and doubling arenas crowd out the other processes on the GPU."""
    assert cuda.options(graphs) == {
        "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1" if graphs else "0",
    }


@pytest.fixture
def on_cuda(tiny_model, session, monkeypatch):
    """Makes an engine that believes itself on a GPU, its buffers on this device."""
    def make(device: str) -> Engine:
        monkeypatch.setattr(session, "get_providers", lambda: [cuda.PROVIDER, CPU_PROVIDER], raising=False)
        monkeypatch.setattr(cuda, "missing", lambda: "")
        monkeypatch.setattr(cuda.session, "create", lambda *_: session)
        monkeypatch.setattr(cuda, "Runner", functools.partial(cuda.Runner, device=device))
        return Engine(tiny_model, "cuda")

    return make


def test_an_engine_on_cuda_runs_in_buckets(on_cuda, session):
    """Proven and warmed by the same way as it answers."""
    found = on_cuda("cpu")
    assert found.prove() <= examples.GOLDEN_TOLERANCE["fp32"]
    session.sizes.clear()
    found.warm(6)
    assert session.sizes == [1, 2, 4, 6]
    assert np.abs(found.run(pixels(5)) - models.expected(pixels(5))).max() < 1e-6
    assert session.sizes[-1] == 6


def test_a_device_that_gives_no_memory_is_the_engines_fault(on_cuda):
    """Not a traceback: the batch's callers hear of it, and at the start it is one line."""
    with pytest.raises(EngineFault, match="engine failed on 2 pictures"):
        on_cuda("cuda").run(pixels(2))


def test_cuda_without_cuda_ends_the_start(tiny_model, monkeypatch):
    """In one line that says what is missing."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU_PROVIDER])
    with pytest.raises(StartError, match='QUADRANT_PROVIDER is "cuda", but this onnxruntime is built without CUDA'):
        Engine(tiny_model, "cuda")


def test_a_session_that_silently_fell_back_is_noticed(tiny_model, monkeypatch):
    """Asked for CUDA, ran on the CPU, nobody told: look at the session, never at the wheel's list."""
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(cuda, "missing", lambda: "")
    monkeypatch.setattr(onnxruntime, "InferenceSession",
                        lambda source, options, providers: real(source, options, providers=[CPU_PROVIDER]))
    with pytest.raises(StartError, match="CUDA does not work here: the session came up without it"):
        Engine(tiny_model, "cuda")
    fallen = Engine(tiny_model, "auto")
    assert fallen.provider == "cpu"
    assert "not cuda, since CUDA does not work here" in fallen.reason


def test_a_missing_driver_is_named(tiny_model, monkeypatch):
    """The CUDA image on a machine without a GPU, or without the container's runtime for one."""
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cuda.PROVIDER, CPU_PROVIDER])
    monkeypatch.setattr(cuda.ctypes, "CDLL", absent)
    with pytest.raises(StartError, match=r"no NVIDIA driver \(libcuda\.so\.1\)"):
        Engine(tiny_model, "cuda")
    assert "not cuda, since there is no NVIDIA driver (libcuda.so.1)" in Engine(tiny_model, "auto").reason
