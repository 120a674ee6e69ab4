"""Logs: one JSON object a line, with the ids of the request."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from service import logs

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging as it was before."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_an_event_is_one_json_line_with_its_keys(capsys):
    """Machines read logs first; a logger made before `configure` does the same."""
    log = logs.get("service.batching")
    logs.configure("info")
    log.info("batch_done", images=3)
    (line,) = lines(capsys)
    assert (line["event"], line["images"], line["level"], line["module"]) == ("batch_done", 3, "info", "service.batching")
    assert line["timestamp"].endswith("Z")


def test_less_severe_events_stay_unseen(capsys):
    """The level is the user's."""
    logs.configure("warning")
    logs.get("x").info("quiet")
    logs.get("x").warning("loud")
    assert [line["event"] for line in lines(capsys)] == ["loud"]


def test_the_standard_library_logs_in_the_same_shape(capsys):
    """gunicorn speaks through it."""
    logs.configure("info")
    logging.getLogger("gunicorn.error").info("Booting worker %s", 7)
    (line,) = lines(capsys)
    assert (line["event"], line["level"]) == ("Booting worker 7", "info")


def test_the_ids_of_a_request_are_in_its_lines_and_no_others(capsys):
    """What belongs together can be found together."""
    logs.configure("info")
    chosen = logs.begin_request("order-17", f"00-{TRACE}-{PARENT}-01")
    logs.get("x").info("during")
    logs.end_request()
    logs.get("x").info("after")
    during, after = lines(capsys)
    assert chosen == during["request_id"] == "order-17"
    assert (during["trace_id"], during["parent_id"]) == (TRACE, PARENT)
    assert "request_id" not in after


@pytest.mark.parametrize("given", [None, "", "a\nb", "x" * 129, "ü", 'a"b', "a b"])
def test_a_harmful_request_id_is_replaced(given):
    """It goes into headers and logs: no line breaks, no novels."""
    assert logs.REQUEST_ID.match(logs.begin_request(given))
    assert logs.begin_request(given) != given


@pytest.mark.parametrize("traceparent", [
    "", "garbage", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}",
])
def test_an_invalid_traceparent_is_ignored(traceparent):
    """As W3C Trace Context has it: start anew rather than hand on nonsense."""
    logs.begin_request("a", traceparent)
    assert "trace_id" not in structlog.contextvars.get_contextvars()


def test_an_exception_stays_on_its_line(capsys):
    """A traceback over thirty lines is thirty events to a log collector."""
    logs.configure("info")
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError:
        logs.get("x").exception("failed")
    found = lines(capsys)
    (line,) = [each for each in found if each.get("module") == "x"]  # a thread of an earlier test may end just now
    assert "ZeroDivisionError: by zero" in line["exception"]
