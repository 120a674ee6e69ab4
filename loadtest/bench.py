"""`make bench`: how much of what the machine can do, the service does, over HTTP, in its own configuration.

    python -m loadtest.bench --check

Starts the service for each model as a user would, drives it with wrk at 1 to 256 connections, and measures in between what
the machine does without HTTP (`loadtest.limit`), so that each ratio is of two neighbours: one to the best engine that the
model's gates allow, one to the CPU provider, so that a fast engine can't hide a slow front end. Prints one table; writes its
figures as JSON and a plot. Made for a machine that does nothing else, about 20 minutes; the AlexNets are made before, once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from loadtest import host, plot, report, serving, targets, wrk
from loadtest.serving import Service
from loadtest.subjects import Subject, mosaics, photo_files, subjects
from loadtest.targets import INT8, LARGE, MODELS, START, TWO_WORKERS

ROOT = Path(__file__).parents[1]
PAIRS = ((8, 32), (256, 1))  # connections, with a ceiling measured between the two
LARGE_CONNECTIONS = 8
LIMIT_S = 900.0  # of the ceiling, a sweep or one cell
DOCS, CACHE = ROOT / "docs", ROOT / "runs" / "bench"


class Plan(NamedTuple):
    """How long: seconds of a load, a ceiling, a cell of the ceiling's sweep; rounds, starts that count; warming.

    `sweep_batch` is the only batch size that is swept over; None for all.
    """

    load_s: int
    ceiling_s: int
    sweep_s: float
    rounds: int
    starts: int
    warm_s: int
    sweep_batch: int | None = None


FULL, QUICK = Plan(4, 4, 0.5, 3, 3, 3), Plan(2, 1, 0.5, 1, 1, 1, sweep_batch=8)


class Cell(NamedTuple):
    """One way to classify without HTTP, and how many images a second it does; named as the figures of `loadtest.limit` are."""

    images_per_s: float
    layout: str
    batch: int
    spinning: bool
    provider: str
    precision: str

    def options(self) -> list[str]:
        """Of `loadtest.limit`, to measure it again and nothing else."""
        return ["--layout", self.layout, "--batch", str(self.batch), "--spinning" if self.spinning else "--no-spinning",
                "--provider", self.provider, "--precision", self.precision, "--no-parts"]


class Ceiling(NamedTuple):
    """What one run of `loadtest.limit` said.

    Attributes:
        best: whatever engine it was.
        cpu: the best of the CPU provider; None where only another engine was measured.
        one_picture_ms: by the engine that is quickest alone; None where none was measured.
        fault: why it doesn't trust itself.
    """

    best: Cell
    cpu: Cell | None
    one_picture_ms: float | None
    found: dict[str, Any]
    fault: str | None


class Bench:
    """Measures one model after the other; collects rows and what goes wrong."""

    def __init__(self, plan: Plan, photos: Path, settings: Mapping[str, str]) -> None:
        self.plan, self.photos, self.settings = plan, sorted(photos.iterdir()), settings
        self.rows: list[dict[str, Any]] = []
        self.ceilings: dict[str, Any] = {}
        self.faults: list[str] = []

    def model(self, subject: Subject) -> None:
        """All rows of one model."""
        with tempfile.TemporaryDirectory() as place:
            models = Path(place)
            (models / subject.name).symlink_to(subject.folder.resolve())
            self._starts(subject, models)
            best = self._sweep(subject, subject.short, self.photos[0].parent)
            with serving.service(models, subject.name, self.settings) as service:
                self._rounds(subject, service, best)
                if subject.short == INT8:
                    self._large(subject, service, best)
                engine = service.engine(subject.name)  # by now it has run
            self._memory(subject, models)
        for row in self.rows:
            if row["model"] == subject.short:
                row["engine"] = engine

    def _starts(self, subject: Subject, models: Path) -> None:
        seconds = []
        for number in range(self.plan.starts + 1):
            say(f"{subject.short}: start {number or 'that fills the page cache'}")
            with serving.service(models, subject.name, self.settings) as service:
                seconds.append(service.ready_s)
        self.rows.append(report.plain_row(subject.short, START, {"ready": seconds[1:]}))

    def _sweep(self, subject: Subject, name: str, photos: Path, *fixed: str) -> Ceiling:
        say(f"{name}: what the machine does without HTTP")
        fixed = (*(("--batch", str(self.plan.sweep_batch)) if self.plan.sweep_batch else ()), *fixed)  # the last one counts
        best = ceiling(subject.file, photos, self.plan.sweep_s, *fixed)
        self.ceilings[name] = best.found
        if best.fault:
            self.faults.append(f"{name}: the ceiling is not to be trusted: {best.fault}")
        return best

    def _rounds(self, subject: Subject, service: Service, best: Ceiling) -> None:
        wrk.drive(service.url, self.photos, 32, self.plan.warm_s)
        service.settle(self.photos[0].read_bytes())
        runs: dict[int, list[report.Run]] = {}
        for number in range(self.plan.rounds):
            loads, tops = {}, {}
            for pair in PAIRS if number % 2 == 0 else [pair[::-1] for pair in PAIRS[::-1]]:
                say(f"{subject.short}: round {number + 1}, {pair[0]} and {pair[1]} connections")
                loads[pair[0]] = self._load(service, self.photos, pair[0])
                lone = "--alone" if 1 in pair else "--no-alone"
                top = ceiling(subject.file, self.photos[0].parent, self.plan.ceiling_s, *best.best.options(), lone)
                tops |= dict.fromkeys(pair, top)
                loads[pair[1]] = self._load(service, self.photos, pair[1])
            own = self._own_ceiling(subject, best, self.photos[0].parent)
            for connections, (load, sizes) in loads.items():
                top = tops[connections]
                runs.setdefault(connections, []).append(report.Run(
                    load, top.best.images_per_s, own or top.best.images_per_s, top.one_picture_ms, sizes))
        self.rows += [report.load_row(subject.short, str(count), count, each) for count, each in sorted(runs.items())]

    def _own_ceiling(self, subject: Subject, best: Ceiling, photos: Path) -> float | None:
        """The CPU provider's, once more; None where that is the best there is."""
        if best.cpu is None or best.cpu == best.best:
            return None
        say(f"{subject.short}: what the CPU provider does without HTTP")
        return ceiling(subject.file, photos, self.plan.ceiling_s, *best.cpu.options(), "--no-alone").best.images_per_s

    def _large(self, subject: Subject, service: Service, best: Ceiling) -> None:
        with tempfile.TemporaryDirectory() as place:
            files = mosaics(self.photos, Path(place))
            # Where decoding takes nearly all of the time, the batch hardly matters.
            top = self._sweep(subject, f"{subject.short}, {LARGE}", Path(place), "--batch", str(best.best.batch), "--no-alone")
            runs = []
            for number in range(self.plan.rounds):
                say(f"{subject.short}: round {number + 1}, {LARGE}")
                load, sizes = self._load(service, files, LARGE_CONNECTIONS)
                beside = ceiling(subject.file, Path(place), self.plan.ceiling_s, *top.best.options(), "--no-alone")
                rate = beside.best.images_per_s
                runs.append(report.Run(load, rate, self._own_ceiling(subject, top, Path(place)) or rate, None, sizes))
        self.rows.append(report.load_row(subject.short, LARGE, LARGE_CONNECTIONS, runs))

    def _memory(self, subject: Subject, models: Path) -> None:
        peaks, loaded = [], []
        for workers in (2, 3):
            say(f"{subject.short}: memory of {workers} workers")
            settings = {**self.settings, "QUADRANT_WORKERS": str(workers)}
            with serving.service(models, subject.name, settings) as service, serving.Watch(service.process.pid) as watch:
                self._load(service, self.photos, 32)  # meanwhile the other processes load
                with serving.Watch(service.process.pid) as settled:
                    for connections in (32, 256):
                        self._load(service, self.photos, connections)
            peaks.append(watch.peak_mb)
            loaded.append(settled.peak_mb)
        measured = {"pss": peaks[:1], "further": [peaks[1] - peaks[0]],
                    "loaded": loaded[:1], "further loaded": [loaded[1] - loaded[0]]}
        self.rows.append(report.plain_row(subject.short, TWO_WORKERS, measured))

    def _load(self, service: Service, photos: Sequence[Path], connections: int) -> tuple[wrk.Load, dict[str, int]]:
        """One run of wrk and the batches that it made; the service is idle before and after."""
        before = service.batches()
        load = wrk.drive(service.url, photos, connections, self.plan.load_s)
        service.check()
        sizes = serving.added(before, service.batches())
        service.settle(photos[0].read_bytes())
        return load, sizes


