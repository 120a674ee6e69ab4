"""Models and pictures of the bench."""

from __future__ import annotations

import io
from pathlib import Path

import click
import pytest
from PIL import Image

from export import gate
from loadtest import subjects
from loadtest.pictures import draw
from loadtest.targets import DEFAULT, FP32, INT8


def model(folder: Path, name: str) -> Path:
    file = folder / name / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    return file


def test_the_default_model_is_the_services_own_choice(tmp_path):
    """The first that is no -int8, its highest version by number."""
    for name in ("a-int8/1", "b/2", "b/11", "c/1", "b/draft"):
        model(tmp_path, name)
    assert subjects.default(tmp_path) == (DEFAULT, "b", tmp_path / "b" / "11" / "model.onnx")


def test_a_folder_without_models_is_told(tmp_path):
    """Before twenty minutes of measuring."""
    with pytest.raises(click.ClickException, match=r"holds no NAME/VERSION/model\.onnx"):
        subjects.default(tmp_path)


def test_alexnets_are_made_once_and_again_when_export_changes(tmp_path, monkeypatch):
    """What is measured is what export makes today."""
    made = []
    monkeypatch.setattr(subjects.models_cost, "alexnet", lambda folder: (made.append(FP32), model(folder, "alexnet/1")))
    monkeypatch.setattr(subjects, "_quantize", lambda _, __, output: (made.append(INT8), model(output.parent, "1")))
    asked = ([FP32, INT8], tmp_path, tmp_path, tmp_path)
    for _ in range(2):
        first, second = subjects.subjects(*asked)
        assert first.file.exists()
        assert second.file.exists()
        assert (first.folder.name, second.folder.name) == ("alexnet", "alexnet-int8")
    assert made == [FP32, INT8]
    monkeypatch.setattr(subjects, "_export_digest", lambda: "0" * 64)
    subjects.subjects(*asked)
    assert made == [FP32, INT8, FP32, INT8]
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
