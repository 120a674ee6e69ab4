"""The network of 2012 against numpy, which knows nothing of torch, and a Caffe user's way in, from weights to answers.

The weights are random, but scaled so that pictures are told apart, as in `test_alexnet.py`.
"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from export import architectures, drawings, verify
from export.__main__ import main
from service import images, planning
from service.app import create_app
from service.catalog import Catalog
from service.engine import Engine
from service.modelfile import ModelFile
from service.settings import Settings

CLASSES = 20
MEAN_BGR = np.asarray([104.00698793, 116.66876762, 122.67891434])  # Caffe's ilsvrc_2012_mean.npy, .mean(1).mean(1)
PAPER, CAFFE = (2, 1e-4), (1, 1e-4 / 5)  # k, and what a square is multiplied with


# The whole network in numpy, a picture at a time, double precision throughout.


def convolution(maps, weight, bias, stride=1, padding=0, groups=1):
    """(channels, h, w), (out, channels / groups, kh, kw) → (out, h', w')."""
    maps = np.pad(maps, ((0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(maps, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]  # (c, h', w', kh, kw)
    parts = []
    for mine, filters in zip(np.split(windows, groups), np.split(weight, groups), strict=True):
        parts.append(np.tensordot(filters, mine, axes=([1, 2, 3], [0, 3, 4])))  # (out / groups, h', w')
    return np.concatenate(parts) + bias[:, None, None]


def response_normalisation(maps, k, each):
    """Map c divided by (k + each · the squares of maps c - 2 to c + 2)^0.75."""
    found = np.empty_like(maps)
    for c in range(len(maps)):
        squares = (maps[max(0, c - 2) : c + 3] ** 2).sum(axis=0)
        found[c] = maps[c] / (k + each * squares) ** 0.75
    return found


def overlapping_pooling(maps):
    """3 × 3, stride 2."""
    return sliding_window_view(maps, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(3, 4))


def by_numpy(state, values, formula):
    """(3, 227, 227) in the network's own channel order and scale → (classes,) logits."""
    w = {name: tensor.double().numpy() for name, tensor in state.items()}

    def conv(number, maps, **how):
        return np.maximum(convolution(maps, w[f"conv{number}.weight"], w[f"conv{number}.bias"], **how), 0)

    maps = overlapping_pooling(response_normalisation(conv(1, values, stride=4), *formula))
    assert maps.shape == (96, 27, 27)
    maps = overlapping_pooling(response_normalisation(conv(2, maps, padding=2, groups=2), *formula))
    maps = conv(4, conv(3, maps, padding=1), padding=1, groups=2)
    maps = overlapping_pooling(conv(5, maps, padding=1, groups=2))
    hidden = maps.reshape(-1)  # 256 × 6 × 6
    for name in ("fc6", "fc7"):
        hidden = np.maximum(w[f"{name}.weight"] @ hidden + w[f"{name}.bias"], 0)
    return w["fc8.weight"] @ hidden + w["fc8.bias"]


def as_caffe(picture):
    """Encoded picture → (3, 227, 227): squeezed to 256 × 256, the middle 227, blue first, minus the mean."""
    image = Image.open(io.BytesIO(picture)).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float64)[14 : 14 + 227, 14 : 14 + 227]
    return (pixels[:, :, ::-1] - MEAN_BGR).transpose(2, 0, 1)


def standardise(network, values):
    """Scale every layer so that its outputs have mean 0 and deviation 1 over these inputs; 50 the first two.

    Large values there, so that the normalisation, whose squares count a ten-thousandth, has something to do.
    """
    with torch.no_grad():
        for name, layer in network.named_children():
            if hasattr(layer, "weight"):
                layer.bias.zero_()
                out = layer(values)
                axes = (0, 2, 3) if out.ndim == 4 else (0,)
                scale = {"conv1": 50, "conv2": 50}.get(name, 1) / out.std(axes)
                layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
                layer.bias.copy_(-out.mean(axes) * scale)
            values = layer(values)


@pytest.fixture(scope="module")
def pictures():
    """Wider than high, so that squeezing shows."""
    squares = [Image.open(io.BytesIO(png)) for png in drawings.draw(8, 300, seed=5)]
    made = []
    for square in squares:
        stream = io.BytesIO()
        square.resize((400, 300)).save(stream, "PNG")
        made.append(stream.getvalue())
    return made


