"""A model that is loaded at its first request: once, without harm to anyone, and never in the way of an end."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service import loading
from service.catalog import Catalog
from service.classifier import Answer, Options
from service.engine import Engine, EngineFault
from service.loading import State
from service.metrics import MODEL_LOAD_SECONDS
from service.problems import BadOption, ModelNotReady, StartError
from service.settings import Settings
from tests import models

PATIENCE_S = 20  # of a test for an event that must come
PICTURE = models.png(models.quadrant_picture(1))


class Gate:
    """Engines that are made from now on wait here in the middle of their load."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.made = 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The default model, one that waits for its first request, and one that claims to know better."""
    models.build(tmp_path / "first" / "1" / "model.onnx", name="first")
    models.build(tmp_path / "later" / "1" / "model.onnx", name="later")
    models.build(tmp_path / "liar" / "1" / "model.onnx", name="liar", wrong_golden=True)
    models.choose(tmp_path, "first")
    return tmp_path


@pytest.fixture
def catalog(settings: Settings, folder: Path) -> Iterator[Catalog]:
    catalog = Catalog.load(dataclasses.replace(settings, models=folder, request_threads=16))
    yield catalog
    catalog.close()


@pytest.fixture
def gate(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()

    class Gated(Engine):
        def prove(self, golden=None, company=0):
            gate.made += 1
            gate.entered.set()
            assert gate.open.wait(PATIENCE_S)
            return super().prove(golden, company)

    monkeypatch.setattr(loading, "Engine", Gated)
    yield gate
    gate.open.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def refusal(ask: Callable[[], object]) -> ModelNotReady:
    with pytest.raises(ModelNotReady) as raised:
        ask()
    return raised.value


def loads(model: str, outcome: str) -> float:
    return MODEL_LOAD_SECONDS.labels(model, outcome)._count.get()  # type: ignore[attr-defined]


def test_only_the_default_is_loaded_at_the_start(catalog):
    """The others cost their memory and their seconds when somebody wants them."""
    assert catalog.states() == {"first/1": State.LOADED, "later/1": State.WAITS, "liar/1": State.WAITS}
    assert catalog.ready() == (True, [])
    assert [label.id for label in catalog.find("later").model.labels] == ["q0", "q1", "q2", "q3"]
    assert catalog.find("later").state is State.WAITS


def test_all_versions_but_the_highest_of_the_default_wait(settings, folder):
    """An old version is kept for those who go back; most never do."""
    models.build(folder / "first" / "2" / "model.onnx", name="first")
    catalog = Catalog.load(dataclasses.replace(settings, models=folder))
    assert {name for name, state in catalog.states().items() if state is State.LOADED} == {"first/2"}
    catalog.close()


def test_the_first_request_loads_and_is_answered(catalog):
    """Its caller sees nothing but a longer wait; Prometheus and the log see how long."""
    before = loads("later/1", "ok")
    assert catalog.find("later").classify(PICTURE).predictions[0].id == "q1"
    assert catalog.find("later").state is State.LOADED
    assert loads("later/1", "ok") == before + 1


def test_requests_that_come_together_load_once(catalog, gate, pool):
    """Twice the memory for one model would be the end of a small machine."""
    together = threading.Barrier(8)

    def ask() -> Answer:
        together.wait(PATIENCE_S)
        return catalog.find("later").classify(PICTURE)

    asked = [pool.submit(ask) for _ in range(8)]
    assert gate.entered.wait(PATIENCE_S)
    assert catalog.find("later").state is State.LOADING
    assert catalog.find("first").classify(PICTURE).predictions[0].id == "q1"  # the others are answered meanwhile
    gate.open.set()
    assert [each.result(PATIENCE_S).predictions[0].id for each in asked] == ["q1"] * 8
    assert gate.made == 1


def test_who_cannot_wait_is_refused_and_the_load_goes_on(catalog, gate):
    """Otherwise a large model would never be there, however often it is asked for."""
    later = catalog.find("later")
    found = refusal(lambda: later.classify(PICTURE, deadline=time.monotonic()))
    assert (found.status, found.code, found.fields) == (503, "model-not-ready", {"model": "later/1", "state": "loading"})
    assert found.retry_after_s is not None
    assert found.retry_after_s >= 1
    gate.open.set()
    assert later.classify(PICTURE).predictions[0].id == "q1"
    assert gate.made == 1


def test_a_model_that_fails_harms_no_other(catalog):
    """Its callers are told why; the process, the default model and readiness stay."""
    before = loads("liar/1", "failed")
    found = refusal(lambda: catalog.find("liar").classify(PICTURE))
    assert "liar/1 can't be loaded: liar/1/model.onnx: golden picture" in found.detail  # not where the folder lies
    assert loads("liar/1", "failed") == before + 1
    assert catalog.states()["liar/1"] is State.FAILED
    assert catalog.ready() == (True, [])
    assert catalog.find().classify(PICTURE).predictions[0].id == "q1"


def test_a_load_that_failed_is_not_tried_at_every_request(catalog):
    """Each try takes the processor from those who could be answered."""
    before = loads("liar/1", "failed")
    for _ in range(3):
        found = refusal(lambda: catalog.find("liar").classify(PICTURE))
        assert 1 <= found.retry_after_s <= loading.RETRY_S
    assert loads("liar/1", "failed") == before + 1


def test_a_load_that_failed_is_tried_again_later(catalog, monkeypatch):
    """What failed for want of memory may work when there is some."""
    def fail(*_):
        raise MemoryError("none left")

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "prove", fail)
        found = refusal(lambda: catalog.find("later").classify(PICTURE))
    assert found.detail == "later/1 can't be loaded: a fault of ours; the log tells"
    monkeypatch.setattr(loading, "RETRY_S", 0.0)
    assert catalog.find("later").classify(PICTURE).predictions[0].id == "q1"
    assert (catalog.find("later").state, catalog.find("later").loading.reason) == (State.LOADED, None)


