"""Plots of what `loadtest.bench` and `loadtest.curve` found. matplotlib is loaded when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

STEPS = ("1", "2", "4", "8", "16", "32", "64", "128", "+Inf")  # upper ends of the metric's ranges of batch sizes
LOOK: dict[Any, Any] = {"figure.dpi": 110, "font.size": 9, "axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.3,
                        "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip


def bench(found: dict[str, Any], file: Path) -> None:
    """Throughput against p99 and both ratios, a colour a model; beside them the batch sizes that each load made.

    Args:
        found: as `loadtest.bench` writes it; those rows count whose load is a number of connections.
    Raises:
        ClickException: matplotlib isn't installed.
    """
    plt = pyplot()
    rows = [row for row in found["rows"] if row["load"].isdigit() and row["p99_ms"]["median"] is not None]
    figure, axes = plt.subplot_mosaic([["speed", "batches"], ["ratios", "batches"]], figsize=(13, 9.5), width_ratios=(1.15, 1),
                                      layout="constrained")  # fmt: skip
    speed = axes["speed"]
    colours = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        own = sorted((row for row in rows if row["model"] == model), key=lambda row: int(row["load"]))
        engine = own[0].get("engine")
        line, = speed.plot([row["images_per_s"]["median"] for row in own], [row["p99_ms"]["median"] for row in own], "o-",
                           label=f"{model} ({engine})" if engine else model)
        colours[model] = line.get_color()
        for row in own:
            speed.annotate(row["load"], (row["images_per_s"]["median"], row["p99_ms"]["median"]), xytext=(5, -9),
                           textcoords="offset points", color=line.get_color())
    speed.set(xlabel="images/s", ylabel="p99, ms", yscale="log", title="Throughput against p99, by connections")
    speed.set_xlim(left=0)
    if rows:
        speed.legend()
    _ratios(axes["ratios"], rows, colours)
    _batch_sizes(plt, axes["batches"], rows)
    figure.savefig(file)
    plt.close(figure)


def curve(points: Sequence[dict[str, Any]], knee: float | None, file: Path) -> None:
    """Percentiles of latency against the rate of Poisson arrivals.

    Args:
        points: as `loadtest.curve` writes them.
        knee: the highest rate before the bend; None where none was found.
    Raises:
        ClickException: matplotlib isn't installed.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in ("p50", "p95", "p99"):
        drawn = [point for point in points if point[f"{name}_ms"] is not None]
        axes.plot([point["rate"] for point in drawn], [point[f"{name}_ms"] for point in drawn], "o-", label=name)
    failed = [point for point in points if point["failed"] and point["p99_ms"] is not None]
    if failed:
        axes.plot([point["rate"] for point in failed], [point["p99_ms"] for point in failed], "x", color="black", markersize=10,
                  label="with failures")
    if knee is not None:
        axes.axvline(knee, color="grey", linestyle="--", label=f"knee: {knee:g} a second")
    axes.set(xlabel="arrivals a second (Poisson)", ylabel="latency, ms", yscale="log", title="Latency against arrival rate")
    axes.legend()
    figure.savefig(file)
    plt.close(figure)


def _ratios(axes: Any, rows: Sequence[dict[str, Any]], colours: dict[str, Any]) -> None:
    """A group of bars for each number of connections: filled to the best ceiling, outlined to the CPU provider's."""
    loads = sorted({row["load"] for row in rows}, key=int)
    width = 0.8 / max(1, len(colours))
    for row in rows:
        ratio, own = (row["measures"][name]["median"] for name in ("ratio", "cpu ratio"))
        if ratio is None or own is None:
            continue
        place = loads.index(row["load"]) + ([*colours].index(row["model"]) - (len(colours) - 1) / 2) * width
        axes.bar(place, ratio, 0.85 * width, color=colours[row["model"]])
        axes.bar(place, own, 0.85 * width, fill=False, edgecolor=colours[row["model"]], linewidth=1.5)
        axes.annotate(f"{ratio:.2f}" if round(ratio, 2) == round(own, 2) else f"{ratio:.2f}\n({own:.2f})",
                      (place, max(ratio, own)), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(loads)), loads)
    axes.margins(y=0.12)
    axes.set(xlabel="connections", ylabel="images/s ÷ images/s without HTTP",
             title="Beside the best ceiling (outlines and brackets: the CPU provider's)")  # fmt: skip


def _batch_sizes(plt: Any, axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """A bar a load: which share of the engine's runs had how many pictures."""
    colours, used = plt.get_cmap("viridis"), set()
    names = [f"{row['model']}, {row['load']}" for row in rows]
    for place, row in enumerate(rows):
        total, left = sum(row["batch_sizes"].values()), 0.0
        for number, step in enumerate(STEPS):
            share = row["batch_sizes"].get(step, 0) / total if total else 0.0
            if share:
                label = None if step in used else _range(number)
                axes.barh(place, share, left=left, color=colours(number / (len(STEPS) - 1)), label=label, height=0.8)
                used.add(step)
            left += share
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="share of the engine's runs", title="Pictures in a run (model, connections)", xlim=(0, 1))
    if used:
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda each: int(labels[each].split("–")[0].rstrip("+")))
        axes.legend([handles[each] for each in order], [labels[each] for each in order], ncols=len(used), loc="upper center",
                    bbox_to_anchor=(0.5, -0.055), fontsize=8, frameon=False)


def _range(number: int) -> str:
    """`5–8`, of the range that ends with 8."""
    below = 0 if number == 0 else int(STEPS[number - 1])
    if STEPS[number] == "+Inf":
        return f"{below + 1}+"
    return STEPS[number] if int(STEPS[number]) == below + 1 else f"{below + 1}–{STEPS[number]}"


def pyplot() -> Any:
    """matplotlib's pyplot in the look of all plots, drawing into files.

    Raises:
        ClickException: matplotlib isn't installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise click.ClickException(
            "matplotlib is not installed, so there is no plot; expected the export environment (make export)") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(LOOK)
    return plt
