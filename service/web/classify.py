"""`POST /classify`: images in, labels out."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, request

from service.answer import Answer, Timing
from service.classifier import Classifier
from service.problems import Problem
from service.web import answers, body, uploads
from service.web.answers import Reply
from service.web.parts import Parts, here

PATH = "/classify"

blueprint = Blueprint("classify", __name__)


@blueprint.post(PATH)
def classify() -> Response:
    """Answer one image with its predictions, several with a list."""
    parts = here()
    with parts.room.held(request.environ, request.mimetype):
        upload = uploads.read(request, parts.settings)
        return answer(parts, upload, request.environ, g.request_id, g.started).response()


def answer(parts: Parts, upload: uploads.Upload, environ: dict[str, Any], request_id: str, started: float) -> Reply:
    """The reply to one upload; knows nothing of Flask.

    Args:
        environ: of WSGI.
        started: when the request's head had been read, on the clock of `time.perf_counter`.
    Raises:
        Problem: of the whole request, or of its only image.
    """
    parts.catalog.require()
    classifier = parts.catalog.find(upload.options.model, upload.options.version)
    gone = partial(body.gone, environ, body.now())
    count = len(upload.pictures)
    if upload.several:
        results = _each(classifier, upload, gone)
        answered = [result for result in results if isinstance(result, Answer)]
        reply = answers.reply({"results": [_result(result, request_id) for result in results]})
    else:
        answered = [classifier.classify(upload.take(), upload.options, classifier.deadline(), gone)]
        reply = answers.reply(answered[0])
    reply.headers.append(("Server-Timing", _server_timing([answer.timing_ms for answer in answered], started)))
    if parts.settings.cache_bytes:
        from_cache = len(answered) == count and all(answer.cached for answer in answered)
        reply.headers.append(("X-Cache", "hit" if from_cache else "miss"))
    return reply


def _each(classifier: Classifier, upload: uploads.Upload, gone: Callable[[], bool]) -> list[Answer | Problem]:
    """One result a picture, in order; what could not even be unpacked keeps its place."""
    classifier.check(upload.options)
    whole = [picture for picture in upload.pictures if isinstance(picture, bytes)]
    found = iter(classifier.classify_many(whole, upload.options, classifier.deadline(), gone) if whole else [])
    return [picture if isinstance(picture, Problem) else next(found) for picture in upload.pictures]


def _result(result: Answer | Problem, request_id: str) -> Any:
    return {"problem": result.document(request_id)} if isinstance(result, Problem) else result


def _server_timing(timings: list[Timing], started: float) -> str:
    """For browsers' developer tools; of several pictures the slowest in each phase, for they overlap."""
    phases = [f"{phase};dur={max(getattr(timing, phase) for timing in timings)}"
              for phase in ("decode", "preprocess", "queue", "inference") if timings]
    return ", ".join([*phases, f"total;dur={1000 * (time.perf_counter() - started):.3f}"])
