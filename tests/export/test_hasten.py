"""The quicker way to decode is published only where it changes no answers."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from export import hasten, published
from export.__main__ import main
from export.listing import UnusableData
from service.engine import Engine
from service.modelfile import ModelFile
from tests.service import pictures

TOP = Path(__file__).parents[2]
DEFAULT = max((TOP / "models" / "alexnet64-tiny-imagenet").iterdir(), key=lambda folder: int(folder.name)) / "model.onnx"
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


def test_small_pictures_say_nothing(photos):
    """Of a picture that isn't twice as large as the input nothing is scaled."""
    with pytest.raises(UnusableData, match="none with a shorter side above 900"):
        list(hasten.views(photos, 900))


def test_a_model_that_answers_the_same_is_published(photos, tmp_path, monkeypatch):
    """The recipe says `fast`, and what was measured; weights and labels stay."""
    monkeypatch.setattr(hasten, "VIEWS", 40)
    output = tmp_path / "quick" / "1"
    asked = ["hasten", str(DEFAULT), "--pictures", str(photos), "--output", str(output)]
    done = CliRunner().invoke(main, [*asked, "--least", "0.5"])
    assert done.exit_code == 0, done.output
    before, after = ModelFile.open(DEFAULT), ModelFile.open(output / "model.onnx")
    assert after.recipe.preprocessing.mode == "fast"
    assert after.recipe.provenance["fast"]["views"] >= 40
    assert after.weights_sha256 == before.weights_sha256
    Engine(after, "cpu", 1).prove()


def test_one_that_answers_otherwise_is_refused(photos, tmp_path, monkeypatch):
    """With the share in the message; nothing is written."""
    monkeypatch.setattr(hasten, "measure", lambda *_: hasten.Agreement(1000, 0.97, 3.0))
    output = tmp_path / "quick" / "1"
    done = CliRunner().invoke(main, ["hasten", str(DEFAULT), "--pictures", str(photos), "--output", str(output)])
    assert done.exit_code == 2
    assert "97.00% of 1,000 views" in done.output
    assert not output.exists()


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photos lie outside the project")
def test_the_default_model_answers_the_same_both_ways():
    """On 1,000 crops of photos, encoded anew: top-1 equal on 99 %."""
    opened, model = published.read(DEFAULT)
    with tempfile.TemporaryDirectory() as place:
        ask = published.scorer(model, Path(place))
    found = hasten.measure(opened, ask, PHOTOS)
    assert found.views >= 1000
    assert found.same >= 0.99
    assert 0 < found.grey_levels < np.inf
