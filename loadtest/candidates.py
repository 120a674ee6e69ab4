"""Settings that `make tune` may try: those of the plan, and sensible values next to any.

Knows numbers alone; measures nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

PREFIX = "QUADRANT_"
DIMENSIONS = ("layout", "batch cap", "request threads", "queue")  # the first changes most, the last least
# Slow senders hold a thread each, and probes need some; a load without slow senders can't tell that there are too few.
LEAST_REQUEST_THREADS, MOST_REQUEST_THREADS = 16, 256
LEAST_QUEUE, MOST_QUEUE = 32, 4096  # one call may bring 32 pictures
MOST_BATCH = 128


class Candidate(NamedTuple):
    """What is searched; named as the settings are. `queue_capacity` and all threads are for one worker."""

    workers: int
    request_threads: int
    engine_threads: int
    batch_cap: int
    queue_capacity: int

    def variables(self, fixed: Collection[str] = ()) -> dict[str, str]:
        """Its `QUADRANT_…` variables, without the fields in `fixed`."""
        return {variable(name): str(value) for name, value in self._asdict().items() if name not in fixed}

    def __str__(self) -> str:
        return (f"{self.workers} × {self.engine_threads} engine threads, {self.request_threads} request threads, "
                f"cap {self.batch_cap}, queue {self.queue_capacity}")


def variable(name: str) -> str:
    """`batch_cap` → `QUADRANT_BATCH_CAP`."""
    return PREFIX + name.upper()


def fixed_by(environ: Mapping[str, str]) -> set[str]:
    """Fields that the environment settles: those would win over any file, so there is nothing to search."""
    return {name for name in Candidate._fields if environ.get(variable(name), "").strip()}


def planned(info: Mapping[str, Any]) -> Candidate:
    """The plan, of the service's `/info`.

    Raises:
        ValueError: the page holds no such plan.
    """
    try:
        return Candidate(*(int(info["plan"][name]["value"]) for name in Candidate._fields))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"/info holds no plan with {', '.join(Candidate._fields)}: {str(info)[:200]}") from error


def neighbours(here: Candidate, dimension: str, cpus: int, fixed: Collection[str] = ()) -> list[Candidate]:
    """What to try instead: one step of a factor of two in one dimension, nearest first.

    Args:
        dimension: of DIMENSIONS; "layout" is workers and engine threads together, for they share the CPUs.
        cpus: that may be used.
        fixed: fields that stay as they are.
    """
    ways = {"layout": _layouts(here, cpus),
            "batch cap": _steps(here, "batch_cap", 1, MOST_BATCH),
            "request threads": _steps(here, "request_threads", LEAST_REQUEST_THREADS, MOST_REQUEST_THREADS),
            "queue": _steps(here, "queue_capacity", LEAST_QUEUE, MOST_QUEUE)}[dimension]
    kept = [each for each in ways if all(getattr(each, name) == getattr(here, name) for name in fixed)]
    return [each for each in dict.fromkeys(kept) if each != here]


def _layouts(here: Candidate, cpus: int) -> Iterator[Candidate]:
    """Half, as many, twice the workers; each with the CPUs divided among them, with half and with twice as many threads."""
    for workers in (here.workers, 2 * here.workers, here.workers // 2):
        share = max(1, cpus // max(1, workers))
        for threads in (share, share // 2, 2 * share):
            if 1 <= workers <= cpus and 1 <= threads <= cpus:
                yield here._replace(workers=workers, engine_threads=threads)


def _steps(here: Candidate, name: str, least: int, most: int) -> Iterator[Candidate]:
    value = getattr(here, name)
    for number in (value // 2, 2 * value):
        if least <= number <= most:
            yield here._replace(**{name: number})
