"""Whatever is answered without Flask is answered as Flask would."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from flask import Flask
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from werkzeug.test import EnvironBuilder, run_wsgi_app

from service import logs
from service.app import create_app
from service.catalog import Catalog
from service.problems import Overloaded
from service.settings import Settings
from service.web.direct import Direct, plain
from service.web.observe import Application
from tests import models
from tests.service import pictures

PICTURE = models.png(models.quadrant_picture(2))
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TIMES = re.compile(r'(dur=|"(?:decode|preprocess|queue|inference)":)[0-9.]+')
REQUESTS = "quadrant_requests_total[('endpoint', '/classify'), ('status', '200')]"
IDS = re.compile(r"\b[0-9a-f]{16}\b")
SECONDS = re.compile(r"waited [0-9,]+ ms|\"waited_ms\":[0-9]+")

# name → what differs from a POST of PICTURE to /classify
PLAIN: dict[str, dict[str, Any]] = {
    "an image": {},
    "content type of an image": {"content_type": "image/png"},
    "as curl says it": {"content_type": "application/x-www-form-urlencoded"},
    "octets": {"content_type": "application/octet-stream"},
    "options": {"query_string": "top_k=2&threshold=0.1&model=quadrants&version=1"},
    "an id and a trace": {"headers": {"X-Request-Id": "case-9", "traceparent": TRACE}},
    "a harmful id": {"headers": {"X-Request-Id": "<script>"}},
    "an empty id": {"headers": {"X-Request-Id": ""}},
    "no body": {"data": b""},
    "no image": {"data": b"rubbish"},
    "a damaged image": {"data": pictures.jpeg()[:-200]},
    "an image turned by its camera": {"data": pictures.jpeg(orientation=6)},
    "too many pixels": {"data": pictures.claiming("PNG", 2000, 1000)},
    "too many bytes": {"data": b"x" * 200_001},
    "a body cut short": {"headers": {"Content-Length": "500"}},
    "a length that is no number": {"headers": {"Content-Length": "many"}},
    "an unknown option": {"query_string": "top=3"},
    "an option without a value": {"query_string": "top_k="},
    "an option without an equals sign": {"query_string": "top_k"},
    "an option twice": {"query_string": "top_k=1&top_k=2"},
    "an option out of range": {"query_string": "top_k=500"},
    "an option that was never calibrated": {"query_string": "coverage=0.9"},
    "empty pairs": {"query_string": "&&top_k=1&"},
    "an unknown model": {"query_string": "model=resnet"},
    "an unknown version": {"query_string": "version=7"},
    "another name of this host": {"headers": {"Host": "photos.example:8080"}},
}
UNUSUAL: dict[str, dict[str, Any]] = {
    "an escaped query": {"query_string": "model=quadr%61nts"},
    "a plus sign": {"query_string": "model=a+b"},
    "a semicolon": {"query_string": "top_k=1;x=2"},
    "a parameter of the content type": {"content_type": "image/png; charset=x"},
    "a content type in capitals": {"content_type": "Image/PNG"},
    "JSON": {"content_type": "application/json"},
    "a form": {"content_type": "multipart/form-data; boundary=x"},
    "text": {"content_type": "text/plain"},
    "GET": {"method": "GET", "data": None},
    "another address": {"path": "/classify/"},
    "an escaped address": {"path": "/classify%20"},
    "an unlikely host": {"headers": {"Host": "a b"}},
    "a wish for another protocol": {"headers": {"Upgrade": "websocket", "Connection": "Upgrade"}},
}


class Pair(NamedTuple):
    """Two services of the same settings: one is asked the short way, the other through Flask."""

    short: Direct
    usual: Application


@pytest.fixture(scope="module", params=[pytest.param(0, id="no cache"), pytest.param(2**20, id="cache")])
def pair(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Pair]:
    """With and without a cache."""
    settings = dataclasses.replace(settings, cache_bytes=request.param)
    catalogs = [Catalog.load(settings) for _ in range(2)]
    first, second = (direct(create_app(settings, catalog)) for catalog in catalogs)
    yield Pair(first, second.usual)
    for catalog in catalogs:
        catalog.close()


def environ(**changes: Any) -> dict[str, Any]:
    """A WSGI environment of a POST, as gunicorn would make it."""
    given = {"path": "/classify", "method": "POST", "data": PICTURE} | changes
    headers = given.pop("headers", {})
    builder = EnvironBuilder(**given)
    made = builder.get_environ()
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        made[key if key == "CONTENT_LENGTH" else f"HTTP_{key}"] = value
    return made


def direct(app: Flask) -> Direct:
    """The part in front of Flask."""
    (found,) = [cell.cell_contents for cell in app.wsgi_app.__closure__ or () if isinstance(cell.cell_contents, Direct)]
    return found


def seen(application: Any, environment: dict[str, Any]) -> tuple[Any, ...]:
    """Status, headers in order, body, log lines and metrics of one request, without what changes each time."""
    before = counted()
    with capture_logs(processors=[logs.merge_contextvars]) as lines:
        content, status, headers = run_wsgi_app(application, environment, buffered=True)
    text = b"".join(content).decode()
    told = [{key: shown(value) for key, value in line.items() if key != "ms"} for line in lines if line["event"] != "batch_done"]
    sent = [(name, shown(value)) for name, value in headers]
    length = dict(headers).get("Content-Length")
    assert length == str(len(text.encode()))
    sent = [(name, "its own" if name == "Content-Length" else value) for name, value in sent]
    return status, sent, shown(text), told, {name: count - before.get(name, 0) for name, count in counted().items()
                                             if count != before.get(name, 0)}


def shown(value: Any) -> Any:
    """Times and random ids look alike."""
    return IDS.sub("ID", SECONDS.sub("waited", TIMES.sub(r"\1TIME", value))) if isinstance(value, str) else repr(value)


def counted() -> dict[str, float]:
    """All counts of this process, without what depends on how long something took."""
    return {f"{sample.name}{sorted(sample.labels.items())}": sample.value for metric in REGISTRY.collect()
            for sample in metric.samples if sample.name.startswith("quadrant_") and sample.name.endswith(("_total", "_count"))}


@pytest.mark.parametrize("name", PLAIN)
def test_both_ways_give_the_same(pair: Pair, name: str):
    """Status, headers, body, log and metrics: neither a client nor an operator can tell the ways apart."""
    assert plain(environ(**PLAIN[name]))
    for _ in range(2):  # the second answer may come from the cache
        assert seen(pair.short, environ(**PLAIN[name])) == seen(pair.usual, environ(**PLAIN[name]))


@pytest.mark.parametrize("name", UNUSUAL)
def test_flask_answers_what_is_unusual(pair: Pair, name: str, monkeypatch: pytest.MonkeyPatch):
    """What Flask might understand in a way of its own is left to it."""
    calls = []
    monkeypatch.setattr(pair.short, "usual", lambda environ, start: (calls.append(environ), pair.usual(environ, start))[1])
    assert not plain(environ(**UNUSUAL[name]))
    seen(pair.short, environ(**UNUSUAL[name]))
    assert len(calls) == 1


@pytest.mark.parametrize("error", [
    pytest.param(Overloaded("8 pictures are already waiting", retry_after_s=1.2), id="a problem with advice"),
    pytest.param(RuntimeError("secret"), id="a fault"),
])
@pytest.mark.parametrize("place", ["service.catalog.Catalog.require", "service.classifier.Classifier.classify",
                                   "service.web.room.Room.held"])
def test_both_ways_fail_alike(pair: Pair, error: Exception, place: str, monkeypatch: pytest.MonkeyPatch):
    """Wherever it happens; before the body was read, the connection is to be closed."""
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(place, fail)
    short = seen(pair.short, environ())
    assert short == seen(pair.usual, environ())
    assert short[0] == ("503 SERVICE UNAVAILABLE" if isinstance(error, Overloaded) else "500 INTERNAL SERVER ERROR")
    assert "secret" not in short[2]
    assert (("Connection", "close") in short[1]) == (place == "service.web.room.Room.held")


def test_an_answer_is_counted_once_it_was_sent(pair: Pair):
    """Its time includes the sending; a server closes the iterable even when the client is gone."""
    before = counted()
    iterable = pair.short(environ(), lambda *_: None)
    assert counted().get(REQUESTS, 0) == before.get(REQUESTS, 0)
    iterable.close()
    assert counted()[REQUESTS] == before.get(REQUESTS, 0) + 1


def test_the_ids_end_with_the_request(pair: Pair):
    """The thread serves another one next."""
    run_wsgi_app(pair.short, environ(headers={"X-Request-Id": "case-1"}))
    assert logs.bound() == {}
