"""OpenVINO's plugin: what it is told, and what keeps it from being used. Its real answers, where it has a device."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from service import processor
from service.engine import Engine
from service.inference import openvino
from service.inference.session import CPU_PROVIDER, Opening
from service.modelfile import ModelFile
from service.problems import StartError
from service.recipe import Gate

BF16, INT8 = (Gate("openvino", precision, 1000, 0.0, 1.0, 0.0) for precision in ("bf16", "int8"))
SHIPPED = sorted((Path(__file__).parents[3] / "models").glob("*/*/model.onnx"))


class Options:
    """Session options that remember what they were told."""

    def __init__(self, threads: int) -> None:
        self.threads, self.entries, self.told = threads, {}, {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def add_provider_for_devices(self, devices: list[Any], told: dict[str, str]) -> None:
        self.told = json.loads(told["load_config"])["CPU"]


class OnCpu:
    """A session of the CPU provider that says it is OpenVINO's."""

    def __init__(self, path: Path) -> None:
        self._real = onnxruntime.InferenceSession(str(path), providers=[CPU_PROVIDER])

    def get_providers(self) -> list[str]:
        return [openvino.PROVIDER, CPU_PROVIDER]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def plugin(monkeypatch) -> list[Options]:
    """A plugin with a device; the options of each session that is made on it."""
    made: list[Options] = []

    def create(model: ModelFile, options: Options) -> OnCpu:
        made.append(options)
        return OnCpu(model.path)

    monkeypatch.setattr(openvino, "_devices", lambda: [object()])
    monkeypatch.setattr(openvino, "_version", lambda: "1.0")
    monkeypatch.setattr(openvino.importlib.util, "find_spec", lambda _: object())
    stand_in = SimpleNamespace(options=Options, create=create, first_line=openvino.session.first_line)
    monkeypatch.setattr(openvino, "session", stand_in)
    return made


def with_recipe(model: ModelFile, **changes: Any) -> ModelFile:
    return dataclasses.replace(model, recipe=msgspec.structs.replace(model.recipe, **changes))


