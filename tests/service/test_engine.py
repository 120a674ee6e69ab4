"""The engine: right numbers, on the provider that was asked for, whatever the company."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from service import examples, recipe
from service.engine import Engine, EngineFault
from service.inference.session import Opening
from service.modelfile import ModelFile
from service.problems import StartError
from service.recipe import Golden
from tests import models


class Stub:
    """A session that returns what a test wants."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def run(self, *_: Any) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, models.SIDE, models.SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def running(tiny_model: ModelFile) -> Engine:
    return Engine(tiny_model, "cpu")


@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_answers_are_right(running, count):
    """Held against arithmetic that knows no ONNX."""
    found = running.run(pixels(count))
    assert found.dtype == np.float32
    assert np.abs(found - models.expected(pixels(count))).max() < 1e-6


def test_an_answer_does_not_depend_on_its_company(running):
    """A picture is the same picture in a full batch."""
    batch = pixels(9)
    alone = np.concatenate([running.run(row[None]) for row in batch])
    assert np.abs(running.run(batch) - alone).max() <= examples.BATCH_TOLERANCE["fp32"]


def test_a_proven_model_says_how_close_it_came(running):
    """Ready means proven."""
    assert running.prove() <= examples.GOLDEN_TOLERANCE["fp32"]
    running.warm(3)


def test_every_size_is_warm_and_none_is_run_twice(tiny_model, monkeypatch):
    """The proof runs at the cap already; each further run would cost every start of a large model a fifth of a second."""
    found, sizes = Engine(tiny_model, "cpu"), []
    real = found.session.run
    monkeypatch.setattr(found.session, "run", lambda batch, alone=False: sizes.append(len(batch)) or real(batch, alone))
    found.prove(company=13)
    assert sizes == [1, 1, 1, 1, 13]
    found.warm(13)
    assert len(sizes) == 5
    found.warm(16)
    assert sizes[5:] == [16]
    assert found.alone_s > 0


def test_all_cpus_give_the_same_answers(tiny_model):
    """While the other processes are idle a second session runs, with more threads; it is proven as the first is."""
    found = Engine(tiny_model, "cpu", Opening(threads=1, alone_threads=2))
    assert found.session._wide is found.session._narrow
    found.widen(8)
    assert found.session._wide is not found.session._narrow
    assert np.abs(found.run(pixels(3), alone=True) - found.run(pixels(3))).max() <= examples.BATCH_TOLERANCE["fp32"]


def test_what_is_not_proven_on_all_cpus_is_not_used_there(tiny_model, monkeypatch):
    """All goes on with the session that was proven before."""
    found = Engine(tiny_model, "cpu", Opening(threads=1, alone_threads=2))
    found.prove()
    quickest = found.alone_s
    wrong = Stub([np.full((1, len(tiny_model.labels)), 0.25, np.float32)])
    monkeypatch.setattr(found.session, "_open", lambda _: wrong)
    with pytest.raises(StartError, match="on cpu, on all CPUs; expected"):
        found.widen(8)
    assert found.session._wide is found.session._narrow
    assert found.alone_s == quickest


def test_one_session_where_all_runs_have_the_same_threads(tiny_model):
    """A second one would be memory for nothing."""
    found = Engine(tiny_model, "cpu", Opening(threads=2, alone_threads=2))
    found.widen(8)
    assert found.session._wide is found.session._narrow


@pytest.mark.parametrize(("company", "expected"), [(0, [4]), (1, [2, 2]), (3, [3, 3]), (4, [4]), (13, [13])])
def test_no_proof_is_larger_than_the_batches_to_come(tiny_model, monkeypatch, company, expected):
    """What a larger batch touches of the arena stays; each example is in company all the same."""
    found, sizes = Engine(tiny_model, "cpu"), []
    real = found.session.run
    monkeypatch.setattr(found.session, "run", lambda batch, alone=False: sizes.append(len(batch)) or real(batch, alone))
    assert found.prove(company=company) <= 1e-5
    assert sizes == [1, 1, 1, 1, *expected]


