"""The path from bytes to labels, with the real parts and a tiny model."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from structlog.contextvars import bind_contextvars

from service import images
from service.answer import Timing
from service.catalog import Catalog
from service.classifier import Answer, Classifier, Options
from service.metrics import PICTURES as PICTURES_ANSWERED
from service.problems import BadOption, DeadlineExceeded, Internal, Overloaded, Problem, TooManyPictures, TooManyPixels
from service.settings import Settings
from service.web.uploads import Upload
from tests import models
from tests.service import pictures

PICTURES = [models.png(models.quadrant_picture(number)) for number in range(4)]


@pytest.fixture
def catalog(settings: Settings) -> Iterator[Catalog]:
    found = Catalog.load(settings)
    yield found
    found.close()


@pytest.fixture
def classifier(catalog: Catalog) -> Classifier:
    return catalog.find()


@pytest.mark.parametrize("number", range(4))
def test_labels_come_best_first_with_their_probabilities(classifier, number):
    """Held against arithmetic that knows neither ONNX nor this path."""
    answer = classifier.classify(PICTURES[number])
    (right,) = models.expected(np.asarray(models.quadrant_picture(number))[None])
    best = answer.predictions[0]
    assert (best.label, best.id, best.index) == (models.LABELS[number].label, f"q{number}", number)
    assert [each.score for each in answer.predictions] == pytest.approx(sorted(right, reverse=True), abs=1e-6)


def test_an_answer_has_the_shape_that_is_documented(classifier, tiny_model):
    """Clients rely on every name in it."""
    bind_contextvars(request_id="req-1")
    answer = msgspec.to_builtins(classifier.classify(pictures.jpeg(pictures.scene(40, 20), orientation=6), Options(top_k=1)))
    assert answer.keys() == {"id", "model", "predictions", "margin", "entropy", "abstained", "image", "timing_ms"}
    assert answer["id"] == "req-1"
    assert answer["model"] == {"name": "quadrants", "version": "1", "digest": tiny_model.digest, "precision": "fp32"}
    assert [each.keys() for each in answer["predictions"]] == [{"label", "score", "index", "id"}]
    assert answer["image"] == {"format": "JPEG", "mode": "RGB", "width": 20, "height": 40, "orientation_applied": True}
    assert answer["timing_ms"].keys() == {"decode", "preprocess", "queue", "inference", "batch_size"}
    assert all(value >= 0 for value in answer["timing_ms"].values())


def test_a_photo_is_let_go_once_it_is_decoded(classifier, monkeypatch):
    """It needn't wait for the engine: a photo may be of 20 MB."""
    held: list[bool] = []

    class Photo(bytes):
        def __del__(self) -> None:
            held[-1:] = [False]

    usual = classifier._leave
    seen: list[bool] = []
    monkeypatch.setattr(classifier, "_leave", lambda *given: seen.append(held[-1]) or usual(*given))
    held.append(True)
    upload = Upload([Photo(PICTURES[2])], Options(top_k=1), False)
    assert classifier.classify(upload.take(), upload.options).predictions[0].id == "q2"
    assert seen == [False]


def test_several_keep_their_order_and_their_own_problems(classifier):
    """A bad picture never fails its neighbours."""
    bind_contextvars(request_id="req-2")
    unpacked = BadOption("picture is not base64")
    results = classifier.classify_many([PICTURES[3], b"rubbish", unpacked, PICTURES[0]], Options(top_k=1))
    assert [result.code if isinstance(result, Problem) else result.predictions[0].id for result in results] == [
        "q3", "unsupported-format", "bad-option", "q0"]
    assert [result.id for result in results if isinstance(result, Answer)] == ["req-2-0", "req-2-3"]


def test_a_picture_alone_and_in_a_batch_gets_the_same_answer(classifier):
    """One's answer must not depend on strangers."""
    together = classifier.classify_many(PICTURES)
    for data, found in zip(PICTURES, together, strict=True):
        assert isinstance(found, Answer)
        assert found.predictions == classifier.classify(data).predictions


def test_a_threshold_leaves_out_what_is_unlikely(classifier):
    """Some callers want silence rather than a guess."""
    assert [each.id for each in classifier.classify(PICTURES[1], Options(threshold=0.5)).predictions] == ["q1"]
    assert classifier.classify(PICTURES[1], Options(threshold=1.0)).predictions == []


