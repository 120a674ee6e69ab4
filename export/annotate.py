"""A bare ONNX classifier from anywhere becomes a self-describing one: our front and end around its own graph."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export import folder, graph, labels, package, verify, weights
from export.front import ADDED, Front
from export.graph import UnusableModel
from service.recipe import Recipe

OLDEST_OPSET = 7  # before it, subtraction doesn't spread along axes
USUAL_MARGIN = (
    256 / 224
)  # short side before the crop, relative to the input: what ImageNet's networks are evaluated with
SLICE_BY_INPUTS = 10  # opset from which Slice takes its bounds as inputs
BOUNDS = {f"{ADDED}zero": 0, f"{ADDED}one": 1, f"{ADDED}end": 2**31}
RANDOM = ("Random", "Bernoulli", "Multinomial")
NAMELESS = ("", "main_graph", "torch_jit", "torch-jit-export", "tf2onnx")  # what exporters call a graph of no name
SURE = 1e-3  # by how much the sum of probabilities may miss 1


Outputs = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class Bare:
    """What a graph doesn't say of itself.

    Attributes:
        layout: order of the input's axes; told from the shape where it is None.
        outputs: what the graph ends in; found by asking it where it is None.
        bgr: blue comes first.
        head: name of the output, where there are several.
    """

    layout: Literal["nchw", "nhwc"] | None = None
    outputs: Outputs | None = None
    bgr: bool = False
    head: str | None = None


def annotate(
    file: Path, labels_file: Path, wishes: package.Wishes, bare: Bare, real: Path | None = None
) -> verify.Agreement:
    """Bare model + labels + normalisation → `wishes.output/model.onnx`, verified against the bare one.

    Args:
        wishes: `mean` and `std` are needed; `size` where the graph leaves it open.
        real: folder of pictures to verify on, besides drawn ones.
    Raises:
        Refusal: one line with what was found and what was expected; nothing has been written.
    """
    folder.check(wishes.output)
    words = labels.read(labels_file)
    model = load(file)
    if wishes.mean is None or wishes.std is None:
        raise package.UnusableRecipe("mean and std were not given; expected those that the network was trained with")
    graph.tidy(model)
    _choose_output(model, bare.head)
    _fold_shapes(model)
    channels_last, height, width = _input(model, bare, wishes.size)
    front = Front(height, width, wishes.mean, wishes.std, channels_last, bare.bgr)
    half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    temperature = package.temperature(wishes)
    provenance = {
        **wishes.provenance,
        "annotated": {"file": file.name, "sha256": weights.digest(file)},
        "exported_by": {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime")},
    }
    described = package.recipe(
        replace(wishes, provenance=provenance),
        file.stem if model.graph.name in NAMELESS else model.graph.name,
        front,
        wishes.resize or round(max(height, width) * USUAL_MARGIN),
        temperature,
        "fp16" if half else "fp32",
    )
    ask, logits_known = _original(model, file, front)
    outputs = "logits" if logits_known else _kind(ask, described, file, bare.outputs)
    if model.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        _free_output(model)
        _repeat_constants(model)
    graph.free_batch(model)
    logits = graph.wrap(
        model, front, temperature, outputs_probabilities=outputs == "probabilities" and not logits_known
    )

    def reference(pixels: verify.Pixels) -> verify.Scores:
        found = ask(pixels)
        if outputs == "probabilities":
            with np.errstate(divide="ignore"):  # log 0 is fine: it becomes 0 again
                return verify.Scores(None, verify.softmax(np.log(found), temperature))
        return verify.Scores(found, verify.softmax(found, temperature))

    return package.publish(
        model, logits if outputs == "logits" else None, described, words, reference, real, wishes.output
    )


def load(file: Path) -> ModelProto:
    """Read an ONNX file with its external weights, if it is a bare one.

    Raises:
        UnusableModel: unreadable, no ONNX, too old, or self-describing already.
    """
    try:
        model = onnx.load(file)
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
        raise UnusableModel(
            f"{file} can't be read as ONNX ({reason}); expected a classifier in one .onnx file"
        ) from error
    if not model.graph.node or not model.graph.output:
        raise UnusableModel(f"{file} holds no graph; expected an ONNX classifier")
    if any(prop.key == "quadrant.recipe" for prop in model.metadata_props):
        raise UnusableModel(f"{file} describes itself already; expected a bare ONNX classifier")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise UnusableModel(
            f"{file} is written in opset {opset}; expected {OLDEST_OPSET} or later: onnx.version_converter can raise it"
        )
    return model


def _choose_output(model: ModelProto, head: str | None) -> None:
    outputs = {output.name: output for output in model.graph.output}
    if head is None and len(outputs) > 1:
        raise UnusableModel(
            f"model has {len(outputs)} outputs ({', '.join(outputs)}); expected one: choose it with --head"
        )
    if head is not None and head not in outputs:
        raise UnusableModel(f"model has no output {head!r}; expected one of {', '.join(outputs)}")
    chosen = outputs[head] if head else next(iter(outputs.values()))
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(chosen)
    del model.graph.output[:]
    model.graph.output.append(kept)


def _input(model: ModelProto, bare: Bare, size: tuple[int, int] | None) -> tuple[bool, int, int]:
    """Whether channels come last, height and width."""
    if len(model.graph.input) != 1:
        found = ", ".join(value.name for value in model.graph.input)
        raise UnusableModel(f"model has {len(model.graph.input)} inputs ({found}); expected one, of pictures")
    (value,) = model.graph.input
    tensor = value.type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]  # 0 where open
    shown = f"{TensorProto.DataType.Name(tensor.elem_type).lower()} ({', '.join(str(side or '?') for side in shape)})"
    if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16) or len(shape) != 4:
        raise UnusableModel(
            f"model input {value.name!r} is {shown}; "
            "expected float32 (batch, 3, height, width) or (batch, height, width, 3)"
        )
    last = bare.layout == "nhwc" if bare.layout else shape[3] == 3 and shape[1] != 3
    if shape[3 if last else 1] not in (0, 3) or not (bare.layout or 3 in (shape[1], shape[3])):
        raise UnusableModel(
            f"model input {value.name!r} is {shown}; "
            "expected 3 channels, first or last: --layout says which where it is open"
        )
    sides = shape[1:3] if last else shape[2:4]
    if not all(sides) and size is None:
        raise UnusableModel(f"model input {value.name!r} is {shown}, its size left open; expected --size")
    if size and any(side not in (0, asked) for side, asked in zip(sides, size, strict=True)):
        raise UnusableModel(
            f"model input {value.name!r} is {shown}; --size asks for {size[0]} × {size[1]} (height × width): "
            "expected its own"
        )
    height, width = size or (sides[0], sides[1])
    return last, height, width


def _original(
    model: ModelProto, file: Path, front: Front
) -> tuple[Callable[[verify.Pixels], verify.Array], bool]:
    """A function that asks the bare graph, a fixed batch at a time, and whether it is sure to answer with logits.

    The input of a last Softmax is asked instead of its output.
    """
    asked = ModelProto()
    asked.CopyFrom(model)
    (output,) = asked.graph.output
    last = next((node for node in asked.graph.node if output.name in node.output), None)
    logits_known = last is not None and last.op_type == "Softmax"
    if last is not None and logits_known:
        name = last.input[0]
        asked.graph.output.append(helper.make_tensor_value_info(name, output.type.tensor_type.elem_type, None))
    else:
        name = output.name
    (source,) = asked.graph.input
    batch = source.type.tensor_type.shape.dim[0].dim_value
    dtype = np.float16 if source.type.tensor_type.elem_type == TensorProto.FLOAT16 else np.float32
    try:
        runner = verify.session(asked.SerializeToString())
    except Exception as error:  # ONNX Runtime has no common class for what it refuses
        raise UnusableModel(f"ONNX Runtime can't run {file} ({str(error).strip().splitlines()[0][:300]})") from error

    def ask(pixels: verify.Pixels) -> verify.Array:
        values = (pixels.astype(np.float64) / 255 - front.mean) / front.std  # (N, height, width, 3)
        values = (values[..., ::-1] if front.bgr else values).astype(dtype)
        values = values if front.channels_last else values.transpose(0, 3, 1, 2)
        step, rows = batch or len(values), []
        for start in range(0, len(values), step):
            part = values[start : start + step]
            filled = np.concatenate([part, np.zeros((step - len(part), *part.shape[1:]), dtype)])
            try:
                (found,) = runner.run([name], {source.name: filled})
            except Exception as error:
                raise UnusableModel(
                    f"{file} can't be run on {values.shape[1:]} ({str(error).strip().splitlines()[0][:300]})"
                ) from error
            rows.append(np.asarray(found, np.float32).reshape(step, -1)[: len(part)])
        return np.concatenate(rows)

    return ask, logits_known


def _fold_shapes(model: ModelProto) -> None:
    """Whole numbers that follow from constants alone, as exporters leave them for padding and reshaping; in place.

    Without this the layer table couldn't tell shapes, nor a fixed batch be freed.
    """
    known, inner = {tensor.name for tensor in model.graph.initializer}, []
    for node in model.graph.node:
        constant = node.op_type == "Constant" or (node.input and all(name in known or not name for name in node.input))
        if constant and not node.op_type.startswith(RANDOM) and node.domain in ("", "ai.onnx"):
            known.update(node.output)
            inner.append(node)
    if not inner:
        return
    asked = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    read = {name for node in inner for name in node.input}
    names = [name for node in inner for name in node.output if name]
    asked.graph.name = "constants"
    asked.graph.node.extend(inner)
    asked.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        found = verify.session(asked.SerializeToString()).run(names, {})
    except Exception:  # then they are left as they are; what can't be run shows itself soon
        return
    # Quantised weights are whole numbers too, and stay small.
    values = {name: value for name, value in zip(names, found, strict=True) if value.dtype in (np.int64, np.int32, np.bool_)}
    kept = [node for node in model.graph.node if not set(node.output) <= set(values)]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in values.items())


def _free_output(model: ModelProto) -> None:
    """An output that lost its axis of pictures, as `squeeze()` on a batch of 1 makes it, gets it back; in place."""
    (output,) = model.graph.output
    sides = output.type.tensor_type.shape.dim
    if len(sides) != 1 or not sides[0].dim_value:
        return
    last = next((node for node in model.graph.node if output.name in node.output), None)
    if last is None:
        return
    softmax = last.op_type == "Softmax"
    name, shape = f"{ADDED}rows", f"{ADDED}rows_shape"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([-1, sides[0].dim_value], np.int64), shape))
    if softmax:
        node = helper.make_node("Reshape", [last.input[0], shape], [name], name)
        last.input[0] = name
        _set_axis(last, 1)
        model.graph.node.insert(list(model.graph.node).index(last), node)
    else:
        model.graph.node.append(helper.make_node("Reshape", [output.name, shape], [name], name))
        output.name = name
    sides.add().dim_value = sides[0].dim_value
    sides[0].dim_param = "batch"


def _set_axis(node: onnx.NodeProto, axis: int) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != "axis"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("axis", axis)])


def _repeat_constants(model: ModelProto) -> None:
    """A constant that is set beside maps of a fixed batch, as a transformer's token is, comes once a picture; in place."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < SLICE_BY_INPUTS:
        return
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    known, nodes = set(stored), []  # names of all that doesn't depend on the pictures
    for node in model.graph.node:
        if all(name in known or not name for name in node.input):
            known.update(node.output)
        varying = next((name for name in node.input if name not in known), None)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if node.op_type == "Concat" and axis != 0 and varying:
            for index, name in enumerate(node.input):
                if name in known and (name not in stored or len(stored[name].dims) > 1):  # in one dimension: a shape
                    node.input[index] = f"{ADDED}{node.output[0]}_{index}"
                    nodes += _repeated(name, varying, node.input[index])
        nodes.append(node)
    if len(nodes) == len(model.graph.node):
        return
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for name, bound in BOUNDS.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray([bound], np.int64), name))


