"""THE path: a picture's bytes and options in, an answer out. HTTP, command line and bulk all come this way.

    admission (a place, memory) → images (bytes to array) → batching (the engine) → the best labels
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from structlog.contextvars import get_contextvars

from service import images, logs
from service.admission import Admission, Line
from service.batching import Batcher, Outcome, Ticket
from service.engine import Engine
from service.images import Prepared
from service.metrics import DECODE_SECONDS, PICTURES, PREPROCESS_SECONDS
from service.modelfile import ModelFile
from service.problems import BadOption, DeadlineExceeded, Internal, Problem
from service.settings import Settings

log = logs.get(__name__)

DEFAULT_TOP_K = 5


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a caller may choose.

    Attributes:
        top_k: most predictions, from 1 to the number of classes; `None`: 5, or all where there are fewer.
        threshold: least score of a prediction, from 0 to 1.
        model, version: `None`: the default model, its highest version.
    """

    top_k: int | None = None
    threshold: float = 0.0
    model: str | None = None
    version: str | None = None


DEFAULTS = Options()


class Named(msgspec.Struct, frozen=True):
    """Which model answered; `digest` is the SHA-256 of its file."""

    name: str
    version: str
    digest: str


class Prediction(msgspec.Struct, frozen=True):
    """One class.

    Attributes:
        label: as in the model's own labels.
        score: probability, 0-1.
        index: row of the output.
        id: stable class id, the wnid for ImageNet.
    """

    label: str
    score: float
    index: int
    id: str


class Shown(msgspec.Struct, frozen=True):
    """The picture as it was sent; width and height as shown, upright."""

    format: str
    mode: str
    width: int
    height: int
    orientation_applied: bool


class Timing(msgspec.Struct, frozen=True):
    """Milliseconds of each phase, and the pictures of the batch that this one was in."""

    decode: float
    preprocess: float
    queue: float
    inference: float
    batch_size: int


class Answer(msgspec.Struct, frozen=True):
    """What a caller gets for one picture; predictions best first."""

    id: str
    model: Named
    predictions: list[Prediction]
    image: Shown
    timing_ms: Timing


class _Waiting(NamedTuple):
    """A picture that is decoded and waits for its answer."""

    prepared: Prepared
    ticket: Ticket


