"""What a reader is shown of a model."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from export.__main__ import main


def describe(*arguments):
    """The command line, as a user types it."""
    return CliRunner().invoke(main, ["describe", *map(str, arguments)])


@pytest.fixture
def model(files):
    """A converted model's file."""
    result = CliRunner().invoke(main, ["convert", *files.arguments, "--description", "Five fish."])
    assert result.exit_code == 0, result.output
    return files.models / "fish" / "1" / "model.onnx"


@pytest.mark.parametrize("parents", [
    pytest.param(0, id="file"), pytest.param(1, id="version"), pytest.param(2, id="name"),
])  # fmt: skip
def test_a_model_is_found_by_file_version_and_name(model, parents):
    """People type what tab completion offers."""
    result = describe([model, *model.parents][parents])
    assert result.exit_code == 0
    assert "fish, version 1" in result.output


def test_recipe_and_layers_are_shown(model):
    """The words, then a line a layer, then the totals."""
    text = describe(model).output
    for part in ("Five fish.", "shorter side to 18 px (bilinear)", "5: tench, goldfish, crane", "3 × 3", "14 × 14 × 8"):
        assert part in text, part
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["features.0"][-2:] == ["224", "42,336"]  # 8 · (27 + 1); 14 · 14 · 8 · 27
    assert rows["classifier.1"][-2:] == ["3,468", "3,456"]
    assert rows["total"][-2:] == ["3,757", "45,852"]


def test_programs_get_the_same_as_json(model):
    """No scraping of tables."""
    found = json.loads(describe(model, "--json").output)
    assert found["recipe"]["name"] == "fish"
    assert (found["parameters"], found["multiply_adds"]) == (3757, 45852)
    assert found["layers"][1]["filter"] == [3, 3]


def test_a_bare_graph_is_described_as_far_as_it_goes(bare):
    """It says what is missing, and how to add it."""
    result = describe(bare())
    assert result.exit_code == 0
    assert 'python -m export annotate" adds both' in result.output
    assert "convolution" in result.output


@pytest.mark.parametrize(("content", "message"), [
    pytest.param(None, "is no model; expected an ONNX file", id="nothing there"),
    pytest.param(b"%PDF", "can't be read as ONNX", id="something else"),
    pytest.param(b"", "holds no graph", id="empty"),
])  # fmt: skip
def test_what_is_no_model_is_refused_in_one_line(tmp_path, content, message):
    """Found and expected; exit 2."""
    file = tmp_path / "x.onnx"
    if content is not None:
        file.write_bytes(content)
    result = describe(file)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert message in result.output
