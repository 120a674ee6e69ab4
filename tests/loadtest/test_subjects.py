"""Models and pictures of the bench."""

from __future__ import annotations

import io
import json
from pathlib import Path

import click
import onnx
import pytest
from PIL import Image

from export import gate
from loadtest import subjects
from loadtest.engines import Engine
from loadtest.inprocess import KEY, Model
from loadtest.pictures import draw
from loadtest.targets import DEFAULT, FP32, INT8, SMALL, SMALL_INT8


def model(folder: Path, name: str) -> Path:
    file = folder / name / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    return file


def test_each_short_name_is_a_model_of_its_own(tmp_path):
    """The default one by its file, the small ones by their names, always in their highest versions."""
    for name in ("alexnet64-tiny-imagenet/4", "alexnet64-tiny-imagenet-int8/2", "alexnet64-tiny-imagenet-int8/11", "c/1"):
        model(tmp_path, name)
    (tmp_path / "default").write_text("c\n")
    found = subjects.subjects([DEFAULT, SMALL, SMALL_INT8], tmp_path, tmp_path, tmp_path)
    assert [each[:2] for each in found] == [
        ("default", "c"), ("alexnet64", "alexnet64-tiny-imagenet"), ("alexnet64-int8", "alexnet64-tiny-imagenet-int8")]
    assert found[2].file == tmp_path / "alexnet64-tiny-imagenet-int8" / "11" / "model.onnx"


@pytest.mark.parametrize(("own", "precision"), [("fp32", "bf16"), ("int8", "int8")])
def test_a_network_of_random_weights_gets_its_gate(own, precision, model_folder, tmp_path):
    """Without it neither the service nor the ceiling would run it as fast as a trained one; nothing else changes."""
    before = onnx.load(model_folder / "quadrants" / "1" / "model.onnx")
    onnx.save(before, file := tmp_path / "model.onnx")
    subjects.give_gate(file, precision)
    after = onnx.load(file)
    assert after.graph == before.graph
    recipes = [json.loads(next(each.value for each in some.metadata_props if each.key == KEY)) for some in (before, after)]
    assert recipes[0].pop("gates") == []
    gate, = recipes[1].pop("gates")
    assert recipes[0] == recipes[1]
    assert (gate["provider"], gate["precision"]) == ("openvino", precision)
    assert gate["environment"].startswith("not measured")
    assert Engine("openvino", precision) in Model(file, 1, False).recipe.gates


def test_alexnets_are_made_once_and_again_when_export_changes(tmp_path, monkeypatch):
    """What is measured is what export makes today."""
    made = []
    monkeypatch.setattr(subjects.models_cost, "alexnet", lambda folder: (made.append(FP32), model(folder, "alexnet/1")))
    monkeypatch.setattr(subjects, "give_gate", lambda _, precision: made.append(precision))
    monkeypatch.setattr(subjects, "_quantize", lambda _, __, output: (made.append(INT8), model(output.parent, "1")))
    asked = ([FP32, INT8], tmp_path, tmp_path, tmp_path)
    for _ in range(2):
        first, second = subjects.subjects(*asked)
        assert first.file.exists()
        assert second.file.exists()
        assert (first.folder.name, second.folder.name) == ("alexnet", "alexnet-int8")
    assert made == [FP32, "bf16", INT8, "int8"]
    monkeypatch.setattr(subjects, "_export_digest", lambda: "0" * 64)
    subjects.subjects(*asked)
    assert made == [FP32, "bf16", INT8, "int8"] * 2
    assert not first.file.exists()  # 300 MB that nobody needs


def test_the_photos_of_a_folder_are_linked_and_nothing_else(tmp_path):
    """The ceiling takes every picture of a folder; both must classify the same."""
    given, folder = tmp_path / "given", tmp_path / "folder"
    given.mkdir()
    folder.mkdir()
    for name in ("b.JPEG", "a.jpg", "c.png", "notes.txt"):
        (given / name).write_bytes(name.encode())
    assert [file.read_bytes() for file in subjects.photo_files(given, folder)] == [b"a.jpg", b"b.JPEG"]
    with pytest.raises(click.ClickException, match=r"holds no \.jpg or \.jpeg"):
        subjects.photo_files(folder / "..", folder)


def test_mosaics_are_what_a_phone_sends(tmp_path, monkeypatch):
    """12 megapixels in 3 to 4 MB."""
    monkeypatch.setattr(subjects, "MOSAICS", 1)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(draw(1))
    (tmp_path / "large").mkdir()
    file, = subjects.mosaics([photo], tmp_path / "large")
    content = file.read_bytes()
    assert 3_000_000 <= len(content) <= 4_000_000
    assert Image.open(io.BytesIO(content)).size == (4000, 3000)


def test_photos_without_detail_make_no_such_mosaic(tmp_path, monkeypatch):
    """Rather no row than one of files that decode in no time."""
    monkeypatch.setattr(subjects, "MOSAICS", 1)
    Image.new("RGB", (500, 375)).save(tmp_path / "black.jpg")
    with pytest.raises(click.ClickException, match="no quality gives a JPEG of 3 to 4 MB"):
        subjects.mosaics([tmp_path / "black.jpg"], tmp_path)


def test_drawn_pictures_suffice_for_int8(tmp_path, monkeypatch):
    """Where there are no photos, `make bench` makes its int8 model of drawn ones."""
    monkeypatch.setattr(subjects, "pictures", lambda count: [draw(0)] * count)
    assert len(subjects.photo_files(None, tmp_path)) >= gate.FEWEST
