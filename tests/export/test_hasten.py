"""The quicker way to decode is published only where it changes no answers."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from export import hasten, published
from export.__main__ import main
from export.listing import UnusableData
from service import images
from service.engine import Engine
from service.modelfile import ModelFile
from tests.service import pictures

TOP = Path(__file__).parents[2]
ALEXNET64 = max((TOP / "models" / "alexnet64-tiny-imagenet").iterdir(), key=lambda folder: int(folder.name)) / "model.onnx"
PHOTOS = TOP.parent / "shared" / "data" / "photos"


@pytest.fixture
def photos(tmp_path):
    place = tmp_path / "photos"
    place.mkdir()
    for number in range(4):
        image = pictures.scene().resize((420 + 30 * number, 400)).rotate(30 * number)
        image.save(place / f"{number}.jpg", quality=90)
    return place


def test_views_are_many_large_enough_and_the_same_each_time(photos):
    """A measurement that can be repeated, of pictures on which scaled decoding acts."""
    found = list(hasten.views(photos, 160, least=50))
    assert len(found) >= 50
    sizes = [Image.open(io.BytesIO(data)).size for data in found]
    assert min(map(min, sizes)) > 160
    assert len(set(sizes)) > 20
    assert found == list(hasten.views(photos, 160, least=50))


def test_small_pictures_are_enlarged(photos):
    """Of a picture that isn't much larger than the input nothing is scaled."""
    assert min(min(Image.open(io.BytesIO(data)).size) for data in hasten.views(photos, 900, least=4)) > 900


def test_a_folder_without_pictures_says_so(tmp_path):
    """Nothing measured is nothing shown."""
    with pytest.raises(UnusableData, match="holds no pictures"):
        list(hasten.views(tmp_path, 10, least=1))


def test_a_model_that_answers_the_same_is_published(photos, tmp_path, monkeypatch):
    """The recipe says `fast`, and what was measured; weights and labels stay."""
    monkeypatch.setattr(hasten, "VIEWS", 40)
    output = tmp_path / "quick" / "1"
    asked = ["hasten", str(ALEXNET64), "--pictures", str(photos), "--output", str(output)]
    done = CliRunner().invoke(main, [*asked, "--least", "0.5"])
    assert done.exit_code == 0, done.output
    before, after = ModelFile.open(ALEXNET64), ModelFile.open(output / "model.onnx")
    assert after.recipe.preprocessing.mode == "fast"
    assert after.recipe.provenance["fast"]["views"] == 40
    assert after.recipe.provenance["fast"]["same_top1"] > 0.5
    assert after.weights_sha256 == before.weights_sha256
    Engine(after, "cpu").prove()


def test_one_that_answers_otherwise_is_refused(photos, tmp_path, monkeypatch):
    """With the share in the message; nothing is written."""
    monkeypatch.setattr(hasten, "measure", lambda *_: hasten.Agreement(1000, 0.97, 3.0))
    output = tmp_path / "quick" / "1"
    done = CliRunner().invoke(main, ["hasten", str(ALEXNET64), "--pictures", str(photos), "--output", str(output)])
    assert done.exit_code == 2
    assert "97.00% of 1,000 views" in done.output
    assert not output.exists()


def test_without_scaling_the_best_class_is_the_same_both_ways():
    """One step instead of two moves values by one grey level at most."""
    opened, model = published.read(ALEXNET64)
    recipe = opened.recipe
    short = 2 * images.least_draft(recipe.preprocessing) - 1  # one pixel more, and JPEG would be decoded at a half
    drawn = [pictures.jpeg(pictures.scene().rotate(7 * n).resize((short + 8 * n, short))) for n in range(24)]
    with tempfile.TemporaryDirectory() as place:
        ask = published.scorer(model, Path(place))
    pixels = {
        mode: np.stack([
            images.prepare(data, msgspec.structs.replace(recipe.preprocessing, mode=mode), 80, 80).pixels for data in drawn
        ])
        for mode in ("exact", "fast")
    }  # fmt: skip
    assert np.abs(pixels["exact"].astype(int) - pixels["fast"]).max() <= 1
    best = {mode: ask(found).probabilities.argmax(1) for mode, found in pixels.items()}
    assert np.array_equal(best["exact"], best["fast"])


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photos lie outside the project")
def test_alexnet64_keeps_the_exact_way_for_a_measured_reason():
    """Its best class changes on more than a hundredth of 1,000 crops of photos, enlarged and encoded anew."""
    opened, model = published.read(ALEXNET64)
    with tempfile.TemporaryDirectory() as place:
        found = hasten.measure(opened, published.scorer(model, Path(place)), PHOTOS)
    assert found.views >= 1000
    assert 0.9 < found.same < hasten.LEAST_AGREEMENT
    assert opened.recipe.preprocessing.mode == "exact"
