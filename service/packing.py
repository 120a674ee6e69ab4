"""A model → its packed form: the graph as ONNX Runtime optimises it here, its weights in this processor's order.

Once ONNX Runtime has optimised the graph, 3 × 3 convolutions are
replaced by an operator of our own (`winograd`), if what that gives is next to the same.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service import logs, onnxgraph, winograd
from service.examples import GOLDEN_TOLERANCE, answers_of, pixels_of
from service.modelfile import ModelFile
from service.native.operators import DOMAIN, Operators

log = logs.get(__name__)

GRAPH, WEIGHTS, OPERATORS = "model.onnx", "weights.bin", "operators"
LEAST_BYTES = 1024  # smaller weights stay in the graph; ONNX Runtime writes down only what lies outside of it
MOST_APART = GOLDEN_TOLERANCE["fp32"] / 2  # of a probability


class OperatorsFailed(Exception):
    """ONNX Runtime refused the graph with operators of our own, or failed on it; without them all may be well."""


def write(model: ModelFile, folder: Path, operators: Operators | None) -> None:
    """Make GRAPH; WEIGHTS, unless all are so small that they lie in it; and OPERATORS, if it needs operators of our own.

    Args:
        model: opened and checked; its files are read again.
        folder: empty.
        operators: that may take the place of ONNX Runtime's own.
    Raises:
        OperatorsFailed: not with these.
        OSError, StartError, and the runtime's exceptions, which have no common ancestor: it can't be made.
    """
    model.require_unchanged()
    source = model.path.read_bytes()
    if not (operators and _replaced(model, source, folder, operators)):
        _save(source, model.path.parent, folder, (GRAPH, WEIGHTS), prepack=True)
    model.require_unchanged()


def _replaced(model: ModelFile, source: bytes, folder: Path, operators: Operators) -> bool:
    """Make it with other operators; whether there is something to replace, and the answers are next to the same.

    Raises:
        OSError, MemoryError: there is no room now; another time there may be.
        OperatorsFailed: it can't be made with them.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            pixels, between = pixels_of(model.recipe, model.golden), Path(name)
            plain = _answers(_save(source, model.path.parent, between, ("plain.onnx", "plain.bin"), prepack=False), pixels)
            optimised = (between / "plain.onnx").read_bytes()
            changed = winograd.replace(optimised, between, "transformed.bin", operators)
            if changed is optimised:
                return False
            found = _answers(_save(changed, between, folder, (GRAPH, WEIGHTS), prepack=True, operators=operators), pixels)
        reason = _apart(found, plain, MOST_APART) or _apart(
            found, answers_of(model.golden), GOLDEN_TOLERANCE[model.recipe.precision])
        if not reason:
            ours = Counter(node.kind for node, _ in onnxgraph.nodes(changed) if node.domain == DOMAIN)
            (folder / OPERATORS).write_text(", ".join(f"{count} {kind}" for kind, count in ours.items()))
            return True
    except (OSError, MemoryError):
        raise
    except Exception as error:  # of the runtime, or a graph that isn't understood
        raise OperatorsFailed(str(error) or repr(error)) from error
    log.warning("operators_not_used", model=str(model.path), reason=reason)
    for each in (GRAPH, WEIGHTS):
        (folder / each).unlink(missing_ok=True)
    return False


def _apart(found: NDArray[np.float32], expected: NDArray[np.float32], most: float) -> str:
    """Why these are not the same; empty if they are, next to."""
    apart = float(np.abs(found - expected).max())
    return "" if apart <= most else f"a probability differs by {apart:.1e}; expected at most {most:.0e}"


def _save(
    source: bytes, beside: Path, folder: Path, names: tuple[str, str], prepack: bool, operators: Operators | None = None,
) -> onnxruntime.InferenceSession:
    """A session of a model whose other files lie `beside` it, and what it made of that: graph and weights by these names."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / names[0])
    for name, value in {
        "optimized_model_external_initializers_file_name": names[1],
        "optimized_model_external_initializers_min_size_in_bytes": str(LEAST_BYTES),
        "save_external_prepacked_constant_initializers": str(int(prepack)),
    }.items():
        options.add_session_config_entry(f"session.{name}", value)
    if operators:
        options.register_custom_ops_library(str(operators.file))
    return _session(source, beside, options)


def _session(source: bytes, beside: Path, options: onnxruntime.SessionOptions | None = None) -> onnxruntime.InferenceSession:
    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(beside))
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _answers(session: onnxruntime.InferenceSession, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    return np.asarray(session.run(None, {session.get_inputs()[0].name: pixels})[0])
