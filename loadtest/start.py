"""From the start of the service to ready, stage by stage, and what its processes take in memory, idle and under load.

    python -m loadtest.start                              # models/, the default model
    python -m loadtest.start --alexnet --workers 1,2,3 --seconds 10

Starts the service several times on a free port of 127.0.0.1, with each number of workers in turn; medians. Knows it by its
command line, its HTTP answers, /proc, and the event `worker_ready` of its log. Believe its times on a quiet machine only: the
load average is printed. Linux only.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

import click

from loadtest import serving, wrk
from loadtest.memory import family
from loadtest.models_cost import alexnet
from loadtest.pictures import draw

MB = 2**10 / 1e6  # of a KiB
EVENT = "worker_ready"
READY_S = 60.0  # longest wait for all workers, once one is


class Memory(NamedTuple):
    """Of one process, in MB of 10⁶ bytes."""

    shared: float  # its proportional share of pages of files: code, mapped weights
    own: float  # the rest of its PSS


class Start(NamedTuple):
    """One start of the service.

    Attributes:
        ready_s: seconds to the first 200 of `/health/ready`, seen from outside.
        stages: stage → seconds, as the first worker that was ready tells of itself and its master.
        idle: a process's memory when all workers are ready; the master first.
        peak_mb: largest sum of all processes' PSS under load; None where there was none.
    """

    ready_s: float
    stages: dict[str, float]
    idle: list[Memory]
    peak_mb: float | None


def stages(log: str) -> list[dict[str, float]]:
    """What each worker says of its start, in their order: stage → seconds. Lines of other kinds are passed over."""
    found = []
    for line in log.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == EVENT:
            found.append({name: float(seconds) for name, seconds in event["stages"].items()})
    return found


def memory(pid: int) -> Memory:
    """Of one process, from its proportional set size: what n processes share counts 1/n for each."""
    kib = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, number, *_ = line.split()
        kib[name.rstrip(":")] = int(number)
    return Memory(kib["Pss_File"] * MB, (kib["Pss"] - kib["Pss_File"]) * MB)


def measure(models: Path, default: str, workers: int, load: Load) -> Start:
    """One start.

    Raises:
        ClickException: the service doesn't start, or doesn't answer as it should under load.
    """
    with serving.service(models, default, load.settings | {"QUADRANT_WORKERS": str(workers)}) as service:
        told = _all_ready(service, workers)
        idle = [memory(pid) for pid in family(service.process.pid)]
        peak_mb = None
        if load.seconds:
            with serving.Watch(service.process.pid) as watch:
                for connections in load.connections:
                    seen = wrk.drive(service.url, load.photos, connections, load.seconds)
                    if seen.problem:
                        raise click.ClickException(f"{workers} workers, {connections} connections: {seen.problem}")
            peak_mb = watch.peak_mb
        # The first worker of a start is the only one that tells of the master's stages too.
        return Start(service.ready_s, max(told, key=len), idle, peak_mb)


class Load(NamedTuple):
    """How the service is set and asked."""

    settings: dict[str, str]
    photos: Sequence[Path]
    connections: Sequence[int]
    seconds: int  # a number of connections; 0: not asked


def table(starts: dict[int, list[Start]]) -> str:
    """Medians over the rounds, a column for each number of workers, in Markdown."""
    counts = list(starts)
    names = list(dict.fromkeys(name for some in starts.values() for start in some for name in start.stages))
    rows = [["", *(f"{count} worker{'s' * (count > 1)}" for count in counts)]]
    rows.append(["start to ready", *(_spread([start.ready_s for start in starts[count]], "s", 2) for count in counts)])
    rows += [[f"· {name}", *(f"{_median([start.stages.get(name, 0.0) for start in starts[count]]):.3f} s" for count in counts)]
             for name in names]
    rows.append(["PSS when ready", *(f"{_median([_sum(start.idle) for start in starts[count]]):,.0f} MB" for count in counts)])
    rows.append(["· shared files", *(f"{_median([sum(each.shared for each in start.idle) for start in starts[count]]):,.0f} MB"
                                     for count in counts)])
    rows.append(["· the master's own", *(f"{_median([start.idle[0].own for start in starts[count]]):,.0f} MB"
                                         for count in counts)])
    rows.append(["· a worker's own", *(f"{_median([each.own for start in starts[count] for each in start.idle[1:]]):,.0f} MB"
                                       for count in counts)])
    peaks = {count: _median([start.peak_mb for start in starts[count] if start.peak_mb is not None]) for count in counts}
    if all(peak == peak for peak in peaks.values()):  # a NaN is no peak
        rows.append(["peak PSS under load", *(f"{peaks[count]:,.0f} MB" for count in counts)])
        rows.append(["· each further worker", *(_further(peaks, counts, place) for place in range(len(counts)))])
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _further(peaks: dict[int, float], counts: list[int], place: int) -> str:
    if not place:
        return ""
    before, now = counts[place - 1], counts[place]
    return f"{(peaks[now] - peaks[before]) / (now - before):,.0f} MB"


def _median(numbers: Sequence[float]) -> float:
    return statistics.median(numbers) if numbers else float("nan")


def _sum(processes: Sequence[Memory]) -> float:
    return sum(each.shared + each.own for each in processes)


def _spread(numbers: Sequence[float], unit: str, digits: int) -> str:
    return f"{_median(numbers):.{digits}f} {unit} ({min(numbers):.{digits}f}–{max(numbers):.{digits}f})"


def _all_ready(service: serving.Service, workers: int) -> list[dict[str, float]]:
    """Wait until each worker has said so."""
    end = time.monotonic() + READY_S
    while len(told := stages(_text(service.log))) < workers:
        service.check()
        if time.monotonic() > end:
            raise click.ClickException(f"{len(told)} of {workers} workers are ready after {READY_S:g} s")
        time.sleep(0.05)
    return told


def _text(log: IO[str]) -> str:
    """All that the service has logged; it goes on writing behind that, for it shares the file's position."""
    return os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode(errors="replace")


