"""`make profile`: where each microsecond of one request goes.

    python -m loadtest.profile

Starts the service, drives it at 1 and at 32 connections, and prints two tables: the stages of a request by the service's own
clocks, and where its Python threads work by a sampling profiler, which runs after the clocks were read, for it slows what it
looks at. Writes the figures as JSON, and the tables between the profile marks of docs/performance.md.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from loadtest import host, serving, stacks, stages, tune, wrk
from loadtest.cpus import usable_cpus
from loadtest.memory import family
from loadtest.serving import Service
from loadtest.stacks import Folded
from loadtest.stages import Caller, Stages
from loadtest.subjects import photo_files
from loadtest.tune import say

CONNECTIONS = (1, 32)
WARM_S = 2
LEAD_S = 1  # the load begins before the sampling and ends after it
MARKS = ("<!-- profile: make profile -->", "<!-- /profile -->")
ROWS = (
    ("decode", "decode: bytes to RGB"), ("preprocess", "preprocess: resize, crop"), ("queue", "queue: submit to engine start"),
    ("inference", "inference: the whole batch"), ("application", "the rest of the application: body, admission, JSON, logs"),
    ("front", "HTTP front: gunicorn, sockets, waiting for a thread"), ("caller", "what its caller sees"),
)


def clocks(service: Service, photos: Sequence[Path], connections: int, seconds: int) -> tuple[Stages, wrk.Load]:
    """The stages of a request at so many connections, one of which reads the answers where batches may differ in size.

    Raises:
        ClickException: a request failed.
    """
    driven = max(1, connections - 1)
    caller = Caller(service.url, [photo.read_bytes() for photo in photos])
    before = stages.read(service.url)
    if connections > 1:
        with caller:
            load = wrk.drive(service.url, photos, driven, seconds)
    else:
        load = wrk.drive(service.url, photos, driven, seconds)
    after = stages.read(service.url)
    if (problem := load.problem or caller.problem) is not None:
        raise click.ClickException(f"at {connections} connections requests failed, so their times say nothing: {problem}")
    if not load.requests or (connections > 1 and not caller.timings):
        raise click.ClickException(f"at {connections} connections nothing was answered within {seconds} s; expected --seconds "
                                   "to be several times as long as an answer takes")
    # In a closed loop, the mean time of an answer is connections ÷ rate (Little's law).
    return stages.stages(before, after, 1000 * driven / load.images_per_s, caller.timings), load


def samples(
    service: Service, photos: Sequence[Path], connections: int, seconds: int, flames: Path | None,
) -> dict[str, Any]:
    """What the profiler sees at so many connections: of threads that work, and of those that hold the interpreter's lock."""
    pids, found = family(service.process.pid)[1:], {}
    for name, holding in (("busy", False), ("holding_lock", True)):
        texts, rate = _driven(service, photos, connections, seconds, lambda hold=holding: stacks.record(
            pids, seconds, holding=hold))
        found[name] = table_of(stacks.fold("\n".join(texts)), rate * seconds)
        found[name]["images_per_s"] = round(rate, 2)
    if flames is not None:
        flames.mkdir(parents=True, exist_ok=True)
        texts, _ = _driven(service, photos, connections, seconds, lambda: stacks.record(pids, seconds, "flamegraph"))
        for number, text in enumerate(texts, start=1):
            (flames / f"profile-{connections}-worker-{number}.svg").write_text(text)
    return found


def table_of(folded: Folded, requests: float) -> dict[str, Any]:
    """Samples by category as shares, and as microseconds of a thread's time a request.

    Args:
        requests: that were answered while samples were taken.
    """
    total = max(1, folded.total)
    return {"samples": folded.total, "categories": {
        name: {"samples": count, "share": round(count / total, 4),
               "us": round(1e6 * count / stacks.RATE / requests, 1) if requests else None}
        for name, count in folded.samples.items()}, "unknown": folded.unknown}


def markdown(found: dict[str, Any]) -> str:
    """Both tables, with what they depend on."""
    loads = found["loads"]
    heads = [f"{each['connections']} connection{'s' if each['connections'] > 1 else ''}" for each in loads]
    lines = [f"`{found['command']}`, {found['date']}, commit {found['commit']}: {found['model']} on {found['cpus']} CPUs of "
             f"{found['processor']}; microseconds a request, means over {found['seconds']} s each.", "",
             f"| stage | {' | '.join(heads)} |", f"|---|{'---|' * len(loads)}"]
    for key, words in ROWS:
        lines.append(f"| {words} | " + " | ".join(_share(each["stages_us"], key) for each in loads) + " |")
    lines.append("| images/s; pictures in a batch | " + " | ".join(
        f"{each['images_per_s']:.1f}; {each['batch']:.1f}" for each in loads) + " |")
    sampled = [each for each in loads if each["sampled"]]
    if sampled:
        names = {name: 0 for each in sampled for name in each["sampled"]["busy"]["categories"]}
        lines += ["", "Where the service's Python threads work, by py-spy: share of the samples and microseconds of a thread a "
                  "request, in brackets those with the interpreter's lock held.", "",
                  f"| category | {' | '.join(heads)} |", f"|---|{'---|' * len(sampled)}"]
        lines += [f"| {name} | " + " | ".join(_cell(each["sampled"], name) for each in sampled) + " |" for name in names]
        slower = ", ".join(f"{each['sampled']['busy']['images_per_s']:.1f}" for each in sampled)
        lines += ["", f"While it was sampled, the service answered {slower} images/s."]
    return "\n".join(lines)


