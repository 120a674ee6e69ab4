"""What each model costs in time to ready and in memory, loaded at the start and at its first request.

    python -m loadtest.models_cost

Starts the service on a free port of 127.0.0.1 with one model, two, three, …: those of `models/`, copies of the default one
under other names where asked for, then a full-size AlexNet with random weights (244 MB, made by `python -m export convert` in
a temporary folder). Knows the service by its command
line, its HTTP answers and what /proc says of its processes. Linux only.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import requests
import safetensors.numpy

from loadtest.pictures import draw

LONGEST_S = 120.0  # of one start, one request
POLL_S = 0.01
# Filters of torchvision's `alexnet().state_dict()`; random numbers in these shapes cost what the published ones cost.
ALEXNET = {
    "features.0": (64, 3, 11, 11), "features.3": (192, 64, 5, 5), "features.6": (384, 192, 3, 3),
    "features.8": (256, 384, 3, 3), "features.10": (256, 256, 3, 3),
    "classifier.1": (4096, 9216), "classifier.4": (4096, 4096), "classifier.6": (1000, 4096),
}  # fmt: skip


class Model(NamedTuple):
    """A name to serve under, and the folder of versions."""

    name: str
    folder: Path


class Cost(NamedTuple):
    """One start of the service; seconds and MiB."""

    ready_s: float
    ready_mib: float  # when it is ready
    first_s: float  # the first picture for the model that was added last
    second_s: float
    used_mib: float  # when each model has answered


def alexnet(folder: Path) -> None:
    """A full-size AlexNet as `folder/alexnet/1`.

    Raises:
        ClickException: export doesn't make it.
    """
    random = np.random.default_rng(1)
    weights = {}
    for name, shape in ALEXNET.items():
        scale = np.sqrt(2 / np.prod(shape[1:]))  # He: the signal neither fades nor explodes
        weights[f"{name}.weight"] = (random.standard_normal(shape, np.float32) * np.float32(scale)).astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    with tempfile.TemporaryDirectory() as place:
        checkpoint, labels = Path(place) / "alexnet.safetensors", Path(place) / "labels.txt"
        safetensors.numpy.save_file(weights, checkpoint)
        labels.write_text("\n".join(f"class {number}" for number in range(1000)))
        done = subprocess.run(
            [sys.executable, "-m", "export", "convert", "--architecture", "alexnet", "--weights", str(checkpoint),
             "--labels", str(labels), "--mode", "fast", "--output", str(folder / "alexnet" / "1")],
            capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise click.ClickException(f"no AlexNet: {done.stderr[-2000:]}")


@contextmanager
def service(models: list[Model], load: str) -> Iterator[tuple[str, int, float]]:
    """A ready service of these models, the first of which is the default; stopped in the end.

    Yields:
        Its address, the id of its first process, seconds from start to ready.
    Raises:
        ClickException: it doesn't become ready.
    """
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile("w+") as log:
        for model in models:
            (Path(place) / model.name).symlink_to(model.folder.resolve())
        environment = os.environ | {
            "QUADRANT_MODELS": place, "QUADRANT_MODEL": models[0].name, "QUADRANT_LOAD": load, "QUADRANT_HOST": "127.0.0.1",
            "QUADRANT_DEADLINE_MS": str(1000 * LONGEST_S), "QUADRANT_LOG_LEVEL": "warning", "PYTHONUNBUFFERED": "1",
        }
        start = time.monotonic()
        server = subprocess.Popen([sys.executable, "-m", "service", "serve", "--port", "0"], env=environment,
                                  stdout=subprocess.PIPE, stderr=log, text=True)
        guard = threading.Timer(LONGEST_S, server.kill)
        guard.start()
        try:
            assert server.stdout is not None
            words = server.stdout.readline().split()  # said by the first worker that is ready; nothing if it ends before
            if not words:
                log.seek(0)
                raise click.ClickException(f"the service did not start:\n{log.read()[-2000:]}")
            url = words[-1]
            while not _ready(url):
                if server.poll() is not None:
                    raise click.ClickException(f"the service at {url} did not become ready")
                time.sleep(POLL_S)
            ready_s = time.monotonic() - start
            guard.cancel()
            yield url, server.pid, ready_s
        finally:
            guard.cancel()
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()


def family(pid: int) -> list[int]:
    """This process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def memory_mib(pid: int) -> float:
    """Proportional set size of the process and all below it: what they share counts once."""
    lines = [line for each in family(pid) for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def ask(url: str, model: str, picture: bytes) -> float:
    """Seconds of one picture.

    Raises:
        ClickException: it isn't answered.
    """
    start = time.monotonic()
    reply = requests.post(f"{url}/classify", params={"model": model}, data=picture, timeout=LONGEST_S,
                          headers={"Content-Type": "application/octet-stream"})
    if reply.status_code != 200:
        raise click.ClickException(f"{model}: {reply.status_code} {reply.text[:500]}")
    return time.monotonic() - start


def measure(models: list[Model], load: str, picture: bytes) -> Cost:
    """One start, with one worker process's share of requests: two for each model, the last one first."""
    with service(models, load) as (url, pid, ready_s):
        ready_mib = memory_mib(pid)
        *others, newest = [model.name for model in models]
        first_s, second_s = ask(url, newest, picture), ask(url, newest, picture)
        for model in others:
            ask(url, model, picture)
        return Cost(ready_s, ready_mib, first_s, second_s, memory_mib(pid))


def row(models: list[Model], load: str, costs: list[Cost]) -> str:
    """Medians as a line of the table."""
    middle = Cost(*map(statistics.median, zip(*costs, strict=True)))
    return (f"| {len(models)}, with `{models[-1].name}` | `{load}` | {middle.ready_s:.2f} s | {middle.ready_mib:,.0f} MiB "
            f"| {1000 * middle.first_s:,.0f} ms | {1000 * middle.second_s:,.0f} ms | {middle.used_mib:,.0f} MiB |")


def _ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/health/ready", timeout=5).status_code == 200
    except requests.RequestException:
        return False


@click.command()
@click.option("--models", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("models"),
              show_default=True, help="Folder of models; the first that is no -int8 is the default one.")
@click.option("--alexnet/--no-alexnet", "large", default=True, show_default=True, help="Add a full-size AlexNet of 244 MB.")
@click.option("--copies", default=0, show_default=True, type=click.IntRange(0, 20), help="Of the default one, as further ones.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 20), help="Starts of each kind; medians count.")
def main(folder: Path, large: bool, copies: int, rounds: int) -> None:
    """Print what each further model costs."""
    found = {file.parents[1] for file in folder.glob("*/*/model.onnx")}
    models = [Model(each.name, each) for each in sorted(found, key=lambda each: (each.name.endswith("-int8"), each.name))]
    if not models:
        raise click.ClickException(f"{folder} holds no NAME/VERSION/model.onnx")
    models += [Model(f"copy-{number}", models[0].folder) for number in range(1, copies + 1)]
    picture = draw(1)
    with tempfile.TemporaryDirectory() as place:
        if large:
            alexnet(Path(place))
            models.append(Model("alexnet", Path(place) / "alexnet"))
        kinds = [(models[: count + 1], load) for count in range(len(models)) for load in ("all", "default")]
        costs: dict[int, list[Cost]] = {}
        for _ in range(rounds):  # interleaved, so that a busy minute meets all kinds alike
            for number, (some, load) in enumerate(kinds):
                costs.setdefault(number, []).append(measure(some, load, picture))
    print("| models | `QUADRANT_LOAD` | start to ready | PSS then | first picture, newest model | second | PSS, all used |")
    print("|---|---|---|---|---|---|---|")
    for number, (some, load) in enumerate(kinds):
        print(row(some, load, costs[number]))


if __name__ == "__main__":
    main()