def _numbers(_: click.Context, __: click.Parameter, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1 or found != sorted(set(found)):
        raise click.BadParameter(f'"{text}"; expected rising numbers from 1 up, such as 1,2,3')
    return found


@click.command()
@click.option("--models", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("models"),
              show_default=True, help="Folder of models.")
@click.option("--model", default="alexnet64-tiny-imagenet", show_default=True, help="The default one of them.")
@click.option("--alexnet", "large", is_flag=True, help="Instead, a full-size AlexNet in fp32 with random weights (244 MB).")
@click.option("--workers", default="1", show_default=True, callback=_numbers, help="Numbers of worker processes, in turn.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 50), help="Starts of each; medians count.")
@click.option("--seconds", default=0, show_default=True, type=click.IntRange(0, 600),
              help="Of load for each number of connections, by wrk; 0 for none.")
@click.option("--connections", default="8,32,128", show_default=True, callback=_numbers, help="Of the load, in turn.")
@click.option("--photos", type=click.Path(path_type=Path, exists=True, file_okay=False), help="JPEGs; drawn ones unless given.")
def main(
    folder: Path, model: str, large: bool, workers: list[int], rounds: int, seconds: int, connections: list[int],
    photos: Path | None,
) -> None:
    """Print start-to-ready by its stages, and memory."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if large:
            folder, model = place / "models", "alexnet"
            alexnet(folder)
        if photos is None:
            for number in range(8):
                (place / f"{number}.jpg").write_bytes(draw(number))
        pictures = sorted(file for file in (photos or place).iterdir() if file.suffix.lower() in (".jpg", ".jpeg"))
        if not pictures:
            raise click.ClickException(f"{photos} holds no .jpg or .jpeg")
        settings = {"QUADRANT_LOG_LEVEL": "info", "QUADRANT_DEADLINE_MS": "60000", "QUADRANT_QUEUE_CAPACITY": "1024"}
        load = Load(settings, pictures, connections, seconds)
        measure(folder, model, workers[0], load._replace(seconds=0))  # fills the page cache; doesn't count
        starts: dict[int, list[Start]] = {count: [] for count in workers}
        for _ in range(rounds):  # in turn, so that a busy minute meets all alike
            for count in workers:
                starts[count].append(measure(folder.resolve(), model, count, load))
    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"`{model}`, medians of {rounds} starts, page cache warm; load average {loads}\n")
    print(table(starts))


if __name__ == "__main__":
    main()
