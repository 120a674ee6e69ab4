"""The ceiling: how many photos a second this machine classifies without HTTP, from the same bytes to the same five classes.

    python -m loadtest.limit --model models/alexnet64-tiny-imagenet/4/model.onnx

The best of a sweep over batches of 4 to 32 and the four layouts of `loadtest.layouts`, with exact and with scaled decoding
(`loadtest.inprocess`, which also says where mean and scale are applied); threads that spin are tried where a run has several.
The best of each decoding are then measured again, in turns with decoding alone and the model alone. Fails if the best stays
below 0.9 / (1/decode + 1/model), since a slow denominator flatters, or if a layout gives a photo another answer than it gets
alone. Nothing of service/ or export/ is in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import onnxruntime
import PIL

from loadtest.cpus import usable_cpus
from loadtest.inprocess import DECODINGS, Answer, best
from loadtest.layouts import LAYOUTS
from loadtest.machine import Machine
from loadtest.pictures import pictures
from loadtest.sweep import BATCHES, PART_S, Cell, Choice, Sweep

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MOST_PHOTOS = 256  # each cell classifies each of them
MODELS = Path("models")


def photos(folder: Path | None) -> list[bytes]:
    """Encoded photos of a folder, by name; those that `loadtest.pictures` finds or draws if None.

    Raises:
        ClickException: the folder holds none.
    """
    if folder is None:
        try:
            return pictures()[:MOST_PHOTOS]
        except FileNotFoundError as error:
            raise click.ClickException(str(error)) from error
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise click.ClickException(f"{folder} holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    return [file.read_bytes() for file in files[:MOST_PHOTOS]]


def default_model(folder: Path = MODELS) -> Path:
    """The highest version of the first model that is no -int8.

    Raises:
        ClickException: there is none.
    """
    files = [file for file in folder.glob("*/*/model.onnx") if file.parent.name.isdigit()]
    if not files:
        raise click.ClickException(f"{folder} holds no NAME/VERSION/model.onnx: name one with --model")
    return min(files, key=lambda file: (file.parts[-3].endswith("-int8"), file.parts[-3], -int(file.parts[-2])))


def figures(sweep: Sweep) -> dict[str, Any]:
    """All that was measured, photos a second; of spinning or not the quicker."""
    rates, choice = sweep.rates, sweep.choice
    found: dict[str, Any] = {
        "decode_per_s": dict.fromkeys(DECODINGS), "model_per_s": {}, "layouts": [], "floor": dict.fromkeys(DECODINGS),
        **dict.fromkeys(DECODINGS), "whole": choice.whole,
    }
    for batch in choice.batches:
        found["model_per_s"][str(batch)] = max(rates[cell] for cell in rates if (cell.part, cell.batch) == ("model", batch))
    for decoding in choice.decodings:
        found["decode_per_s"][decoding] = rates[sweep.best("decode", decoding=decoding)]
        found["floor"][decoding] = sweep.floor(decoding)
        for layout in choice.layouts:
            for batch in choice.batches:
                some = [cell for cell in rates if cell[:4] == ("all", layout, batch, decoding)]
                found["layouts"].append(_row(max(some, key=rates.__getitem__), rates))
        found[decoding] = _row(sweep.best("all", decoding=decoding), rates)
    return found


def report(found: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{found['model']}: {found['photos']} photos, {found['cpus']} CPUs, onnxruntime {found['onnxruntime']}, "
             f"Pillow {found['pillow']}; all in photos a second"]
    decode = [f"{name} {_number(rate)}" for name, rate in found["decode_per_s"].items() if rate]
    lines.append(f"decoding alone, all cores: {', '.join(decode)}")
    model = [f"{_number(rate)} (batch {batch})" for batch, rate in found["model_per_s"].items()]
    lines.append(f"model alone, all cores: {', '.join(model)}")
    for decoding in [name for name in DECODINGS if found[name]]:
        rows = [row for row in found["layouts"] if row["decoding"] == decoding]
        batches = sorted({row["batch"] for row in rows})
        lines.append(f"\n{decoding + ', batch of':20}" + "".join(f"{batch:>10}" for batch in batches))
        for layout in dict.fromkeys(row["layout"] for row in rows):
            rates = {row["batch"]: row["images_per_s"] for row in rows if row["layout"] == layout}
            lines.append(f"{layout:20}" + "".join(f"{_number(rates[batch]):>10}" for batch in batches))
        top, least = found[decoding], found["floor"][decoding]
        spun = ", spinning" if top["spinning"] else ""
        lines.append(f"best: {_number(top['images_per_s'])} ({top['layout']}, batch {top['batch']}{spun}); "
                     f"0.9 / (1/decode + 1/model) is {_number(least)}")
    lines.append(f"\none picture alone, all cores: {found['one_picture_ms']:.2f} ms")
    return "\n".join(lines)


def check(found: dict[str, Any]) -> None:
    """A whole sweep must find what decoding and model one after the other would give, nearly.

    Raises:
        ClickException: it didn't.
    """
    for decoding in DECODINGS if found["whole"] else ():
        top, least = found[decoding], found["floor"][decoding]
        if top and top["images_per_s"] < least:
            raise click.ClickException(
                f"with {decoding} decoding the best is {_number(top['images_per_s'])} photos a second ({top['layout']}, batch "
                f"{top['batch']}); expected at least {_number(least)}, 0.9 / (1/decode + 1/model): it is no ceiling, or the "
                "machine is busy")


def top5(sweep: Sweep) -> dict[str, Any]:
    """The five best classes of each photo, alone by each decoding and in each cell."""
    return {
        "alone": {decoding: _answers(best(found)) for decoding, found in sweep.reference.items()},
        "cells": [{**cell._asdict(), "top5": _answers(answers)} for cell, answers in sweep.answers.items()],
    }


def _answers(answers: list[Answer]) -> list[dict[str, Any]]:
    return [answer._asdict() for answer in answers]


def _row(cell: Cell, rates: dict[Cell, float]) -> dict[str, Any]:
    return {"images_per_s": rates[cell], "layout": cell.layout, "batch": cell.batch, "spinning": cell.spinning,
            "decoding": cell.decoding}


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.1f}"


def _writable(_: click.Context, __: click.Parameter, file: Path | None) -> Path | None:
    if file and not file.absolute().parent.is_dir():  # told now, not behind minutes of measuring
        raise click.BadParameter(f"there is no folder {file.parent}")
    return file


FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--model", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="ONNX file with a quadrant.recipe.  [default: of models/, the first that is no -int8]")
@click.option("--photos", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help=f"Folder; up to {MOST_PHOTOS} count.  [default: LOADTEST_PICTURES, ../shared/data/photos, or drawn]")
@click.option("--seconds", default=1.5, show_default=True, type=click.FloatRange(0, 600),
              help=f"Of each cell; of decoding, model and one picture alone at most {PART_S:g}.")
@click.option("--layout", type=click.Choice(LAYOUTS), help="Only this one.")
@click.option("--batch", type=click.IntRange(1, 1024),
              help=f"Only this one, of any size.  [default: {', '.join(map(str, BATCHES))}]")
@click.option("--decoding", type=click.Choice(DECODINGS), help="Only this one.")
@click.option("--spinning/--no-spinning", default=None, help="Only so.  [default: both, the quicker counts]")
@click.option("--json", "output", type=FILE, callback=_writable, help="Write all figures there.")
@click.option("--answers", type=FILE, callback=_writable, help="Write each photo's five best classes there.")
def main(
    file: Path | None, folder: Path | None, seconds: float, layout: str | None, batch: int | None, decoding: str | None,
    spinning: bool | None, output: Path | None, answers: Path | None,
) -> None:
    """Measure what this machine can do without HTTP; with --layout and --batch one cell of it."""
    cpus, file, found = usable_cpus(), file or default_model(), photos(folder)
    spins = (False,) if cpus == 1 else (False, True) if spinning is None else (spinning,)
    choice = Choice([layout] if layout else LAYOUTS, [batch] if batch else BATCHES, [decoding] if decoding else DECODINGS,
                    spins)
    with Machine(file, found, cpus) as machine:
        sweep = Sweep(machine, choice, seconds)
        sweep.run()
        one_ms = min(machine.one_picture_ms(spinning, min(seconds, PART_S)) for spinning in spins)
        name = machine.model().recipe.name
    measured = {"model": name, "photos": len(found), "cpus": cpus, "seconds": seconds, "onnxruntime": onnxruntime.__version__,
                "pillow": PIL.__version__, **figures(sweep), "one_picture_ms": one_ms}
    if answers:
        answers.write_text(json.dumps(top5(sweep)) + "\n")
    if output:
        output.write_text(json.dumps(measured, indent=1) + "\n")
    click.echo(report(measured))
    check(measured)


if __name__ == "__main__":
    main()
