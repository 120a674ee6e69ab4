"""One model's engine and batch thread: made before the service is ready, or at the first request.

Either way proven on its golden examples and warm before anyone uses them. A load at the first request runs in a thread of
its own, so that it outlives the request that began it; it takes nothing down when it fails.
"""

from __future__ import annotations

import math
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from service import cache_folder, heap, logs, stages
from service.admission import Admission, Line
from service.batching import Batcher
from service.engine import Engine, EngineFault
from service.inference.session import Opening
from service.intact import Intact
from service.metrics import MODEL_LOAD_SECONDS
from service.modelfile import ModelFile
from service.planning import LONE_BATCH, Plan, batch_cap
from service.problems import ModelNotReady, StartError
from service.settings import Settings

log = logs.get(__name__)

RETRY_S = 30.0  # between two tries to load a model that failed: each costs processor time that others need
CLOSE_S = 10.0  # ONNX Runtime can't be interrupted; a process that ends in the middle of it may crash
ABOUT_TO_STOP = "the service is about to stop"


class State(StrEnum):
    """How far a model is, as `/models` and `/health/ready` say."""

    LOADED = "loaded"
    WAITS = "on first request"
    LOADING = "loading"
    FAILED = "failed"


class Made(NamedTuple):
    """What a loaded model has."""

    engine: Engine
    batcher: Batcher
    intact: Intact | None  # where the session has mapped the weights


