"""`POST /classify` with one image as the body, without Flask: routing and its request objects cost more than all else of HTTP.

Takes only requests of which Flask would make nothing else (tests/service/web/test_direct.py compares both); hands on all others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl

from werkzeug.http import HTTP_STATUS_CODES

from service import logs
from service.problems import Problem
from service.web import classify, errors, observe, uploads
from service.web.answers import Reply
from service.web.observe import Application
from service.web.parts import Parts

RAW = re.compile(r"|application/octet-stream|application/x-www-form-urlencoded|image/[a-z0-9.+-]+")  # content types
HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?")
QUERY = re.compile(r"[A-Za-z0-9_.=&-]*")  # nothing escaped


class Direct:
    """A WSGI application in front of Flask's.

    Attributes:
        usual: Flask's own.
    """

    def __init__(self, usual: Application, parts: Parts) -> None:
        self.usual, self._parts = usual, parts

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer what is plain; let Flask answer the rest."""
        if not plain(environ):
            return self.usual(environ, start_response)
        started, request_id = observe.begin(environ)
        try:
            reply = self._reply(environ, started, request_id)
            headers, after = observe.end(environ, started, request_id, classify.PATH, reply.status)
        finally:
            logs.end_request()
        start_response(STATUS[reply.status], reply.headers + headers)
        return Sent(reply.content, after)

    def _reply(self, environ: dict[str, Any], started: float, request_id: str) -> Reply:
        parts = self._parts
        try:
            with parts.room.held(environ, ""):  # whatever a raw body says of itself, it lies in memory once
                given = [uploads.Given(*pair) for pair in parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)]
                upload = uploads.raw(environ, given, parts.settings)
                return classify.answer(parts, upload, environ, request_id, started)
        except Problem as problem:
            return errors.refuse(problem, request_id)
        except Exception as error:
            return errors.unexpected(error, classify.PATH, request_id)


class Sent:
    """A body of one piece, and what is to be done once it has been sent."""

    def __init__(self, content: bytes, after: list[Callable[[], None]]) -> None:
        self._content, self._after = content, after

    def __iter__(self) -> Iterator[bytes]:
        yield self._content

    def close(self) -> None:
        """Called by the server, sent or not."""
        for each in self._after:
            each()


STATUS = {code: f"{code} {words.upper()}" for code, words in HTTP_STATUS_CODES.items()}


def plain(environ: dict[str, Any]) -> bool:
    """Whether a request is one image as the body for `POST /classify`, and nothing about it is unusual."""
    return (
        environ.get("PATH_INFO") == classify.PATH and environ["REQUEST_METHOD"] == "POST" and not environ.get("SCRIPT_NAME")
        and RAW.fullmatch(environ.get("CONTENT_TYPE", "")) is not None
        and HOST.fullmatch(environ.get("HTTP_HOST", "")) is not None
        and QUERY.fullmatch(environ.get("QUERY_STRING", "")) is not None
        and "HTTP_UPGRADE" not in environ
    )