def test_the_default_number_of_labels_fits_small_models(classifier):
    """Five of four classes is no mistake of the caller's who asked for nothing."""
    assert len(classifier.classify(PICTURES[0]).predictions) == 4


@pytest.mark.parametrize(("options", "message"), [
    pytest.param(Options(top_k=0), "top_k is 0; expected a whole number from 1 to 4", id="none"),
    pytest.param(Options(top_k=5), "top_k is 5; expected a whole number from 1 to 4", id="too many"),
    pytest.param(Options(threshold=-0.1), "threshold is -0.1; expected a number from 0 to 1", id="negative"),
    pytest.param(Options(threshold=math.nan), "threshold is nan", id="no number"),
])
def test_options_out_of_range_are_refused(classifier, options, message):
    """Cut silently, they would look as if they had been obeyed."""
    with pytest.raises(BadOption, match=message):
        classifier.classify(PICTURES[0], options)


def test_limits_of_the_settings_hold(classifier):
    """Whoever calls: HTTP, command line or bulk."""
    with pytest.raises(TooManyPixels):
        classifier.classify(pictures.encode(pictures.scene(2000, 600), "PNG"))
    with pytest.raises(TooManyPictures, match="9 pictures in one call; this server's queue holds 8"):
        classifier.classify_many([PICTURES[0]] * 9)


def test_a_picture_that_decodes_larger_than_the_memory_is_refused(settings):
    """One picture must not end the process for all."""
    catalog = Catalog.load(dataclasses.replace(settings, decode_memory=2**20))
    with pytest.raises(TooManyPixels, match=r"takes about \d+ MiB to decode; this server has 1 MiB"):
        catalog.find().classify(pictures.encode(pictures.scene(1000, 900), "PNG"))
    catalog.close()


def test_a_passed_deadline_is_told_before_work_is_done(classifier, monkeypatch):
    """Nobody waits for the answer any more."""
    monkeypatch.setattr(images, "prepare", None)  # would fail if it were called
    with pytest.raises(DeadlineExceeded):
        classifier.classify(PICTURES[0], deadline=time.monotonic() - 1)


def test_our_own_fault_is_one_pictures_problem(classifier, monkeypatch):
    """An unforeseen exception neither escapes as a traceback nor takes the neighbours along."""
    prepare = images.prepare

    def faulty(data: bytes, *rest: object) -> object:
        if data == PICTURES[2]:
            raise ZeroDivisionError
        return prepare(data, *rest)

    monkeypatch.setattr(images, "prepare", faulty)
    first, second = classifier.classify_many([PICTURES[2], PICTURES[1]])
    assert isinstance(first, Internal)
    assert isinstance(second, Answer)
    with pytest.raises(Internal):
        classifier.classify(PICTURES[2])


def test_places_are_free_again_after_every_way_out(classifier):
    """One leak a bad picture, and after 256 of them the service refuses everyone."""
    for _ in range(10):
        for data, options in ((PICTURES[0], Options()), (b"", Options()), (PICTURES[0], Options(top_k=99))):
            try:
                classifier.classify(data, options)
            except Overloaded:
                raise
            except Problem:
                pass
    assert classifier._line.ahead == 0


@pytest.fixture
def remembering(settings: Settings) -> Iterator[Classifier]:
    """With a cache."""
    catalog = Catalog.load(dataclasses.replace(settings, cache_bytes=2**20))
    yield catalog.find()
    catalog.close()


def test_the_same_picture_again_is_answered_without_work(remembering, monkeypatch):
    """Everything but the id and the times is the same, and these are the second request's own."""
    bind_contextvars(request_id="first")
    first = remembering.classify(PICTURES[2], Options(top_k=2))
    monkeypatch.setattr(images, "inspect", None)  # would fail if it were called
    monkeypatch.setattr(remembering._line, "admit", None)
    bind_contextvars(request_id="second")
    second = remembering.classify(PICTURES[2], Options(top_k=2))
    assert (first.cached, second.cached) == (False, True)
    assert (first.id, second.id) == ("first", "second")
    assert second == msgspec.structs.replace(first, id="second", timing_ms=Timing(0.0, 0.0, 0.0, 0.0, 0))


