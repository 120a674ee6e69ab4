"""What a training run shows: a progress bar, a CSV, a plot."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """A bar an epoch on a terminal; a line an epoch in a log file."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    def epoch(self, number: int, of: int, size: int, pictures: int) -> TaskID:
        """Begin the bar of one epoch."""
        return self._bars.add_task(f"epoch {number}/{of}, {size} px", total=pictures, loss=0.0, top1=0.0, rate=0.0)

    def step(self, task: TaskID, seen: int, loss: float, top1: float) -> None:
        """Show where the epoch stands."""
        elapsed = self._bars.tasks[task].elapsed or 0.0
        self._bars.update(task, completed=seen, loss=loss, top1=top1, rate=seen / elapsed if elapsed else 0.0)

    def say(self, row: dict[str, float]) -> None:
        """A line that stays."""
        self._bars.console.print(" ".join(f"{key}={value}" for key, value in row.items()), highlight=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars on standard error; none where that is not a terminal."""
    columns = (
        TextColumn("{task.description}"), BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  top-1 {task.fields[top1]:.1%}  {task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True, width=None if sys.stderr.isatty() else 200)) as bars:
        for_log = not sys.stderr.isatty()
        bars.disable = for_log
        yield Progress(bars)


def write(rows: list[dict[str, float]], folder: Path) -> None:
    """`epochs.csv` and `curve.png` of the epochs so far."""
    csv_part, png_part = folder / "epochs.part", folder / "curve.part"
    with csv_part.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    csv_part.replace(folder / "epochs.csv")
    import matplotlib  # takes a second; only a run that has something to plot pays

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    for key, name in (("kept_back_top5", "top-5, kept back"), ("kept_back_top1", "top-1, kept back"),
                      ("train_top1", "top-1, training (cropped, dropout)")):
        axes.plot(epochs, [100 * row[key] for row in rows], marker="o", markersize=4, label=name)
    changes = [row["epoch"] for before, row in pairwise(rows) if row["pixels"] != before["pixels"]]
    for epoch in changes:
        axes.axvline(epoch - 0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="epoch (dotted: larger pictures)", ylabel="accuracy, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(png_part, dpi=120, format="png")
    pyplot.close(figure)
    png_part.replace(folder / "curve.png")
