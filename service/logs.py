"""Structured logs: one JSON object a line on standard error, with the ids of the request that it belongs to."""

from __future__ import annotations

import logging
import random
import re
import sys
from typing import Any

# structlog would import rich where export has it installed: 0.1 s and 9 MB for colours that lines of JSON don't have.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars, merge_contextvars  # noqa: E402

if _rich is None:
    del sys.modules["rich"]
else:
    sys.modules["rich"] = _rich

# W3C Trace Context: version, trace id, parent id, flags; ids of zeros only are invalid.
TRACEPARENT = re.compile(r"^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:$|-)")
# What a client's own id may look like: anything else could forge lines or headers.
REQUEST_ID = re.compile(r"^[A-Za-z0-9._:/+=@-]{1,128}$")


def configure(level: str = "info") -> None:
    """Send every event of at least this level to standard error; the standard library's loggers (gunicorn's) too."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_lines,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()],
    ))
    logging.basicConfig(level=number, handlers=[handler], force=True)


def _lines(*_: Any) -> structlog.WriteLogger:
    return structlog.WriteLogger(sys.stderr)  # looked up anew: tests and daemons replace standard error


def new_id() -> str:
    """16 hexadecimal digits, to be found again in logs; no secret, so that it needn't wait for the system's random bytes."""
    return f"{random.getrandbits(64):016x}"


def get(name: str) -> Any:
    """The log of one module: `log = logs.get(__name__)`; then `log.info("batch_done", images=3)`."""
    return structlog.get_logger(module=name)


def begin_request(request_id: str | None, traceparent: str | None = None) -> str:
    """Bind the ids of a request to every event that this thread logs until `end_request`.

    Args:
        request_id: the client's `X-Request-Id`; taken over when harmless, replaced by a random one otherwise.
        traceparent: the client's W3C `traceparent`; its trace id and parent id are taken over when valid.
    Returns:
        The request id that counts.
    """
    clear_contextvars()
    chosen = request_id if request_id and REQUEST_ID.match(request_id) else new_id()
    bind_contextvars(request_id=chosen)
    if match := TRACEPARENT.match((traceparent or "").strip().lower()):
        bind_contextvars(trace_id=match[1], parent_id=match[2])
    return chosen


def bound() -> dict[str, Any]:
    """The ids of the request, for events that are told when it has ended."""
    return get_contextvars()


def end_request() -> None:
    """Forget the ids; the thread serves another request next."""
    clear_contextvars()
