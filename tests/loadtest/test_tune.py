"""The search of `make tune` on made-up machines, the file that it writes, and how `make run` reads it."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import yaml

from loadtest import arrivals, envfile, search, tune
from loadtest.arena import Arena, Drivers
from loadtest.candidates import DIMENSIONS, Candidate, fixed_by, neighbours, planned
from loadtest.search import Found, Tried
from loadtest.wrk import Load
from service import settings
from tests.running import ROOT, environment, service

PLAN = Candidate(workers=1, request_threads=32, engine_threads=4, batch_cap=16, queue_capacity=256)
SLO_MS = 100.0


def never() -> bool:
    return False


class Surface:
    """A made-up machine: each setting away from the best costs a share of the rate that it can hold."""

    def __init__(self, best: Candidate, full: float = 100.0, share: float = 0.85) -> None:
        self.best, self.full, self.share = best, full, share

    def capacity(self, candidate: Candidate) -> float:
        steps = sum(abs(math.log2(one / other)) for one, other in zip(candidate, self.best, strict=True))
        return self.full * self.share**steps

    def load(self, candidate: Candidate, rate: float) -> Load:
        """One server's queue: p99 grows without bounds towards the capacity."""
        capacity = self.capacity(candidate)
        p99 = 20 / (1 - rate / capacity) if rate < capacity else 5000.0
        return Load(min(rate, capacity), p99 / 4, p99, 500, 0, None, 0.02)


class Fake(NamedTuple):
    """A service that only has an address."""

    url: str

    def settle(self, picture: bytes) -> None:
        assert picture


class Stage:
    """An arena over a surface, with a record of what it did."""

    def __init__(self, surface: Surface, photo: Path, broken: tuple[Candidate, ...] = ()) -> None:
        self.surface, self.broken = surface, broken
        self.loads: list[tuple[Candidate, float, int]] = []
        self.running: list[Candidate] = []
        self.most_running = 0
        self.arena = Arena(self.start, [photo], SLO_MS, lambda words: None, Drivers(self.arrive, self.close))

    @contextmanager
    def start(self, candidate: Candidate) -> Iterator[Fake]:
        if candidate in self.broken:
            raise click.ClickException("no memory")
        self.running.append(candidate)
        self.most_running = max(self.most_running, len(self.running))
        yield Fake(json.dumps(candidate))
        self.running.remove(candidate)

    def arrive(self, url: str, _: object, rate: float, seconds: int, slo_ms: float, seed: int) -> Load:
        candidate = Candidate(*json.loads(url))
        self.loads.append((candidate, rate, seed))
        return self.surface.load(candidate, rate)

    def close(self, url: str, _: object, connections: int, seconds: int) -> Load:
        return self.surface.load(Candidate(*json.loads(url)), 1e6 if connections > 8 else 1)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"a picture")
    return file


def descend(stage: Stage, cpus: int = 8, time_is_up=never) -> Found:
    with stage.arena as arena:
        arena.begin(PLAN)
        return search.descend(PLAN, lambda best, way: neighbours(best, way, cpus), arena.duel, time_is_up)


def test_the_search_finds_the_best_of_a_smooth_surface(photo):
    """Four dimensions, several steps away in one of them."""
    best = Candidate(workers=2, request_threads=32, engine_threads=4, batch_cap=4, queue_capacity=512)
    stage = Stage(Surface(best), photo)
    found = descend(stage)
    assert found.best == best
    assert found.complete
    assert {each.word for each in found.tried} == {"out", "better"}


def test_a_plan_that_is_the_best_stays(photo):
    """And whatever lost in the sieve got no more than one load."""
    stage = Stage(Surface(PLAN), photo)
    found = descend(stage)
    assert found.best == PLAN
    sieved = {each.candidate for each in found.tried if each.rung == 1}
    assert sieved
    counts = [sum(load[0] == candidate for load in stage.loads) for candidate in sieved]
    assert counts == [1] * len(sieved)


def test_each_rival_is_measured_beside_the_best_so_far_at_the_same_arrivals(photo):
    """Two minutes are two machines; two patterns of arrivals are two loads."""
    stage = Stage(Surface(PLAN), photo)
    descend(stage)
    by_seed: dict[int, set[Candidate]] = {}
    for candidate, _, seed in stage.loads:
        by_seed.setdefault(seed, set()).add(candidate)
    pairs = [each for seed, each in by_seed.items() if seed > 0]
    assert pairs
    assert all(len(pair) == 2 and PLAN in pair for pair in pairs)