def network_of(name, pictures):
    torch.manual_seed(7)
    network = architectures.find(name).build(CLASSES).eval().requires_grad_(False)
    standardise(network, torch.from_numpy(np.stack([as_caffe(picture) for picture in pictures])).float())
    return network


@pytest.fixture(scope="module")
def proof(pictures):
    """(state dict, folder of the model): a Caffe user's weights, converted; 220 MB each, gone when the module is done."""
    network = network_of("alexnet2012-caffe", pictures)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(network.state_dict(), folder / "bvlc.pth")
        (folder / "labels.txt").write_text("\n".join(f"class {number}" for number in range(CLASSES)))
        result = CliRunner().invoke(main, [
            "convert", "--architecture", "alexnet2012-caffe", "--weights", str(folder / "bvlc.pth"),
            "--labels", str(folder / "labels.txt"), "--output", str(folder / "models" / "caffe" / "1"),
        ])  # fmt: skip
        assert result.exit_code == 0, result.output
        (folder / "bvlc.pth").unlink()
        yield network.state_dict(), ModelFile.open(folder / "models" / "caffe" / "1" / "model.onnx")


@pytest.mark.parametrize(("name", "formula", "other"), [
    pytest.param("alexnet2012", PAPER, CAFFE, id="as printed"),
    pytest.param("alexnet2012-caffe", CAFFE, PAPER, id="as Caffe"),
])  # fmt: skip
def test_every_layer_is_as_the_paper_has_it(pictures, name, formula, other):
    """Groups, five neighbours, overlapping pooling: PyTorch's layers and plain numpy, within decision 9."""
    network = network_of(name, pictures)
    values = np.stack([as_caffe(picture) for picture in pictures[:3]])
    with torch.inference_mode():
        found = network(torch.from_numpy(values).float()).numpy()
    expected = np.stack([by_numpy(network.state_dict(), row, formula) for row in values])
    verify.compare(scores(expected), scores(found), "fp32", "numpy and PyTorch")
    wrong = by_numpy(network.state_dict(), values[0], other)
    assert np.abs(wrong - found[0]).max() > 0.1, "the two formulas must not be told apart by luck"


def scores(logits):
    return verify.Scores(logits, verify.softmax(logits, 1))


def test_what_the_service_answers_is_what_caffe_would(proof, pictures):
    """From encoded bytes: preprocessing and network written anew here, against the service's own path, over HTTP."""
    state, model = proof
    settings = Settings(models=model.path.parents[2], provider="cpu", engine_threads=1, batch_cap=2)
    catalog = Catalog.load(settings, planning.plan(settings))
    answers = set()
    try:
        client = create_app(settings, catalog).test_client()
        for picture in pictures[:4]:
            reply = client.post("/classify?top_k=5", data=picture, content_type="application/octet-stream")
            assert reply.status_code == 200, reply.text
            expected = verify.softmax(by_numpy(state, as_caffe(picture), CAFFE)[None], 1)[0]
            best = reply.json["predictions"]
            assert [row["index"] for row in best] == np.argsort(-expected)[:5].tolist()
            assert [row["score"] for row in best] == pytest.approx(np.sort(expected)[:-6:-1], abs=1e-5)
            answers.add(best[0]["index"])
    finally:
        catalog.close()
    assert len(answers) > 1


def test_alone_or_in_a_batch_the_engine_gives_numpys_answers(proof, pictures):
    """Decision 9 in all of its parts, on the pixels that the service prepares."""
    state, model = proof
    size, how = model.recipe.input, model.recipe.preprocessing
    pixels = np.stack([images.prepare(picture, how, size.width, size.height).pixels for picture in pictures[:4]])
    expected = scores(np.stack([by_numpy(state, as_caffe(picture), CAFFE) for picture in pictures[:4]]))
    engine = Engine(model, "cpu")
    together, alone = engine.run(pixels), np.concatenate([engine.run(row[None]) for row in pixels])
    verify.compare(expected, verify.Scores(None, together), "fp32", "numpy and the service")
    verify.compare(expected, verify.Scores(None, alone), "fp32", "numpy and the service, one at a time")


