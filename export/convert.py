"""A trained network becomes a model that the service can serve, or nothing is written."""

from __future__ import annotations

import importlib.metadata
import io
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import nn

from export import folder, folding, graph, halving, labels, package, verify, weights
from export.architectures import Architecture, find
from export.front import Front
from export.refusal import Refusal

OPSET = 17


class Unconvertible(Refusal):
    """The network can't be exported as asked for; one line says why."""


def convert(
    architecture: str,
    weights_file: Path,
    labels_file: Path,
    wishes: package.Wishes,
    real: Path | None = None,
    bgr: bool | None = None,
    precision: Literal["fp32", "fp16"] = "fp32",
) -> verify.Agreement:
    """Checkpoint + labels → `wishes.output/model.onnx`, verified against PyTorch.

    Args:
        architecture: a registered name, or `path/to/file.py:factory`, whose code is run.
        bgr: the network takes blue first; None leaves that to the architecture.
        real: folder of pictures to verify on, besides drawn ones.
        precision: of weights and layers in the model; the network itself is asked in float32 either way.
    Raises:
        Refusal: one line with what was found and what was expected; nothing has been written.
    """
    folder.check(wishes.output)
    design = find(architecture)
    words = labels.read(labels_file)
    network = design.build(len(words))
    weights.load(network, weights.read(weights_file), weights_file, len(words))
    network.eval().requires_grad_(False)

    height, width = wishes.size or (design.side, design.side)
    # Another size of input keeps the share of the picture that the crop leaves.
    resize = round(max(height, width) * design.resize / design.side)
    blue_first = design.bgr if bgr is None else bgr
    front = Front(height, width, wishes.mean or design.mean, wishes.std or design.std, bgr=blue_first)
    temperature = package.temperature(wishes)
    provenance = {
        **wishes.provenance,
        "weights": {"file": weights_file.name, "sha256": weights.digest(weights_file)},
        "exported_by": {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxruntime")},
    }
    if design.file:
        provenance["network"] = {"file": design.file.name, "sha256": weights.digest(design.file)}
    described = package.recipe(
        replace(wishes, provenance=provenance, resize_mode=wishes.resize_mode or design.resize_mode),
        design.name,
        front,
        wishes.resize or resize,
        temperature,
        precision,
    )
    model = to_onnx(network, design, height, width)
    graph.tidy(model)
    logits = graph.wrap(model, front, temperature)

    def reference(pixels: verify.Pixels) -> verify.Scores:
        found = network(_normalise(pixels, front)).numpy()
        return verify.Scores(found, verify.softmax(found, temperature))

    if precision == "fp16":
        model, described = halving.faithful(model, logits, described, reference, real)
    return package.publish(model, logits, described, words, reference, real, wishes.output)


def to_onnx(network: nn.Module, design: Architecture, height: int, width: int) -> ModelProto:
    """The network's graph: float32 (batch, 3, height, width) in, logits (batch, classes) out; normalisation folded.

    Raises:
        Unconvertible: the network doesn't take pictures of that size, or answers with something else.
    """
    folded = folding.fold(network)
    example = torch.zeros(1, 3, height, width)
    stream = io.BytesIO()
    try:
        folding.settle_pooling(folded, example)
        answer = folded(example)
        if not isinstance(answer, torch.Tensor) or answer.ndim != 2:
            found = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
            raise Unconvertible(f"{design.name} answers a batch of 1 with {found}; expected a tensor of logits (1, classes)")
        with warnings.catch_warnings():
            # The exporter that warns is the one without a further dependency; its graph is proven like any other.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                folded,
                (example,),
                stream,  # type: ignore[arg-type]  # files are taken too; the annotation forgot them
                dynamo=False,
                opset_version=OPSET,
                input_names=["network_input"],
                output_names=["logits"],
                dynamic_axes={"network_input": {0: "batch"}, "logits": {0: "batch"}},
            )
    except Unconvertible:
        raise
    except Exception as error:  # networks from outside raise whatever they like
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unconvertible(
            f"{design.name} can't take pictures of {height} × {width} ({reason}); "
            f"it was designed for {design.side} × {design.side}"
        ) from error
    model = onnx.load_from_string(stream.getvalue())
    model.graph.name = design.name
    return model


@torch.inference_mode()
def _normalise(pixels: verify.Pixels, front: Front) -> torch.Tensor:
    """(N, height, width, 3) uint8 → (N, 3, height, width) float32, as torchvision's ToTensor and Normalize do it."""
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (front.mean, front.std))
    normalised = (planes - mean) / std
    return normalised.flip(1) if front.bgr else normalised
