"""THE path: a picture's bytes and options in, an answer out. HTTP, command line and bulk all come this way.

    cache (if there is one) → admission (a place, memory) → images (bytes to array) → batching (the engine) → the best labels
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from typing import NamedTuple

from structlog.contextvars import get_contextvars

from service import answer, images, logs
from service.admission import Admission, Line
from service.answer import DEFAULTS, Answer, Asked, Named, Options, Shown, Timing
from service.batching import Batcher, Outcome, Ticket
from service.cache import Cache, Given, Key
from service.engine import Engine
from service.images import Prepared
from service.loading import Loading, State
from service.metrics import DECODE_SECONDS, PICTURES, PREPROCESS_SECONDS
from service.modelfile import ModelFile
from service.problems import DeadlineExceeded, Internal, Problem
from service.settings import Settings

log = logs.get(__name__)


class _Waiting(NamedTuple):
    """A picture that is decoded and waits for its answer; the picture itself is in the batch."""

    shown: Shown
    decode_ms: float
    preprocess_ms: float
    ticket: Ticket


class _Job(NamedTuple):
    """A picture, and the id that its answer carries."""

    data: bytes | Problem
    own_id: str


class Classifier:
    """One version of one model; proven before it answers, which may be at its first request."""

    def __init__(
        self, model: ModelFile, loading: Loading, admission: Admission, settings: Settings, line: Line, name: str, version: str,
        cache: Cache[Answer] | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            model: opened and checked.
            loading: of this model's engine.
            admission: of this process.
            settings: for the limits.
            line: of this model in `admission`.
            name, version: as callers ask for it.
            cache: of this process, all models together; none: every picture is worked for.
        """
        self.model, self.loading, self.name, self.version = model, loading, name, version
        self._admission, self._settings, self._line, self._cache = admission, settings, line, cache

    @property
    def state(self) -> State:
        """How far its engine is."""
        return self.loading.state

    @property
    def ready(self) -> bool:
        """It is loaded, and the batch thread lives."""
        return self.state is State.LOADED and self.batcher.alive

    @property
    def dead(self) -> bool:
        """It was loaded, and the batch thread lives no more."""
        return self.state is State.LOADED and not self.batcher.alive

    @property
    def engine(self) -> Engine:
        """Of a model that is loaded; to ask for it loads none.

        Raises:
            ModelNotReady: it isn't.
        """
        return self.loading.made.engine

    @property
    def batcher(self) -> Batcher:
        """As `engine`."""
        return self.loading.made.batcher

    @cached_property
    def _named(self) -> Named:
        """As answers tell it."""
        return Named(self.name, self.version, self.model.digest, self.engine.precision)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.model.labels)

    def deadline(self) -> float:
        """The moment, on the clock of `time.monotonic`, until which a request that is complete now must be answered."""
        return time.monotonic() + self._settings.deadline_ms / 1000

    def check(self, options: Options) -> Asked:
        """Hold options against this model.

        Raises:
            BadOption: out of range, or the model can't do it.
        """
        return answer.check(options, self.model, self.name)

    def classify(
        self, data: bytes, options: Options = DEFAULTS, deadline: float | None = None, gone: Callable[[], bool] | None = None,
    ) -> Answer:
        """Classify one picture.

        Args:
            data: the encoded picture.
            options: `model` and `version` have done their work already, in the catalog.
            deadline: on the clock of `time.monotonic`; the settings' from now unless given.
            gone: tells whether the client went away.
        Raises:
            Problem: it couldn't be done; which one says why.
        """
        pictures: list[bytes | Problem] = [data]
        del data  # or it would be held until the answer is there
        (result,) = self._all(pictures, options, deadline, gone)
        if isinstance(result, Problem):
            raise result
        return result

    def classify_many(
        self, pictures: Sequence[bytes | Problem], options: Options = DEFAULTS, deadline: float | None = None,
        gone: Callable[[], bool] | None = None,
    ) -> list[Answer | Problem]:
        """Classify several; while one is decoded, those before it are in the engine already.

        Args:
            pictures: encoded; a problem in the place of one that could not be had becomes its result.
            options, deadline, gone: as in `classify`.
        Returns:
            One entry a picture, in order: its answer, or its own problem.
        Raises:
            Problem: about the whole request: a bad option, no room.
        """
        return self._all([*pictures], options, deadline, gone)

    def _all(
        self, pictures: list[bytes | Problem], options: Options, deadline: float | None, gone: Callable[[], bool] | None,
    ) -> list[Answer | Problem]:
        """As `classify_many`; takes the pictures out of the list."""
        asked = self.check(options)
        until = self.deadline() if deadline is None else deadline
        self.loading.wait(until)
        request_id = str(get_contextvars().get("request_id") or logs.new_id())
        jobs = [_Job(data, request_id if len(pictures) == 1 else f"{request_id}-{number}")
                for number, data in enumerate(pictures)]
        pictures.clear()
        if self._cache is None:
            results = [*self._work(jobs, asked, until, gone)]
        else:
            results = self._remembered(self._cache, jobs, asked, until, gone)
        for found in results:
            PICTURES.labels(self.name, found.code if isinstance(found, Problem) else "ok").inc()
        return results

    def _remembered(
        self, cache: Cache[Answer], jobs: list[_Job], asked: Asked, deadline: float, gone: Callable[[], bool] | None,
    ) -> list[Answer | Problem]:
        """Work only for pictures whose answer is neither kept nor on its way; only they take places."""
        whole = [job for job in jobs if not isinstance(job.data, Problem)]
        keys = [Key.of(job.data, self.model.digest, asked) for job in whole if isinstance(job.data, bytes)]

        def work(positions: list[int]) -> Generator[Answer | Problem, None, None]:
            return self._work([whole[position] for position in positions], asked, deadline, gone)

        found = iter(cache.answers(keys, work, deadline, gone))
        return [job.data if isinstance(job.data, Problem) else self._own(next(found), job.own_id) for job in jobs]

    def _own(self, given: Given[Answer], own_id: str) -> Answer | Problem:
        """An answer that was another request's gets this one's id and its truth about time."""
        if given.waited_ms is None or isinstance(given.result, Problem):
            return given.result
        return given.result.again(own_id, self._named, given.waited_ms)

    def _work(
        self, jobs: list[_Job], asked: Asked, deadline: float, gone: Callable[[], bool] | None,
    ) -> Generator[Answer | Problem, None, None]:
        """Admit, decode and run; the results in order, each as soon as it is there."""
        with self._line.admit(len(jobs), deadline) as places:
            entered = self._enter_all(jobs, deadline, gone)
            for job, entry in zip(jobs, entered, strict=True):
                found = self._leave(entry, job.own_id, asked)
                places.leave()
                yield found

    def _enter_all(self, jobs: list[_Job], deadline: float, gone: Callable[[], bool] | None) -> list[_Waiting | Problem]:
        """All of a request, in order; the engine waits for them meanwhile."""
        turns, entered = self._admission.turns, []
        turns.expect(len(jobs))
        try:
            for place in range(len(jobs)):
                entered.append(self._enter(jobs[place].data, deadline, gone))
                jobs[place] = jobs[place]._replace(data=b"")  # a photo's bytes needn't wait for the engine
                turns.arrived()
        finally:
            for _ in jobs[len(entered):]:
                turns.arrived()
        return entered

    def _enter(self, data: bytes | Problem, deadline: float, gone: Callable[[], bool] | None) -> _Waiting | Problem:
        """Decode a picture and hand it to the batcher; a problem is this picture's own."""
        if isinstance(data, Problem):
            return data
        try:
            prepared = self._prepare(data, deadline)
            ticket = self.batcher.submit(prepared.pixels, deadline, gone)
            DECODE_SECONDS.observe(prepared.decode_ms / 1000)  # now, while the engine's thread wakes up
            PREPROCESS_SECONDS.observe(prepared.preprocess_ms / 1000)
            shown = Shown(prepared.format, prepared.mode, prepared.width, prepared.height, prepared.orientation_applied)
            return _Waiting(shown, prepared.decode_ms, prepared.preprocess_ms, ticket)
        except Problem as problem:
            return problem
        except Exception as error:  # a fault of ours; the neighbours must not pay for it
            return _fault(error)

    def _prepare(self, data: bytes, deadline: float) -> Prepared:
        recipe, limit = self.model.recipe, self._settings.max_pixels
        header = images.inspect(data, limit, deadline)
        with self._admission.turns.decode(images.decode_bytes(header), deadline):
            if time.monotonic() >= deadline:
                raise DeadlineExceeded("no answer in time; the picture was not decoded any more")
            start = time.thread_time()
            prepared = images.prepare(
                data, recipe.preprocessing, recipe.input.width, recipe.input.height, limit, header, deadline)
            self._line.decoded(time.thread_time() - start)
        return prepared

    def _leave(self, entry: _Waiting | Problem, own_id: str, asked: Asked) -> Answer | Problem:
        """Wait for the engine and put the answer together."""
        found: Answer | Problem
        try:
            found = entry if isinstance(entry, Problem) else self._answer(entry, entry.ticket.result(), own_id, asked)
        except Problem as problem:
            found = problem
        except Exception as error:
            found = _fault(error)
        return found

    def _answer(self, picture: _Waiting, outcome: Outcome, own_id: str, asked: Asked) -> Answer:
        said = answer.say(outcome.probabilities, asked, self.model)
        return Answer(
            id=own_id,
            model=self._named,
            predictions=said.predictions,
            margin=said.margin,
            entropy=said.entropy,
            abstained=said.abstained,
            image=picture.shown,
            timing_ms=Timing(
                round(picture.decode_ms, 3), round(picture.preprocess_ms, 3),
                round(outcome.queue_ms, 3), round(outcome.inference_ms, 3), outcome.batch_size,
            ),
            prediction_set=said.prediction_set,
        )


def _fault(error: Exception) -> Internal:
    log.error("picture_failed", error=repr(error), exc_info=error)
    return Internal("this picture met a fault of ours; the log has more under this request's id")