class Classifier:
    """One version of one model, proven and ready."""

    def __init__(
        self, model: ModelFile, engine: Engine, batcher: Batcher, admission: Admission, settings: Settings,
        line: Line | None = None, name: str = "", version: str = "1",
    ) -> None:
        """Put the parts together.

        Args:
            model: opened and checked.
            engine: of this model.
            batcher: of this engine.
            admission: of this process.
            settings: for the limits.
            line: of this model in `admission`; a new one unless given.
            name, version: as callers ask for it; the recipe's name unless given.
        """
        self.model, self.engine, self.batcher = model, engine, batcher
        self.name, self.version = name or model.recipe.name, version
        self._admission, self._settings = admission, settings
        self._line = line or admission.line()
        self._named = Named(self.name, self.version, model.digest)

    @property
    def ready(self) -> bool:
        """The batch thread lives."""
        return self.batcher.alive

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.model.labels)

    def deadline(self) -> float:
        """The moment, on the clock of `time.monotonic`, until which a request that is complete now must be answered."""
        return time.monotonic() + self._settings.deadline_ms / 1000

    def check(self, options: Options) -> int:
        """Hold options against this model; the number of predictions to give.

        Raises:
            BadOption: out of range.
        """
        threshold = options.threshold
        if not 0 <= threshold <= 1:  # also what is no number
            raise BadOption(f"threshold is {threshold:g}; expected a number from 0 to 1",
                            option="threshold", value=str(threshold))
        if options.top_k is None:
            return min(DEFAULT_TOP_K, self.classes)
        if not 1 <= options.top_k <= self.classes:
            raise BadOption(
                f"top_k is {options.top_k}; expected a whole number from 1 to {self.classes}, the classes of {self.name}",
                option="top_k", value=options.top_k, limit=self.classes)
        return options.top_k

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
        (result,) = self._all([data], options, deadline, gone)
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
        return self._all(pictures, options, deadline, gone)

    def _all(
        self, pictures: Sequence[bytes | Problem], options: Options, deadline: float | None, gone: Callable[[], bool] | None,
    ) -> list[Answer | Problem]:
        top_k = self.check(options)
        until = self.deadline() if deadline is None else deadline
        request_id = str(get_contextvars().get("request_id") or secrets.token_hex(8))
        results: list[Answer | Problem] = []
        with self._line.admit(len(pictures), until) as places:
            entered = [self._enter(data, until, gone) for data in pictures]
            for number, entry in enumerate(entered):
                own_id = request_id if len(pictures) == 1 else f"{request_id}-{number}"
                results.append(self._leave(entry, own_id, top_k, options.threshold))
                places.leave()
        return results

    def _enter(self, data: bytes | Problem, deadline: float, gone: Callable[[], bool] | None) -> _Waiting | Problem:
        """Decode a picture and hand it to the batcher; a problem is this picture's own."""
        if isinstance(data, Problem):
            return data
        try:
            prepared = self._prepare(data, deadline)
            return _Waiting(prepared, self.batcher.submit(prepared.pixels, deadline, gone))
        except Problem as problem:
            return problem
        except Exception as error:  # a fault of ours; the neighbours must not pay for it
            return _fault(error)

    def _prepare(self, data: bytes, deadline: float) -> Prepared:
        recipe, limit = self.model.recipe, self._settings.max_pixels
        header = images.inspect(data, limit)
        with self._admission.picture(images.decode_bytes(header), deadline):
            if time.monotonic() >= deadline:
                raise DeadlineExceeded("no answer in time; the picture was not decoded any more")
            start = time.thread_time()
            prepared = images.prepare(data, recipe.preprocessing, recipe.input.width, recipe.input.height, limit)
            self._line.decoded(time.thread_time() - start)
        DECODE_SECONDS.observe(prepared.decode_ms / 1000)
        PREPROCESS_SECONDS.observe(prepared.preprocess_ms / 1000)
        return prepared

    def _leave(self, entry: _Waiting | Problem, own_id: str, top_k: int, threshold: float) -> Answer | Problem:
        """Wait for the engine and put the answer together."""
        found: Answer | Problem
        try:
            if isinstance(entry, Problem):
                found = entry
            else:
                found = self._answer(entry.prepared, entry.ticket.result(), own_id, top_k, threshold)
        except Problem as problem:
            found = problem
        except Exception as error:
            found = _fault(error)
        PICTURES.labels(self.name, found.code if isinstance(found, Problem) else "ok").inc()
        return found

    def _answer(self, prepared: Prepared, outcome: Outcome, own_id: str, top_k: int, threshold: float) -> Answer:
        return Answer(
            id=own_id,
            model=self._named,
            predictions=self._best(outcome.probabilities, top_k, threshold),
            image=Shown(prepared.format, prepared.mode, prepared.width, prepared.height, prepared.orientation_applied),
            timing_ms=Timing(
                round(prepared.decode_ms, 3), round(prepared.preprocess_ms, 3),
                round(outcome.queue_ms, 3), round(outcome.inference_ms, 3), outcome.batch_size,
            ),
        )

    def _best(self, probabilities: NDArray[np.float32], top_k: int, threshold: float) -> list[Prediction]:
        """The best classes, best first; of equal ones the lower row. Scores with the 7 digits that float32 has."""
        rows = np.argsort(-probabilities, kind="stable")[:top_k]  # (classes,) → (top_k,)
        labels = self.model.labels
        return [
            Prediction(labels[row].label, float(f"{probabilities[row]:.7g}"), int(row), labels[row].id)
            for row in rows if probabilities[row] >= threshold
        ]


def _fault(error: Exception) -> Internal:
    log.error("picture_failed", error=repr(error), exc_info=error)
    return Internal("this picture met a fault of ours; the log has more under this request's id")
