"""From what `loadtest.bench` measured to rows, medians and the table: arithmetic and words, no measuring."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from loadtest import serving, targets
from loadtest.wrk import Load

FULL_QUEUE = 256  # connections, as many as the queue holds


class Run(NamedTuple):
    """One load and what stood next to it.

    Attributes:
        load: what wrk saw.
        ceiling: images/s without HTTP, by the best engine.
        cpu_ceiling: by the CPU provider.
        one_picture_ms: in process, all cores; None where it isn't known.
        batch_sizes: engine runs by the pictures in them.
    """

    load: Load
    ceiling: float
    cpu_ceiling: float
    one_picture_ms: float | None
    batch_sizes: dict[str, int]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least, greatest and all of them; no medians where one isn't a number (None in the list)."""
    rounds = [round(value, 4) if math.isfinite(value) else None for value in values]
    good = [value for value in rounds if value is not None]
    if not good or len(good) < len(rounds):
        return {"median": None, "least": None, "greatest": None, "rounds": rounds}
    return {"median": round(statistics.median(good), 4), "least": min(good), "greatest": max(good), "rounds": rounds}


def load_row(model: str, load: str, connections: int, runs: Sequence[Run]) -> dict[str, Any]:
    """A row of the table from the rounds of one load; every ratio is paired within its round."""
    measures = {}
    if connections == 1:
        measures["alone"] = [run.load.p50_ms / (run.one_picture_ms or math.nan) for run in runs]
    measures["ratio"] = [run.load.images_per_s / run.ceiling for run in runs]
    measures["cpu ratio"] = [run.load.images_per_s / run.cpu_ceiling for run in runs]
    if connections == FULL_QUEUE:
        fair_ms = [1000 * connections / run.load.images_per_s if run.load.images_per_s else math.nan for run in runs]
        measures["tail"] = [run.load.p99_ms / each for run, each in zip(runs, fair_ms, strict=True)]
    return {
        **plain_row(model, load, measures),
        "connections": connections,
        "images_per_s": spread([run.load.images_per_s for run in runs]),
        "ceiling_images_per_s": spread([run.ceiling for run in runs]),
        "cpu_ceiling_images_per_s": spread([run.cpu_ceiling for run in runs]),
        "p50_ms": spread([run.load.p50_ms for run in runs]),
        "p99_ms": spread([run.load.p99_ms for run in runs]),
        "requests": sum(run.load.requests for run in runs),
        "errors": sum(run.load.errors for run in runs),
        "problem": next((run.load.problem for run in runs if run.load.problem), None),
        "wrk_cpu_share": spread([run.load.cpu_share for run in runs]),
        "batch_sizes": serving.summed([run.batch_sizes for run in runs]),
    }


def plain_row(model: str, load: str, measures: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A row of figures that no load belongs to."""
    return {"model": model, "load": load, "measures": {name: spread(values) for name, values in measures.items()}}


def figures(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], float]:
    """What is held against the targets: the medians, and all errors together."""
    found = {}
    for row in rows:
        for name, values in row["measures"].items():
            found[row["model"], row["load"], name] = math.nan if values["median"] is None else values["median"]
        if "errors" in row:
            found[row["model"], row["load"], "errors"] = float(row["errors"])
    return found


def table(rows: Sequence[dict[str, Any]], kind: str) -> str:
    """Markdown: a line for each figure that has a target, and one at least for each row; both ratios beside each load."""
    heads = ["model", "runs in", "load", "images/s", "p50", "p99", "errors", "÷ ceiling", "÷ CPU's", "measure", "value", "must",
             "aim", ""]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        promised = [name for name in row["measures"] if targets.of(kind, row["model"], row["load"], name)]
        head = [row["model"], row.get("engine") or "", row["load"], *_seen(row)]
        for name in promised or [*row["measures"]][:1]:
            # A ratio that nothing was promised about already stands in its own column.
            cells = ["", "", "", "", ""] if not promised and "ratio" in row["measures"] else _measured(row, name, kind)
            lines.append(f"| {' | '.join([*head, *cells])} |")
            head = [*head[:3], "", "", "", "", "", ""]
    return "\n".join(lines)


def text(found: dict[str, Any]) -> str:
    """The table and what has to be known to read it."""
    machine, plan = found["machine"], found["plan"]
    shares = [(row["wrk_cpu_share"]["greatest"], row) for row in found["rows"] if "wrk_cpu_share" in row]
    lines = [
        table(found["rows"], machine["kind"]), "", machine_words(machine),
        f"load {found['load_before']:.1f} before; commit {found['commit']}; medians (least–greatest), rounds: "
        f"{plan['rounds']}, of {plan['load_s']} s; {found['photos']} photos; ratios are paired in a round; "
        f"{'the planned configuration' if not found['settings'] else found['settings']}",
    ]
    if shares:
        share, row = max(shares, key=lambda each: each[0])
        lines.append(f"wrk itself took at most {share:.1%} of the cores' time ({row['model']}, {row['load']})")
    for name, each in found["ceilings"].items():
        own = each["cpu_provider"]["exact"]
        lines.append(f"ceiling of {name}: {_ceiling(each['exact'])}"
                     + (f"; the CPU provider's: {_ceiling(own)}" if own and own != each["exact"] else ""))
        lines += [f"  not used: {reason}" for reason in each["left_out"]]
    lines += [f"{row['model']}, {row['load']}: {row['problem']}" for row in found["rows"] if row.get("problem")]
    return "\n".join(lines)


def machine_words(machine: dict[str, Any]) -> str:
    """Which machine this is, and whose targets hold for it."""
    reason = f": {machine['reason']}" if machine["reason"] else ""
    features = f" ({', '.join(machine['features'])})" if machine["features"] else ""
    return (f"{machine['processor']}, {machine['cpus']} cores, {machine['sort']}{features}; the targets are those of a machine "
            f"{machine['kind']}{reason}")


def _ceiling(row: dict[str, Any]) -> str:
    return (f"{row['images_per_s']:.1f} images/s ({row['layout']}, batch {row['batch']}, {row['provider']} in "
            f"{row['precision']})")


def _seen(row: dict[str, Any]) -> list[str]:
    if "images_per_s" not in row:
        return [""] * 6
    ratios = [_middle(row["measures"][name], "{:.2f}") for name in ("ratio", "cpu ratio")]
    return [_words(row["images_per_s"], "{:,.1f}"), _middle(row["p50_ms"], "{:,.1f} ms"), _middle(row["p99_ms"], "{:,.1f} ms"),
            f"{row['errors']:,}", *ratios]


def _measured(row: dict[str, Any], name: str, kind: str) -> list[str]:
    measure, values = targets.MEASURES[name], row["measures"][name]
    target = targets.of(kind, row["model"], row["load"], name)
    cells = [measure.words, _words(values, measure.form)]
    if target is None:
        return [*cells, "", "", ""]
    value = math.nan if values["median"] is None else values["median"]
    verdict = "met" if target.met(value) else "missed"
    if target.aim is not None and target.reached(value, target.aim):
        verdict = "aim reached"
    aim = "" if target.aim is None else measure.form.format(target.aim)
    return [*cells, measure.form.format(target.must), aim, verdict]


def _words(values: dict[str, Any], form: str) -> str:
    """Median, and the spread where there are several rounds."""
    if values["median"] is None or len(values["rounds"]) < 2:
        return _middle(values, form)
    return f"{form.format(values['median'])} ({form.format(values['least'])}–{form.format(values['greatest'])})"


def _middle(values: dict[str, Any], form: str) -> str:
    return "none" if values["median"] is None else form.format(values["median"])
