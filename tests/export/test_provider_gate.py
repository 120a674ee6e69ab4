"""Whether another provider's answers are near enough to the CPU provider's: measured, recorded, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from export import provider_gate
from export.provider_gate import Compared, GateFailed
from export.refusal import Refusal
from service import processor, recipe
from service.engine import Engine
from service.inference import openvino
from service.modelfile import ModelFile
from service.problems import StartError
from tests.export.test_quantize import few, labelled, model

__all__ = ["few", "labelled", "model"]  # fixtures


@pytest.fixture
def candidate(monkeypatch):
    """Takes OpenVINO's place by what changes the CPU provider's answers."""
    def install(change) -> None:
        def both(opened: ModelFile, precision: str):
            engine = Engine(opened, "cpu")
            return engine.run, lambda pixels: change(engine.run(pixels).copy())
        monkeypatch.setattr(provider_gate, "_both", both)
        monkeypatch.setattr(provider_gate, "_environment", lambda: "a test")
    return install


def test_a_gate_that_is_passed_is_recorded(model, labelled, candidate, tmp_path):
    """The service allows the precision from then on; everything else stays."""
    candidate(lambda answers: answers)
    found = provider_gate.run(model, labelled, tmp_path / "eye" / "2")
    assert found == Compared(found.measured_on, 0.0, 1.0, 0.0)
    assert found.measured_on >= 100
    before, after = (ModelFile.open(each / "model.onnx") for each in (model, tmp_path / "eye" / "2"))
    (gate,) = after.recipe.gates
    assert gate == recipe.Gate("openvino", "bf16", *found, environment="a test")
    assert after.recipe.allows("openvino", "bf16")
    assert not before.recipe.allows("openvino", "bf16")
    assert after.labels == before.labels
    assert Engine(after, "cpu").prove() <= 1e-5


def swap_few(answers: np.ndarray) -> np.ndarray:
    """One picture of each batch gets another class, without a loss of top-1 that would count."""
    answers[:1] = np.roll(answers[:1], 1, axis=1)
    return answers


def blunt(answers: np.ndarray) -> np.ndarray:
    """The same classes, next to no difference between them."""
    return (1 / 3 + (answers - 1 / 3) * 0.01).astype(np.float32)


@pytest.mark.parametrize(("change", "words"), [
    pytest.param(swap_few, "points of top-1; at most 0.1 are allowed", id="top-1"),
    pytest.param(swap_few, "same top class on 9", id="agreement"),
    pytest.param(blunt, "expected calibration error grows by", id="calibration"),
])
def test_a_gate_that_is_missed_says_by_how_much(model, labelled, candidate, tmp_path, change, words):
    """And nothing is written."""
    candidate(change)
    with pytest.raises(GateFailed, match=words) as raised:
        provider_gate.run(model, labelled, tmp_path / "eye" / "2")
    assert str(raised.value).endswith("not published")
    assert not (tmp_path / "eye").exists()


@pytest.mark.parametrize(("found", "open_"), [
    pytest.param(Compared(1000, 0.001, 0.995, 0.002), True, id="at the limits"),
    pytest.param(Compared(1000, 0.0011, 1.0, 0.0), False, id="top-1"),
    pytest.param(Compared(1000, 0.0, 0.9949, 0.0), False, id="agreement"),
    pytest.param(Compared(1000, 0.0, 1.0, 0.0021), False, id="calibration"),
    pytest.param(Compared(1000, -0.01, 0.996, -0.01), True, id="better than the reference"),
])
def test_the_service_holds_recorded_gates_to_the_same_limits(found, open_):
    """A recipe that claims a gate which wasn't passed is damaged."""
    gate = recipe.Gate("openvino", "bf16", *found)
    said = recipe.Recipe(1, "m", recipe.Input(8, 8), recipe.Preprocessing(8, (0.0,) * 3, (1.0,) * 3), gates=(gate,))
    assert (not found.misses()) == open_
    if open_:
        assert recipe.Recipe.parse(said.dump()).gates == (gate,)
    else:
        with pytest.raises(StartError, match=r"quadrant\.recipe can't be read"):
            recipe.Recipe.parse(said.dump())


def test_without_the_plugin_nothing_is_measured(model, labelled, tmp_path, monkeypatch):
    """In one line."""
    monkeypatch.setattr(openvino, "missing", lambda: "the package onnxruntime-ep-openvino is not installed")
    with pytest.raises(Refusal, match="can't be measured here: the package onnxruntime-ep-openvino is not installed"):
        provider_gate.run(model, labelled, tmp_path / "eye" / "2")
    assert not (tmp_path / "eye").exists()


def test_a_processor_without_bf16_measures_none(model, labelled, tmp_path, monkeypatch):
    """OpenVINO would compute in fp32 there, and the gate would pass for nothing."""
    monkeypatch.setattr(openvino, "missing", lambda: "")
    monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx2"}))
    with pytest.raises(Refusal, match="has no bf16 instructions"):
        provider_gate.run(model, labelled, tmp_path / "eye" / "2")
