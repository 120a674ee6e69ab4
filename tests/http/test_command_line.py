"""The command line: what it prints, and the code that it ends with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import markdown, table
from tests import models
from tests.running import ROOT, Running, environment

PICTURE = models.png(models.quadrant_picture(1, side=64))


def quadrant(*arguments: str, variables: dict[str, str] | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `python -m service ARGUMENTS`."""
    return subprocess.run([sys.executable, "-m", "service", *arguments], cwd=ROOT, env=environment(variables or {}),
                          input=stdin, capture_output=True, timeout=60, check=False)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    file.write_bytes(PICTURE)
    return file


def test_files_get_the_answer_that_http_gives(running_service: Running, variables: dict[str, str], photo: Path):
    """One path: what is tried on the command line is what is served."""
    ended = quadrant("classify", str(photo), "--json", "--top-k", "3", variables=variables)
    assert ended.returncode == 0, ended.stderr
    ours, served = json.loads(ended.stdout), running_service.ask("/classify?top_k=3", PICTURE).json
    assert ours.pop("file") == str(photo)
    assert ours.keys() == served.keys()
    assert {name: ours[name] for name in ("model", "predictions", "image")} == {
        name: served[name] for name in ("model", "predictions", "image")}


def test_a_readable_table_is_the_default(variables: dict[str, str], photo: Path):
    """For people who just want to see."""
    ended = quadrant("classify", "-", str(photo), variables=variables, stdin=PICTURE)
    lines = ended.stdout.decode().splitlines()
    assert lines[0] == "-  (PNG, 64 × 64)"
    assert re.fullmatch(r"   99\.\d\d %  top right +q1", lines[1])
    assert lines[5] == f"{photo}  (PNG, 64 × 64)"
    assert ended.stderr == b""


def test_a_bad_file_fails_without_its_neighbours(variables: dict[str, str], photo: Path, tmp_path: Path):
    """A script sees it in the exit code, a reader in a line of its own."""
    (tmp_path / "notes.txt").write_text("no picture")
    ended = quadrant("classify", str(tmp_path / "notes.txt"), str(tmp_path / "absent"), str(photo), variables=variables)
    assert ended.returncode == 1
    assert b"top right" in ended.stdout
    first, second = ended.stderr.decode().splitlines()
    assert first.endswith("(unsupported-format)")
    assert second.endswith("absent: can't be read: No such file or directory")


@pytest.mark.parametrize(("arguments", "message"), [
    pytest.param(("serve", "--port", "x"), '--port is "x"; expected a whole number from 0 to 65,535', id="a setting"),
    pytest.param(("serve", "--models", "nowhere"), "nowhere does not exist; expected NAME/VERSION/model.onnx", id="no models"),
    pytest.param(("serve", "--model", "cats"), 'QUADRANT_MODEL is "cats"', id="no such model"),
    pytest.param(("serve", "--model-sha256", "0" * 64), "QUADRANT_MODEL_SHA256 expects 0000", id="another file"),
    pytest.param(("serve", "--host", "no such host"), 'QUADRANT_HOST is "no such host"', id="no such address"),
    pytest.param(("classify", "x.jpg", "--top-k", "9"), "top_k is 9; expected a whole number from 1 to 4", id="an option"),
    pytest.param(("classify", "x.jpg", "--version", "7"), 'quadrants has no version "7"; it has 1', id="no such version"),
])
def test_what_cannot_be_done_is_one_line_and_code_2(variables: dict[str, str], arguments: tuple[str, ...], message: str):
    """A traceback tells an operator nothing; a supervisor must see that trying again is no use."""
    ended = quadrant(*arguments, variables=variables)
    assert ended.returncode == 2
    (line,) = ended.stderr.decode().splitlines()
    assert line.startswith("Error: ")
    assert message in line


def test_several_models_without_a_default_are_one_line_and_code_2(tmp_path: Path, photo: Path):
    """Which one would answer is nobody's guess; the line names them and both ways to choose."""
    for name in ("a", "b"):
        models.build(tmp_path / name / "1" / "model.onnx", name=name)
    folder = str(tmp_path)
    for arguments in (("serve", "--port", "0", "--models", folder), ("classify", str(photo), "--models", folder)):
        ended = quadrant(*arguments)
        assert ended.returncode == 2
        assert ended.stderr.decode() == (f"Error: {folder} has a, b, and nothing says which is the default; "
                                         f"write one of these names into {folder}/default, or set QUADRANT_MODEL\n")
    assert quadrant("classify", str(photo), "--models", folder, "--model", "b").returncode == 0
    models.choose(tmp_path, "b")
    ended = quadrant("classify", str(photo), "--models", folder, "--json")
    assert json.loads(ended.stdout)["model"]["name"] == "b"


def test_an_address_in_use_is_one_line_and_code_2(running_service: Running, variables: dict[str, str]):
    """The most usual reason of all."""
    ended = quadrant("serve", "--port", str(running_service.port), variables=variables)
    assert ended.returncode == 2
    address = f"127.0.0.1:{running_service.port}"
    assert ended.stderr.decode().startswith(f"Error: {address} can't be listened on: Address already in use")


def test_the_start_says_where_and_with_what(running_service: Running):
    """The address to click on, and each number with its reason."""
    lines = running_service.said.splitlines()
    assert lines[0] == f"Quadrant serves {running_service.url}"
    assert "  default model     quadrants/1 (the only one)" in lines
    assert "  provider          cpu (set by QUADRANT_PROVIDER)" in lines
    assert "  workers           2 (set by QUADRANT_WORKERS)" in lines


def test_the_table_of_settings_is_printed():
    """The README's table comes from here."""
    assert quadrant("settings").stdout.decode().strip() == markdown()


def test_every_setting_is_an_option_of_serve():
    """What a variable can say, the command line can."""
    words = quadrant("serve", "--help").stdout.decode()
    assert [row.option for row in table() if f"{row.option} " not in words] == []


def test_the_plan_can_be_asked_for():
    """Before a machine is bought, or a container's limits are set."""
    ended = quadrant("plan", "--workers", "3")
    assert "  workers           3 (set by QUADRANT_WORKERS)" in ended.stdout.decode().splitlines()


def test_a_typo_in_a_variable_is_told(tmp_path: Path, variables: dict[str, str]):
    """It would be ignored otherwise, and its author none the wiser."""
    ended = quadrant("serve", "--models", str(tmp_path), variables=variables | {"QUADRANT_WORKER": "2"})
    assert b"QUADRANT_WORKER is no setting; QUADRANT_WORKERS is" in ended.stderr