def test_two_services_at_most_run_at_a_time_and_none_in_the_end(photo):
    """A full-size model takes half a gigabyte in each."""
    stage = Stage(Surface(PLAN._replace(batch_cap=8)), photo)
    descend(stage)
    assert stage.most_running == 2
    assert stage.running == []


def test_a_rival_that_does_not_start_has_lost(photo):
    """Twice the workers may not fit into memory; the search goes on."""
    rival = PLAN._replace(workers=2, engine_threads=4)
    stage = Stage(Surface(rival), photo, broken=(rival,))
    found = descend(stage)
    assert found.best != rival
    assert next(each for each in found.tried if each.candidate == rival).ratios == [0.0]


def test_the_search_ends_when_time_is_up_and_keeps_what_it_has(photo):
    """What was measured until then stays in the table."""
    best, left = PLAN._replace(batch_cap=4), iter([False] * 11)
    found = descend(Stage(Surface(best), photo), time_is_up=lambda: next(left, True))
    assert not found.complete
    assert found.tried
    assert len(found.tried) < len(descend(Stage(Surface(best), photo)).tried)


def test_an_slo_below_a_lone_answer_is_told(photo):
    """No settings help there; a file of the least bad ones would be a lie."""
    stage = Stage(Surface(PLAN, full=0.3), photo)
    with stage.arena as arena, pytest.raises(click.ClickException, match="p99 is beyond 100 ms at any rate: one client alone"):
        arena.begin(PLAN)


def test_loads_are_longer_than_the_slo(photo):
    """An overload that ends before its queue has grown to the SLO looks like none."""
    arena = Arena(Stage(Surface(PLAN), photo).start, [photo], 1000.0, print)
    assert arena.seconds(3) == 8
    assert arena.seconds(30) == 30


@pytest.mark.parametrize("expected", [30.0, 60.0, 79.0, 85.0, 100.0])
def test_the_limit_is_found_from_below_and_above(expected):
    """p99 is 20 / (1 - rate / 100), so it meets 100 ms at a rate of 80."""
    surface = Surface(PLAN)
    assert search.limit(lambda rate: surface.load(PLAN, rate), expected, SLO_MS) == pytest.approx(80, rel=0.03)


def test_whoever_cannot_hold_the_expected_rate_nearly_is_given_up():
    """A bad candidate costs three loads, not a staircase down to what it can hold."""
    loads: list[float] = []
    surface = Surface(PLAN, full=10)

    def probe(rate: float) -> Load:
        loads.append(rate)
        return surface.load(PLAN, rate)

    assert search.limit(probe, 80.0, SLO_MS) == 0.0
    assert len(loads) == 3


def test_a_rate_with_errors_is_not_held():
    """Refusals answer fast; without this, the smallest queue would win."""

    def probe(rate: float) -> Load:
        return Load(min(rate, 50), 5, 10, 100, 3 if rate > 50 else 0, None, 0.0)

    assert 40 < search.limit(probe, 45.0, SLO_MS) <= 50
    assert not search.held(probe(60), SLO_MS)
    assert not search.held(Load(0, math.nan, math.nan, 0, 0, None, 0.0), SLO_MS)


def test_a_load_whose_connections_all_wait_ends_the_climb():
    """More than they send can't be asked; the answer is what was answered."""
    assert search.limit(lambda rate: Load(min(rate, 50), 5, 10, 100, 0, None, 0.0), 45.0, SLO_MS) == 50


@pytest.mark.parametrize(("best", "plan", "won"), [
    pytest.param([110, 112, 108], [100, 101, 100], True, id="ahead in every round"),
    pytest.param([102, 102, 102], [100, 100, 100], False, id="steady but small"),
    pytest.param([110, 112, 99], [100, 101, 100], False, id="behind once"),
    pytest.param([110, 112, 108], [100, 101, 0], False, id="the plan held nothing once"),
    pytest.param([110, 140, 88], [100, 125, 80], False, id="less than the plan differs from itself"),
])
def test_a_gain_within_the_noise_is_none(best, plan, won):
    """A file of settings by chance is worse than none: nobody looks at it again."""
    assert search.beats(best, plan) is won


