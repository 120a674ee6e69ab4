"""`make tune`: the settings with which this machine answers most pictures a second while p99 stays within an SLO.

    python -m loadtest.tune --slo-p99-ms 200

An SLO is a promise to callers who don't wait for each other, so rates are held against it, not connections: requests arrive at
about Poisson times (`loadtest.arrivals`), and the limit of some settings is the greatest rate at which p99 keeps the SLO
without an error. The search (`loadtest.search`) begins with the plan; what beats the plan by more than noise is written to a
file that `make run` and docker compose read.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import click

from loadtest import envfile, host, search, serving, wrk
from loadtest.arena import Arena
from loadtest.candidates import Candidate, fixed_by, neighbours, planned
from loadtest.cpus import usable_cpus
from loadtest.search import FINAL, RUNGS, Found
from loadtest.subjects import photo_files

RESERVED = 0.35  # of the time at most, for the last comparison with the plan
LEAST_FINAL = 3  # rounds of it
LOADS_A_LIMIT = 2.5
NOT_PASSED = ("QUADRANT_HOST", "QUADRANT_PORT", "QUADRANT_MODELS", "QUADRANT_MODEL")  # the service under test has its own


class Verdict:
    """What came of it: limits of the same rounds, in images/s."""

    def __init__(self, plan: Candidate, best: Candidate, limits: Sequence[tuple[float, float]]) -> None:
        """Limits are of the plan and of the best, round by round; of the plan alone where they are the same."""
        self.plan, self.best = plan, best
        self.plan_limits, self.best_limits = [pair[0] for pair in limits], [pair[1] for pair in limits]
        self.won = best != plan and search.beats(self.best_limits, self.plan_limits)
        self.chosen = best if self.won else plan

    def words(self, slo_ms: float) -> str:
        """In one line."""
        of_plan = f"{statistics.median(self.plan_limits):.1f} images/s at p99 {slo_ms:g} ms"
        if self.best == self.plan:
            return f"the plan stays: nothing tried beats it; it holds {of_plan}"
        pairs = zip(self.best_limits, self.plan_limits, strict=True)
        gains = [search.ratio(each, other) - 1 for each, other in pairs]
        gain = (f"{statistics.median(gains):+.1%} (rounds {min(gains):+.1%} to {max(gains):+.1%}; the plan against itself "
                f"±{search.spread(self.plan_limits):.1%})")
        held = f"{statistics.median(self.best_limits):.1f} images/s at p99 {slo_ms:g} ms"
        if self.won:
            return f"{self.best}: {held}, {gain} over the plan, which holds {of_plan}"
        return f"the plan stays, with {of_plan}: {self.best} gave {gain}, which is within the noise"


class Clock:
    """When to stop searching, so that there is time for the last comparison."""

    def __init__(self, minutes: float, load_s: int) -> None:
        """Begins now; `load_s` are the seconds of a load of the last comparison."""
        final_s = 2 * FINAL.rounds * LOADS_A_LIMIT * load_s
        self.end = time.monotonic() + 60 * minutes
        self._search_end = self.end - min(final_s, RESERVED * 60 * minutes)

    def search_is_over(self) -> bool:
        """Go on to the last comparison."""
        return time.monotonic() > self._search_end

    def over(self) -> bool:
        """All of the time is used."""
        return time.monotonic() > self.end


def compare(arena: Arena, plan: Candidate, best: Candidate, clock: Clock) -> Verdict:
    """The plan and the best, in turn, five times or three if time is up."""
    if best == plan:
        return Verdict(plan, best, [(each, each) for each in arena.limits[plan] if each] or [(arena.expected, arena.expected)])
    limits: list[tuple[float, float]] = []
    while len(limits) < LEAST_FINAL or (len(limits) < FINAL.rounds and not clock.over()):
        arena.duel(plan, best, FINAL._replace(rounds=1))
        limits.append((arena.limits[plan][-1], arena.limits[best][-1]))
    return Verdict(plan, best, limits)


def table(found: Found) -> str:
    """All that was tried, in order."""
    lines = ["| tried | against | rung | ratio | rounds | |", "|---|---|---|---|---|---|"]
    for each in found.tried:
        kind = "p99 at one rate" if RUNGS[each.rung - 1].sieve else "limit"
        rounds = " ".join(f"{ratio:.2f}" for ratio in each.ratios)
        lines.append(f"| {each.candidate} | {each.rival_of} | {each.rung}: {kind} | {statistics.median(each.ratios):.2f} "
                     f"| {rounds} | {each.word} |")
    return "\n".join(lines)


def comments(verdict: Verdict, slo_ms: float, model: str, cpus: int, command: str) -> list[str]:
    """The head of the file."""
    return [f"Settings by `make tune`, {time.strftime('%Y-%m-%d')}: {command}",
            "Read by `make run` and docker compose; variables that are set already win. Delete it to go back to the plan.",
            f"Machine: {host.facts()['processor']}, {cpus} usable CPUs. Model: {model}. SLO: p99 within {slo_ms:g} ms.",
            verdict.words(slo_ms)]


def info(url: str) -> tuple[Candidate, str]:
    """The plan of a service that runs, and the model that answers.

    Raises:
        ClickException: it doesn't say.
    """
    try:
        with urllib.request.urlopen(f"{url}/info", timeout=10) as reply:
            page = json.load(reply)
        return planned(page), next(f"{each['name']}/{each['version']}" for each in page["models"] if each["default"])
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise click.ClickException(f"{url}/info: {error}") from error


def passed(environ: dict[str, str]) -> dict[str, str]:
    """Settings of this process that hold while measuring too: what `make run` would be told beside the file."""
    return {name: value for name, value in environ.items()
            if name.startswith("QUADRANT_") and name not in NOT_PASSED and value.strip()}


def say(words: str) -> None:
    """Progress, for who waits."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


