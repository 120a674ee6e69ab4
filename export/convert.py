"""A trained network becomes a model that the service can serve, or nothing is written."""

from __future__ import annotations

import copy
import importlib.metadata
import io
import warnings
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import fx, nn
from torch.nn.utils import fusion

from export import folder, graph, labels, package, verify, weights
from export.architectures import Architecture, find
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
) -> verify.Agreement:
    """Checkpoint + labels → `wishes.output/model.onnx`, verified against PyTorch.

    Args:
        architecture: a registered name, or `path/to/file.py:factory`, whose code is run.
        bgr: the network takes blue first; None leaves that to the architecture.
        real: folder of pictures to verify on, besides drawn ones.
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
    front = graph.Front(height, width, wishes.mean or design.mean, wishes.std or design.std, bgr=blue_first)
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
        "fp32",
    )
    model = to_onnx(network, design, height, width)
    graph.tidy(model)
    logits = graph.wrap(model, front, temperature)

    def reference(pixels: verify.Pixels) -> verify.Scores:
        found = network(_normalise(pixels, front)).numpy()
        return verify.Scores(found, verify.softmax(found, temperature))

    return package.publish(model, logits, described, words, reference, real, wishes.output)


def to_onnx(network: nn.Module, design: Architecture, height: int, width: int) -> ModelProto:
    """The network's graph: float32 (batch, 3, height, width) in, logits (batch, classes) out; normalisation folded.

    Raises:
        Unconvertible: the network doesn't take pictures of that size, or answers with something else.
    """
    folded = fold(network)
    example = torch.zeros(1, 3, height, width)
    stream = io.BytesIO()
    try:
        _settle_pooling(folded, example)
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


def _settle_pooling(network: nn.Module, example: torch.Tensor) -> None:
    """Adaptive pooling becomes plain pooling with the windows that it has for pictures of this size; in place.

    ONNX knows none that adapts: left alone, 5 × 5 → 4 × 4 could not be exported. Windows that differ in size stay as they are.
    """
    adaptive = {name: module for name, module in network.named_modules() if isinstance(module, nn.AdaptiveAvgPool2d)}
    sizes: dict[str, list[tuple[int, int]]] = {name: [] for name in adaptive}
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: sizes[name].append(tuple(given[0].shape[2:])))
        for name, module in adaptive.items()
    ]
    network(example)
    for hook in hooks:
        hook.remove()
    for name, module in adaptive.items():
        asked = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * 2
        if len(set(sizes[name])) != 1 or None in asked or asked == (1, 1):
            continue
        windows = [_window(side, int(out or 0)) for side, out in zip(sizes[name][0], asked, strict=True)]
        if None not in windows:
            kernel, stride = zip(*(window for window in windows if window), strict=True)
            network.set_submodule(name, nn.AvgPool2d(kernel, stride))


def _window(side: int, out: int) -> tuple[int, int] | None:
    """Length and stride of the windows that adaptive pooling has, where all are alike; see torch.nn.AdaptiveAvgPool2d."""
    starts = [place * side // out for place in range(out)]
    ends = [-(-(place + 1) * side // out) for place in range(out)]
    lengths = {end - start for start, end in zip(starts, ends, strict=True)}
    strides = {after - before for before, after in pairwise(starts)} or {1}
    return (lengths.pop(), strides.pop()) if len(lengths) == len(strides) == 1 else None


def fold(network: nn.Module) -> nn.Module:
    """A copy with batch normalisation folded into the layer before it, in double precision; layers keep their names."""
    folded = copy.deepcopy(network).double().eval()
    for before, after in neighbours(folded):
        first, second = folded.get_submodule(before), folded.get_submodule(after)
        # A layer that makes its weight out of something else, or has a forward of its own, may use it in another way.
        if type(first).forward not in (nn.Conv2d.forward, nn.Linear.forward) or "weight" not in first._parameters:
            continue
        fused: nn.Module
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and second.track_running_stats:
            fused = fusion.fuse_conv_bn_eval(first, second)
        elif isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d) and second.track_running_stats:
            fused = fusion.fuse_linear_bn_eval(first, second)
        else:
            continue
        folded.set_submodule(before, fused)
        folded.set_submodule(after, nn.Identity())
    return folded.float().eval()


def neighbours(network: nn.Module) -> list[tuple[str, str]]:
    """Names of layers of which the second, and nothing else, takes what the first gives; each is called once."""
    try:
        nodes = list(_Layers().trace(network).nodes)
    except Exception:  # what can't be traced stays as it is: right, and only a little slower
        return []
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    return [
        (str(source.target), str(node.target))
        for node in nodes
        if node.op == "call_module" and calls[node.target] == 1 and len(node.all_input_nodes) == 1
        for source in node.all_input_nodes
        if source.op == "call_module" and calls[source.target] == 1 and len(source.users) == 1 and source.target not in read
    ]


class _Layers(fx.Tracer):
    """Looks into whatever is made of layers, and not into layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(m.children()) or super().is_leaf_module(m, module_qualified_name)


@torch.inference_mode()
def _normalise(pixels: verify.Pixels, front: graph.Front) -> torch.Tensor:
    """(N, height, width, 3) uint8 → (N, 3, height, width) float32, as torchvision's ToTensor and Normalize do it."""
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (front.mean, front.std))
    normalised = (planes - mean) / std
    return normalised.flip(1) if front.bgr else normalised