def test_unpacked_weights_are_shared_but_for_int8(tiny_model, tmp_path, monkeypatch):
    """In an order of the processor's own, each process has a copy: int8 needs it, fp32 needs the memory."""
    seen = []
    real = onnxruntime.InferenceSession

    def remember(source: Any, options: onnxruntime.SessionOptions, **rest: Any) -> Any:
        seen.append((source, options.get_session_config_entry("session.disable_prepacking")))
        return real(source, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", remember)
    Engine(tiny_model, "cpu")
    Engine(dataclasses.replace(tiny_model, recipe=msgspec.structs.replace(tiny_model.recipe, precision="int8")), "cpu")
    assert seen == [(str(tiny_model.path), "1"), (str(tiny_model.path), "0")]


def test_a_model_that_changes_under_the_runtime_ends_the_start(tmp_path, monkeypatch):
    """It opens the files by their paths, a moment after they were checked."""
    path = models.build(tmp_path / "model.onnx", external=True)
    model = ModelFile.open(path)
    real = onnxruntime.InferenceSession

    def meanwhile(*args: Any, **named: Any) -> Any:
        found = real(*args, **named)
        (tmp_path / "new").write_bytes((tmp_path / "weights.bin").read_bytes())
        (tmp_path / "new").rename(tmp_path / "weights.bin")
        return found

    monkeypatch.setattr(onnxruntime, "InferenceSession", meanwhile)
    with pytest.raises(StartError, match=r"weights\.bin changed while it was loaded"):
        Engine(model, "cpu")


def test_external_weights_are_served_too(tmp_path):
    """Large models keep them beside the file."""
    model = ModelFile.open(models.build(tmp_path / "model.onnx", external=True))
    assert Engine(model, "cpu").prove() <= 1e-5


def test_a_wrong_golden_answer_ends_the_start(tmp_path):
    """A model that can't reproduce its own examples here would answer wrongly."""
    model = ModelFile.open(models.build(tmp_path / "model.onnx", wrong_golden=True))
    with pytest.raises(StartError, match=r"golden picture \d gives .*; expected .* within 1e-05"):
        Engine(model, "cpu").prove()


def test_answers_that_depend_on_the_batch_end_the_start(tmp_path):
    """Ranges taken over a whole batch would let strangers change one's answer."""
    found = Engine(ModelFile.open(models.build(tmp_path / "model.onnx", batch_dependent=True)), "cpu")
    golden = []
    for light in (40, 90, 160, 255):
        image = models.quadrant_picture(0, light=light)
        (answer,) = found.run(np.asarray(image)[None])
        golden.append(Golden(models.png(image), tuple(map(float, answer))))
    with pytest.raises(StartError, match="between alone and in a batch"):
        found.prove(golden)


@pytest.mark.parametrize(("broken", "message"), [
    pytest.param({"input_type": TensorProto.FLOAT}, r"is float32 \(batch, 8, 8, 3\); expected uint8 \(batch", id="float"),
    pytest.param({"batch": 1}, r"is uint8 \(1, 8, 8, 3\)", id="fixed batch"),
    pytest.param({"metadata": {"labels": recipe.dump([*models.LABELS, recipe.Label("q4", "middle")]), "golden": recipe.dump(
        [Golden(b"", (1.0, 0.0, 0.0, 0.0, 0.0))] * 4)}}, "as there are 5 labels", id="a label too many"),
])
def test_a_model_of_another_shape_ends_the_start(tmp_path, broken, message):
    """With what was found, what was expected, and the way out."""
    model = ModelFile.open(models.build(tmp_path / "model.onnx", **broken))
    with pytest.raises(StartError, match=message) as raised:
        Engine(model, "cpu")
    assert "python -m export annotate" in str(raised.value)


@pytest.mark.parametrize(("found", "message"), [
    pytest.param(np.zeros((1, 4), np.float32), r"\(1, 4\) for 2 pictures", id="a row too few"),
    pytest.param(np.zeros((2, 3), np.float32), "4 classes", id="a class too few"),
    pytest.param(np.full((2, 4), np.nan, np.float32), "not finite", id="no numbers"),
    pytest.param(RuntimeError("out of memory"), "failed on 2 pictures: out of memory", id="the runtime's own"),
])
def test_a_broken_answer_is_a_fault(tiny_model, monkeypatch, found, message):
    """Rows that don't match their pictures would be handed to the wrong callers."""
    broken = Engine(tiny_model, "cpu")
    monkeypatch.setattr(broken.session, "run", Stub(found).run)
    with pytest.raises(EngineFault, match=message):
        broken.run(pixels(2))


def test_threads_and_spinning_are_set(tiny_model, monkeypatch):
    """Left alone, ONNX Runtime takes the host's cores and spins on them."""
    seen: list[onnxruntime.SessionOptions] = []
    real = onnxruntime.InferenceSession

    def remember(source: Any, options: onnxruntime.SessionOptions, **rest: Any) -> Any:
        seen.append(options)
        return real(source, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", remember)
    Engine(tiny_model, "cpu", Opening(threads=3))
    (options,) = seen
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_what_the_runtime_refuses_is_one_line(tiny_model, monkeypatch):
    """Its own messages run over many."""
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(StartError, match=r"ONNX Runtime refuses it: first line$"):
        Engine(tiny_model, "cpu")
