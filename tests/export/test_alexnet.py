"""The proof of the way in: torchvision-keyed AlexNet weights become a 1,000-class model that answers as PyTorch does.

The weights are random, but scaled so that pictures are told apart: a random network left to itself gives all
pictures the same answer, and would agree with a wrong model just as well.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from export import architectures, drawings, verify
from export.__main__ import main
from service import images, planning
from service.app import create_app
from service.catalog import Catalog
from service.engine import Engine
from service.modelfile import ModelFile
from service.settings import Settings

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"  # absent elsewhere: drawn pictures take their place
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
# As in torchvision 0.27's `alexnet().state_dict()`.
SHAPES = {
    "features.0.weight": (64, 3, 11, 11), "features.0.bias": (64,),
    "features.3.weight": (192, 64, 5, 5), "features.3.bias": (192,),
    "features.6.weight": (384, 192, 3, 3), "features.6.bias": (384,),
    "features.8.weight": (256, 384, 3, 3), "features.8.bias": (256,),
    "features.10.weight": (256, 256, 3, 3), "features.10.bias": (256,),
    "classifier.1.weight": (4096, 9216), "classifier.1.bias": (4096,),
    "classifier.4.weight": (4096, 4096), "classifier.4.bias": (4096,),
    "classifier.6.weight": (1000, 4096), "classifier.6.bias": (1000,),
}  # fmt: skip


def by_the_book(picture):
    """Encoded picture → (224, 224, 3) uint8, as AlexNet's published weights are evaluated; by none of our code."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    short, long = sorted(image.size)
    other = int(256 * long / short)
    width, height = (256, other) if image.width <= image.height else (other, 256)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    return np.array(image)[top : top + 224, left : left + 224]


def tensor_of(pixels):
    """(N, 224, 224, 3) uint8 → (N, 3, 224, 224), with ToTensor and Normalize as torchvision has them.

    Contiguous as theirs: from channels-last memory PyTorch's own logits were seen three times further from those in
    double precision.
    """
    return ((torch.from_numpy(pixels).float() / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()


def standardise(network, pixels):
    """Scale every layer so that each of its outputs has mean 0 and deviation 1 over these pictures; the last 2."""
    values = tensor_of(np.stack(pixels))
    layers = [*network.features, network.avgpool, nn.Flatten(), *network.classifier]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.bias.zero_()
            out = layer(values)
            axes = (0, 2, 3) if out.ndim == 4 else (0,)
            scale = (2 if layer is layers[-1] else 1) / out.std(axes)
            layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
            layer.bias.copy_(-out.mean(axes) * scale)
        values = layer(values)


@pytest.fixture(scope="module")
def pictures():
    """The 48 photos, or as many drawn ones."""
    files = sorted(PHOTOS.glob("*.JPEG")) if PHOTOS.is_dir() else []
    return [file.read_bytes() for file in files] or drawings.draw(48, 300, seed=5)


@pytest.fixture(scope="module")
def proof(pictures):
    """(network, model): before and after, 245 MB each; the files go when the module is done."""
    torch.manual_seed(7)
    network = architectures.find("alexnet").build(1000).eval().requires_grad_(False)
    standardise(network, [by_the_book(picture) for picture in pictures])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(network.state_dict(), folder / "alexnet.pth")
        (folder / "labels.txt").write_text("\n".join(f"class {number}" for number in range(1000)))
        (folder / "pictures").mkdir()
        for number, picture in enumerate(pictures):
            (folder / "pictures" / f"{number:02}.jpg").write_bytes(picture)
        result = CliRunner().invoke(main, [
            "convert", "--architecture", "alexnet", "--weights", str(folder / "alexnet.pth"),
            "--labels", str(folder / "labels.txt"), "--output", str(folder / "models" / "alexnet" / "1"),
            "--verify", str(folder / "pictures"),
        ])  # fmt: skip
        assert result.exit_code == 0, result.output
        (folder / "alexnet.pth").unlink()
        yield network, ModelFile.open(folder / "models" / "alexnet" / "1" / "model.onnx")


def logits_of(network, pixels):
    """(N, 224, 224, 3) uint8 → (N, 1000)."""
    with torch.inference_mode():
        return network(tensor_of(pixels)).numpy()


def test_keys_and_shapes_are_torchvisions():
    """The weights that everybody has load as they are."""
    with torch.device("meta"):
        state = architectures.find("alexnet").build(1000).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == SHAPES


def test_the_model_is_large_enough_to_need_a_second_file(proof):
    """244 MB: more than half of it is one layer."""
    _, model = proof
    assert model.external
    assert model.path.with_name("weights.bin").stat().st_size > 240_000_000
    assert model.path.stat().st_size < 1_000_000


def test_exact_preprocessing_equals_the_book_bit_for_bit(proof, pictures):
    """One pixel off in the crop, or another resampling, and accuracy is lost without a word."""
    _, model = proof
    recipe = model.recipe
    assert (recipe.preprocessing.mode, recipe.preprocessing.resize, recipe.input.width) == ("exact", 256, 224)
    for picture in pictures:
        prepared = images.prepare(picture, recipe.preprocessing, recipe.input.width, recipe.input.height)
        assert np.array_equal(prepared.pixels, by_the_book(picture))


def test_answers_equal_pytorchs_within_the_rule(proof, pictures):
    """Decision 9: probabilities within 1e-5, logits within 1e-4 of themselves, the same order among the first five."""
    network, model = proof
    pixels = np.stack([by_the_book(picture) for picture in pictures])
    logits = logits_of(network, pixels)
    reference = verify.Scores(logits, verify.softmax(logits, 1))
    engine = Engine(model, "cpu")
    found = np.concatenate([engine.run(pixels[start : start + 16]) for start in range(0, len(pixels), 16)])
    # Softmax forgets a constant: the reference's own mean of the logits is put back before they are compared.
    logarithms = np.log(found.astype(np.float64))
    shift = (logits - logarithms).mean(axis=1, keepdims=True)
    agreement = verify.compare(reference, verify.Scores(logarithms + shift, found), "fp32", "PyTorch and the service")
    assert agreement.classes >= 20, "pictures that all get the same answer prove nothing"


def test_what_travels_in_the_file_is_what_was_measured(proof):
    """The golden examples, at least four of them and no two with the same answer, hold in the service's engine."""
    _, model = proof
    answers = {int(np.argmax(golden.probabilities)) for golden in model.golden}
    assert (len(model.golden), len(answers)) == (4, 4)
    assert Engine(model, "cpu").prove() <= 1e-5
    assert model.recipe.provenance["verified"]["logit"] <= 1e-4


def test_the_service_gives_pytorchs_answers_over_http(proof, pictures):
    """From a checkpoint to JSON: the same class first, with the same probability."""
    network, model = proof
    settings = Settings(models=model.path.parents[2], provider="cpu", engine_threads=1, batch_cap=2)
    catalog = Catalog.load(settings, planning.plan(settings))
    try:
        client = create_app(settings, catalog).test_client()
        for picture in pictures[:6]:
            reply = client.post("/classify", data=picture, content_type="application/octet-stream")
            assert reply.status_code == 200, reply.text
            best = reply.json["predictions"][0]
            expected = verify.softmax(logits_of(network, by_the_book(picture)[None]), 1)[0]
            assert (reply.json["model"]["name"], best["index"]) == ("alexnet", int(expected.argmax()))
            assert best["score"] == pytest.approx(expected.max(), abs=1e-5)
            assert best["label"] == f"class {best['index']}"
    finally:
        catalog.close()