def on(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(processor, "flags", lambda: frozenset(flags))


AMX = ("avx512f", "amx_tile", "amx_int8", "amx_bf16")
ZEN4 = ("avx512f", "avx512_bf16", "avx512_vnni")
AVX2 = ("avx2", "fma")


@pytest.mark.parametrize(("precision", "gates", "flags", "computes", "hint"), [
    pytest.param("fp32", (BF16,), AMX, "bf16", "bf16", id="bf16 on AMX"),
    pytest.param("fp32", (BF16,), ZEN4, "bf16", "bf16", id="bf16 on AVX-512"),
    pytest.param("fp32", (BF16,), AVX2, "fp32", "f32", id="a processor without bf16"),
    pytest.param("fp32", (), AMX, "fp32", "f32", id="no gate"),
    pytest.param("fp32", (INT8,), AMX, "fp32", "f32", id="another precision's gate"),
    pytest.param("int8", (INT8,), AMX, "int8", "f32", id="int8"),
])
def test_the_precision_is_declared(plugin, tiny_model, monkeypatch, precision, gates, flags, computes, hint):
    """Left to itself OpenVINO would compute in bf16 wherever the processor can."""
    on(monkeypatch, *flags)
    engine = Engine(with_recipe(tiny_model, precision=precision, gates=gates), "openvino")
    assert (engine.provider, engine.precision) == ("openvino", computes)
    assert plugin[0].told["INFERENCE_PRECISION_HINT"] == hint


def test_int8_that_was_never_compared_is_refused(plugin, tiny_model):
    """Its kernels round otherwise than the CPU provider's, on which the model was measured."""
    with pytest.raises(StartError, match=r'is "openvino", but the recipe of .* records no passed gate for int8 on OpenVINO: run'):
        Engine(with_recipe(tiny_model, precision="int8", gates=(BF16,)), "openvino")


@pytest.mark.parametrize(("threads", "alone", "expected"), [(1, 2, "2"), (4, 0, "4"), (3, 3, "3")])
def test_one_session_has_threads_for_every_cpu(plugin, tiny_model, threads, alone, expected):
    """It shares no weights with a second one."""
    engine = Engine(tiny_model, "openvino", Opening(threads=threads, alone_threads=alone))
    engine.widen(8)
    (options,) = plugin
    assert options.threads == 1
    assert options.told | {"INFERENCE_NUM_THREADS": expected, "NUM_STREAMS": "1", "ENABLE_CPU_PINNING": "NO"} == options.told
    assert options.entries["session.disable_cpu_ep_fallback"] == "1"


def test_a_compiled_form_is_kept_and_forgotten(plugin, tiny_model, tmp_path):
    """In a folder of its own for each model, plugin and processor."""
    engine = Engine(tiny_model, "openvino", Opening(cache=tmp_path / "cache"))
    kept = Path(plugin[0].told["CACHE_DIR"])
    assert kept.parent == tmp_path / "cache"
    assert engine.session.cached
    kept.mkdir()
    (kept / "1.blob").write_bytes(b"blob")
    engine.session.forget_cache()
    assert not kept.exists()
    assert not Engine(tiny_model, "openvino").session.cached
    assert "CACHE_DIR" not in plugin[1].told


def test_a_session_without_openvino_is_noticed(plugin, tiny_model, monkeypatch):
    """What was asked for must be what runs."""
    monkeypatch.setattr(OnCpu, "get_providers", lambda _: [CPU_PROVIDER])
    with pytest.raises(StartError, match='QUADRANT_PROVIDER is "openvino", but the session came up without OpenVINO'):
        Engine(tiny_model, "openvino")


def test_without_the_package_the_start_ends(tiny_model, monkeypatch):
    """In one line."""
    monkeypatch.setattr(openvino.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StartError, match=r'"openvino", but the package onnxruntime-ep-openvino is not installed$'):
        Engine(tiny_model, "openvino")


def test_a_processor_without_a_device_is_named(plugin, tiny_model, monkeypatch):
    """The plugin takes processors of other makers for no device."""
    monkeypatch.setattr(openvino, "_devices", list)
    monkeypatch.setattr(processor, "name", lambda: "Z80")
    with pytest.raises(StartError, match=r'"openvino", but OpenVINO\'s plugin offers no CPU device on this processor \(Z80\)$'):
        Engine(tiny_model, "openvino")


def test_a_plugin_that_cannot_be_loaded_is_one_line(plugin, tiny_model, monkeypatch):
    """A library that is missing, or another ONNX Runtime than it was built for."""
    def fail() -> None:
        raise RuntimeError("libopenvino.so: cannot open\nand more")

    monkeypatch.setattr(openvino, "_devices", fail)
    with pytest.raises(StartError, match=r"OpenVINO's plugin can't be loaded: libopenvino\.so: cannot open$"):
        Engine(tiny_model, "openvino")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.skipif(bool(openvino.missing()), reason="OpenVINO's plugin has no device here")
def test_shipped_models_answer_the_same(precision, monkeypatch, tmp_path):
    """Each in the precisions that its gates allow, alone and in company, compiled and from the cache."""
    proven = 0
    for path in SHIPPED:
        model = ModelFile.open(path)
        if precision != model.recipe.precision and not model.recipe.allows("openvino", precision):
            continue
        if precision == "fp32":
            model = with_recipe(model, gates=())
        for _ in range(2):
            engine = Engine(model, "openvino", Opening(threads=2, cache=tmp_path))
            assert engine.precision == precision
            engine.prove(company=16)
        proven += 1
        pictures = np.random.default_rng(0).integers(0, 256, (3, *engine.session.shape), np.uint8)
        assert np.abs(engine.run(pictures) - Engine(model, "cpu").run(pictures)).max() < (1e-5 if precision == "fp32" else 5e-2)
    assert proven
