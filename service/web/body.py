"""The bytes of a request's body: all of them or a problem, within a limit and a time.

gunicorn's threads put no limit on either: a slow sender would hold a thread for ever, and a body cut off before its
Content-Length would look complete.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

from service.problems import BadRequest, IncompleteBody, SlowBody, TooManyBytes

PIECE = 64 * 2**10
# A client that is still sending when it is refused would see a reset instead of the refusal.
DISCARDED_BYTES, DISCARDED_S = 64 * 2**20, 2.0


def read(environ: dict[str, Any], limit: int, timeout_s: float) -> bytes:
    """Read the body to its end.

    Args:
        environ: of WSGI.
        limit: most bytes.
        timeout_s: longest time for all of it.
    Raises:
        TooManyBytes: announced or sent more than `limit`.
        IncompleteBody: ended before its Content-Length.
        SlowBody: not all there in time.
        BadRequest: a length that is no number, or broken chunks.
    """
    chunked = bool(environ.get("wsgi.input_terminated")) and "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
    announced = None if chunked else _announced(environ)
    if announced is not None and announced > limit:
        raise _too_many(announced, limit)
    end, pieces, got = time.monotonic() + timeout_s, [], 0
    try:
        while announced is None or got < announced:
            _wait_at_most(environ, end - time.monotonic(), got, timeout_s)
            piece = environ["wsgi.input"].read(PIECE if announced is None else min(PIECE, announced - got))
            if not piece:
                break
            got += len(piece)
            if got > limit:
                raise _too_many(got, limit)
            pieces.append(piece)
    except TimeoutError as error:
        raise _slow(got, timeout_s) from error
    except OSError as error:  # gunicorn's complaints about chunks are OSErrors too
        raise BadRequest(f"the body broke off or was framed wrongly after {got:,} bytes: {error}") from error
    finally:
        _set_timeout(environ, None)
    if announced is not None and got < announced:
        raise IncompleteBody(f"the body ended after {got:,} bytes; its Content-Length is {announced:,}", received=got, announced=announced)
    return b"".join(pieces)


def discard(environ: dict[str, Any]) -> None:
    """Take in what a refused client is still sending, within bounds, and let the connection end after the answer."""
    if environ.get("CONTENT_LENGTH", "0") in ("", "0") and "HTTP_TRANSFER_ENCODING" not in environ:
        return
    end, left = time.monotonic() + DISCARDED_S, DISCARDED_BYTES
    with contextlib.suppress(OSError):
        while left > 0 and (wait := end - time.monotonic()) > 0:
            _set_timeout(environ, wait)
            piece = environ["wsgi.input"].read(PIECE)
            if not piece:
                break
            left -= len(piece)
    with contextlib.suppress(OSError):
        _set_timeout(environ, None)
        if isinstance(connection := environ.get("gunicorn.socket"), socket.socket):
            connection.shutdown(socket.SHUT_RD)


def _announced(environ: dict[str, Any]) -> int:
    text = environ.get("CONTENT_LENGTH") or "0"
    if not text.isascii() or not text.isdigit():
        raise BadRequest(f'Content-Length is "{text[:40]}"; expected a whole number of bytes')
    return int(text)


def _wait_at_most(environ: dict[str, Any], seconds: float, got: int, timeout_s: float) -> None:
    if seconds <= 0:
        raise _slow(got, timeout_s)
    _set_timeout(environ, seconds)


def _set_timeout(environ: dict[str, Any], seconds: float | None) -> None:
    if isinstance(connection := environ.get("gunicorn.socket"), socket.socket):
        connection.settimeout(seconds)


def _slow(got: int, timeout_s: float) -> SlowBody:
    return SlowBody(f"{got:,} bytes of the body arrived within {timeout_s:g} s, and it is not complete", received=got, timeout_s=timeout_s)


def _too_many(found: int, limit: int) -> TooManyBytes:
    return TooManyBytes(f"body is {found:,} bytes or more; this server accepts up to {limit:,}", bytes=found, max_body_bytes=limit)
