"""`make compare`: this service next to mosec, LitServe, BentoML, a FastAPI service by hand and Triton's Python server.

    python -m loadtest.compare --models alexnet64-tiny-imagenet-int8 --rounds 3

All serve the same ONNX file on the CPU with the same preprocessing, each with its own batching in the settings that suit it
best on two cores. Their environments are installed first, once, from the lock files in requirements/compare/. A server that
can't be installed or started is named with its reason, and the rest goes on. Made for a machine that does nothing else.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from loadtest import bench, host, report, wrk
from loadtest.bench import say
from loadtest.compare import environments, plot, running, table
from loadtest.compare.environments import Unavailable
from loadtest.compare.peers import BY_NAME, Peer, Protocol
from loadtest.compare.rounds import Contestant, Images, Plan, measure
from loadtest.inprocess import Model
from loadtest.subjects import photo_files

ROOT = Path(__file__).parents[2]
DOCS, CACHE, README = ROOT / "docs", ROOT / "runs" / "compare", ROOT / "README.md"
FULL = Plan(3, {1: 2, 8: 2, 32: 3, 256: 5}, warm_s=1, ceiling_s=3, sweep_s=0.5)
QUICK = Plan(1, {1: 1, 8: 1, 32: 1, 256: 2}, warm_s=1, ceiling_s=1, sweep_s=0.2)
MODELS = "alexnet64-tiny-imagenet-int8,alexnet64-tiny-imagenet"


def contestants(peers: Sequence[Peer], models: Path, file: Path, image: bytes) -> list[Contestant]:
    """This service and the peers, installed; those that can't be have their failure.

    Args:
        models: folder of models.
        file: the ONNX file, models/NAME/VERSION/model.onnx.
        image: that each has to classify to count as started.
    """
    name = file.parents[1].name
    found = [Contestant("Quadrant", "as `make run` plans it", host.commit(), Protocol(),
                        functools.partial(running.quadrant, models, name, image))]
    logs = CACHE / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for who in peers:
        place = CACHE / "environments" / who.name
        each = Contestant(who.title, who.settings, environments.version(who), who.protocol,
                          functools.partial(running.peer, who, place, file, image, logs / f"{who.name}.log"))
        try:
            say(f"{who.title}: its environment")
            environments.install(who, place.parent)
        except Unavailable as error:
            each.failure = str(error)
            say(f"{who.title} is left out: {error}")
        found.append(each)
    return found


def compare(
    file: Path, models: Path, peers: Sequence[Peer], photos: Sequence[Path], plan: Plan, busy: float,
) -> dict[str, Any]:
    """All figures of one model.

    Args:
        busy: the load average before all measuring.
    Raises:
        ClickException: there are no figures for the ceiling.
    """
    data = [photo.read_bytes() for photo in photos]
    everyone = contestants(peers, models, file, data[0])
    say(f"{file.parents[1].name}: what the machine does without HTTP")
    top = bench.ceiling(file, photos[0].parent, plan.sweep_s)
    images = Images(photos, expected(file, data))

    def ceiling() -> float:
        return bench.ceiling(file, photos[0].parent, plan.ceiling_s, *top.best.options()).best.images_per_s

    with tempfile.TemporaryDirectory() as place:
        ceilings = measure(everyone, images, plan, ceiling, Path(place), say)
    return {
        "machine": host.facts(), "load_before": busy, "commit": host.commit(), "photos": len(photos), "plan": plan._asdict(),
        "ceiling": {"images_per_s": report.spread(ceilings), "layout": top.best.layout, "batch": top.best.batch,
                    "fault": top.fault},
        "servers": [each.found() for each in everyone],
    }


def expected(file: Path, images: Sequence[bytes]) -> list[int]:
    """Index of each image's best class, in process and alone."""
    model, found = Model(file, 1, False), []
    room = model.room(1)
    for image in images:
        model.fill(room[0], image, "exact")
        found.append(model.run(room)[0].classes[0])
    return found


