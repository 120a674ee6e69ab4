"""Which execution providers and precisions a model may run in: what its recipe allows and what this machine offers.

The CPU provider always may, in the model's own precision. OpenVINO's plugin may compute an fp32 model in fp32; anything else
needs a passed gate in the recipe. Nothing of service/ is used: the service follows the same rule, and is measured by this one.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Collection
from typing import Any, NamedTuple

import onnxruntime

PLUGIN, NAME = "onnxruntime_ep_openvino", "OpenVINOExecutionProvider"  # ".AUTO" is another one, which picks devices by itself
# A network in int8 keeps some layers in floats; bf16 for those would be a precision that nobody declared.
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class Engine(NamedTuple):
    """An execution provider and the precision it computes in."""

    provider: str
    precision: str

    def __str__(self) -> str:
        return f"{self.provider}, {self.precision}"


class Offer(NamedTuple):
    """Engines that may be used, the CPU provider first; and why another one may not."""

    engines: list[Engine]
    left_out: list[str]


def offer(precision: str, gates: Collection[Engine]) -> Offer:
    """What a model may run in on this machine.

    Args:
        precision: the model's own.
        gates: providers and precisions whose answers were measured and found good enough.
    """
    cpu, fp32 = Engine("cpu", precision), Engine("openvino", "fp32")
    wanted = [fp32] if precision == "fp32" else []
    # bf16 comes of fp32 weights; int8 only of an int8 model.
    wanted += [gate for gate in sorted(gates) if gate.provider == "openvino" and gate != fp32
               and (gate.precision == precision or (gate.precision, precision) == ("bf16", "fp32")) and gate.precision in HINTS]
    left_out = []
    if precision == "fp32" and Engine("openvino", "bf16") not in wanted:
        left_out.append("openvino, bf16: the recipe records no passed gate")
    if precision != "fp32" and not wanted:
        left_out.append(f"openvino, {precision}: the recipe records no passed gate")
    devices, reason = plugin()
    if not devices:
        return Offer([cpu], [*left_out, f"openvino: {reason}"])
    return Offer([cpu, *wanted], left_out)


@functools.cache
def plugin() -> tuple[list[Any], str]:
    """The plugin's devices of the kind CPU; where there are none, the reason."""
    try:
        library = importlib.import_module(PLUGIN).get_library_path()
    except ImportError:
        return [], f"{PLUGIN} is not installed"
    try:
        onnxruntime.register_execution_provider_library(NAME, library)
    except Exception as error:  # the runtime's exceptions have no common ancestor of their own
        return [], f"ONNX Runtime refuses {PLUGIN}: {(str(error).splitlines() or ['?'])[0]}"
    cpu = onnxruntime.OrtHardwareDeviceType.CPU
    found = [each for each in onnxruntime.get_ep_devices() if each.ep_name == NAME and each.device.type == cpu]
    return found, "" if found else f"{PLUGIN} offers no CPU device on this processor"


def use_openvino(options: onnxruntime.SessionOptions, precision: str, threads: int, at_once: int) -> None:
    """Make a session run by the plugin.

    Args:
        precision: what it computes in.
        threads: of one run.
        at_once: runs at the same time, each by a stream of its own.
    Raises:
        RuntimeError: the plugin isn't there.
    """
    devices, reason = plugin()
    if not devices:
        raise RuntimeError(reason)
    # The plugin's own options num_of_threads and num_streams are ignored (measured with 1.8.1); load_config is not.
    config = {"INFERENCE_PRECISION_HINT": HINTS[precision], "NUM_STREAMS": str(at_once),
              "INFERENCE_NUM_THREADS": str(threads * at_once)}  # fmt: skip
    options.add_provider_for_devices(devices, {"load_config": json.dumps({"CPU": config})})
