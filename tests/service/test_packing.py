"""What a packed form is made of: cut, replaced where that gives the same, or as ONNX Runtime has it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from structlog.testing import capture_logs

from service import lookup, onnxgraph, packed, packing, winograd
from service.engine import Engine
from service.examples import pixels_of
from service.modelfile import ModelFile
from service.native.operators import DOMAIN, operators
from tests import models

SIDE = 16  # pixels: a picture holds every byte, so that bytes can be looked up
PICTURES = np.random.default_rng(0).integers(0, 256, (9, SIDE, SIDE, 3), np.uint8)
DEFAULT = Path(__file__).parents[2] / "models" / "alexnet64-tiny-imagenet"
needs_operators = pytest.mark.skipif(operators() is None, reason="no AVX2 here")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "packed"


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    return ModelFile.open(models.build(tmp_path / "quadrants" / "1" / "model.onnx", side=SIDE))


@needs_operators
def test_the_default_model_answers_the_same(place):
    """Its golden examples, alone and in company, on one thread and on two; and pictures of any kind."""
    model = ModelFile.open(next(DEFAULT.glob("*/model.onnx")))
    plain, ours = Engine(model, "cpu", 1, place), Engine(model, "cpu", 1, place, operators())
    assert ours.operators == "1 LookUpPlanes, 5 WinogradConv"
    ours.widen(2)
    assert ours.prove(company=16) <= 1e-5
    noise = np.random.default_rng(1).integers(0, 256, (7, model.recipe.input.height, model.recipe.input.width, 3), np.uint8)
    pictures = np.concatenate([pixels_of(model.recipe, model.golden), noise])
    expected = plain.run(pictures)
    for alone in (False, True):
        assert np.abs(ours.run(pictures, alone) - expected).max() <= 5e-6
        assert np.array_equal(ours.run(pictures, alone).argmax(1), expected.argmax(1))
        each = np.concatenate([ours.run(picture[None], alone) for picture in pictures])
        assert np.abs(each - ours.run(pictures, alone)).max() <= 1e-6


@needs_operators
def test_what_is_replaced_answers_the_same(model, place):
    """And is told; without operators nothing is, in a form of its own."""
    plain, ours = Engine(model, "cpu", 1, place), Engine(model, "cpu", 1, place, operators())
    assert (plain.operators, ours.operators) == ("", "1 LookUpPlanes")
    assert np.array_equal(plain.run(PICTURES), ours.run(PICTURES))
    assert len([each for each in place.iterdir() if each.is_dir()]) == 2


def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is off by one."""
    table = lookup._table
    monkeypatch.setattr(lookup, "_table", lambda *given: (table(*given)[0], np.roll(table(*given)[1], 1, 1)))


def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that ONNX Runtime refuses."""
    monkeypatch.setattr(winograd, "replace", lambda *_: b"no model")


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that isn't understood."""
    monkeypatch.setattr(lookup, "_chain", lambda _: {}["missing"])


def uneasy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded is as far from ONNX Runtime's answer as may be."""
    monkeypatch.setattr(packing, "GOLDEN_TOLERANCE", {"fp32": -1.0})


@needs_operators
@pytest.mark.parametrize(("damage", "event", "reason"), [
    (wrong, "operators_not_used", "a probability differs by"), (broken, "operators_not_used", "protobuf parsing failed"),
    (unreadable, "lookup_not_used", "missing"), (uneasy, "operators_not_used", "expected at most -1e+00")],
    ids=["wrong", "broken", "unreadable", "uneasy"])
def test_what_gives_something_else_is_not_used(model, place, monkeypatch, damage, event, reason):
    """It is found before the form is kept, told once, and ONNX Runtime's own operators do it."""
    damage(monkeypatch)
    with capture_logs() as events:
        found = packed.find(model, place, operators())
        assert Engine(model, "cpu", 1, place, operators()).prove() <= 1e-5
    assert found.library is None
    assert not [node.kind for node, _ in onnxgraph.nodes(found.path.read_bytes()) if node.domain == DOMAIN]
    assert sorted(each.name for each in found.path.parent.iterdir()) == ["model.onnx", "sha256"]
    told = [each["reason"] for each in events if each["event"] == event]
    assert reason in told[0]
    assert len(told) == (2 if damage is broken else 1)  # what the runtime failed on is told at each start


@needs_operators
def test_what_can_be_had_another_time_is_tried_again(model, place, monkeypatch):
    """A full disk says nothing of the model."""
    with monkeypatch.context() as patch:
        patch.setattr(winograd, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert "No space left" in packed.find(model, place, operators()).reason
    assert packed.find(model, place, operators()).library is not None


@needs_operators
def test_a_try_that_ended_its_process_is_repeated_without(model, place, monkeypatch):
    """First without operators; if that ends it too, not at all for a day."""
    for kept, expected in (
        (lambda given: given is None, "mapped from"), (lambda _: False, "an earlier try failed, or ended its process"),
    ):
        write = packing.write

        def killed(*given, kept=kept, write=write) -> None:
            write(*given) if kept(given[2]) else os._exit(9)

        for _ in range(2):
            if (child := os.fork()) == 0:
                monkeypatch.setattr(packing, "write", killed)
                packed.find(model, place, operators())
                os._exit(0)
            os.waitpid(child, 0)
        found = packed.find(model, place, operators())
        assert expected in found.reason
        assert found.library is None
        shutil.rmtree(place)


@needs_operators
def test_a_day_later_operators_are_tried_again(model, place, monkeypatch):
    """The form without them is another, and doesn't hide it."""
    with monkeypatch.context() as patch:
        broken(patch)
        assert packed.find(model, place, operators()).library is None
    assert packed.find(model, place, operators()).library is None
    (tried,) = place.glob(f"*{packed.TRIED}")
    os.utime(tried, (time.time() - packed.RETRY_S - 1,) * 2)
    assert packed.find(model, place, operators()).library is not None


@needs_operators
def test_a_model_that_declares_its_weights_as_inputs_has_them_too(model, tmp_path, place):
    """As PyTorch's `keep_initializers_as_inputs` does."""
    proto = onnx.load(model.path)
    for each in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(each.name, each.data_type, each.dims))
    path = tmp_path / "other" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(proto, path)
    assert packed.find(ModelFile.open(path), place, operators()).library is not None


def test_large_layers_are_cut_before_they_are_ordered(tmp_path, place, monkeypatch):
    """Whatever that makes of the model is what is packed, and what is proven; weights in the model itself are never cut."""
    cut: list[bytes] = []
    monkeypatch.setattr(packing.pieces, "cut", lambda content: cut.append(content) or bytes(bytearray(content)))
    outside = ModelFile.open(models.build(tmp_path / "outside" / "1" / "model.onnx", external=True))
    assert Engine(outside, "cpu", 1, place).packed
    assert cut == [outside.path.read_bytes()]
    assert Engine(ModelFile.open(models.build(tmp_path / "inside" / "1" / "model.onnx")), "cpu", 1, place).packed
    assert len(cut) == 1


def test_a_model_that_cannot_be_cut_is_packed_whole(tmp_path, place, monkeypatch):
    """It is ONNX Runtime's to say what it can't read."""
    def fail(_: bytes) -> bytes:
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "no text")

    monkeypatch.setattr(packing.pieces, "cut", fail)
    assert Engine(ModelFile.open(models.build(tmp_path / "outside" / "1" / "model.onnx", external=True)), "cpu", 1, place).packed
