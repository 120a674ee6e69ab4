"""What a model may run in: the gates decide, and the machine."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import onnxruntime
import pytest

from loadtest import engines
from loadtest.engines import Engine

BF16, INT8, FP32 = Engine("openvino", "bf16"), Engine("openvino", "int8"), Engine("openvino", "fp32")


@pytest.fixture
def device(monkeypatch):
    """A machine whose plugin has one."""
    monkeypatch.setattr(engines, "plugin", lambda: (["device"], ""))


@pytest.mark.parametrize(("precision", "gates", "expected"), [
    pytest.param("fp32", [], [FP32], id="fp32 needs no gate"),
    pytest.param("fp32", [BF16], [FP32, BF16], id="bf16 by its gate"),
    pytest.param("fp32", [INT8], [FP32], id="an fp32 model is never run in int8"),
    pytest.param("fp32", [Engine("cuda", "bf16")], [FP32], id="another provider's gate"),
    pytest.param("int8", [], [], id="int8 without a gate"),
    pytest.param("int8", [INT8], [INT8], id="int8 by its gate"),
    pytest.param("int8", [BF16], [], id="an int8 model is never run in bf16"),
])  # fmt: skip
def test_only_what_the_gates_allow_runs(precision, gates, expected, device):
    """Otherwise the ceiling is of answers that the service may not give."""
    assert engines.offer(precision, gates).engines == [Engine("cpu", precision), *expected]


@pytest.mark.parametrize(("precision", "reason"), [("fp32", "openvino, bf16: the recipe records no passed gate"),
                                                   ("int8", "openvino, int8: the recipe records no passed gate")])  # fmt: skip
def test_what_is_left_out_says_why(precision, reason, device):
    """A reader of a low ceiling wants to know."""
    assert engines.offer(precision, []).left_out == [reason]


def test_without_a_device_the_cpu_provider_is_alone_and_says_why(monkeypatch):
    """Whatever the gates allow."""
    monkeypatch.setattr(engines, "plugin", lambda: ([], "it offers none"))
    assert engines.offer("fp32", [BF16]) == ([Engine("cpu", "fp32")], ["openvino: it offers none"])


def found(name: str, kind: object) -> SimpleNamespace:
    return SimpleNamespace(ep_name=name, device=SimpleNamespace(type=kind))


def with_plugin(monkeypatch, devices) -> None:
    monkeypatch.setitem(sys.modules, engines.PLUGIN, SimpleNamespace(get_library_path=lambda: "plugin.so"))
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda *_: None)
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices)


def test_only_the_plugin_s_own_cpu_device_is_taken(monkeypatch):
    """Its .AUTO twin picks devices by itself, and a GPU is another machine."""
    cpu, gpu = onnxruntime.OrtHardwareDeviceType.CPU, onnxruntime.OrtHardwareDeviceType.GPU
    right = found("OpenVINOExecutionProvider", cpu)
    others = [found("OpenVINOExecutionProvider.AUTO", cpu), found("OpenVINOExecutionProvider", gpu),
              found("CPUExecutionProvider", cpu)]  # fmt: skip
    with_plugin(monkeypatch, [*others, right])
    assert engines.plugin.__wrapped__() == ([right], "")
    with_plugin(monkeypatch, others)
    assert engines.plugin.__wrapped__() == ([], "onnxruntime_ep_openvino offers no CPU device on this processor")


def test_a_plugin_that_is_missing_or_refused_is_told(monkeypatch):
    """The first is the rule on ARM, the second happens with an older runtime."""
    monkeypatch.setitem(sys.modules, engines.PLUGIN, None)
    assert engines.plugin.__wrapped__() == ([], "onnxruntime_ep_openvino is not installed")
    with_plugin(monkeypatch, [])

    def refused(*_):
        raise RuntimeError("wrong version\nat line 3")

    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", refused)
    assert engines.plugin.__wrapped__() == ([], "ONNX Runtime refuses onnxruntime_ep_openvino: wrong version")


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("bf16", "bf16"), ("int8", "f32")])
def test_the_plugin_is_told_its_precision_and_its_threads(precision, hint, device):
    """Untold it computes in bf16 with all cores; of its own options it ignores both."""
    given = []
    options = SimpleNamespace(add_provider_for_devices=lambda *each: given.append(each))
    engines.use_openvino(options, precision, threads=1, at_once=2)
    (devices, told), = given
    assert devices == ["device"]
    assert json.loads(told["load_config"]) == {
        "CPU": {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "2"}}
    assert [*told] == ["load_config"]


def test_without_a_device_no_session_runs_elsewhere(monkeypatch):
    """The CPU provider in its place would be measured under its name."""
    monkeypatch.setattr(engines, "plugin", lambda: ([], "it offers none"))
    with pytest.raises(RuntimeError, match="it offers none"):
        engines.use_openvino(SimpleNamespace(), "fp32", 1, 1)
