"""What all the peers share, so that only the servers differ: the model file, its preprocessing, and the answer.

Preprocessing is the ceiling's own (`loadtest.inprocess`): the whole image is decoded, turned upright, resized and cropped by
Pillow as the model's recipe says. The engine is ONNX Runtime's CPU provider. Each server decides how many threads a run has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from loadtest.inprocess import KEY, Recipe, best, prepare

MODEL, PORT = "COMPARE_MODEL", "COMPARE_PORT"  # environment variables: the ONNX file, and the port on 127.0.0.1


def port() -> int:
    """The port to listen on."""
    return int(os.environ[PORT])


class Classifier:
    """One session. Its methods may be called from several threads."""

    def __init__(self, threads: int) -> None:
        """Load the model that the environment names.

        Args:
            threads: of one run. They don't spin between runs, which would take the cores from decoding.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(os.environ[MODEL], options, providers=["CPUExecutionProvider"])
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._recipe = Recipe.parse(metadata[KEY])
        self._labels = json.loads(metadata["quadrant.labels"])
        self._input = self._session.get_inputs()[0].name

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """An encoded image → (height, width, 3) uint8, RGB.

        Raises:
            OSError: it can't be decoded.
        """
        return prepare(data, self._recipe, "exact")

    def classify(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        """A batch of decoded images → one answer each, with the five best classes, best first."""
        (probabilities,) = self._session.run(None, {self._input: np.stack(images)})  # (N, classes) float32
        return [{"predictions": [{**self._labels[index], "index": index, "score": score}
                                 for index, score in zip(answer.classes, answer.probabilities, strict=True)]}
                for answer in best(probabilities)]