def test_the_last_comparison_decides(photo):
    """The winner of the search and the plan meet again; its words hold both figures."""
    best = PLAN._replace(batch_cap=8)
    stage = Stage(Surface(best), photo)
    with stage.arena as arena:
        arena.begin(PLAN)
        verdict = tune.compare(arena, PLAN, best, tune.Clock(1, 1))
    assert verdict.won
    assert verdict.chosen == best
    assert 3 <= len(verdict.plan_limits) <= 5
    assert "cap 8" in verdict.words(SLO_MS)
    assert "over the plan" in verdict.words(SLO_MS)
    assert "within the noise" in tune.Verdict(PLAN, best, [(100, 101), (100, 99), (100, 101)]).words(SLO_MS)
    assert "the plan stays" in tune.Verdict(PLAN, PLAN, [(100, 100)]).words(SLO_MS)


def test_the_table_holds_every_rival():
    """What lost is as good to know as what won."""
    rival = PLAN._replace(batch_cap=8)
    lines = tune.table(Found(rival, [Tried(rival, PLAN, 3, [1.1, 1.2], "better")], True)).splitlines()
    assert len(lines) == 3
    assert "cap 8" in lines[2]
    assert "| 1.15 | 1.10 1.20 | better |" in lines[2]


def test_neighbours_stay_within_what_makes_sense():
    """No more workers than CPUs; no queue that a single call overflows; threads for slow senders."""
    seen, front = {PLAN}, {PLAN}
    while front:
        front = {each for here in front for way in DIMENSIONS for each in neighbours(here, way, 4)} - seen
        seen |= front
    assert {each.workers for each in seen} == {1, 2, 4}
    assert all(1 <= each.engine_threads <= 4 for each in seen)
    assert min(each.request_threads for each in seen) == 16
    assert min(each.queue_capacity for each in seen) == 32


def test_what_the_environment_settles_is_not_searched():
    """It would win over the file anyway."""
    fixed = fixed_by({"QUADRANT_BATCH_CAP": "16", "QUADRANT_WORKERS": ""})
    assert fixed == {"batch_cap"}
    assert neighbours(PLAN, "batch cap", 8, fixed) == []
    assert neighbours(PLAN, "layout", 8, fixed)
    assert "QUADRANT_BATCH_CAP" not in PLAN.variables(fixed)
    assert tune.passed({"QUADRANT_PROVIDER": "cpu", "QUADRANT_PORT": "1", "HOME": "x"}) == {"QUADRANT_PROVIDER": "cpu"}


def test_candidates_are_named_as_the_settings_are():
    """The load test doesn't import the service; a setting that is renamed there is found here."""
    assert set(PLAN.variables()) <= {row.variable for row in settings.table()}


def test_the_plan_is_read_from_info_or_refused():
    """/info of another program, or of a later version, has no such plan."""
    page = {"plan": {name: {"value": value, "reason": "x"} for name, value in PLAN._asdict().items()}}
    assert planned(page) == PLAN
    with pytest.raises(ValueError, match="holds no plan"):
        planned({"plan": {}})


def test_settings_are_written_and_read_again(tmp_path):
    """With figures and machine in comments, which no reader takes for settings."""
    file = tmp_path / "quadrant.env"
    verdict = tune.Verdict(PLAN, PLAN._replace(batch_cap=8), [(100, 120)] * 3)
    envfile.write(file, verdict.chosen.variables(), tune.comments(verdict, 200, "m/1", 2, "python -m loadtest.tune"))
    assert envfile.read(file) == PLAN._replace(batch_cap=8).variables()
    text = file.read_text()
    assert "2 usable CPUs" in text
    assert "120.0 images/s at p99 200 ms" in text
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize(("content", "expected"), [
    pytest.param(b"QUADRANT_WORKERS=2\nexport X=1\n", r'line 2 is "export X=1"; expected QUADRANT_NAME=VALUE', id="a shell's"),
    pytest.param(b"QUADRANT_MODEL=$(id)\n", r"line 1 is .*expected QUADRANT_NAME=VALUE", id="a command"),
    pytest.param(b"PATH=/tmp\n", r"line 1 is .*expected QUADRANT_NAME", id="another variable"),
    pytest.param(b"QUADRANT_WORKERS=1\nQUADRANT_WORKERS=2\n", "sets QUADRANT_WORKERS a second time", id="twice"),
    pytest.param(b"\xff\xfe\x00", "is no text", id="no text"),
    pytest.param(b"#" * 70_000, "more than 65,536 bytes", id="too long"),
])
def test_a_file_that_cannot_be_used_is_refused_in_one_line(content, expected, tmp_path):
    """It is read by `make run`: half a file would be a service with half of its settings."""
    file = tmp_path / "quadrant.env"
    file.write_bytes(content)
    with pytest.raises(envfile.Unusable, match=expected):
        envfile.read(file)