def _repeated(constant: str, beside: str, made: str) -> list[onnx.NodeProto]:
    """(batch then, …) → (batch now, …): the first row of a constant as often as `beside` has rows."""
    zero, one, end = BOUNDS
    steps = (
        ("Shape", [beside], "beside"),
        ("Slice", [f"{made}_beside", zero, one], "batch"),
        ("Shape", [constant], "own"),
        ("Slice", [f"{made}_own", one, end], "inner"),
        ("Concat", [f"{made}_batch", f"{made}_inner"], "shape"),
        ("Slice", [constant, zero, one], "row"),
    )
    nodes = [helper.make_node(kind, inputs, [f"{made}_{step}"], f"{made}_{step}") for kind, inputs, step in steps]
    _set_axis(nodes[4], 0)
    return [*nodes, helper.make_node("Expand", [f"{made}_row", f"{made}_shape"], [made], made)]


def _kind(
    ask: Callable[[verify.Pixels], verify.Array], described: Recipe, file: Path, claimed: Outputs | None
) -> Outputs:
    """Whether the answers to drawn pictures are probabilities.

    Raises:
        UnusableModel: they look like neither, or are not what was claimed.
    """
    if claimed == "logits":
        return claimed
    drawn, _ = package.pictures(described, None)
    answers = ask(verify.prepare(drawn, described))
    within = bool(((answers >= 0) & (answers <= 1 + SURE)).all())
    if within and np.abs(answers.sum(axis=1) - 1).max() < SURE:
        return "probabilities"
    if not within and claimed is None:
        return "logits"
    raise UnusableModel(
        f"{file} answers with values from {answers.min():.2g} to {answers.max():.2g} "
        f"that sum to {answers.sum(axis=1).mean():.3g}; expected {claimed or 'logits, or probabilities'}"
        + (" that sum to 1" if claimed else " that sum to 1: --outputs says which")
    )
