"""The ceiling from the command line: what it writes, and when it fails."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from loadtest import engines, inprocess, limit
from loadtest.engines import Engine, Offer
from loadtest.layouts import LAYOUTS, Found
from loadtest.machine import Machine
from loadtest.pictures import draw
from tests import models
from tests.running import ROOT

DEFAULT = max((ROOT / "models" / "alexnet64-tiny-imagenet").glob("*/model.onnx"), key=lambda file: int(file.parent.name))
BRIGHT = [2, 0, 3, 1, 1]


@pytest.fixture
def quadrants(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Options for the tiny model and five pictures with a known answer; two cores, whatever there are."""
    (folder := tmp_path / "photos").mkdir()
    for number, bright in enumerate(BRIGHT):
        (folder / f"{number}.png").write_bytes(models.png(models.quadrant_picture(bright, 16)))
    monkeypatch.setattr(limit, "usable_cpus", lambda: 2)
    return ["--model", str(model_folder / "quadrants" / "1" / "model.onnx"), "--photos", str(folder), "--seconds", "0"]


def run(*options: str) -> Result:
    return CliRunner().invoke(limit.main, options)


def fixed(monkeypatch: pytest.MonkeyPatch, rates: dict[str, float]) -> None:
    """Rates by part, instead of those of a machine whose clock nobody knows; the answers are real."""
    measure = Machine.measure
    monkeypatch.setattr(Machine, "measure", lambda machine, layout, engine, spinning, task: Found(
        rates[task.part], measure(machine, "threads" if layout == "processes" else layout, engine, spinning, task).answers))


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the plugin, whatever this one has."""
    monkeypatch.setattr(engines, "plugin", lambda: ([], "there is none"))


def test_a_whole_sweep_is_printed_and_written(quadrants, tmp_path, monkeypatch):
    """All that the ratios are made of, and that their reader needs to judge them."""
    fixed(monkeypatch, {"decode": 100.0, "model": 50.0, "all": 32.0})
    done = run(*quadrants, "--json", str(tmp_path / "limit.json"))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "limit.json").read_text())
    assert found["decode_per_s"] == {"exact": 100.0, "scaled": 100.0}
    assert found["model_per_s"] == {"cpu, fp32": {"4": 50.0, "8": 50.0, "16": 50.0, "32": 50.0}}
    assert found["cpu_provider"]["exact"] == found["exact"]
    assert found["left_out"] == ["openvino, bf16: the recipe records no passed gate", "openvino: there is none"]
    assert found["floor"]["exact"] == pytest.approx(30.0)
    assert {(row["layout"], row["batch"], row["decoding"]) for row in found["layouts"]} == {
        (layout, batch, decoding) for layout in LAYOUTS for batch in (4, 8, 16, 32) for decoding in inprocess.DECODINGS}
    for decoding in inprocess.DECODINGS:
        assert found[decoding]["images_per_s"] == 32.0
        assert found[decoding]["layout"] in LAYOUTS
        assert found[decoding]["batch"] in (4, 8, 16, 32)
    assert found["one_picture"]["cpu, fp32"] > 0
    assert (found["model"], found["photos"], found["cpus"], found["whole"]) == ("quadrants", 5, 2, True)
    for words in ("exact 100.0, scaled 100.0", "50.0 (batch 16)", "best: 32.0", "is 30.0", "one picture alone", *LAYOUTS):
        assert words in done.output


@pytest.mark.parametrize(("best", "code"), [pytest.param(29.9, 1, id="below"), pytest.param(30.1, 0, id="above")])
def test_a_slow_ceiling_fails(best, code, quadrants, tmp_path, monkeypatch):
    """A slow denominator flatters; the figures are written all the same, so that one can see why."""
    fixed(monkeypatch, {"decode": 100.0, "model": 50.0, "all": best})
    done = run(*quadrants, "--decoding", "exact", "--json", str(tmp_path / "limit.json"))
    assert done.exit_code == code
    assert (f"with exact decoding the best is {best}" in done.output) is bool(code)
    assert ("expected at least 30.0" in done.output) is bool(code)
    assert json.loads((tmp_path / "limit.json").read_text())["exact"]["images_per_s"] == best


def test_one_cell_has_the_same_keys(quadrants, tmp_path, monkeypatch):
    """`make bench` measures the best cell again between its loads; one cell claims to be no ceiling."""
    fixed(monkeypatch, {"decode": 100.0, "model": 50.0, "all": 1.0})
    whole, one = tmp_path / "whole.json", tmp_path / "one.json"
    run(*quadrants, "--json", str(whole))
    done = run(*quadrants, "--layout", "ahead", "--batch", "4", "--decoding", "exact", "--json", str(one))
    assert done.exit_code == 0, done.output
    found = json.loads(one.read_text())
    assert {*found} == {*json.loads(whole.read_text())}
    assert found["exact"] == {"images_per_s": 1.0, "layout": "ahead", "batch": 4, "spinning": False, "decoding": "exact",
                              "provider": "cpu", "precision": "fp32"}
    assert found["scaled"] is None
    assert len(found["layouts"]) == 1
    assert [*found["model_per_s"]["cpu, fp32"]] == ["4"]


def test_other_answers_than_alone_fail(quadrants, monkeypatch):
    """Photos mixed up within a batch, at full speed."""
    real = inprocess.Model.run
    monkeypatch.setattr(inprocess.Model, "run", lambda model, batch: real(model, batch)[::-1])
    done = run(*quadrants, "--layout", "threads", "--batch", "4")
    assert done.exit_code == 1
    assert "threads, batch 4, exact decoding, cpu, fp32: photo" in done.output


def test_all_layouts_give_a_real_model_s_photos_the_same_five_classes(tmp_path, monkeypatch):
    """The default model; the order counts wherever neighbours are further apart than the rule of tolerance."""
    monkeypatch.setattr(limit, "usable_cpus", lambda: 2)
    (folder := tmp_path / "photos").mkdir()
    for seed in range(3):
        (folder / f"{seed}.jpg").write_bytes(draw(seed))
    done = run("--model", str(DEFAULT), "--photos", str(folder), "--seconds", "0", "--batch", "4", "--no-spinning",
               "--answers", str(tmp_path / "answers.json"))  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "answers.json").read_text())
    assert {(cell["layout"], cell["decoding"]) for cell in found["cells"]} == {
        (layout, decoding) for layout in LAYOUTS for decoding in inprocess.DECODINGS}
    for cell in found["cells"]:
        for answer, alone in zip(cell["top5"], found["alone"][cell["decoding"]], strict=True):
            assert answer["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
            scores = alone["probabilities"]
            if min(one - other for one, other in itertools.pairwise(scores)) > 2e-5:
                assert answer["classes"][:4] == alone["classes"][:4]
    # Drawn pictures look alike to it; but if all had one answer, nothing could be mixed up.
    assert len({tuple(answer["probabilities"]) for answer in found["alone"]["exact"]}) == 3


@pytest.mark.parametrize(("options", "words"), [
    pytest.param(["--json", "none/limit.json"], "there is no folder none", id="no folder for the figures"),
    pytest.param(["--photos", "."], "holds no .jpg", id="no photos"),
    pytest.param(["--layout", "sideways"], "'sideways' is not one of", id="no layout"),
    pytest.param(["--batch", "0"], "0 is not in the range", id="no batch"),
])  # fmt: skip
def test_bad_options_are_told_before_anything_is_measured(options, words, quadrants, tmp_path, monkeypatch):
    """A sweep takes minutes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(limit, "Machine", None)
    done = run(*quadrants, *options)
    assert done.exit_code in (1, 2)
    assert words in done.output.replace("\n", " ")


