"""Closed-loop load by wrk, a compiled program: photos as raw bodies over connections kept alive.

Locust is a Python program that would take half of a small machine from the service; wrk takes a few per cent. How much
it took is part of what is returned.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from loadtest.cpus import usable_cpus

SCRIPT = Path(__file__).with_name("wrk.lua")
ANSWER_S = 20  # longest time of one answer, beyond every deadline; a later one counts as an error
LEFT_OUT_S = 1  # at the start, while connections open, bodies arrive and the first batches are on their way
GRACE_S = 60.0  # that wrk may take beyond its duration, then it is killed
LOST = ("connect", "read", "write", "timeout")  # kinds of errors that wrk counts itself, beside statuses


class Load(NamedTuple):
    """What one run saw.

    Attributes:
        images_per_s: answers with pictures' labels, a second, once the first second is over.
        p50_ms, p99_ms: from the first byte sent to the whole answer; not a number where nothing was answered.
            wrk corrects for the requests that a slow answer kept from being sent, which makes them larger, never smaller.
        requests: answers of any kind.
        errors: answers that are no 2xx or hold no predictions, requests without an answer, failures of connections.
        problem: the first answer that was not what was promised, or what was counted; None if nothing was.
        cpu_share: of the time of all cores that may be used, spent in wrk; 0 to 1.
    """

    images_per_s: float
    p50_ms: float
    p99_ms: float
    requests: int
    errors: int
    problem: str | None
    cpu_share: float


def find() -> str:
    """Where wrk is.

    Raises:
        ClickException: it isn't installed.
    """
    if (found := shutil.which("wrk")) is None:
        raise click.ClickException('wrk is not installed; expected the Debian package "wrk" (as root: apt-get install wrk)')
    return found


def drive(
    url: str, photos: Sequence[Path], connections: int, seconds: int, path: str = "/classify",
    headers: Mapping[str, str] | None = None,
) -> Load:
    """Ask `url`/classify from this many connections, each again as soon as it has its answer.

    Args:
        url: http://HOST:PORT
        photos: files of bodies, taken in turn; read once.
        seconds: whole ones, after a first one that doesn't count in the rate; what is still out at their end isn't counted.
        path: to ask instead of /classify.
        headers: of every request; without a Content-Type among them it is application/octet-stream.
    Raises:
        ClickException: wrk is missing, fails or doesn't end.
    """
    words = [f"skip={LEFT_OUT_S}", *map(str, photos)]
    return run(SCRIPT, words, url, connections, seconds + LEFT_OUT_S, path, headers)


def run(
    script: Path, words: Sequence[str], url: str, connections: int, seconds: int, path: str = "/classify",
    headers: Mapping[str, str] | None = None,
) -> Load:
    """Let wrk ask `url`/classify as a script says that ends with its figures on one line, as wrk.lua does.

    Args:
        words: the script's own arguments.
        seconds: whole ones, of all of it.
        path, headers: as in `drive`.
    Raises:
        ClickException: wrk is missing, fails or doesn't end.
    """
    command = [find(), "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s",
               "--timeout", f"{ANSWER_S}s", "--script", str(script)]
    for name, value in (headers or {}).items():
        command += ["--header", f"{name}: {value}"]
    command += [f"{url}{path}", "--", *words]
    before, start = _cpu_s(), time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds + GRACE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise click.ClickException(f"wrk did not end {GRACE_S:g} s after its {seconds} s against {url}") from error
    wall_s = time.monotonic() - start
    said, complaint = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace").strip()
    if done.returncode or not said.rstrip().endswith("}"):
        raise click.ClickException(f"wrk ended with {done.returncode} and no figures: {(complaint or said)[-500:]}")
    return read(said, connections, (_cpu_s() - before) / wall_s / usable_cpus())


def read(said: str, connections: int, cpu_share: float) -> Load:
    """The last line that wrk.lua prints, as figures.

    Args:
        said: all that wrk printed.
        connections: that it held; each may leave one request without an answer in the end.
    """
    counts = json.loads(said.rstrip().rsplit("\n", 1)[-1])
    good = counts["requests"] - counts["refused"] - counts["wrong"] - counts["early"]
    errors = {kind: counts[kind] for kind in ("refused", "wrong", *LOST)}
    # wrk connects again without a word where the service hangs up instead of answering.
    hung_up = counts["sent"] - counts["requests"] - connections - counts["read"] - counts["write"]
    errors["without an answer"] = max(0, hung_up)
    found = [f"{count:,} {kind}" for kind, count in errors.items() if count]
    return Load(
        images_per_s=good / (counts["duration"] - counts["skipped"]) * 1e6,
        p50_ms=counts.get("p50", float("nan")) / 1000,
        p99_ms=counts.get("p99", float("nan")) / 1000,
        requests=counts["requests"],
        errors=sum(errors.values()),
        problem=(", ".join(found) + (f": {counts['first']}" if counts["first"] else "")) if found else None,
        cpu_share=cpu_share,
    )


def _cpu_s() -> float:
    """Processor time of children that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