def test_options_are_part_of_the_key_as_they_act(remembering):
    """Who asks for one label must not get five; who asks for the default by its number gets what is there."""
    assert len(remembering.classify(PICTURES[0]).predictions) == 4
    assert remembering.classify(PICTURES[0], Options(top_k=4)).cached
    assert len(remembering.classify(PICTURES[0], Options(top_k=1)).predictions) == 1
    assert remembering.classify(PICTURES[0], Options(threshold=1.0)).predictions == []


def test_of_several_pictures_only_the_new_ones_take_places(remembering):
    """The queue holds 8: what is there already doesn't count against it."""
    bind_contextvars(request_id="req-3")
    remembering.classify_many(PICTURES[:2])
    unpacked = BadOption("picture is not base64")
    sent = [*PICTURES[:2] * 3, unpacked, PICTURES[3], b"rubbish", PICTURES[3]]
    results = remembering.classify_many(sent)
    assert [result.code if isinstance(result, Problem) else (result.predictions[0].id, result.cached) for result in results] == [
        *[("q0", True), ("q1", True)] * 3, "bad-option", ("q3", False), "unsupported-format", ("q3", True)]
    assert [result.id for result in results if isinstance(result, Answer)] == [f"req-3-{n}" for n in (0, 1, 2, 3, 4, 5, 7, 9)]
    assert remembering._line.ahead == 0


def test_a_request_without_room_is_refused_and_the_next_one_is_not_held_up(remembering):
    """What was begun for it is over; an equal request later must not wait for it."""
    with remembering._line.admit(8), pytest.raises(Overloaded):
        remembering.classify(PICTURES[1])
    assert remembering.classify(PICTURES[1]).predictions[0].id == "q1"
    with remembering._line.admit(8):
        assert remembering.classify(PICTURES[1]).cached


def test_a_client_that_went_away_takes_nobody_along(remembering, monkeypatch):
    """The one that waits for it is answered all the same, by its own work."""
    entered, waits, release = threading.Event(), threading.Event(), threading.Event()
    prepare, follow = remembering._prepare, remembering._cache._follow

    def held(*arguments: object) -> object:
        entered.set()
        assert release.wait(10)
        return prepare(*arguments)

    def followed(*arguments: object) -> object:
        waits.set()
        return follow(*arguments)

    monkeypatch.setattr(remembering, "_prepare", held)
    monkeypatch.setattr(remembering._cache, "_follow", followed)
    with ThreadPoolExecutor(2) as callers:
        left = callers.submit(remembering.classify, PICTURES[0], gone=lambda: True)
        assert entered.wait(10)
        stayed = callers.submit(remembering.classify, PICTURES[0])
        assert waits.wait(10)
        release.set()
        assert isinstance(left.exception(10), DeadlineExceeded)
        answer = stayed.result(10)
    assert (answer.predictions[0].id, answer.cached) == ("q0", False)
    assert remembering._line.ahead == 0


def test_cached_pictures_count_as_answered(remembering):
    """A dashboard that loses them shows a service that falls asleep."""
    def count() -> float:
        return PICTURES_ANSWERED.labels("quadrants", "ok")._value.get()

    before = count()
    for _ in range(3):
        remembering.classify(PICTURES[0])
    assert count() - before == 3


def test_without_a_cache_nothing_is_hashed(classifier, monkeypatch):
    """Off means that it costs nothing."""
    monkeypatch.setattr("service.cache.hashlib", None)  # would fail if it were used
    assert not classifier.classify(PICTURES[0]).cached
    assert not classifier.classify(PICTURES[0]).cached


def test_models_share_one_cache_and_keep_their_names(settings, tmp_path):
    """Two models must not hold twice what was allowed; one file under two names answers alike, as what it was asked for."""
    for name in ("a", "b"):
        models.build(tmp_path / name / "1" / "model.onnx")
    catalog = Catalog.load(dataclasses.replace(settings, cache_bytes=2**20, models=tmp_path, model="a", load="all"))
    first, second = (catalog.find(name).classify(PICTURES[0]) for name in ("a", "b"))
    assert (first.cached, second.cached) == (False, True)
    assert (first.model.name, second.model.name) == ("a", "b")
    catalog.close()