def ceiling(model: Path, photos: Path, seconds: float, *fixed: str) -> Ceiling:
    """Exact decoding and the model in process: the best of a sweep over whatever isn't fixed.

    Args:
        fixed: options of `loadtest.limit`, such as `Cell.options`.
    Raises:
        ClickException: `loadtest.limit` fails without figures.
    """
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "limit.json"
        command = [sys.executable, "-m", "loadtest.limit", "--model", str(model.resolve()), "--photos", str(photos),
                   "--seconds", f"{seconds:g}", "--json", str(output), "--decoding", "exact", *fixed]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise click.ClickException(f"loadtest.limit did not end within {LIMIT_S:g} s") from error
        complaint = done.stderr.strip()[-1000:]
        if not output.exists():
            raise click.ClickException(f"loadtest.limit ended with {done.returncode} and no figures: {complaint}")
        found = json.loads(output.read_text())
    fault = (complaint.splitlines() or [f"it ended with {done.returncode}"])[-1] if done.returncode else None
    cpu = found["cpu_provider"]["exact"]
    return Ceiling(_cell(found["exact"]), _cell(cpu) if cpu else None, min(found["one_picture"].values(), default=None), found,
                   fault)


def _cell(row: dict[str, Any]) -> Cell:
    return Cell(**{name: row[name] for name in Cell._fields})


