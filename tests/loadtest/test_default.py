"""Which model answers if nobody names one."""

from __future__ import annotations

import click
import pytest

from loadtest.default import default_model, latest


@pytest.fixture
def folder(tmp_path):
    for name in ("a/3", "b/2", "b/10", "b/draft", "c-int8/1"):
        (file := tmp_path / name / "model.onnx").parent.mkdir(parents=True)
        file.touch()
    return tmp_path


def test_the_file_names_it_and_the_highest_version_counts(folder):
    """As the service has it: neither the alphabet nor a further model decides."""
    (folder / "default").write_text("b\n")
    assert default_model(folder) == folder / "b" / "10" / "model.onnx"


def test_without_a_file_the_only_model_is_it(tmp_path):
    """A folder of one's own with one model needs no file."""
    (file := tmp_path / "a-int8" / "3" / "model.onnx").parent.mkdir(parents=True)
    file.touch()
    assert default_model(tmp_path) == file


def test_several_models_and_no_file_are_told(folder):
    """A guess would measure another model than the one that is served."""
    with pytest.raises(click.ClickException, match="holds a, b, c-int8; expected the name of one of them in"):
        default_model(folder)


def test_a_name_that_is_none_of_them_is_told(folder):
    """With what is there."""
    (folder / "default").write_text("d\n")
    with pytest.raises(click.ClickException, match='says "d"; expected one of a, b, c-int8'):
        default_model(folder)


def test_a_folder_without_models_is_told(folder):
    """Before anything is measured."""
    with pytest.raises(click.ClickException, match="holds no NAME/VERSION/"):
        default_model(folder / "a")
    with pytest.raises(click.ClickException, match="holds no d/VERSION/"):
        latest(folder, "d")
