"""`POST /classify`: pictures in, labels out."""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response, g, request

from service.classifier import Answer
from service.problems import Problem
from service.web import uploads
from service.web.parts import here

blueprint = Blueprint("classify", __name__)
encoder = msgspec.json.Encoder()


@blueprint.post("/classify")
def classify() -> Response:
    """Answer one picture with its predictions, several with a list."""
    parts = here()
    upload = uploads.read(request, parts.settings)
    classifier = parts.catalog.find(upload.options.model, upload.options.version)
    deadline = classifier.deadline()
    if not upload.many:
        answer = classifier.classify(upload.pictures[0], upload.options, deadline)
        response = Response(encoder.encode(answer), content_type="application/json")
        timing = answer.timing_ms
        response.headers["Server-Timing"] = (
            f"decode;dur={timing.decode}, preprocess;dur={timing.preprocess}, queue;dur={timing.queue},"
            f" inference;dur={timing.inference}"
        )
        return response
    answers = classifier.classify_many(upload.pictures, upload.options, deadline)
    return Response(encoder.encode({"results": [_result(one) for one in answers]}), content_type="application/json")


def _result(answer: Answer | Problem) -> object:
    return answer.document(g.request_id) if isinstance(answer, Problem) else answer