def say(words: str) -> None:
    """Progress, for who waits."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def _some(_: click.Context, __: click.Parameter, given: str) -> list[str]:
    chosen = [each.strip() for each in given.split(",") if each.strip()]
    if not chosen or (other := [each for each in chosen if each not in MODELS]):
        raise click.BadParameter(f"found {other[0] if chosen else 'none'}; expected some of {','.join(MODELS)}")
    return list(dict.fromkeys(chosen))


def _settings(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    for each in given:
        if not each.startswith("QUADRANT_") or "=" not in each:
            raise click.BadParameter(f"found {each}; expected QUADRANT_NAME=VALUE")
    return dict(each.split("=", 1) for each in given)


@click.command()
@click.option("--models", "wanted", default=",".join(MODELS), show_default=True, callback=_some,
              help="Which ones, with commas between.")
@click.option("--check", is_flag=True, help="Name each row that misses what it must reach, and exit with 1 if one does.")
@click.option("--quick", is_flag=True, help="Everything short, one round: a try, no measurement.")
@click.option("--rounds", type=click.IntRange(1, 20), help=f"Medians are of so many.  [default: {FULL.rounds}]")
@click.option("--seconds", type=click.IntRange(1, 600), help=f"Of each load and each ceiling.  [default: {FULL.load_s}]")
@click.option("--photos", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder of JPEGs to send.  [default: LOADTEST_PICTURES, ../shared/data/photos, or drawn ones]")
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("models"),
              show_default=True, help="Where the default model and the small AlexNets are.")
@click.option("--set", "settings", multiple=True, callback=_settings, metavar="QUADRANT_NAME=VALUE",
              help="Try another configuration than the planned one.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for bench.json and bench.png.  [default: docs; runs/bench with --quick]")
def main(
    wanted: list[str], check: bool, quick: bool, rounds: int | None, seconds: int | None, photos: Path | None, folder: Path,
    settings: dict[str, str], output: Path | None,
) -> None:
    """Measure the service against the machine that it runs on."""
    wrk.find()
    plan = QUICK if quick else FULL
    plan = plan._replace(rounds=rounds or plan.rounds, load_s=seconds or plan.load_s, ceiling_s=seconds or plan.ceiling_s)
    output = output or (CACHE if quick else DOCS)
    output.mkdir(parents=True, exist_ok=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    busy = os.getloadavg()[0]
    if busy > 0.5:
        say(f"this machine is busy (load {busy:.1f}): its figures say little")
    with tempfile.TemporaryDirectory() as place:
        files = photo_files(photos, Path(place))
        bench = Bench(plan, files[0].parent, settings)
        for subject in subjects(wanted, folder, CACHE, files[0].parent):
            bench.model(subject)
    machine = host.facts()
    found = {"machine": machine, "commit": host.commit(), "load_before": busy, "photos": len(files),
             "plan": plan._asdict(), "settings": settings, "ceilings": bench.ceilings, "rows": bench.rows}
    figures = report.figures(bench.rows)
    misses = [*targets.missed(figures, machine["kind"]), *targets.unmeasured(figures, wanted, machine["kind"]), *bench.faults]
    found["missed"] = misses
    (output / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    print(report.text(found))
    plot.bench(found, output / "bench.png")
    print(f"figures and plot: {os.path.relpath(output / 'bench.json')}, {os.path.relpath(output / 'bench.png')}")
    for miss in misses if check else bench.faults:
        print(f"missed: {miss}" if check else miss, file=sys.stderr)
    sys.exit(1 if check and misses else 0)


if __name__ == "__main__":
    main()
