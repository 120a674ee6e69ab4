"""Every error that a client can meet, and the one that ends a start.

Knows statuses, codes and sentences; knows nothing of Flask. The tree (status, code):

    Problem                     500 internal
    ├── BadRequest              400 malformed-request
    │   ├── BadOption           400 bad-option
    │   ├── EmptyBody           400 empty-body
    │   └── IncompleteBody      400 incomplete-body
    ├── NotFound                404 not-found
    │   └── UnknownModel        404 unknown-model
    ├── MethodNotAllowed        405 method-not-allowed
    ├── SlowBody                408 slow-body
    ├── TooLarge                413 too-large
    │   ├── TooManyBytes        413 too-many-bytes
    │   ├── TooManyPixels       413 too-many-pixels
    │   └── TooManyPictures     413 too-many-pictures
    ├── UnsupportedMediaType    415 unsupported-media-type
    ├── UnsupportedFormat       415 unsupported-format
    ├── UndecodablePicture      422 undecodable-picture
    │   └── PictureTooSmall     422 picture-too-small
    ├── Internal                500 internal
    ├── NotReady                503 not-ready
    │   └── ModelNotReady       503 model-not-ready
    ├── Overloaded              503 overloaded
    └── DeadlineExceeded        504 deadline-exceeded

`code` is part of the API; the sentence in `detail` is not.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, ClassVar

RESERVED = frozenset({"type", "title", "status", "detail", "code", "request_id", "retry_after_s"})


class StartError(Exception):
    """A reason, in one line, for which the service does not start; the process ends with exit code 2."""


class Problem(Exception):
    """Anything we answer on purpose (RFC 9457).

    Args:
        detail: one sentence: what was found, what was expected.
        retry_after_s: seconds after which another try may succeed; becomes `Retry-After`.
        fields: the limit and the value in numbers; become members of the document.
    Raises:
        ValueError: a field would hide a member that every document has.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(self, detail: str, *, retry_after_s: float | None = None, **fields: Any) -> None:
        if clash := RESERVED & fields.keys():
            raise ValueError(f"a problem's fields are {sorted(fields)}; expected none of {sorted(clash)}")
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.fields = fields

    def document(self, request_id: str) -> dict[str, Any]:
        """The JSON object for `application/problem+json`."""
        document: dict[str, Any] = {
            "type": f"/problems#{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        }
        if self.retry_after_s is not None:
            document["retry_after_s"] = self.retry_after_s
        return document | self.fields


class BadRequest(Problem):
    """The request can't be understood: broken JSON, broken form, no picture in it."""

    status, code, title = HTTPStatus.BAD_REQUEST, "malformed-request", "Request not understood"


class BadOption(BadRequest):
    """An option has a value that it can't have, or a name that no option has."""

    code, title = "bad-option", "Option not accepted"


class EmptyBody(BadRequest):
    """There are no bytes where a picture should be."""

    code, title = "empty-body", "No picture in the request"


class IncompleteBody(BadRequest):
    """The connection ended before the body was as long as its Content-Length says."""

    code, title = "incomplete-body", "Body cut short"


class NotFound(Problem):
    """No resource has this address."""

    status, code, title = HTTPStatus.NOT_FOUND, "not-found", "No such address"


class UnknownModel(NotFound):
    """No model has this name, or it hasn't this version."""

    code, title = "unknown-model", "No such model"


class MethodNotAllowed(Problem):
    """The resource exists but doesn't answer to this method."""

    status, code, title = HTTPStatus.METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed here"


class SlowBody(Problem):
    """The body didn't arrive within the time allowed."""

    status, code, title = HTTPStatus.REQUEST_TIMEOUT, "slow-body", "Body arrived too slowly"


class TooLarge(Problem):
    """Something in the request is beyond a limit of this server."""

    status, code, title = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", "Request too large"


class TooManyBytes(TooLarge):
    """The body, or one picture in it, is longer than this server accepts."""

    code, title = "too-many-bytes", "Body too large"


class TooManyPixels(TooLarge):
    """The header claims more pixels than this server accepts."""

    code, title = "too-many-pixels", "Picture too large"


class TooManyPictures(TooLarge):
    """The request holds more pictures than one call may."""

    code, title = "too-many-pictures", "Too many pictures in one call"


class UnsupportedMediaType(Problem):
    """The Content-Type is none that this resource reads."""

    status, code, title = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Content type not supported"


class UnsupportedFormat(Problem):
    """The bytes are no picture, or a picture in a format that isn't read here."""

    status, code, title = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported-format", "Not a supported picture format"


class UndecodablePicture(Problem):
    """The bytes begin like a picture but can't be decoded as one: cut short, damaged, or not affordable."""

    status, code, title = HTTPStatus.UNPROCESSABLE_ENTITY, "undecodable-picture", "Picture can't be decoded"


class PictureTooSmall(UndecodablePicture):
    """A side would be under one pixel after resizing, or so long and thin that resizing would explode."""

    code, title = "picture-too-small", "Picture too small or too thin"


class Internal(Problem):
    """A fault of our own; the log has more, under the same request id."""


class NotReady(Problem):
    """The models are still loading, or the service is about to stop."""

    status, code, title = HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", "Not ready"


class ModelNotReady(NotReady):
    """The model is loaded at its first request, and that wasn't done in time or failed; other models answer."""

    code, title = "model-not-ready", "Model not ready"


class Overloaded(Problem):
    """More work waits than can be done within the deadline."""

    status, code, title = HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "Too much to do at the moment"


class DeadlineExceeded(Problem):
    """The answer wasn't there in time."""

    status, code, title = HTTPStatus.GATEWAY_TIMEOUT, "deadline-exceeded", "No answer in time"


def every_problem() -> list[type[Problem]]:
    """All classes of the tree, parents before children, as drawn in the module's docstring."""
    found: list[type[Problem]] = [Problem]
    for cls in found:  # grows while it is walked
        found.extend(cls.__subclasses__())
    return found