def highest(models: Path, name: str) -> Path:
    """The model's file in its highest version.

    Raises:
        BadParameter: there is none.
    """
    files = [file for file in models.glob(f"{name}/*/model.onnx") if file.parent.name.isdigit()]
    if not files:
        raise click.BadParameter(f"{models} holds no {name}/VERSION/model.onnx; expected one of "
                                 f"{', '.join(sorted({file.parents[1].name for file in models.glob('*/*/model.onnx')}))}")
    return max(files, key=lambda file: int(file.parent.name))


def _some(_: click.Context, __: click.Parameter, given: str) -> list[Peer]:
    names = list(dict.fromkeys(name for part in given.split(",") if (name := part.strip())))
    if other := [name for name in names if name not in BY_NAME]:
        raise click.BadParameter(f"found {other[0]}; expected some of {','.join(BY_NAME)}")
    return [BY_NAME[name] for name in names]


@click.command()
@click.option("--models", "names", default=MODELS, show_default=True,
              help="Which ones, with commas between; figures of others that the output already holds stay.")
@click.option("--peers", "chosen", default=",".join(BY_NAME), show_default=True, callback=_some,
              help="Which servers next to this one, with commas between.")
@click.option("--quick", is_flag=True, help="Everything short, one round: a try, no measurement.")
@click.option("--rounds", type=click.IntRange(1, 20), help=f"Medians are of so many.  [default: {FULL.rounds}]")
@click.option("--seconds", type=click.IntRange(1, 600),
              help=f"Of each load.  [default: {', '.join(f'{s} at {c}' for c, s in FULL.loads.items())} connections]")
@click.option("--photos", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder of JPEGs to send.  [default: LOADTEST_PICTURES, ../shared/data/photos, or drawn ones]")
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=ROOT / "models",
              help="Folder of models.  [default: models]")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for compare.json and compare.png.  [default: docs, and the README's section with them; "
                   "runs/compare with --quick]")
@click.option("--report", "only_report", is_flag=True, help="Measure nothing: table and plot of what the output holds already.")
@click.option("--install", "only_install", is_flag=True, help="Only install the peers' environments.")
def main(
    names: str, chosen: list[Peer], quick: bool, rounds: int | None, seconds: int | None, photos: Path | None, folder: Path,
    output: Path | None, only_report: bool, only_install: bool,
) -> None:
    """Compare this service with others on this machine."""
    plan = QUICK if quick else FULL
    loads = dict.fromkeys(plan.loads, seconds) if seconds else plan.loads
    plan = plan._replace(rounds=rounds or plan.rounds, loads=loads)
    official = output is None and not quick
    output = output or (CACHE if quick else DOCS)
    output.mkdir(parents=True, exist_ok=True)
    file = output / "compare.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if only_install:
        install_all(chosen)
        return
    if not only_report:
        wrk.find()
        if (busy := os.getloadavg()[0]) > table.BUSY:
            say(f"this machine is busy (load {busy:.1f}): its figures say little")
        files = {name.strip(): highest(folder, name.strip()) for name in names.split(",") if name.strip()}
        with tempfile.TemporaryDirectory() as place:
            sent = photo_files(photos, Path(place))
            for name, model in files.items():
                found[name] = compare(model, folder, chosen, sent, plan, busy)
                file.write_text(json.dumps(found, indent=1) + "\n")
    if not found:
        raise click.ClickException(f"{file} holds no figures")
    plot.draw(found, output / "compare.png")
    text = table.markdown(found, os.path.relpath(output / "compare.png", ROOT))
    print(text)
    if official:
        table.place(README, text)
    say(f"figures and plot: {os.path.relpath(file)}, {os.path.relpath(output / 'compare.png')}")


def install_all(peers: Sequence[Peer]) -> None:
    """Install the environments; exits with 1 where one can't be."""
    failed = False
    for who in peers:
        try:
            say(f"{who.title}: {os.path.relpath(environments.install(who, CACHE / 'environments'))}")
        except Unavailable as error:
            failed = True
            say(f"{who.title}: {error}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
