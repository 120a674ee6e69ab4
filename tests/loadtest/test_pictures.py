"""The pictures that load is made of."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from loadtest import pictures


def test_a_named_folder_wins(tmp_path, monkeypatch):
    """Load with one's own pictures is the only load that tells about one's own service."""
    (tmp_path / "a.jpg").write_bytes(b"one")
    (tmp_path / "notes.txt").write_bytes(b"not a picture")
    monkeypatch.setenv(pictures.VARIABLE, str(tmp_path))
    assert pictures.pictures() == [b"one"]


def test_a_named_folder_without_pictures_is_refused(tmp_path, monkeypatch):
    """Falling back to drawn pictures would measure something else than was asked for."""
    monkeypatch.setenv(pictures.VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no"):
        pictures.pictures()


def test_drawn_pictures_weigh_about_as_much_as_photos():
    """A flat drawing of 2 KB would decode in no time."""
    drawn = pictures.draw(0)
    assert Image.open(io.BytesIO(drawn)).size == (pictures.WIDTH, pictures.HEIGHT)
    assert 40_000 < len(drawn) < 200_000
    assert drawn == pictures.draw(0) != pictures.draw(1)
