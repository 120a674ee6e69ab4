"""The cache in the running service: one worker, a real socket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jsonschema_rs
import pytest

from service.web import docs
from tests import models
from tests.running import Reply, Running, service

PICTURES = [models.png(models.quadrant_picture(row)) for row in range(4)]


@pytest.fixture(scope="module")
def remembering(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker, so that each request meets the same cache."""
    with service(tmp_path_factory.mktemp("cache") / "log",
                 variables | {"QUADRANT_WORKERS": "1", "QUADRANT_CACHE_BYTES": "1MiB"}) as running:
        yield running


def counted(running: Running) -> dict[str, float]:
    """Lookups so far, by outcome."""
    page = running.ask("/metrics").body.decode()
    found = re.findall(r'^quadrant_cache_lookups_total{outcome="(\w+)"} (\S+)$', page, re.M)
    return {outcome: float(count) for outcome, count in found}


def test_a_picture_that_comes_again_keeps_the_description(remembering: Running):
    """Header, answer and metrics of a hit are as described; clients are generated from that."""
    before = counted(remembering).get("hit", 0)
    first, second = (remembering.ask("/classify?top_k=2", PICTURES[2], X_Request_Id=name) for name in ("one", "two"))
    assert [reply.headers["X-Cache"] for reply in (first, second)] == ["miss", "hit"]
    assert (second.json["id"], second.json["predictions"]) == ("two", first.json["predictions"])
    described = docs.description()
    schema = {"$ref": "#/components/schemas/Answer", "components": described["components"]}
    jsonschema_rs.validate(schema, second.json)
    header = described["paths"]["/classify"]["post"]["responses"]["200"]["headers"]["X-Cache"]["schema"]
    assert header["enum"] == ["hit", "miss"]
    assert counted(remembering)["hit"] == before + 1
    held = re.search(r"^quadrant_cache_bytes (\S+)$", remembering.ask("/metrics").body.decode(), re.M)
    assert held is not None
    assert 0 < float(held[1]) <= 2**20


def test_each_caller_gets_the_answer_to_its_own_picture(remembering: Running):
    """Many at once, equal ones among them: every answer is right and carries its own id; each picture counts once."""
    before = sum(counted(remembering).values())
    rows = [number % 4 for number in range(60)]

    def ask(number: int) -> Reply:
        return remembering.ask("/classify?top_k=1", PICTURES[rows[number]], X_Request_Id=f"n-{number}")

    with ThreadPoolExecutor(12) as callers:
        replies = list(callers.map(ask, range(len(rows))))
    assert [(reply.status, reply.json["id"], reply.json["predictions"][0]["index"]) for reply in replies] == [
        (200, f"n-{number}", row) for number, row in enumerate(rows)]
    assert [reply.headers["X-Cache"] for reply in replies].count("miss") == 4
    assert sum(counted(remembering).values()) == before + len(rows)
