"""Intel's OpenVINO, a plugin that ONNX Runtime loads at run time: the package onnxruntime-ep-openvino.

Its options are OpenVINO's own, in `load_config`; it ignores `num_of_threads`, `num_streams`, `precision` and `cache_dir`. Left to
itself, OpenVINO computes fp32 networks in bfloat16 wherever the processor has it, so that the precision is always set.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from typing import Any

import onnxruntime

from service import cache_folder, processor
from service.inference import session
from service.inference.session import Opening, Pixels, Session
from service.modelfile import ModelFile
from service.problems import StartError

NAME = "openvino"
PROVIDER = "OpenVINOExecutionProvider"  # OpenVINO's own choice of device is another, "….AUTO"
PACKAGE = "onnxruntime_ep_openvino"
PRECISION_HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}  # int8: of the layers that aren't quantised


def missing() -> str:
    """What this machine lacks for it; loads the plugin if it is there, which must not happen before a fork."""
    if importlib.util.find_spec(PACKAGE) is None:
        return "the package onnxruntime-ep-openvino is not installed"
    try:
        return "" if _devices() else f"OpenVINO's plugin offers no CPU device on this processor ({processor.name()})"
    except Exception as error:  # the runtime's exceptions have no common ancestor of their own
        return f"OpenVINO's plugin can't be loaded: {session.first_line(error)}"


def declines(model: ModelFile) -> str:
    """Why `auto` leaves this model to the CPU provider: by the processor's flags, and what the recipe's gates allow.

    Source: measured figures in docs/decisions.md, 37.
    """
    precision = model.recipe.precision
    if precision == "fp32":
        if not model.recipe.allows(NAME, "bf16"):
            return "the recipe records no passed gate for bf16, and OpenVINO is no quicker in fp32"
        return "" if processor.computes_bf16() else "this processor has no bf16 instructions, and OpenVINO is no quicker in fp32"
    if precision == "int8":
        if not model.recipe.allows(NAME, "int8"):
            return "the recipe records no passed gate for int8 on OpenVINO"
        return "" if processor.has_amx() else "without AMX, OpenVINO is no quicker in int8"
    return f"OpenVINO is not tried with {precision}"


def open_model(model: ModelFile, opening: Opening) -> OpenVinoSession:
    """Open a model in bf16 where its recipe allows that, else in its own precision.

    Raises:
        StartError: ONNX Runtime or OpenVINO refuses it, or int8 was never compared with the CPU provider's.
    """
    precision: str = model.recipe.precision
    if precision == "fp32" and model.recipe.allows(NAME, "bf16") and processor.computes_bf16():
        precision = "bf16"
    if precision == "int8" and not model.recipe.allows(NAME, "int8"):
        raise StartError(f"the recipe of {model.path} records no passed gate for int8 on OpenVINO: run python -m export gate, "
                         "or set QUADRANT_PROVIDER=cpu")
    return OpenVinoSession(model, precision, opening)


class OpenVinoSession(Session):
    """One session with threads for every CPU: OpenVINO shares no weights between sessions, and its idle threads sleep."""

    provider = NAME

    def __init__(self, model: ModelFile, precision: str, opening: Opening) -> None:
        """Open it.

        Args:
            precision: fp32, bf16, fp16 or int8.
        Raises:
            StartError: ONNX Runtime or OpenVINO refuses it, or there is no device.
        """
        super().__init__(model, precision)
        self._entry = cache_folder.entry(opening.cache, "openvino", model.digest, _version())
        devices = _devices()
        if not devices:
            raise StartError(missing())
        options = session.options(1)  # the work is done by OpenVINO's threads
        # If a layer had to run elsewhere, neither precision nor speed would be as told.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.add_provider_for_devices(devices, {"load_config": json.dumps({"CPU": self._config(opening)})})
        self._session = session.create(model, options)
        if self._session.get_providers()[0] != PROVIDER:
            raise StartError("the session came up without OpenVINO")
        self._input = self._session.get_inputs()[0].name

    @property
    def weights(self) -> str:
        """Where they are, in words."""
        return f"compiled by OpenVINO, kept in {self._entry.path}" if self._entry.path else "compiled by OpenVINO"

    @property
    def cached(self) -> bool:
        """OpenVINO may have taken its compiled form from the cache folder."""
        return self._entry.path is not None

    def run(self, pixels: Pixels, alone: bool = False) -> Any:
        """As `Session.run`."""
        return self._session.run(None, {self._input: pixels})[0]

    def forget_cache(self) -> None:
        """Remove the compiled form."""
        if self._entry.path:
            cache_folder.remove(self._entry.path)

    def _config(self, opening: Opening) -> dict[str, str]:
        """Of OpenVINO's CPU plugin.

        Source: OpenVINO 2026, "CPU device", supported properties.
        """
        config = {
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[self.precision],
            "INFERENCE_NUM_THREADS": str(max(opening.threads, opening.alone_threads)),
            "NUM_STREAMS": "1",
            "ENABLE_CPU_PINNING": "NO",  # worker processes would pin their threads to the same CPUs
        }
        return config | ({"CACHE_DIR": str(self._entry.path)} if self._entry.path else {})


@functools.cache
def _devices() -> list[Any]:
    """Its CPU as the plugin offers it; empty where it offers none."""
    import onnxruntime_ep_openvino as plugin

    onnxruntime.register_execution_provider_library(PROVIDER, plugin.get_library_path())
    return [each for each in onnxruntime.get_ep_devices()
            if each.ep_name == PROVIDER and each.device.type == onnxruntime.OrtHardwareDeviceType.CPU][:1]


@functools.cache
def _version() -> str:
    """Of the plugin, with its build."""
    return str((_devices()[0].ep_metadata if _devices() else {}).get("version", ""))
