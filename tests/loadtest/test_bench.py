"""The bench on made-up figures: its verdict, its files, what it asks of the ceiling and of the service."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from loadtest import bench, host, report, serving, wrk
from loadtest.bench import Ceiling, Cell
from loadtest.subjects import Subject
from loadtest.targets import DEFAULT, INT8, LARGE, PLAIN, SMALL
from loadtest.wrk import Load

ROW = {"images_per_s": 100.0, "layout": "together", "batch": 16, "spinning": True, "provider": "cpu", "precision": "fp32"}
LIMIT = {"exact": ROW, "scaled": None, "cpu_provider": {"exact": ROW, "scaled": None}, "left_out": ["openvino: there is none"],
         "one_picture": {"cpu, fp32": 8.0}}  # fmt: skip
CELL = Cell(**ROW)
BEST = Ceiling(CELL, CELL, 8.0, LIMIT, None)
QUICK = CELL._replace(images_per_s=200.0, layout="threads", batch=8, spinning=False, provider="openvino", precision="bf16")
FAST = Ceiling(QUICK, CELL, 4.0, LIMIT, None)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to write to; nothing is started, made or driven. `Bench.model` is left to the test."""
    monkeypatch.setattr(wrk, "find", lambda: "wrk")
    monkeypatch.setattr(bench, "subjects", lambda wanted, *_: [Subject(each, each, Path(each)) for each in wanted])
    monkeypatch.setattr(bench, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(host, "kind", lambda _: (PLAIN, "it is a test"))
    return tmp_path / "docs"


def rows(rate: float, errors: int = 0) -> Callable[[bench.Bench, Subject], None]:
    """Instead of `Bench.model`: each load at this rate, where the ceiling is 100."""

    def model(self: bench.Bench, subject: Subject) -> None:
        self.ceilings[subject.short] = LIMIT
        for connections in (1, 8, 32, 256):
            load = Load(rate, 9.0, 30.0, 500, errors, "503: overloaded" if errors else None, 0.01)
            runs = [report.Run(load, 100.0, 100.0, 9.0, {"1": 3, "16": 40})]
            self.rows.append(report.load_row(subject.short, str(connections), connections, runs) | {"engine": "cpu, fp32"})
        self.rows += [report.plain_row(subject.short, "start", {"ready": [0.7]}),
                      report.plain_row(subject.short, "two workers", {"pss": [300.0], "further": [50.0]})]

    return model


def test_check_names_what_is_missed_and_exits_with_1(small, monkeypatch):
    """What `make bench CHECK=1` is for."""
    monkeypatch.setattr(bench.Bench, "model", rows(99.0))
    result = CliRunner().invoke(bench.main, ["--models", DEFAULT, "--check", "--output", str(small)])
    assert result.exit_code == 1, result.output
    assert ("missed: default, 32 connections: images/s ÷ the CPU provider's ceiling is 0.99; must be at least 1.00"
            in result.output)  # fmt: skip
    assert result.output.count("missed: ") == 1


def test_check_passes_where_all_is_met(small, monkeypatch):
    """And writes figures, table and plot."""
    monkeypatch.setattr(bench.Bench, "model", rows(111.0))
    result = CliRunner().invoke(bench.main, ["--models", DEFAULT, "--check", "--output", str(small)])
    assert result.exit_code == 0, result.output
    assert ("| default | cpu, fp32 | 32 | 111.0 | 9.0 ms | 30.0 ms | 0 | 1.11 | 1.11 "
            "| images/s ÷ the CPU provider's ceiling | 1.11 | 1.00 |  | met |") in result.output  # fmt: skip
    assert "the targets are those of a machine without AMX: it is a test" in result.output
    assert "not used: openvino: there is none" in result.output
    assert "wrk itself took at most 1.0% of the cores' time" in result.output
    found = json.loads((small / "bench.json").read_text())
    assert found["missed"] == []
    assert found["rows"][2]["batch_sizes"] == {"1": 3, "16": 40}
    assert (small / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_without_check_a_miss_is_only_in_the_table(small, monkeypatch):
    """A bench on a laptop is no failure."""
    monkeypatch.setattr(bench.Bench, "model", rows(10.0))
    result = CliRunner().invoke(bench.main, ["--models", DEFAULT, "--output", str(small)])
    assert result.exit_code == 0, result.output
    assert "| missed |" in result.output
    assert len(json.loads((small / "bench.json").read_text())["missed"]) == 2


def test_a_failed_request_is_a_miss_in_any_row(small, monkeypatch):
    """Quick refusals would be quick answers."""
    monkeypatch.setattr(bench.Bench, "model", rows(150.0, errors=2))
    result = CliRunner().invoke(bench.main, ["--models", DEFAULT, "--check", "--output", str(small)])
    assert result.exit_code == 1
    assert "missed: default, 1 connection: refused or failed is 2; must be at most 0" in result.output
    assert "503: overloaded" in result.output


def test_a_ceiling_that_does_not_trust_itself_and_a_row_that_was_left_out_are_misses(small, monkeypatch):
    """A slow denominator flatters, a missing row even more."""

    def model(self: bench.Bench, subject: Subject) -> None:
        rows(150.0)(self, subject)
        self.rows.pop(2)
        self.faults.append("default: the ceiling is not to be trusted: below 0.9")

    monkeypatch.setattr(bench.Bench, "model", model)
    result = CliRunner().invoke(bench.main, ["--models", DEFAULT, "--check", "--output", str(small)])
    assert result.exit_code == 1
    assert "missed: default: the ceiling is not to be trusted" in result.output
    assert "missed: default, 32 connections: images/s ÷ the CPU provider's ceiling was not measured" in result.output


@pytest.mark.parametrize(("options", "told"), [
    pytest.param(["--models", "resnet"], "found resnet; expected some of default,alexnet64,alexnet64-int8,", id="model"),
    pytest.param(["--models", ","], "found none; expected some of", id="no model"),
    pytest.param(["--set", "BATCH_CAP=8"], "found BATCH_CAP=8; expected QUADRANT_NAME=VALUE", id="setting"),
])
def test_wrong_options_are_told(options, told):
    """Before anything is started."""
    result = CliRunner().invoke(bench.main, options)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())


def limit(monkeypatch: pytest.MonkeyPatch, code: int, figures: Any, complaint: str = "") -> list[list[str]]:
    """Instead of `loadtest.limit`; the commands it is called with."""
    commands = []

    def called(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if figures:
            Path(command[command.index("--json") + 1]).write_text(json.dumps(figures))
        return subprocess.CompletedProcess(command, code, "", complaint)

    monkeypatch.setattr(subprocess, "run", called)
    return commands


def test_a_sweep_says_which_cell_is_the_best_and_the_cell_is_measured_again(monkeypatch, tmp_path):
    """Each round needs its own ceiling, not the one of ten minutes ago."""
    commands = limit(monkeypatch, 0, LIMIT)
    best = bench.ceiling(tmp_path / "model.onnx", tmp_path, 1.5)
    assert best == BEST
    bench.ceiling(tmp_path / "model.onnx", tmp_path, 6, *best.best.options(), "--no-alone")
    assert commands[0][:3] == [sys.executable, "-m", "loadtest.limit"]
    assert "--layout" not in commands[0]
    assert commands[1][-13:] == ["--decoding", "exact", "--layout", "together", "--batch", "16", "--spinning", "--provider",
                                 "cpu", "--precision", "fp32", "--no-parts", "--no-alone"]  # fmt: skip


def test_the_quickest_engine_alone_and_the_cpu_provider_s_ceiling_are_kept(monkeypatch, tmp_path):
    """What is best for batches need not be best for one picture."""
    fast = {**LIMIT, "exact": QUICK._asdict(), "one_picture": {"cpu, fp32": 8.0, "openvino, bf16": 4.0}}
    limit(monkeypatch, 0, fast)
    found = bench.ceiling(tmp_path, tmp_path, 1)
    assert (found.best, found.cpu, found.one_picture_ms) == (QUICK, CELL, 4.0)
    limit(monkeypatch, 0, {**fast, "cpu_provider": {"exact": None}, "one_picture": {}})
    assert bench.ceiling(tmp_path, tmp_path, 1)[1:3] == (None, None)


def test_a_ceiling_that_fails_with_figures_keeps_them_and_its_reason(monkeypatch, tmp_path):
    """They are shown, but not trusted."""
    limit(monkeypatch, 1, LIMIT, "Error: the best is 50; expected at least 90\n")
    assert bench.ceiling(tmp_path, tmp_path, 1).fault == "Error: the best is 50; expected at least 90"


def test_a_ceiling_without_figures_ends_the_bench(monkeypatch, tmp_path):
    """No ratio is made up."""
    limit(monkeypatch, 2, None, "Error: no recipe")
    with pytest.raises(click.ClickException, match="ended with 2 and no figures: Error: no recipe"):
        bench.ceiling(tmp_path, tmp_path, 1)


class Still:
    """A service that runs nowhere; counts one batch more at each look."""

    url, ready_s = "http://127.0.0.1:9", 0.5
    process = subprocess.Popen  # its id alone is asked for
    looks = 0

    def batches(self) -> dict[str, int]:
        self.looks += 1
        return {"1": self.looks}

    def engine(self, name: str) -> str:
        return f"what {name} runs in"

    def settle(self, picture: bytes) -> None:
        """Nothing waits."""

    def check(self) -> None:
        """It never ends."""


@pytest.mark.parametrize("best", [pytest.param(BEST, id="CPU provider"), pytest.param(FAST, id="OpenVINO")])
@pytest.mark.parametrize("short", [DEFAULT, INT8])
def test_each_load_stands_next_to_a_ceiling(short, best, monkeypatch, tmp_path):
    """Otherwise a slow minute of the machine is the service's fault, or its merit."""
    steps: list[str] = []
    photo = tmp_path / "photos" / "1.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"photo")
    (tmp_path / "model" / "1").mkdir(parents=True)

    @contextmanager
    def service(models: Path, default: str, settings: dict[str, str]):
        assert [each.name for each in models.iterdir()] == [default] == ["tiny"]
        assert settings == {"QUADRANT_BATCH_CAP": "8"}
        steps.append("start")
        yield Still()

    def drive(_: str, photos: list[Path], connections: int, __: int) -> Load:
        steps.append(f"{connections}{' large' if photos[0] != photo else ''}")
        return Load(90.0, 8.8, 30.0, 10, 0, None, 0.01)

    def ceiling(_: Path, __: Path, ___: float, *fixed: str) -> Ceiling:
        if "--layout" not in fixed:
            steps.append("sweep")
            return best
        engine = fixed[fixed.index("--provider") + 1]
        steps.append(f"{engine} alone" if "--alone" in fixed else engine)
        cell = QUICK if engine == "openvino" else CELL
        return Ceiling(cell, cell if engine == "cpu" else None, 8.0 if "--alone" in fixed else None, LIMIT, None)

    monkeypatch.setattr(serving, "service", service)
    monkeypatch.setattr(wrk, "drive", drive)
    monkeypatch.setattr(bench, "ceiling", ceiling)
    monkeypatch.setattr(bench, "mosaics", lambda _, folder: [folder / "large.jpg"])
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"")
    monkeypatch.setattr(bench.Bench, "_memory", lambda *_: steps.append("memory"))
    run = bench.Bench(bench.FULL._replace(rounds=2, starts=1), photo.parent, {"QUADRANT_BATCH_CAP": "8"})
    run.model(Subject(short, "tiny", tmp_path / "model" / "1" / "model.onnx"))
    one, own = best.best.provider, ["cpu"] if best == FAST else []  # once a round, where it isn't the best itself
    rounds = ["8", one, "32", "256", f"{one} alone", "1", *own, "1", f"{one} alone", "256", "32", one, "8", *own]
    large = ["sweep", *["8 large", one, *own] * 2] if short == INT8 else []
    assert steps == ["start", "start", "sweep", "start", "32", *rounds, *large, "memory"]
    loads = [row["load"] for row in run.rows]
    assert loads == ["start", "1", "8", "32", "256", *([LARGE] if short == INT8 else [])]
    assert {row["engine"] for row in run.rows} == {"what tiny runs in"}
    assert run.rows[1]["measures"]["alone"]["rounds"] == [1.1, 1.1]
    for row in run.rows[1:]:
        assert row["measures"]["ratio"]["rounds"] == ([0.45, 0.45] if best == FAST else [0.9, 0.9])
        assert row["measures"]["cpu ratio"]["rounds"] == [0.9, 0.9]
    assert run.rows[2]["batch_sizes"] == {"1": 2}  # one a load, of two rounds


def test_a_further_worker_costs_what_three_take_beyond_two(monkeypatch, tmp_path):
    """Peaks of the same load, in the same configuration; beside them what is left once all is loaded."""
    asked = []
    left = {"2": [720.0, 400.0], "3": [830.0, 470.0]}

    class Watch:
        def __init__(self, _: int) -> None:
            self.peak_mb = left[asked[-1]["QUADRANT_WORKERS"]].pop(0)

        def __enter__(self) -> Watch:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing was started."""

    @contextmanager
    def service(_: Path, __: str, settings: dict[str, str]):
        asked.append(settings)
        still = Still()
        still.process = subprocess.CompletedProcess([], 0)
        still.process.pid = 1
        yield still

    photo = tmp_path / "1.jpg"
    photo.write_bytes(b"photo")
    monkeypatch.setattr(serving, "service", service)
    monkeypatch.setattr(serving, "Watch", Watch)
    monkeypatch.setattr(wrk, "drive", lambda *_: Load(90.0, 8.8, 30.0, 10, 0, None, 0.01))
    run = bench.Bench(bench.QUICK, tmp_path, {})
    run._memory(Subject(SMALL, "alexnet64", tmp_path), tmp_path)
    assert [each["QUADRANT_WORKERS"] for each in asked] == ["2", "3"]
    assert run.rows[0]["measures"]["pss"]["median"] == 720.0
    assert run.rows[0]["measures"]["loaded"]["median"] == 400.0
    assert run.rows[0]["measures"]["further"]["median"] == 110.0
    assert run.rows[0]["measures"]["further loaded"]["median"] == 70.0
