"""A model that describes itself, opened to be worked on: its graph, its scores, its temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from export import describe, graph, package, verify
from export.calibration import Scored
from export.front import ADDED
from export.listing import Entry, Listing, UnusableData
from export.refusal import Refusal
from service import images
from service.modelfile import ModelFile
from service.planning import usable_cpus
from service.problems import Problem, StartError
from service.recipe import Recipe

Score = Callable[[verify.Pixels], verify.Scores]
AT_ONCE = 256  # pictures decoded, then scored
LEAST = np.float32(-1e4)  # logit; of a probability of 0 it would be minus infinity

_TEMPERATURE, _SOFTMAX = f"{ADDED}temperature", f"{ADDED}softmax"


class Published(NamedTuple):
    """A model file as the service reads it, and its whole graph with all weights."""

    file: ModelFile
    model: ModelProto


def read(path: Path) -> Published:
    """Open models/NAME/VERSION, its file, or models/NAME (the highest version).

    Raises:
        Refusal: there is none, it is damaged, or it doesn't describe itself.
    """
    file = describe.find(path)
    try:
        return Published(ModelFile.open(file), onnx.load(file))
    except StartError as error:
        raise Refusal(str(error)) from error


def logits(model: ModelProto) -> str:
    """The tensor (batch, classes) before temperature and softmax.

    Raises:
        graph.UnusableModel: the graph has another end.
    """
    nodes = {node.name: node for node in model.graph.node}
    last = nodes.get(_TEMPERATURE) or nodes.get(_SOFTMAX)
    if last is None:
        raise graph.UnusableModel(f"the graph has no node {_SOFTMAX}; expected a model made by convert or annotate")
    name: str = last.input[0]
    return name


def set_temperature(model: ModelProto, temperature: float) -> None:
    """Let the graph divide its logits by another number; in place."""
    value = numpy_helper.from_array(np.asarray(temperature, np.float32), f"{_TEMPERATURE}_value")
    source, nodes = logits(model), list(model.graph.node)
    divided = next((node for node in nodes if node.name == _TEMPERATURE), None)
    if divided is None:
        place, softmax = next((row, node) for row, node in enumerate(nodes) if node.name == _SOFTMAX)
        softmax.input[0] = f"{ADDED}tempered"
        model.graph.node.insert(place, helper.make_node("Div", [source, value.name], [softmax.input[0]], _TEMPERATURE))
    else:  # its constant may have been renamed, or be shared
        divided.input[1] = value.name
    for tensor in model.graph.initializer:
        if tensor.name == value.name:
            tensor.CopyFrom(value)
            return
    model.graph.initializer.append(value)


def comparable(model: ModelProto) -> str | None:
    """The logits, where they can be compared; None where they are logarithms of probabilities, minus infinity among them."""
    return None if any(node.name == f"{ADDED}logarithm" for node in model.graph.node) else logits(model)


def rows(model: ModelFile, listed: Listing) -> np.ndarray:
    """(classes of the data set,) int64: the model's own row of each class, found by id, else by word.

    Raises:
        UnusableData: the model doesn't know a class.
    """
    known = {label.label: row for row, label in enumerate(model.labels)}
    known |= {label.id: row for row, label in enumerate(model.labels)}
    missing = [label for label in listed.labels if label.id not in known and label.label not in known]
    if missing:
        raise UnusableData(
            f"the data set has {len(missing)} classes that {model.recipe.name} doesn't know, as {missing[0].id!r}; "
            f"expected classes among its {len(model.labels)}"
        )
    return np.array([known.get(label.id, known.get(label.label, -1)) for label in listed.labels], np.int64)


def decode(listed: Listing, entries: Sequence[Entry], recipe: Recipe) -> verify.Pixels:
    """The pictures as the service will see them: (N, height, width, 3) uint8.

    Raises:
        UnusableData: one of them can't be decoded.
    """

    def one(entry: Entry) -> np.ndarray:
        try:
            data = listed.read(entry.name)
            return images.prepare(data, recipe.preprocessing, recipe.input.width, recipe.input.height).pixels
        except Problem as problem:
            raise UnusableData(f"{entry.name} can't be decoded: {problem}") from problem

    with ThreadPoolExecutor(usable_cpus()) as pool:
        return np.stack(list(pool.map(one, entries)))


def score(scores: Sequence[Score], opened: ModelFile, listed: Listing, entries: Sequence[Entry]) -> list[Scored]:
    """What each of several models says of the same pictures; decoded once, `AT_ONCE` at a time.

    Args:
        scores: of models with the recipe and the labels of `opened`.
    """
    truth = rows(opened, listed)[[entry.row for entry in entries]]
    parts: list[list[verify.Array]] = [[] for _ in scores]
    for start in range(0, len(entries), AT_ONCE):
        pixels = decode(listed, entries[start : start + AT_ONCE], opened.recipe)
        for part, ask in zip(parts, scores, strict=True):
            found = verify.in_batches(ask, pixels)
            assert found.logits is not None  # every published model has them
            part.append(np.maximum(found.logits, LEAST))
    return [Scored(np.concatenate(part), truth) for part in parts]


def scorer(model: ModelProto, folder: Path, optimised: bool = True) -> Score:
    """The model as ONNX Runtime sees it, with its logits.

    Args:
        folder: for a file of the moment, and where external weights lie.
        optimised: False runs each node as it stands, quantised ones in float: the reference for int8 kernels.
    """
    return package.candidate(model, logits(model), folder, optimised)