def test_a_cell_between_two_loads_measures_nothing_else(quadrants, tmp_path, monkeypatch):
    """Decoding, the model and one picture alone would take longer than the cell itself."""
    fixed(monkeypatch, {"all": 1.0})
    monkeypatch.setattr(Machine, "one_picture_ms", None)
    done = run(*quadrants, "--layout", "ahead", "--batch", "4", "--decoding", "exact", "--provider", "cpu", "--precision", "fp32",
               "--no-parts", "--no-alone", "--json", str(tmp_path / "one.json"))  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "one.json").read_text())
    assert (found["exact"]["images_per_s"], found["floor"]["exact"], found["one_picture"]) == (1.0, None, {})


def test_an_engine_that_may_not_be_used_is_refused_with_its_reason(quadrants):
    """A cell of the CPU provider in its place would be another figure."""
    done = run(*quadrants, "--provider", "openvino")
    assert done.exit_code == 1
    assert "openvino was asked for; here the model may run in cpu, fp32; openvino, bf16: the recipe records no" in done.output


def test_the_best_engine_and_the_cpu_provider_have_a_ceiling_each(quadrants, tmp_path, monkeypatch):
    """Layout by layout; the file says which engine it was."""
    other, measure = Engine("openvino", "fp32"), Machine.measure
    monkeypatch.setattr(Machine, "offer", lambda _: Offer([Engine("cpu", "fp32"), other], []))
    model = Machine.model
    monkeypatch.setattr(Machine, "model", lambda machine, _=None, *rest, **more: model(machine, None, *rest, **more))
    monkeypatch.setattr(Machine, "measure", lambda machine, layout, engine, spinning, task: Found(
        {"decode": 100.0, "model": 50.0, "all": 35.0 if (layout, engine) == ("ahead", other) else 31.0}[task.part],
        measure(machine, "threads", Engine("cpu", "fp32"), False, task).answers))  # fmt: skip
    done = run(*quadrants, "--decoding", "exact", "--json", str(tmp_path / "limit.json"))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "limit.json").read_text())
    assert (found["exact"]["images_per_s"], found["exact"]["layout"]) == (35.0, "ahead")
    assert (found["exact"]["provider"], found["exact"]["precision"]) == other
    assert (found["cpu_provider"]["exact"]["images_per_s"], found["cpu_provider"]["exact"]["provider"]) == (31.0, "cpu")
    assert {*found["one_picture"]} == {"cpu, fp32", "openvino, fp32"}
    assert "best: 35.0 (ahead, batch" in done.output
    assert "best of the CPU provider: 31.0" in done.output


def test_a_slow_ceiling_of_the_cpu_provider_fails_too():
    """A fast engine must not hide it."""
    row = {"images_per_s": 10.0, "layout": "ahead", "batch": 4, "spinning": False, "provider": "cpu", "precision": "fp32"}
    good = {"exact": row, "scaled": None, "floor": {"exact": 9.0, "scaled": None}}
    limit.check({**good, "whole": True, "cpu_provider": good})
    with pytest.raises(click.ClickException, match=r"the best is 10\.0 photos a second \(ahead, batch 4, cpu"):
        limit.check({**good, "whole": True, "cpu_provider": {**good, "floor": {"exact": 11.0, "scaled": None}}})


def test_without_a_folder_the_project_s_pictures_are_taken(monkeypatch, tmp_path):
    """The same that the service is driven with."""
    monkeypatch.setenv("LOADTEST_PICTURES", str(tmp_path))
    with pytest.raises(click.ClickException, match="LOADTEST_PICTURES is"):
        limit.photos(None)
    (tmp_path / "a.jpg").write_bytes(b"one")
    assert limit.photos(None) == [b"one"]