def test_places_that_cannot_be_written_are_told_before_the_measuring(tmp_path):
    """After ten minutes it would be too late."""
    for place in (tmp_path, tmp_path / "missing" / "quadrant.env"):
        with pytest.raises(envfile.Unusable, match="can't be written"):
            envfile.check_place(place)
    with pytest.raises(envfile.Unusable, match="can't be written"):
        envfile.write(tmp_path / "quadrant.env", {"QUADRANT_MODEL": "a b"}, [])


def read_by_run(file: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """As `make run` does, with the plan in the place of the service."""
    return subprocess.run([sys.executable, "-m", "loadtest.envfile", str(file), sys.executable, "-m", "service", "plan"],
                          cwd=ROOT, env=environment(more), capture_output=True, text=True, timeout=60, check=False)


def test_make_run_says_that_it_read_the_file_and_the_plan_follows(tmp_path):
    """Real variables win; a file that is not there changes nothing."""
    file = tmp_path / "quadrant.env"
    assert "Settings read" not in read_by_run(file).stdout
    file.write_text("# tuned\nQUADRANT_WORKERS=3\nQUADRANT_BATCH_CAP=5\n")
    done = read_by_run(file, QUADRANT_BATCH_CAP="7")
    assert f"Settings read from {file}: QUADRANT_WORKERS=3 (the environment's QUADRANT_BATCH_CAP won)" in done.stdout
    assert "3 (set by QUADRANT_WORKERS)" in done.stdout
    assert "7 (set by QUADRANT_BATCH_CAP)" in done.stdout


def test_make_run_refuses_a_broken_file_in_one_line(tmp_path):
    """A traceback would tell an operator nothing."""
    file = tmp_path / "quadrant.env"
    file.write_text("QUADRANT_WORKERS 3\n")
    done = read_by_run(file)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert 'line 1 is "QUADRANT_WORKERS 3"' in done.stderr


def test_make_and_compose_read_the_file_that_is_written_by_default():
    """Three places name it."""
    name = str(envfile.DEFAULT)
    command = ["make", "-n", "-o", ".venv/bin/.service", "run"]
    shown = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True).stdout
    assert f"loadtest.envfile {name} " in shown
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert compose["services"]["quadrant"]["env_file"] == [{"path": name, "required": False}]
    assert f"/{name}" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_number_of_connections_follows_rate_and_slo():
    """Enough that those which wait don't slow the arrivals; no more than a worker takes."""
    assert arrivals.connections(100, 100) == 128
    assert arrivals.connections(200, 500) == 400
    assert arrivals.connections(1000, 10_000) == 900


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_arrivals_come_at_their_rate_over_a_real_service(model_folder, tmp_path):
    """More connections than the service has threads, each silent for long, take none from it."""
    from loadtest.pictures import draw

    photo = tmp_path / "photo.jpg"
    photo.write_bytes(draw(1))
    more = {"QUADRANT_MODELS": str(model_folder), "QUADRANT_PROVIDER": "cpu"}
    with service(tmp_path / "log", more) as running:
        seen = arrivals.drive(running.url, [photo], rate=10, seconds=3, slo_ms=200)
        assert running.ask("/metrics").body.count(b'endpoint="/health/live"') > 0
    assert seen.errors == 0, seen.problem
    assert 1 <= seen.requests <= 120  # 30 are expected; closed loops would send hundreds
    assert seen.p99_ms >= seen.p50_ms > 0
