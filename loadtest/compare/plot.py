"""The comparison drawn: a column a model; images a second above, p99 below, by connections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.plot import pyplot

OURS, CEILING, INK = "#d1495b", "#8d99ae", "#2b2d42"
PEERS = ("#00798c", "#edae49", "#30638e", "#7a9e3f", "#8e6c8a")
GAP = 0.055  # of the height of an axis, between two names


def draw(found: dict[str, Any], file: Path) -> None:
    """Write the plot.

    Args:
        found: model → figures, as docs/compare.json holds them.
    Raises:
        ClickException: matplotlib isn't installed.
    """
    plt = pyplot()
    names = list(dict.fromkeys(server["name"] for each in found.values() for server in each["servers"]))
    colours = dict(zip(names, (OURS, *PEERS * len(names)), strict=False))
    figure, grid = plt.subplots(2, len(found), figsize=(1.2 + 5.2 * len(found), 7.2), squeeze=False, sharex="col",
                                height_ratios=(1.25, 1), layout="constrained")
    for column, (model, each) in enumerate(found.items()):
        above, below = grid[0][column], grid[1][column]
        counts = sorted({count for server in each["servers"] for count in server["loads"]}, key=int)
        _lines(above, each["servers"], counts, "images_per_s", colours)
        top = each["ceiling"]["images_per_s"]["median"]
        above.axhline(top, color=CEILING, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
        above.set_ylim(bottom=0, top=1.08 * max([top, *_values(each["servers"], "images_per_s")]))
        above.set_title(model, loc="left", fontweight="bold", color=INK)
        below.set_yscale("log")
        below.yaxis.set_major_formatter("{x:,g}")
        _lines(below, each["servers"], counts, "p99_ms", colours)
        below.set_xticks(range(len(counts)), counts)
        below.set_xlabel("connections")
        if column == 0:
            above.set_ylabel("images/s")
            below.set_ylabel("p99, ms")
        for axis in (above, below):
            axis.set_xlim(-0.15, len(counts) - 0.85)
            axis.grid(axis="x", visible=False)
            axis.tick_params(length=0, which="both", colors=INK)
            axis.spines["left"].set_visible(False)
    figure.draw_without_rendering()  # settles the axes, so that names can be kept apart
    for axis, each in zip(grid[0], found.values(), strict=True):
        _names(axis, each["servers"], each["ceiling"]["images_per_s"]["median"], colours)
    figure.savefig(file, dpi=140)
    plt.close(figure)


def apart(places: Sequence[float], gap: float) -> list[float]:
    """The places moved as little as it takes to keep them `gap` apart, in the same order.

    Args:
        places: in any order.
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = [places[index] for index in order]
    for _ in range(200):
        pushed = False
        for low in range(len(moved) - 1):
            lack = gap - (moved[low + 1] - moved[low])
            if lack > 1e-9:
                moved[low] -= lack / 2
                moved[low + 1] += lack / 2
                pushed = True
        if not pushed:
            break
    found = [0.0] * len(places)
    for index, value in zip(order, moved, strict=True):
        found[index] = value
    return found


def _lines(axis: Any, servers: Sequence[dict[str, Any]], counts: Sequence[str], measure: str, colours: dict[str, str]) -> None:
    """A line a server, with a bar from the worst to the best round."""
    for place, server in reversed([*enumerate(servers)]):  # ours on top
        drawn = [(counts.index(count), load[measure]) for count, load in server["loads"].items()
                 if load[measure]["median"] is not None]
        x, middle = [where for where, _ in drawn], [each["median"] for _, each in drawn]
        spread = [[each["median"] - each["least"] for _, each in drawn], [each["greatest"] - each["median"] for _, each in drawn]]
        axis.errorbar(x, middle, yerr=spread, color=colours[server["name"]], marker="o", markersize=6 if place == 0 else 4,
                      linewidth=2.6 if place == 0 else 1.5, capsize=2, elinewidth=1, zorder=4 if place == 0 else 3)


def _names(axis: Any, servers: Sequence[dict[str, Any]], ceiling: float, colours: dict[str, str]) -> None:
    """Each server's name behind the end of its line, none over another; the same colours hold below."""
    ends = [("without HTTP", CEILING, "normal", ceiling)]
    for place, server in enumerate(servers):
        drawn = [(int(count), load["images_per_s"]["median"]) for count, load in server["loads"].items()
                 if load["images_per_s"]["median"] is not None]
        if drawn:
            ends.append((server["name"], colours[server["name"]], "normal" if place else "bold", max(drawn)[1]))
    top = axis.get_ylim()[1]
    places = apart([value / top for *_, value in ends], GAP)
    for (name, colour, weight, _), share in zip(ends, places, strict=True):
        axis.annotate(name, (1.02, share), xycoords="axes fraction", color=colour, va="center", fontsize=9, fontweight=weight,
                      annotation_clip=False)


def _values(servers: Sequence[dict[str, Any]], measure: str) -> list[float]:
    return [load[measure]["greatest"] or 0.0 for server in servers for load in server["loads"].values()]
