"""A float32 graph becomes a static int8 one.

Quantised with ONNX Runtime's own tools (QDQ format): weights a channel, activations a tensor, ranges from real
pictures. Weights take 7 of their 8 bits unless asked otherwise: processors with AVX2 alone add pairs of 8 × 8-bit
products in 16 bits, and a pair of large ones overflows there without a word.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.
"""

from __future__ import annotations

import hashlib
import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import ModelProto, version_converter
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType
from onnxruntime.quantization.shape_inference import quant_pre_process

from export import front, graph, listing, published, verify
from export.front import ADDED, INPUT
from export.listing import SUFFIXES, UnusableData
from service.recipe import Recipe

PICTURES = 512  # to take ranges from; more changed nothing
AT_ONCE = 32
LEAST_OPSET = 13
PERCENTILE = 99.99  # of the values of a tensor; the rest saturates
WEIGHTY = ("Conv", "Gemm", "MatMul")
Method = Literal["percentile", "entropy", "minmax"]
METHODS: dict[Method, CalibrationMethod] = {
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
    "minmax": CalibrationMethod.MinMax,
}
logging.getLogger("root").setLevel(logging.ERROR)  # the tools advise through it what is done here anyway


def sample(source: Path, recipe: Recipe, most: int = PICTURES) -> verify.Pixels:
    """Pictures to take ranges from, chosen by the SHA-256 of their names: (N, height, width, 3) uint8.

    Of a labelled data set only pictures that are trained on; of any other folder all are eligible.

    Raises:
        UnusableData: no pictures, or one that can't be decoded.
    """
    try:
        listed = listing.read(source)
        kept = listed.kept_back()
        entries = [entry for entry, out in zip(listed.train, kept, strict=True) if not out]
    except UnusableData:
        files = [file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES]
        if not files:
            raise
        entries = [listing.Entry(file.relative_to(source).as_posix(), 0) for file in files]
        listed = listing.Listing([], entries, [], lambda name: (source / name).read_bytes(), lambda _: 0, "")
    entries.sort(key=lambda entry: hashlib.sha256(entry.name.encode()).hexdigest())
    return published.decode(listed, entries[:most], recipe)


def quantize(
    model: ModelProto, pixels: verify.Pixels, method: Method = "percentile", bits: int = 7, float_first: int = 0,
) -> ModelProto:
    """The same graph in int8, but for its front, its first layers, its last layer's output and what follows.

    Args:
        model: self-describing, float32, all weights within.
        pixels: (N, height, width, 3) uint8, to take ranges from.
        method: how a range is chosen from the values seen.
        bits: of the weights, 7 or 8.
        float_first: number of layers with weights, from the first on, that stay in float. One alone in the middle would not:
            ONNX Runtime quantises the weights of a layer whose input and output are quantised, all channels alike.
    Raises:
        graph.UnusableModel: the tools can't quantise it, or it has no layer left to quantise.
    """
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    step = min(AT_ONCE, len(pixels))
    try:
        # Scales a channel need opset 13.
        ready = version_converter.convert_version(model, LEAST_OPSET) if opset < LEAST_OPSET else model
        with tempfile.TemporaryDirectory() as place, redirect_stdout(io.StringIO()):  # the tools tell of their histograms
            bare, tidy, done = (Path(place, f"{name}.onnx") for name in ("bare", "tidy", "done"))
            copy = ModelProto()
            copy.CopyFrom(ready)  # saving moves its weights out
            for number, node in enumerate(copy.graph.node):
                node.name = node.name or f"node {number}"  # the tools know nodes by their names
            onnx.save_model(copy, bare, save_as_external_data=True, all_tensors_to_one_file=True, location="bare.bin")
            # Folds batch normalisation, and infers the shapes that the tools need.
            normalised = any(node.op_type == "BatchNormalization" for node in ready.graph.node)
            quant_pre_process(bare, tidy, skip_optimization=not normalised, skip_symbolic_shape=True,
                              save_as_external_data=True, all_tensors_to_one_file=True)  # fmt: skip
            bones = onnx.load(tidy, load_external_data=False)
            last, end = _last_layer(bones)
            first = _first_layers(bones, float_first)
            quantization.quantize_static(
                tidy, done, _Reader(pixels[: len(pixels) // step * step], step),
                quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=bits == 7,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=METHODS[method],
                nodes_to_exclude=[*first, *end],
                extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": step, "WeightSymmetric": True},
            )  # fmt: skip
            small = onnx.load(done)
    except graph.UnusableModel:
        raise
    except Exception as error:  # the tools have no exceptions of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise graph.UnusableModel(f"{model.graph.name or 'the graph'} in opset {opset} can't be quantised ({reason})") from error
    _float_end(small, last)
    graph.tidy(small)
    front.along_rows(small)
    del small.graph.value_info[:]
    return small


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Batches of pictures; `set_range` lets the tools take them in portions, so that memory stays bounded."""

    def __init__(self, pixels: verify.Pixels, step: int) -> None:
        self.pixels, self.step = pixels, step
        self.set_range(0, len(pixels))

    def __len__(self) -> int:
        return len(self.pixels)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.rest: Iterator[verify.Pixels] = iter(
            [self.pixels[at : min(at + self.step, end_index)] for at in range(start_index, end_index, self.step)]
        )

    def get_next(self) -> dict[str, Any] | None:
        part = next(self.rest, None)
        return None if part is None else {INPUT: part}


def _last_layer(model: ModelProto) -> tuple[str, list[str]]:
    """Name of the tensor that the last layer with weights gives, and of all nodes that stay in float.

    Raises:
        graph.UnusableModel: there is no such layer before the logits.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    name = published.logits(model)
    end: list[str] = []
    while (node := makers.get(name)) is not None:
        if node.op_type in WEIGHTY:
            return name, [*end, *(each.name for each in model.graph.node if each.name.startswith(ADDED))]
        end.append(node.name)
        name = next((each for each in node.input if each in makers), "")
    raise graph.UnusableModel(f"no {', '.join(WEIGHTY)} leads to the logits; expected a network with one at its end")


def _first_layers(model: ModelProto, count: int) -> list[str]:
    """Names of the first layers with weights.

    Raises:
        graph.UnusableModel: there are no others.
    """
    layers = [node.name for node in model.graph.node if node.op_type in WEIGHTY]
    if count >= len(layers):
        raise graph.UnusableModel(f"--float-first is {count}; expected fewer than the {len(layers)} layers with weights")
    return layers[:count]


def _float_end(model: ModelProto, last: str) -> None:
    """Take the quantisation away behind the last layer; in place. What follows it was left in float already."""
    readers = [node for node in model.graph.node if last in node.input]
    for down in [node for node in readers if node.op_type == "QuantizeLinear"]:
        ups = [node for node in model.graph.node if down.output[0] in node.input]
        for up in ups:
            for node in model.graph.node:
                node.input[:] = [last if name == up.output[0] else name for name in node.input]
            model.graph.node.remove(up)
        model.graph.node.remove(down)
    if not any(last in node.output and node.op_type in WEIGHTY for node in model.graph.node):
        raise graph.UnusableModel(f"the tools renamed {last!r}, the last layer's output; it can't be kept in float")