def placed(page: str, text: str) -> str | None:
    """The page with the text between its marks; None where it hasn't got them."""
    head, mark, rest = page.partition(MARKS[0])
    _, end, tail = rest.partition(MARKS[1])
    return f"{head}{mark}\n{text}\n{end}{tail}" if mark and end else None


def _driven(service: Service, photos: Sequence[Path], connections: int, seconds: int, look: Any) -> tuple[list[str], float]:
    """What `look` returns while the service is under load, and the images/s of that load."""
    loads: list[wrk.Load | BaseException] = []

    def drive() -> None:
        try:
            loads.append(wrk.drive(service.url, photos, connections, seconds + 2 * LEAD_S))
        except BaseException as error:
            loads.append(error)

    thread = threading.Thread(target=drive, name="load")
    thread.start()
    try:
        time.sleep(LEAD_S)
        found = look()
    finally:
        thread.join()
    if isinstance(loads[0], BaseException):
        raise loads[0]
    return found, loads[0].images_per_s


def _share(values: dict[str, float], key: str) -> str:
    return f"{values[key]:,.0f} ({values[key] / values['caller']:.1%})"


def _cell(sampled: dict[str, Any], name: str) -> str:
    busy, holding = (sampled[kind]["categories"].get(name) for kind in ("busy", "holding_lock"))
    if busy is None:
        return "–"
    return f"{busy['share']:.1%}, {busy['us'] or 0:,.0f} ({(holding or {}).get('us') or 0:,.0f})"


@click.command()
@click.option("--seconds", default=8, show_default=True, type=click.IntRange(1, 300), help="Of each load.")
@click.option("--samples/--no-samples", "sampled", default=True, show_default=True, help="Run the sampling profiler too.")
@click.option("--flames", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for flame graphs (SVG); one more load each.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=Path("docs/profile.json"), show_default=True)
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), default=Path("docs/performance.md"), show_default=True,
              help=f"Page to put the tables in, between {MARKS[0]} and {MARKS[1]}.")
@click.option("--models", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("models"),
              envvar="QUADRANT_MODELS", show_default=True, help="Folder of models.")
@click.option("--model", default="", envvar="QUADRANT_MODEL", help="The one to ask. [default: the service's default one]")
@click.option("--photos", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder of JPEGs to send. [default: LOADTEST_PICTURES, ../shared/data/photos, or drawn ones]")
def main(
    seconds: int, sampled: bool, flames: Path | None, output: Path, page: Path, models: Path, model: str, photos: Path | None,
) -> None:
    """Print where the time of a request goes, and write it down."""
    wrk.find()
    if sampled:
        stacks.find()
    elif flames is not None:
        raise click.UsageError("--flames needs samples; leave out --no-samples")
    if not output.absolute().parent.is_dir():
        raise click.BadParameter(f"{output.parent} is no folder; expected one to write {output.name} to", param_hint="--output")
    cpus, busy = usable_cpus(), os.getloadavg()[0]
    if busy > cpus / 4:
        say(f"this machine is busy (load {busy:.1f} on {cpus} CPUs): its figures say little")
    loads = []
    with tempfile.TemporaryDirectory() as place:
        files = photo_files(photos, Path(place))
        with serving.service(models, model, tune.passed(dict(os.environ))) as service:
            _, name = tune.info(service.url)
            for connections in CONNECTIONS:
                say(f"{connections} connections")
                wrk.drive(service.url, files, connections, WARM_S)
                service.settle(files[0].read_bytes())
                times, load = clocks(service, files, connections, seconds)
                loads.append({
                    "connections": connections, "images_per_s": round(load.images_per_s, 2), "p50_ms": load.p50_ms,
                    "p99_ms": load.p99_ms, "wrk_cpu_share": round(load.cpu_share, 4), "batch": round(times.batch, 2),
                    "stages_us": {key: round(value, 1) for key, value in times._asdict().items() if key != "batch"},
                    "sampled": samples(service, files, connections, seconds, flames) if sampled else None})
    found = {"date": time.strftime("%Y-%m-%d"), "command": " ".join(["python -m loadtest.profile", *sys.argv[1:]]),
             "commit": host.commit(), "processor": host.facts()["processor"], "cpus": cpus, "load_before": round(busy, 2),
             "model": name, "seconds": seconds, "loads": loads}
    output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(text := markdown(found))
    said = f"figures: {output}"
    if page.is_file() and (new := placed(page.read_text(), text)) is not None:
        page.write_text(new)
        said += f"; tables: {page}"
    say(said)


if __name__ == "__main__":
    main()