def test_the_recipe_says_what_caffes_users_need(proof):
    """Squeezed, blue first, only a mean taken away; nothing of it was typed."""
    _, model = proof
    how = model.recipe.preprocessing
    assert (how.resize, how.resize_mode, how.channels, model.recipe.input.width) == (256, "exact_size", "bgr", 227)
    assert how.mean == pytest.approx(MEAN_BGR[::-1] / 255)
    assert how.std == pytest.approx([1 / 255] * 3)


def test_normalisation_stays_one_node(proof):
    """PyTorch's exporter would write ten for each; and the mean is all that is done to pixels."""
    _, model = proof
    graph = onnx.load(model.path, load_external_data=False).graph
    assert [node.op_type for node in graph.node] == [
        "Transpose", "Gather", "Cast", "Sub", "Conv", "Relu", "LRN", "MaxPool", "Conv", "Relu", "LRN", "MaxPool",
        "Conv", "Relu", "Conv", "Relu", "Conv", "Relu", "MaxPool", "Flatten",
        "Gemm", "Relu", "Gemm", "Relu", "Gemm", "Softmax",
    ]  # fmt: skip


def test_describe_counts_what_groups_save(proof):
    """The paper's 60,965,224 parameters at 1,000 classes: 4,015,060 less at 20."""
    _, model = proof
    found = json.loads(CliRunner().invoke(main, ["describe", str(model.path), "--json"]).output)
    rows = {row["name"]: row for row in found["layers"]}
    assert found["parameters"] == 60_965_224 - 980 * 4097
    assert found["multiply_adds"] == 724_406_816 - 980 * 4096
    assert (rows["conv2"]["type"], rows["conv2"]["parameters"]) == ("convolution, 2 groups", 256 * 5 * 5 * 48 + 256)
    assert rows["conv2"]["multiply_adds"] == 27 * 27 * 256 * 5 * 5 * 48
    assert (rows["norm1"]["type"], rows["norm1"]["output"]) == ("local response normalisation", [55, 55, 96])
    assert (rows["norm1"]["parameters"], rows["norm1"]["multiply_adds"]) == (0, 0)


def test_the_command_line_overrules_the_design(files, network):
    """Any network may want what Caffe's want; with the tiny one it is quick."""
    result = CliRunner().invoke(main, [
        "convert", *files.arguments, "--range", "0-255", "--mean", "123,117,104", "--std", "58", "--channels", "bgr",
        "--resize", "18", "--resize-mode", "exact_size",
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    model = ModelFile.open(files.models / "fish" / "1" / "model.onnx")
    (picture,) = drawings.draw(1, 40)
    stream = io.BytesIO()
    Image.open(io.BytesIO(picture)).resize((60, 40)).save(stream, "PNG")
    image = Image.open(stream).resize((18, 18), Image.Resampling.BILINEAR)
    values = (np.asarray(image, np.float32)[1:17, 1:17, ::-1] - (104, 117, 123)) / 58
    with torch.inference_mode():
        expected = network(torch.from_numpy(values).float().permute(2, 0, 1)[None].contiguous()).softmax(1).numpy()
    prepared = images.prepare(stream.getvalue(), model.recipe.preprocessing, 16, 16).pixels
    assert np.abs(Engine(model, "cpu").run(prepared[None]) - expected).max() <= 1e-5


def test_what_is_not_typed_is_left_to_the_design(files):
    """And what is typed wins: weights may have been turned already."""
    caffes = architectures.Architecture(
        "caffes", architectures.find("tiny").build, side=16, resize=18, classes=5, bgr=True, resize_mode="exact_size"
    )
    architectures.register(caffes)
    for version, options, found in (
        ("1", (), ("exact_size", "bgr")),
        ("2", ("--channels", "rgb", "--resize-mode", "short_side"), ("short_side", "rgb")),
    ):
        arguments = ["caffes" if part == "tiny" else part for part in files.arguments]
        arguments[-1] = str(files.models / "fish" / version)
        result = CliRunner().invoke(main, ["convert", *arguments, *options])
        assert result.exit_code == 0, result.output
        how = ModelFile.open(files.models / "fish" / version / "model.onnx").recipe.preprocessing
        assert (how.resize_mode, how.channels) == found