def test_a_file_that_changed_since_the_start_is_not_loaded(catalog, folder):
    """Answers carry the digest that was read at the start; it must be that of the model that answers."""
    models.build(folder / "later" / "1" / "model.onnx", name="another")
    found = refusal(lambda: catalog.find("later").classify(PICTURE))
    assert "later/1/model.onnx changed since the service started" in found.detail


@pytest.mark.parametrize("options", [Options(top_k=5), Options(threshold=2.0)], ids=["top_k", "threshold"])
def test_an_option_that_is_refused_loads_nothing(catalog, options):
    """A typing mistake should not cost seconds and memory."""
    with pytest.raises(BadOption):
        catalog.find("later").classify(PICTURE, options)
    assert catalog.find("later").state is State.WAITS


def test_those_who_wait_leave_threads_to_the_others(catalog, gate):
    """A crowd before one model that loads must not keep the probes from being answered."""
    seats = catalog._loader.seats
    for _ in range(8):
        assert seats.acquire(blocking=False)
    assert "too many requests wait" in refusal(lambda: catalog.find("later").classify(PICTURE)).detail
    seats.release()
    gate.open.set()
    assert catalog.find("later").classify(PICTURE).predictions[0].id == "q1"


def test_models_are_loaded_one_at_a_time(settings, folder, monkeypatch, pool):
    """Two large ones at once would need memory for both loads, and take every core."""
    models.build(folder / "other" / "1" / "model.onnx", name="other")
    catalog = Catalog.load(dataclasses.replace(settings, models=folder, request_threads=16))
    inside, most = [], []

    class Watched(Engine):
        def prove(self, golden=None, company=0):
            inside.append(self)
            most.append(len(inside))
            found = super().prove(golden, company)
            inside.remove(self)
            return found

    monkeypatch.setattr(loading, "Engine", Watched)
    asked = [pool.submit(catalog.find(name).classify, PICTURE) for name in ("later", "other") * 3]
    assert [each.result(PATIENCE_S).predictions[0].id for each in asked] == ["q1"] * 6
    assert most == [1, 1]
    catalog.close()


def test_a_drain_begins_no_load(catalog, gate, pool):
    """Who is about to stop finishes what it has begun, and nothing else."""
    asked = pool.submit(catalog.find("later").classify, PICTURE)
    assert gate.entered.wait(PATIENCE_S)
    catalog.begin_drain()
    assert "about to stop" in refusal(lambda: catalog.find("liar").classify(PICTURE)).detail
    gate.open.set()
    assert asked.result(PATIENCE_S).predictions[0].id == "q1"


def test_closing_in_the_middle_of_a_load_leaves_nobody_waiting(catalog, gate, pool):
    """The process ends when the engine lets go, without a thread that outlives it."""
    asked = pool.submit(catalog.find("later").classify, PICTURE)
    assert gate.entered.wait(PATIENCE_S)
    closed = pool.submit(catalog.close)
    assert "about to stop" in refusal(lambda: asked.result(PATIENCE_S)).detail
    assert not closed.done()  # it waits for the engine
    gate.open.set()
    closed.result(PATIENCE_S)
    assert not [thread.name for thread in threading.enumerate() if thread.name.endswith("later/1")]
    assert catalog.find("later").state is not State.LOADED


def test_a_load_that_does_not_end_does_not_hold_up_the_end_for_ever(catalog, gate, pool, monkeypatch):
    """Kubernetes kills what doesn't stop; better to go by oneself."""
    monkeypatch.setattr(loading, "CLOSE_S", 0.0)
    asked = pool.submit(catalog.find("later").classify, PICTURE)
    assert gate.entered.wait(PATIENCE_S)
    catalog.close()
    refusal(lambda: asked.result(PATIENCE_S))


def test_a_model_answers_before_it_has_its_session_on_all_processors(settings, folder, monkeypatch):
    """A second session takes as long to make as the first; nobody waits for it, and an end does."""
    begun, go_on, done = threading.Event(), threading.Event(), []

    def widen(self: Engine, _: int) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        done.append(self)

    monkeypatch.setattr(Engine, "widen", widen)
    catalog = Catalog.load(dataclasses.replace(settings, models=folder))
    try:
        assert begun.wait(PATIENCE_S)
        assert catalog.ready() == (True, [])
        assert catalog.find().classify(PICTURE).predictions[0].id == "q1"
        assert done == []
    finally:
        threading.Timer(0.1, go_on.set).start()
        catalog.close()
    assert len(done) == 1


@pytest.mark.parametrize("error", [StartError("other answers"), EngineFault("no answer")])
def test_without_that_session_all_goes_on(settings, folder, monkeypatch, error):
    """What another number of threads makes of the golden examples may be something else: it is told, and not used."""
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Engine, "widen", fail)
    with capture_logs() as events:
        catalog = Catalog.load(dataclasses.replace(settings, models=folder))
        catalog.find().loading._widening.join(PATIENCE_S)
    told = [each for each in events if each["event"] == "not_on_all_processors"]
    assert [(each["model"], each["reason"], each["log_level"]) for each in told] == [("first/1", str(error), "error")]
    assert catalog.find().classify(PICTURE).predictions[0].id == "q1"
    catalog.close()
