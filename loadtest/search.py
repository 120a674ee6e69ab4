"""The search of `make tune`: which settings hold the highest rate. Knows figures; knows no service, no clock of its own.

Coordinate descent from the plan outwards; in each dimension the rivals of the best so far go through rungs of growing length
(successive halving), each time measured in turn with it, for what is measured at another minute is measured on another machine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from loadtest.candidates import DIMENSIONS, Candidate

STEP = 1.15  # between two rates that are tried
MOST_PROBES = 12  # of one limit; two or three as a rule
GIVEN_UP = 0.7  # of the rate that was expected: whoever can't hold it has lost
SATURATED = 1.03  # a step of STEP that adds less than this finds every connection waiting
MARGIN = 0.03  # a gain below it is none, however steady


class Seen(Protocol):
    """What one load saw; `loadtest.wrk.Load` is one."""

    @property
    def images_per_s(self) -> float:
        """Good answers."""

    @property
    def p99_ms(self) -> float:
        """Of all answers."""

    @property
    def errors(self) -> int:
        """Anything but a good answer."""


class Rung(NamedTuple):
    """How rivals are measured while they are many, or few.

    Attributes:
        sieve: one load each at the rate that the best so far just holds, for a look at p99, instead of the limit of each.
        rounds: times that both are measured, in turn.
        seconds: of one load, at least.
        least: ratio to the best so far below which a rival is out.
    """

    sieve: bool
    rounds: int
    seconds: int
    least: float


RUNGS = (Rung(True, 1, 3, 0.8), Rung(False, 1, 3, 0.97), Rung(False, 2, 5, 1 + MARGIN))
FINAL = Rung(False, 5, 6, 1 + MARGIN)


class Tried(NamedTuple):
    """One rival: how far it came, its ratios there to the best so far (above 1: better), and what became of it."""

    candidate: Candidate
    rival_of: Candidate
    rung: int
    ratios: list[float]
    word: str


class Found(NamedTuple):
    """How a search ended."""

    best: Candidate
    tried: list[Tried]
    complete: bool  # False: time was up before every neighbour was seen


Duel = Callable[[Candidate, Candidate, Rung], Sequence[float]]  # best so far, rival → a ratio a round
Rivals = Callable[[Candidate, str], Sequence[Candidate]]  # best so far, dimension → candidates


def limit(probe: Callable[[float], Seen], expected: float, slo_ms: float) -> float:
    """The greatest rate that is held: p99 within the SLO and no error.

    Steps up or down from the expected rate until one is held and the next isn't, then interpolates between the two on the
    logarithm of p99, which climbs steeply there: a p99 that is off by a tenth moves the rate by far less.

    Args:
        probe: puts a rate (pictures a second) on the service.
        expected: where to begin.
    Returns:
        Pictures a second that were answered; 0 where no rate above GIVEN_UP times the expected one is held.
    """
    rate, good, bad = expected, None, None
    for _ in range(MOST_PROBES):
        seen = probe(rate)
        if held(seen, slo_ms):
            if good is not None and seen.images_per_s < SATURATED * good.images_per_s:
                return max(good.images_per_s, seen.images_per_s)
            good, rate = seen, rate * STEP
        else:
            bad, rate = seen, rate / STEP
        if good is not None and bad is not None:
            break
        if good is None and rate < GIVEN_UP * expected:
            return 0.0
    if good is None:
        return 0.0
    if bad is None or bad.errors or not bad.images_per_s > good.images_per_s or not bad.p99_ms > good.p99_ms > 0:
        return good.images_per_s
    share = math.log(slo_ms / good.p99_ms) / math.log(bad.p99_ms / good.p99_ms)
    return good.images_per_s + min(1.0, share) * (bad.images_per_s - good.images_per_s)


def held(seen: Seen, slo_ms: float) -> bool:
    """It was answered in time, and all of it; a load without answers (p99 is no number) was not."""
    return seen.errors == 0 and seen.images_per_s > 0 and seen.p99_ms <= slo_ms


def sieve_ratio(best: Seen, rival: Seen) -> float:
    """Two loads at the same rate, as a ratio above 1 where the rival does better: of p99; 0 where it fails."""
    if rival.errors or not rival.images_per_s or math.isnan(rival.p99_ms):
        return 0.0
    if best.errors or not best.images_per_s or math.isnan(best.p99_ms):
        return 2.0
    return best.p99_ms / rival.p99_ms


def halve(
    best: Candidate, rivals: Sequence[Candidate], duel: Duel, time_is_up: Callable[[], bool], tried: list[Tried],
    rungs: Sequence[Rung] = RUNGS,
) -> Candidate | None:
    """The rival that beats the best so far on the last rung, or None; of each rung at most half go on to the next."""
    alive = list(rivals)
    for number, rung in enumerate(rungs, start=1):
        scores: list[tuple[float, list[float], Candidate]] = []
        for rival in alive:
            if time_is_up():
                tried += [Tried(each, best, number, ratios, "time was up") for _, ratios, each in scores]
                return None
            ratios = list(duel(best, rival, rung))
            scores.append((statistics.median(ratios), ratios, rival))
        scores.sort(key=lambda each: each[0], reverse=True)
        most = 1 if number == len(rungs) else math.ceil(len(alive) / 2)
        alive = [rival for score, _, rival in scores[:most] if score >= rung.least]
        for _, ratios, rival in scores:
            word = "out" if rival not in alive else "better" if number == len(rungs) else "on"
            if word != "on":
                tried.append(Tried(rival, best, number, ratios, word))
    return alive[0] if alive else None


def descend(
    plan: Candidate, rivals: Rivals, duel: Duel, time_is_up: Callable[[], bool], rungs: Sequence[Rung] = RUNGS,
) -> Found:
    """Go from the plan to better settings, a dimension after the other, until no neighbour is better or time is up.

    A candidate is tried once: who lost to one that was itself beaten would lose to its successor too.
    """
    tried: list[Tried] = []
    best, seen, moved = plan, {plan}, True
    while moved:
        moved = False
        for dimension in DIMENSIONS:
            fresh = [each for each in rivals(best, dimension) if each not in seen]
            seen.update(fresh)
            if (better := halve(best, fresh, duel, time_is_up, tried, rungs)) is not None:
                best, moved = better, True
            if time_is_up():
                return Found(best, tried, False)
    return Found(best, tried, True)


def beats(best: Sequence[float], plan: Sequence[float]) -> bool:
    """Is the gain more than noise? In every round ahead, by more than MARGIN and by more than the plan differs from itself.

    Args:
        best, plan: limits of the same rounds.
    """
    ratios = [ratio(each, other) for each, other in zip(best, plan, strict=True)]
    gain = statistics.median(ratios) - 1
    return bool(ratios) and min(ratios) > 1 and gain > max(MARGIN, spread(plan))


def ratio(rival: float, best: float) -> float:
    """Of two limits; a round in which the one to beat holds nothing at all says nothing: 1."""
    return rival / best if best else 1.0


def spread(limits: Sequence[float]) -> float:
    """How far equal measurements lie apart: half of greatest minus least, as a share of the middle one."""
    middle = statistics.median(limits)
    return (max(limits) - min(limits)) / 2 / middle if middle else math.inf
