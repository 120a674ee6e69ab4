"""Which provider runs a model: by rule, told with its reason, never another than was asked for."""

from __future__ import annotations

import pytest

from service.engine import Engine
from service.inference import cpu, cuda, openvino, selection
from service.problems import StartError
from tests.service.inference.test_openvino import AMX, AVX2, BF16, INT8, ZEN4, on, plugin, with_recipe

__all__ = ["plugin"]  # a fixture


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(cuda, "missing", lambda: "this onnxruntime is built without CUDA")


@pytest.mark.parametrize(("precision", "gates", "flags", "provider", "reason"), [
    pytest.param("fp32", (BF16,), AMX, "openvino", "openvino is the quickest for bf16", id="bf16 on AMX"),
    pytest.param("fp32", (BF16,), ZEN4, "openvino", "openvino is the quickest for bf16", id="bf16 on AVX-512"),
    pytest.param("fp32", (BF16,), AVX2, "cpu", "no bf16 instructions", id="bf16 on AVX2"),
    pytest.param("fp32", (), AMX, "cpu", "records no passed gate for bf16", id="fp32 without a gate"),
    pytest.param("int8", (INT8,), AMX, "openvino", "openvino is the quickest for int8", id="int8 on AMX"),
    pytest.param("int8", (INT8,), ZEN4, "cpu", "without AMX", id="int8 on VNNI"),
    pytest.param("int8", (), AMX, "cpu", "records no passed gate for int8", id="int8 without a gate"),
    pytest.param("fp16", (BF16,), AMX, "cpu", "not tried with fp16", id="fp16"),
])
def test_auto_follows_the_rule(plugin, tiny_model, monkeypatch, precision, gates, flags, provider, reason):
    """It never takes a precision that no gate allows, nor a provider that isn't quicker."""
    on(monkeypatch, *flags)
    engine = Engine(with_recipe(tiny_model, precision=precision, gates=gates), "auto")
    assert engine.provider == provider
    assert engine.reason.startswith("auto: ")
    assert reason in engine.reason


def test_auto_says_why_it_took_none_of_the_others(tiny_model, monkeypatch):
    """Nobody should find out from the electricity bill."""
    on(monkeypatch, *AMX)
    monkeypatch.setattr(openvino, "missing", lambda: "the package onnxruntime-ep-openvino is not installed")
    engine = Engine(with_recipe(tiny_model, gates=(BF16,)), "auto")
    assert engine.provider == "cpu"
    assert engine.reason == ("auto: not cuda, since this onnxruntime is built without CUDA; not openvino, since the package "
                             "onnxruntime-ep-openvino is not installed")


def test_auto_goes_on_where_a_provider_refuses_the_model(plugin, tiny_model, monkeypatch):
    """A plugin that fails must not end a service that can run without it."""
    def refuse(*_: object) -> None:
        raise StartError("OpenVINO refuses it")

    on(monkeypatch, *AMX)
    monkeypatch.setattr(openvino, "open_model", refuse)
    engine = Engine(with_recipe(tiny_model, gates=(BF16,)), "auto")
    assert engine.provider == "cpu"
    assert "not openvino, since OpenVINO refuses it" in engine.reason


def test_the_plugin_is_not_loaded_for_a_model_that_would_not_run_on_it(tiny_model, monkeypatch):
    """Its libraries take memory in each process."""
    monkeypatch.setattr(openvino, "missing", lambda: pytest.fail("the plugin was looked for"))
    assert Engine(tiny_model, "auto").provider == "cpu"


def test_what_was_asked_for_runs_or_nothing(tiny_model):
    """Each name is a provider's own, and the CPU provider is always there."""
    assert {"cpu": cpu, "openvino": openvino, "cuda": cuda} == selection.PROVIDERS
    engine = Engine(tiny_model, "cpu")
    assert (engine.provider, engine.reason) == ("cpu", "set by QUADRANT_PROVIDER")
