"""What each model costs in time to ready and in memory, loaded at the start and at its first request.

    python -m loadtest.models_cost

Starts the service on a free port of 127.0.0.1 with one model, two, three, …: those of `models/`, copies of the default one
under other names where asked for, then a full-size AlexNet with random weights (244 MB, made by `python -m export convert` in
a temporary folder). Knows the service by its command
line, its HTTP answers and what /proc says of its processes. Linux only.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import requests
import safetensors.numpy

from loadtest import serving
from loadtest.memory import memory_mib
from loadtest.pictures import draw

LONGEST_S = 120.0  # of one request
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
    """One start of one worker process, and two requests for each model, the last one first.

    Raises:
        ClickException: the service doesn't become ready, or doesn't answer.
    """
    settings = {"QUADRANT_LOAD": load, "QUADRANT_WORKERS": "1", "QUADRANT_DEADLINE_MS": str(1000 * LONGEST_S),
                "QUADRANT_LOG_LEVEL": "warning"}
    with tempfile.TemporaryDirectory() as place:
        for model in models:
            (Path(place) / model.name).symlink_to(model.folder.resolve())
        with serving.service(Path(place), models[0].name, settings) as running:
            url, pid = running.url, running.process.pid
            ready_mib = memory_mib(pid)
            *others, newest = [model.name for model in models]
            first_s, second_s = ask(url, newest, picture), ask(url, newest, picture)
            for model in others:
                ask(url, model, picture)
            return Cost(running.ready_s, ready_mib, first_s, second_s, memory_mib(pid))


def row(models: list[Model], load: str, costs: list[Cost]) -> str:
    """Medians as a line of the table."""
    middle = Cost(*map(statistics.median, zip(*costs, strict=True)))
    return (f"| {len(models)}, with `{models[-1].name}` | `{load}` | {middle.ready_s:.2f} s | {middle.ready_mib:,.0f} MiB "
            f"| {1000 * middle.first_s:,.0f} ms | {1000 * middle.second_s:,.0f} ms | {middle.used_mib:,.0f} MiB |")


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
