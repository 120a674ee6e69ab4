"""A model that is written over while it is served."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import msgspec
import pytest

from service.catalog import Catalog
from service.intact import Intact
from service.modelfile import ModelFile
from tests import models
from tests.running import eventually


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    models.build(tmp_path / "quadrants" / "1" / "model.onnx", external=True)
    return tmp_path / "quadrants" / "1" / "weights.bin"


@pytest.fixture
def intact(weights: Path) -> Intact:
    return Intact(ModelFile.open(weights.with_name("model.onnx")))


def overwrite(file: Path, content: bytes) -> None:
    """In place, as `cp` does, so that the file's time is another one."""
    before = file.stat().st_mtime_ns
    while file.stat().st_mtime_ns == before:
        file.write_bytes(content)


def settled(intact: Intact) -> None:
    """Wait for the thread that a look has started."""
    intact.problem()
    with intact._reading:
        pass


def test_what_is_written_over_in_place_is_noticed(intact, weights):
    """The session sees each byte as it is written: its answers are of no model."""
    assert intact.problem() is None
    overwrite(weights, bytes(weights.stat().st_size))
    settled(intact)
    assert "quadrants/1 were overwritten while they are served" in intact.problem()
    assert str(weights.parent) not in intact.problem()


def test_the_same_bytes_are_the_same_model(intact, weights):
    """Somebody copied it once more, or set its time."""
    overwrite(weights, weights.read_bytes())
    settled(intact)
    assert intact.problem() is None
    assert not any(stamp.overwritten for stamp in intact._seen)
    overwrite(weights, bytes(weights.stat().st_size))
    settled(intact)
    assert intact.problem()


def test_a_file_in_its_place_is_no_harm(intact, weights):
    """The session keeps the old one; the next start takes the new one."""
    (weights.parent / "new").write_bytes(bytes(24))
    (weights.parent / "new").rename(weights)
    settled(intact)
    assert intact.problem() is None
    weights.unlink()
    settled(intact)
    assert intact.problem() is None


def test_whatever_a_file_holds_it_is_noticed(intact, weights):
    """A name with a NUL in it once ended the thread that reads, and nobody heard of the file again."""
    file = weights.with_name("model.onnx")
    content = file.read_bytes()
    overwrite(file, content.replace(b"weights.bin", b"weights\0bin"))
    settled(intact)
    assert "were overwritten while they are served" in intact.problem()


def test_an_error_that_nobody_foresaw_is_a_problem_too(intact, weights, monkeypatch):
    """Files that can't be read are not those that were checked; a thread that dies in silence would leave it ready."""
    def fail(_: Path) -> ModelFile:
        raise ZeroDivisionError("nobody foresaw it")

    monkeypatch.setattr(ModelFile, "open", fail)
    overwrite(weights, bytes(weights.stat().st_size))
    settled(intact)
    assert "were overwritten while they are served" in intact.problem()


def test_without_a_thread_the_next_look_tries_again(intact, weights, monkeypatch):
    """A process that is out of threads for a moment must not forget the file for ever."""
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    overwrite(weights, bytes(weights.stat().st_size))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert intact.problem() is None
    settled(intact)
    assert intact.problem()


def test_a_process_whose_model_was_overwritten_is_unready(settings, weights):
    """Balancers must send nothing to answers of no model."""
    catalog = Catalog.load(dataclasses.replace(settings, models=weights.parents[2], packed_weights="off"))
    assert catalog.ready() == (True, [])
    overwrite(weights, bytes(weights.stat().st_size))
    eventually(lambda: not catalog.ready()[0], "it is still ready")
    assert "were overwritten" in catalog.ready()[1][0]
    catalog.close()


def test_packed_weights_need_nobody_to_look_after_the_models_own(settings, weights):
    """The session has mapped another file; what becomes of the model's matters at the next start."""
    said = ModelFile.open(weights.with_name("model.onnx")).recipe
    quantized = msgspec.structs.replace(said, precision="int8").dump()
    models.build(weights.with_name("model.onnx"), external=True, metadata={"recipe": quantized})
    catalog = Catalog.load(dataclasses.replace(settings, models=weights.parents[2]))
    overwrite(weights, bytes(weights.stat().st_size))
    assert catalog.find().loading.made.intact is None
    assert catalog.ready() == (True, [])
    catalog.close()
