"""`POST /classify`: pictures in, labels out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, request

from service.answer import Answer, Timing
from service.classifier import Classifier
from service.problems import Problem
from service.web import answers, body, uploads
from service.web.parts import Parts, here

blueprint = Blueprint("classify", __name__)


@blueprint.post("/classify")
def classify() -> Response:
    """Answer one picture with its predictions, several with a list."""
    parts = here()
    with parts.room.held(request.environ, request.mimetype):
        return _classified(parts)


def _classified(parts: Parts) -> Response:
    upload = uploads.read(request, parts.settings)
    parts.catalog.require()
    classifier = parts.catalog.find(upload.options.model, upload.options.version)
    gone = partial(body.gone, request.environ, body.now())
    count = len(upload.pictures)
    if upload.several:
        results = _each(classifier, upload, gone)
        answered = [result for result in results if isinstance(result, Answer)]
        response = answers.json({"results": [_result(result) for result in results]})
    else:
        answered = [classifier.classify(upload.take(), upload.options, classifier.deadline(), gone)]
        response = answers.json(answered[0])
    response.headers["Server-Timing"] = _server_timing([answer.timing_ms for answer in answered])
    if parts.settings.cache_bytes:
        from_cache = len(answered) == count and all(answer.cached for answer in answered)
        response.headers["X-Cache"] = "hit" if from_cache else "miss"
    return response


def _each(classifier: Classifier, upload: uploads.Upload, gone: Callable[[], bool]) -> list[Answer | Problem]:
    """One result a picture, in order; what could not even be unpacked keeps its place."""
    classifier.check(upload.options)
    whole = [picture for picture in upload.pictures if isinstance(picture, bytes)]
    found = iter(classifier.classify_many(whole, upload.options, classifier.deadline(), gone) if whole else [])
    return [picture if isinstance(picture, Problem) else next(found) for picture in upload.pictures]


def _result(result: Answer | Problem) -> Any:
    return {"problem": result.document(g.request_id)} if isinstance(result, Problem) else result


def _server_timing(timings: list[Timing]) -> str:
    """For browsers' developer tools; of several pictures the slowest in each phase, for they overlap."""
    phases = [f"{phase};dur={max(getattr(timing, phase) for timing in timings)}"
              for phase in ("decode", "preprocess", "queue", "inference") if timings]
    return ", ".join([*phases, f"total;dur={answers.elapsed_ms():.3f}"])