class Loader:
    """What the models of one process share while they are loaded.

    One at a time: several at once would take the processor and the memory from those that answer already.

    Attributes:
        admission: the door, with a line for each model.
        turn: held by the one that is loading.
        seats: requests that may wait for a load; the other threads are left to models that are there, and to probes.
        draining, closed: nothing new is begun; everything ends.
    """

    def __init__(self, settings: Settings, planned: Plan) -> None:
        self.admission = Admission(planned)
        self.turn = threading.Lock()
        self.seats = threading.BoundedSemaphore(max(1, planned.request_threads // 2))
        self.draining = self.closed = False
        self._settings, self._planned = settings, planned

    def engine(self, name: str, model: ModelFile, line: Line) -> Engine:
        """Make, prove, warm and time one model's engine.

        Raises:
            StartError: it can't be served as it is, or everything ends meanwhile.
        """
        start, cap = time.monotonic(), batch_cap(self._planned, model.layers)
        stages.mark("fork")
        engine = self._open(model, cache_folder.folder(self._settings.packed_weights))
        stages.mark("session")
        try:
            self._go_on(name)
            try:
                worst = engine.prove(company=cap)  # at the size that will run: it needn't be warmed again
            except (StartError, EngineFault) as error:
                if not engine.session.cached:
                    raise
                cached, engine = engine, self._open(model, None)
                worst = engine.prove(company=cap)  # the model itself may be what is wrong
                cached.session.forget_cache()
                log.warning("packed_weights_damaged", model=name, reason=str(error))
            stages.mark("prove")
            self._go_on(name)
            engine.warm(cap)
            stages.mark("warm")
            line.ran(1, engine.alone_s)  # the first prediction of a wait; a batch's share will be less
        except EngineFault as error:
            raise StartError(f"{model.path}: {error}") from error
        heap.keep_large_out()
        heap.trim()  # what ONNX Runtime needed to read and to order the graph
        log.info("model_loaded", model=name, digest=model.digest, provider=engine.provider,
                 precision=engine.precision, reason=engine.reason, weights=engine.session.weights, batch_cap=cap,
                 golden_difference=worst, seconds=round(time.monotonic() - start, 3))
        return engine

    def _open(self, model: ModelFile, kept: Path | None) -> Engine:
        on_own_cpus = self.admission.turns.processors.inherited  # for as long as the session: a reload is soon over
        opening = Opening(self._planned.engine_threads, self._planned.alone_threads, kept, on_own_cpus)
        return Engine(model, self._settings.provider, opening)

    def widen(self, name: str, engine: Engine) -> threading.Thread | None:
        """Give an engine that answers already its session on all processors, in a thread of its own: nobody waits for that."""
        def run() -> None:
            try:
                if not self.closed:
                    engine.widen(min(LONE_BATCH, batch_cap(self._planned, engine.model.layers)))
                    heap.trim()
            except Exception as error:  # whatever it is: another number of threads is a gain, no more
                log.error("not_on_all_processors", model=name, reason=str(error) or repr(error))

        thread = threading.Thread(target=run, name=f"widens {name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            log.error("not_on_all_processors", model=name, reason=str(error))
            return None
        return thread

    def batcher(self, name: str, engine: Engine, line: Line) -> Batcher:
        """The batch thread of an engine; from now on it can be asked."""
        cap = batch_cap(self._planned, engine.model.layers)
        return Batcher(engine, cap, self._planned.queue_capacity, name, line.ran, self.admission.turns)

    def _go_on(self, name: str) -> None:
        if self.closed:
            raise StartError(f"{name} is being closed")


class Loading:
    """One version of one model on its way from a description to a batch thread.

    `wait` may be called from any thread; the model is loaded once, however many call.

    Attributes:
        name: NAME/VERSION.
    """

    def __init__(self, name: str, model: ModelFile, line: Line, loader: Loader) -> None:
        self.name = name
        self._model, self._line, self._loader = model, line, loader
        self._changed = threading.Condition()
        self._made: Made | None = None
        self._thread: threading.Thread | None = None
        self._widening: threading.Thread | None = None
        self._began = self._failed = -math.inf  # on the clock of `time.monotonic`
        self._reason: str | None = None  # of the last failure

    @property
    def state(self) -> State:
        """How far it is."""
        if self._made is not None:
            return State.LOADED
        if self._thread is not None:
            return State.LOADING
        return State.WAITS if self._reason is None else State.FAILED

    @property
    def reason(self) -> str | None:
        """Why the last try to load it failed; `None` where none did."""
        return None if self._made else self._reason

    @property
    def overwritten(self) -> str | None:
        """How its files were changed under its session; `None` where they weren't. Waits for nothing."""
        return self._made.intact.problem() if self._made is not None and self._made.intact else None

    @property
    def made(self) -> Made:
        """Engine and batch thread; doesn't load them.

        Raises:
            ModelNotReady: there are none.
        """
        if self._made is None:
            raise self._refusal()
        return self._made

    def load(self) -> None:
        """Load it in this thread.

        Raises:
            StartError: it can't be served as it is.
        """
        start, outcome = time.monotonic(), "failed"
        try:
            engine = self._loader.engine(self.name, self._model, self._line)
            with self._changed:
                if self._loader.closed:
                    raise StartError(f"{self.name} is being closed")
                batcher = self._loader.batcher(self.name, engine, self._line)
                mapped = self._model.external and not engine.session.cached
                self._made = Made(engine, batcher, Intact(self._model) if mapped else None)
                self._widening = self._loader.widen(self.name, engine)
            outcome = "ok"
        finally:
            outcome = "given-up" if self._loader.closed else outcome
            MODEL_LOAD_SECONDS.labels(self.name, outcome).observe(time.monotonic() - start)

    def wait(self, deadline: float) -> None:
        """Wait until it is loaded; the first call begins that.

        Args:
            deadline: on the clock of `time.monotonic`; the load goes on beyond it.
        Raises:
            ModelNotReady: not there in time, it can't be loaded, or too many wait for models already.
        """
        if self._made is not None:
            return
        self._begin()
        if not self._loader.seats.acquire(blocking=False):
            raise ModelNotReady(f"{self.name} is not loaded yet, and too many requests wait for models to load",
                                retry_after_s=1, model=self.name, state=self.state)
        try:
            with self._changed:
                left_s = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
                self._changed.wait_for(lambda: self._thread is None or self._loader.closed, left_s)
        finally:
            self._loader.seats.release()
        if self._made is None:
            raise self._refusal()

    def close(self) -> None:
        """Let nobody wait any longer, let a load that is under way come to its end, close the batch thread.

        The loader is marked as closed before.
        """
        with self._changed:
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(CLOSE_S)
            if thread.is_alive():
                log.warning("load_left_behind", model=self.name, waited_s=CLOSE_S)
        if self._made is not None:
            self._made.batcher.close()
        if self._widening is not None:
            self._widening.join(CLOSE_S)
            if self._widening.is_alive():
                log.warning("load_left_behind", model=self.name, waited_s=CLOSE_S)

    def _begin(self) -> None:
        """Start the thread that loads, unless there is one, or there should be none now."""
        with self._changed:
            if self._made is not None or self._thread is not None or self._loader.draining or self._loader.closed:
                return
            if time.monotonic() < self._failed + RETRY_S:
                return
            thread = threading.Thread(target=self._run, name=f"loads {self.name}", daemon=True)
            self._thread, self._began = thread, time.monotonic()
            try:
                thread.start()
            except RuntimeError:  # no more threads
                self._thread = None
                raise
        log.info("model_wanted", model=self.name)  # in the request's thread: carries its id

    def _run(self) -> None:
        """The thread. Whatever ends it leaves nobody waiting."""
        reason = "a fault of ours; the log tells"
        try:
            with self._loader.turn:
                self._check_again()
                self.load()
        except StartError as error:
            reason = str(error).replace(f"{self._model.path.parents[2]}/", "")  # where it lies is no client's business
            if self._loader.closed:
                log.info("load_given_up", model=self.name)
            else:
                log.error("model_not_loaded", model=self.name, reason=str(error), retry_s=RETRY_S)
        except BaseException as error:  # also what nobody expects: the next one shall try again
            log.error("model_not_loaded", model=self.name, reason=repr(error), retry_s=RETRY_S, exc_info=True)
        finally:
            with self._changed:
                self._thread = None
                if self._made is None:
                    self._failed, self._reason = time.monotonic(), reason
                self._changed.notify_all()

    def _check_again(self) -> None:
        """Hold the files against what was described at the start, which may be days ago; read anew if they were touched since.

        Raises:
            StartError: they are damaged, or others.
        """
        if self._loader.closed:
            raise StartError(f"{self.name} is being closed")
        if (found := ModelFile.known(self._model.path).digest) != self._model.digest:
            raise StartError(f"{self._model.path} changed since the service started: SHA-256 {found}; "
                             f"expected {self._model.digest}: start it anew")

    def _refusal(self) -> ModelNotReady:
        """Why it isn't there, and when to ask again."""
        now = time.monotonic()
        if self._loader.closed or (self._loader.draining and self._thread is None):
            detail, retry_s = f"{self.name} is not loaded, and {ABOUT_TO_STOP}", 1.0
        elif self._thread is not None:
            # Nobody knows how long a load takes; as long again as it took so far is a fair guess.
            detail, retry_s = f"{self.name} is being loaded; it was not ready in time", min(RETRY_S, now - self._began)
        elif self._reason is not None:
            detail, retry_s = f"{self.name} can't be loaded: {self._reason}", self._failed + RETRY_S - now
        else:
            detail, retry_s = f"{self.name} is not loaded yet", 1.0
        return ModelNotReady(detail, retry_after_s=max(1, math.ceil(retry_s)), model=self.name, state=self.state)
