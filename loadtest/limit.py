"""The ceiling: how many photos a second this machine classifies without HTTP, from the same bytes to the same five classes.

    python -m loadtest.limit --model models/alexnet64-tiny-imagenet/4/model.onnx

The best of a sweep over batches of 4 to 32, the four layouts of `loadtest.layouts` and the engines that the model's recipe
allows (`loadtest.engines`), with exact and with scaled decoding (`loadtest.inprocess`, which also says where mean and scale
are applied); threads that spin are tried where a run has several. Beside it stands the CPU provider's own ceiling. The best of
each decoding are then measured again, in turns with decoding alone and the model alone. Fails if the best stays below
0.9 / (1/decode + 1/model), since a slow denominator flatters, or if a layout gives a photo another answer than it gets alone.
Nothing of service/ or export/ is in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import onnxruntime
import PIL

from loadtest.cpus import usable_cpus
from loadtest.default import default_model
from loadtest.engines import Engine, Offer
from loadtest.inprocess import DECODINGS, Answer, best
from loadtest.layouts import LAYOUTS
from loadtest.machine import Machine
from loadtest.pictures import pictures
from loadtest.sweep import BATCHES, PART_S, Cell, Choice, Sweep

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MOST_PHOTOS = 256  # each cell classifies each of them
MODELS = Path("models")
PROVIDERS, PRECISIONS = ("cpu", "openvino"), ("fp32", "bf16", "fp16", "int8")


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


def figures(sweep: Sweep) -> dict[str, Any]:
    """All that was measured, photos a second; of spinning or not the quicker."""
    rates, choice = sweep.rates, sweep.choice
    found: dict[str, Any] = {
        "decode_per_s": dict.fromkeys(DECODINGS), "model_per_s": {}, "layouts": [], "floor": dict.fromkeys(DECODINGS),
        **dict.fromkeys(DECODINGS), "cpu_provider": {"floor": dict.fromkeys(DECODINGS), **dict.fromkeys(DECODINGS)},
        "whole": choice.whole, "left_out": sweep.left_out,
    }
    for engine in choice.engines:
        own = [cell for cell in rates if (cell.part, cell.engine) == ("model", engine)]
        some = {cell.batch: cell for cell in sorted(own, key=rates.__getitem__)}  # the quickest comes last and stays
        if some:
            found["model_per_s"][str(engine)] = {str(batch): rates[some[batch]] for batch in sorted(some)}
    for decoding in choice.decodings:
        if cell := sweep.best("decode", decoding=decoding):
            found["decode_per_s"][decoding] = rates[cell]
        best = {cell[1:4] + cell[5:]: cell for cell in sorted(rates, key=rates.__getitem__)
                if (cell.part, cell.decoding) == ("all", decoding)}  # fmt: skip
        found["layouts"] += [_row(cell, rates) for cell in sorted(best.values())]
        for place, wanted in ((found, {}), (found["cpu_provider"], {"engine": choice.engines[0]})):
            if not wanted or choice.engines[0].provider == "cpu":
                place["floor"][decoding] = sweep.floor(decoding, **wanted)
                if cell := sweep.best("all", decoding=decoding, **wanted):
                    place[decoding] = _row(cell, rates)
    return found


def alone(machine: Machine, engines: Sequence[Engine], spinning: Sequence[bool], seconds: float) -> dict[str, float]:
    """Milliseconds of one picture, by engine; of spinning or not the quicker."""
    return {str(engine): min(machine.one_picture_ms(engine, spins, seconds)
                             for spins in (spinning if engine.provider == "cpu" else (False,)))
            for engine in engines}  # fmt: skip


def report(found: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{found['model']}: {found['photos']} photos, {found['cpus']} CPUs, onnxruntime {found['onnxruntime']}, "
             f"Pillow {found['pillow']}; all in photos a second"]
    lines += [f"not used: {reason}" for reason in found["left_out"]]
    decode = [f"{name} {_number(rate)}" for name, rate in found["decode_per_s"].items() if rate]
    if decode:
        lines.append(f"decoding alone, all cores: {', '.join(decode)}")
    for engine, rates in found["model_per_s"].items():
        model = [f"{_number(rate)} (batch {batch})" for batch, rate in rates.items()]
        lines.append(f"model alone, all cores, {engine}: {', '.join(model)}")
    for decoding in [name for name in DECODINGS if found[name]]:
        rows = [row for row in found["layouts"] if row["decoding"] == decoding]
        batches = sorted({row["batch"] for row in rows})
        lines.append(f"\n{decoding + ', batch of':36}" + "".join(f"{batch:>10}" for batch in batches))
        for layout, engine in dict.fromkeys((row["layout"], _engine(row)) for row in rows):
            rates = {row["batch"]: row["images_per_s"] for row in rows if (row["layout"], _engine(row)) == (layout, engine)}
            lines.append(f"{f'{layout} ({engine})':36}" + "".join(f"{_number(rates[batch]):>10}" for batch in batches))
        lines.append(_best("best", found, decoding))
        own = found["cpu_provider"]
        if own[decoding] and own[decoding] != found[decoding]:
            lines.append(_best("best of the CPU provider", own, decoding))
    if found["one_picture"]:
        each = [f"{ms:.2f} ms ({engine})" for engine, ms in found["one_picture"].items()]
        lines.append(f"\none picture alone, all cores: {', '.join(each)}")
    return "\n".join(lines)


def check(found: dict[str, Any]) -> None:
    """A whole sweep must find what decoding and model one after the other would give, nearly; the CPU provider's too.

    Raises:
        ClickException: it didn't.
    """
    for some in (found, found["cpu_provider"]) if found["whole"] else ():
        for decoding in DECODINGS:
            top, least = some[decoding], some["floor"][decoding]
            if top and top["images_per_s"] < least:
                raise click.ClickException(
                    f"with {decoding} decoding the best is {_number(top['images_per_s'])} photos a second ({_cell(top)}); "
                    f"expected at least {_number(least)}, 0.9 / (1/decode + 1/model): it is no ceiling, or the machine is busy")


def wanted(offered: Offer, provider: str | None, precision: str | None) -> list[Engine]:
    """Those of the engines on offer that an option names.

    Raises:
        ClickException: none is; says why.
    """
    found = [each for each in offered.engines if provider in (None, each.provider) and precision in (None, each.precision)]
    if not found:
        asked = ", ".join(each for each in (provider, precision) if each)
        raise click.ClickException(f"{asked} was asked for; here the model may run in {' or '.join(map(str, offered.engines))}"
                                   + "".join(f"; {reason}" for reason in offered.left_out))
    return found


def top5(sweep: Sweep) -> dict[str, Any]:
    """The five best classes of each photo, alone by each decoding and in each cell."""
    return {
        "alone": {decoding: _answers(best(sweep.reference[sweep.choice.engines[0], decoding]))
                  for decoding in sweep.choice.decodings},
        "cells": [{**cell._asdict(), "engine": cell.engine._asdict(), "top5": _answers(answers)}
                  for cell, answers in sweep.answers.items()],
    }


def _answers(answers: list[Answer]) -> list[dict[str, Any]]:
    return [answer._asdict() for answer in answers]


def _row(cell: Cell, rates: dict[Cell, float]) -> dict[str, Any]:
    return {"images_per_s": rates[cell], "layout": cell.layout, "batch": cell.batch, "spinning": cell.spinning,
            "decoding": cell.decoding, **cell.engine._asdict()}


def _engine(row: dict[str, Any]) -> str:
    return str(Engine(row["provider"], row["precision"]))


def _cell(row: dict[str, Any]) -> str:
    return f"{row['layout']}, batch {row['batch']}{', spinning' if row['spinning'] else ''}, {_engine(row)}"


def _best(words: str, found: dict[str, Any], decoding: str) -> str:
    least = found["floor"][decoding]
    floor = f"; 0.9 / (1/decode + 1/model) is {_number(least)}" if least else ""
    return f"{words}: {_number(found[decoding]['images_per_s'])} ({_cell(found[decoding])}){floor}"


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.1f}"


def _writable(_: click.Context, __: click.Parameter, file: Path | None) -> Path | None:
    if file and not file.absolute().parent.is_dir():  # told now, not behind minutes of measuring
        raise click.BadParameter(f"there is no folder {file.parent}")
    return file


FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--model", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="ONNX file with a quadrant.recipe.  [default: the one that models/default names]")
@click.option("--photos", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help=f"Folder; up to {MOST_PHOTOS} count.  [default: LOADTEST_PICTURES, ../shared/data/photos, or drawn]")
@click.option("--seconds", default=1.5, show_default=True, type=click.FloatRange(0, 600),
              help=f"Of each cell; of decoding, model and one picture alone at most {PART_S:g}.")
@click.option("--layout", type=click.Choice(LAYOUTS), help="Only this one.")
@click.option("--batch", type=click.IntRange(1, 1024),
              help=f"Only this one, of any size.  [default: {', '.join(map(str, BATCHES))}]")
@click.option("--decoding", type=click.Choice(DECODINGS), help="Only this one.")
@click.option("--spinning/--no-spinning", default=None, help="Only so.  [default: both, the quicker counts]")
@click.option("--provider", type=click.Choice(PROVIDERS), help="Only this one.  [default: all that the recipe allows here]")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Only this one.")
@click.option("--parts/--no-parts", default=True, show_default=True,
              help="Decoding alone and the model alone; a whole sweep always measures them.")
@click.option("--alone/--no-alone", "lone", default=True, show_default=True,
              help="One picture alone, by each engine that the recipe allows here.")
@click.option("--json", "output", type=FILE, callback=_writable, help="Write all figures there.")
@click.option("--answers", type=FILE, callback=_writable, help="Write each photo's five best classes there.")
def main(
    file: Path | None, folder: Path | None, seconds: float, layout: str | None, batch: int | None, decoding: str | None,
    spinning: bool | None, provider: str | None, precision: str | None, parts: bool, lone: bool, output: Path | None,
    answers: Path | None,
) -> None:
    """Measure what this machine can do without HTTP; with --layout and --batch one cell of it."""
    cpus, file, found = usable_cpus(), file or default_model(MODELS), photos(folder)
    spins = (False,) if cpus == 1 else (False, True)
    with Machine(file, found, cpus) as machine:
        offered = machine.offer()
        choice = Choice(wanted(offered, provider, precision), [layout] if layout else LAYOUTS, [batch] if batch else BATCHES,
                        [decoding] if decoding else DECODINGS, spins if spinning is None else (spinning,), parts)
        sweep = Sweep(machine, choice, seconds)
        sweep.run()
        one = alone(machine, offered.engines, spins, min(seconds, PART_S)) if lone else {}
        name = machine.model().recipe.name
    measured = {"model": name, "photos": len(found), "cpus": cpus, "seconds": seconds, "onnxruntime": onnxruntime.__version__,
                "pillow": PIL.__version__, **figures(sweep), "one_picture": one}
    measured["left_out"] = [*offered.left_out, *sweep.left_out]
    if answers:
        answers.write_text(json.dumps(top5(sweep)) + "\n")
    if output:
        output.write_text(json.dumps(measured, indent=1) + "\n")
    click.echo(report(measured))
    check(measured)


if __name__ == "__main__":
    main()
