"""The measurement: every server once a round, one at a time, each round beginning with another one; the ceiling in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import click

from loadtest import report, serving, wrk
from loadtest.compare.asking import Broken
from loadtest.compare.environments import Unavailable
from loadtest.compare.peers import Protocol
from loadtest.compare.running import Running

WARM_CONNECTIONS = 32
SETTLE_S = 60.0
MEMORY_EVERY_S = 1.0  # reading page tables stops a process for a moment


class Plan(NamedTuple):
    """How long.

    Attributes:
        rounds: medians are of so many.
        loads: connections → seconds, each after a first second that doesn't count.
        warm_s: of load before.
        ceiling_s: of each measurement of the ceiling.
        sweep_s: of a cell of the ceiling's sweep.
    """

    rounds: int
    loads: Mapping[int, int]
    warm_s: int
    ceiling_s: float
    sweep_s: float


class Images(NamedTuple):
    """What is sent, and the index of the class that each has to get."""

    files: Sequence[Path]
    expected: Sequence[int]


@dataclass
class Contestant:
    """One server and all that was found out about it.

    Attributes:
        name, settings, version: for the report.
        protocol: how it is asked.
        start: gives it, running, until the end of the block; raises Unavailable.
        failure: why it takes no part or no longer; None while it does.
    """

    name: str
    settings: str
    version: str
    protocol: Protocol
    start: Callable[[], AbstractContextManager[Running]]
    failure: str | None = None
    starts_s: list[float] = field(default_factory=list)
    peaks_mb: list[float] = field(default_factory=list)
    loads: dict[int, list[wrk.Load]] = field(default_factory=dict)
    agreeing: int | None = None
    broken: Broken | None = None

    def found(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name, "version": self.version, "settings": self.settings, "protocol": self.protocol.words,
            "failure": self.failure, "start_s": report.spread(self.starts_s), "peak_pss_mb": report.spread(self.peaks_mb),
            "agreeing": self.agreeing, "broken": self.broken and self.broken._asdict(),
            "loads": {str(connections): _load(runs) for connections, runs in sorted(self.loads.items())},
        }


def measure(
    contestants: Sequence[Contestant], images: Images, plan: Plan, ceiling: Callable[[], float], bodies: Path,
    say: Callable[[str], None],
) -> list[float]:
    """Fill the contestants with figures; one that fails says why and is left out from then on.

    Args:
        ceiling: measures images/s without HTTP, once.
        bodies: an empty folder for requests' bodies.
        say: told what is going on.
    Returns:
        the ceiling of each round.
    """
    ceilings = []
    files = {each.name: _bodies(each, images, bodies / str(place)) for place, each in enumerate(contestants)}
    for number in range(plan.rounds):
        say(f"round {number + 1}: the ceiling")
        ceilings.append(ceiling())
        for each in order(contestants, number):
            if each.failure:
                continue
            say(f"round {number + 1}: {each.name}")
            try:
                with ExitStack() as stack:
                    _visit(each, stack.enter_context(each.start()), images, files[each.name], plan)
            except (Unavailable, click.ClickException) as error:
                each.failure = str(error)
                say(f"{each.name} is left out: {each.failure}")
    return ceilings


def order(contestants: Sequence[Contestant], number: int) -> list[Contestant]:
    """Of round `number`: each round begins with the next one, and every other round runs backwards.

    A plain rotation would put each server behind the same one in every round.
    """
    turn = number % len(contestants)
    turned = [*contestants[turn:], *contestants[:turn]]
    return turned if number % 2 == 0 else turned[::-1]


def _visit(each: Contestant, running: Running, images: Images, files: Sequence[Path], plan: Plan) -> None:
    """All that is measured between a start and a stop."""
    first = images.files[0].read_bytes()
    drive = (running.url, files)
    asked = {"path": each.protocol.path, "headers": each.protocol.headers}
    each.starts_s.append(running.start_s)
    with serving.Watch(running.pid, MEMORY_EVERY_S) as watch:
        wrk.drive(*drive, WARM_CONNECTIONS, plan.warm_s, **asked)
        _settled(running, first)
        if each.agreeing is None:
            each.agreeing = running.asker.agreeing([file.read_bytes() for file in images.files], images.expected)
        for connections, seconds in plan.loads.items():
            load = wrk.drive(*drive, connections, seconds, **asked)
            each.loads.setdefault(connections, []).append(load)
            _settled(running, first)
    each.peaks_mb.append(watch.peak_mb)
    if each.broken is None:  # last, so that nothing is measured behind it
        each.broken = running.asker.broken(first)
        _settled(running, first)


def _settled(running: Running, image: bytes) -> None:
    """Wait until an image gets its turn behind all that a load has left."""
    if not running.asker.wait(image, running.alive, SETTLE_S):
        raise Unavailable("it has ended" if not running.alive() else
                          f"it no longer answers: {running.asker.ask(image).text[:200]}")


def _bodies(each: Contestant, images: Images, folder: Path) -> list[Path]:
    folder.mkdir()
    for place, file in enumerate(images.files):
        (folder / f"{place:03}").write_bytes(each.protocol.body(file.read_bytes()))
    return sorted(folder.iterdir())


def _load(runs: Sequence[wrk.Load]) -> dict[str, Any]:
    return {
        **{name: report.spread([getattr(run, name) for run in runs])
           for name in ("images_per_s", "p50_ms", "p99_ms", "cpu_share")},
        "requests": sum(run.requests for run in runs), "errors": sum(run.errors for run in runs),
        "problem": next((run.problem for run in runs if run.problem), None),
    }