@click.command()
@click.option("--slo-p99-ms", "slo_ms", required=True, type=click.FloatRange(1, 10_000), help="What p99 must stay within.")
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(1, 600), help="For all of it, about.")
@click.option("--output", type=click.Path(path_type=Path), default=envfile.DEFAULT, show_default=True,
              help="File for the settings.")
@click.option("--models", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("models"),
              envvar="QUADRANT_MODELS", show_default=True, help="Folder of models.")
@click.option("--model", default="", envvar="QUADRANT_MODEL", help="The one to tune for. [default: the service's default one]")
@click.option("--photos", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder of JPEGs to send. [default: LOADTEST_PICTURES, ../shared/data/photos, or drawn ones]")
def main(slo_ms: float, minutes: float, output: Path, models: Path, model: str, photos: Path | None) -> None:
    """Search for the settings with the highest rate that keeps p99 within the SLO, and write them to a file."""
    wrk.find()
    try:
        envfile.check_place(output)
    except envfile.Unusable as error:
        raise click.ClickException(str(error)) from error
    fixed, more, cpus = fixed_by(os.environ), passed(dict(os.environ)), usable_cpus()
    if fixed:
        say(f"set in the environment, so not searched: {', '.join(sorted(fixed))}")
    if (busy := os.getloadavg()[0]) > cpus / 4:
        say(f"this machine is busy (load {busy:.1f} on {cpus} CPUs): its figures say little")

    def start(candidate: Candidate) -> AbstractContextManager[serving.Service]:
        return serving.service(models, model, more | candidate.variables(fixed))

    with tempfile.TemporaryDirectory() as place:
        files = photo_files(photos, Path(place))
        with serving.service(models, model, more) as service:
            plan, name = info(service.url)
        say(f"the plan for {name}: {plan}")
        with Arena(start, files, slo_ms, say) as arena:
            clock = Clock(minutes, arena.seconds(FINAL.seconds))
            say(f"it holds {arena.begin(plan):.1f}/s at p99 {slo_ms:g} ms")
            found = search.descend(plan, lambda best, way: neighbours(best, way, cpus, fixed), arena.duel, clock.search_is_over)
            if found.best != plan:
                say(f"the plan against {found.best}")
            verdict = compare(arena, plan, found.best, clock)
            share = arena.wrk_share
    print(table(found))
    print(f"{len(found.tried)} tried{'' if found.complete else '; time was up before all neighbours were seen'}; "
          f"wrk itself took at most {share:.1%} of the CPUs' time")
    print(verdict.words(slo_ms))
    command = f"python -m loadtest.tune {' '.join(sys.argv[1:])}"
    try:
        envfile.write(output, verdict.best.variables(fixed) if verdict.won else {},
                      comments(verdict, slo_ms, name, cpus, command))
    except envfile.Unusable as error:
        raise click.ClickException(str(error)) from error
    print(f"{output}: {'read by make run from now on' if verdict.won else 'written without settings, so that the plan holds'}")


if __name__ == "__main__":
    main()
