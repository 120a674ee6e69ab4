"""The folder of models: what counts as one, and which is the default."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from service import shelf
from service.modelfile import ModelFile
from service.problems import StartError
from service.settings import Settings
from tests import models


def lay(folder: Path, *places: str) -> None:
    """Empty files where models would be."""
    for place in places:
        file = folder / place / "model.onnx"
        file.parent.mkdir(parents=True)
        file.touch()


def test_versions_are_numbers_and_sorted_as_such(tmp_path):
    """As text, 10 comes before 9, and an old model would answer."""
    lay(tmp_path, "a/9", "a/10", "a/draft", "a/0", "a/01", "b/1", ".hidden/1")
    (tmp_path / "README.md").touch()
    found = shelf.places(tmp_path)
    assert [(place.name, place.version) for place in found] == [("a", 9), ("a", 10), ("b", 1)]
    assert shelf.latest(found, "a").version == 10


@pytest.mark.parametrize(("there", "state"), [pytest.param(True, "holds no model", id="empty"),
                                              pytest.param(False, "does not exist", id="absent")])
def test_no_model_ends_the_start(tmp_path, there, state):
    """A service without one would answer nothing but 404."""
    folder = tmp_path if there else tmp_path / "nowhere"
    with pytest.raises(StartError, match=rf"{state}; expected NAME/VERSION/model.onnx"):
        shelf.places(folder)


def choose(folder: Path, wanted: str | None = None) -> shelf.Default:
    return shelf.choose(shelf.places(folder), Settings(models=folder, model=wanted))


@pytest.mark.parametrize(("names", "written", "wanted", "chosen", "reason"), [
    pytest.param(["only-int8"], None, None, "only-int8", "the only one", id="one"),
    pytest.param(["a", "b"], b"b\n", None, "b", "set by {folder}/default", id="the file"),
    pytest.param(["a", "b"], b"\xef\xbb\xbf  b \r\n\r\n", None, "b", "set by {folder}/default", id="by a Windows editor"),
    pytest.param(["a"], b"a", None, "a", "set by {folder}/default", id="the file, of the only one"),
    pytest.param(["a", "b"], b"b", "a", "a", "set by QUADRANT_MODEL", id="the variable wins"),
    pytest.param(["a", "b"], b"gone\n\xff", "a", "a", "set by QUADRANT_MODEL", id="the variable wins over a broken file"),
    pytest.param(["a", "default"], None, "default", "default", "set by QUADRANT_MODEL", id="a model of that name"),
])
def test_the_default_is_chosen_with_a_reason(tmp_path, names, written, wanted, chosen, reason):
    """Whoever adds a model wants to know why it answers, or doesn't."""
    lay(tmp_path, *(f"{name}/1" for name in names))
    if written is not None:
        (tmp_path / "default").write_bytes(written)
    assert choose(tmp_path, wanted) == (chosen, reason.format(folder=tmp_path))


def test_adding_a_model_never_changes_the_default(tmp_path):
    """`alexnet` sorts before `alexnet64-tiny-imagenet`; converting it once changed who answers a plain `make run`."""
    lay(tmp_path, "alexnet64-tiny-imagenet/4", "efficientnet-lite0/1")
    (tmp_path / "default").write_text("efficientnet-lite0\n")
    before = choose(tmp_path)
    lay(tmp_path, "alexnet/1", "zebra/1", "efficientnet-lite0-int8/1")
    assert choose(tmp_path) == before
    assert before.name == "efficientnet-lite0"


def test_several_models_and_no_default_end_the_start(tmp_path):
    """One line names them and both ways to choose."""
    lay(tmp_path, "b/1", "a-int8/1", "a/1", "a/2")
    with pytest.raises(StartError) as raised:
        choose(tmp_path)
    assert str(raised.value) == (f"{tmp_path} has a, a-int8, b, and nothing says which is the default; "
                                 f"write one of these names into {tmp_path}/default, or set QUADRANT_MODEL")


@pytest.mark.parametrize(("written", "message"), [
    pytest.param(b"c\n", r'/default is "c"; .* has a, b', id="not there"),
    pytest.param(b"a/1\n", r'/default is "a/1"; .* has a, b', id="with a version"),
    pytest.param(b"", "/default is empty; expected one line, the name of a model", id="empty"),
    pytest.param(b" \n\n", "/default is empty; expected one line", id="only white space"),
    pytest.param(b"a\nb\n", "/default has 2 lines; expected one line", id="two lines"),
    pytest.param(b"\xff\xfea\x00\n\x00", r"/default is not UTF-8: .*; expected one line", id="not UTF-8"),
    pytest.param(b"a" * 300, "/default has more than 255 bytes; expected one line", id="too long"),
    pytest.param("ä".encode() * 128, "/default has more than 255 bytes; expected one line", id="too long, cut within a letter"),
])
def test_a_file_that_names_no_model_ends_the_start(tmp_path, written, message):
    """What was found and what was expected, in one line; never another model in its place."""
    lay(tmp_path, "a/1", "b/1")
    (tmp_path / "default").write_bytes(written)
    with pytest.raises(StartError, match=message) as raised:
        choose(tmp_path)
    assert len(str(raised.value).splitlines()) == 1


def test_a_link_that_leads_nowhere_is_no_missing_file(tmp_path):
    """A volume that was mounted wrongly must not pass for a folder without a default."""
    lay(tmp_path, "a/1")
    (tmp_path / "default").symlink_to("nowhere")
    with pytest.raises(StartError, match="/default can't be read: No such file or directory; expected one line"):
        choose(tmp_path)


def test_a_variable_that_names_no_model_ends_the_start(tmp_path):
    """A typo in QUADRANT_MODEL must not let another model answer."""
    lay(tmp_path, "a/1", "b/1")
    (tmp_path / "default").write_text("a")
    with pytest.raises(StartError, match=r'QUADRANT_MODEL is "c"; .* has a, b'):
        choose(tmp_path, "c")


def test_the_default_must_be_the_file_that_was_named(settings, tiny_model):
    """Who pins a digest wants that very file or no service."""
    assert shelf.check(dataclasses.replace(settings, model_sha256=tiny_model.digest)).name == "quadrants"
    with pytest.raises(StartError, match=f"has SHA-256 {tiny_model.digest}; QUADRANT_MODEL_SHA256 expects 0000"):
        shelf.check(dataclasses.replace(settings, model_sha256="0" * 64))


def test_every_model_is_checked_before_the_fork(tmp_path, settings):
    """One line from the master says more than one from each worker."""
    models.build(tmp_path / "a" / "1" / "model.onnx")
    models.build(tmp_path / "b" / "1" / "model.onnx", without=("labels",))
    models.choose(tmp_path, "a")
    with pytest.raises(StartError, match=r"b/1/model.onnx is a bare model"):
        shelf.check(dataclasses.replace(settings, models=tmp_path))
    assert ModelFile.open(tmp_path / "a" / "1" / "model.onnx").labels
