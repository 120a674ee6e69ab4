"""The comparison in words: a table in Markdown, and its place in a page."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

BEGIN, END = "<!-- compare: make compare -->", "<!-- /compare -->"
BUSY = 0.5  # load average from which on figures say little
WORDS = 40  # characters of an answer to a broken image


def markdown(found: dict[str, Any], plot: str) -> str:
    """One table over all models, the plot, and what has to be known to read them.

    Args:
        found: model → figures, as docs/compare.json holds them.
        plot: the plot's file, as seen from the page.
    """
    counts = sorted({count for each in found.values() for server in each["servers"] for count in server["loads"]}, key=int)
    heads = [f"{count} connection{'s' * (count != '1')}" for count in counts]
    lines = [f"| images/s · p50 / p99 in ms | {' | '.join(heads)} | peak PSS | start | half a JPEG |",
             "|---|" + "---:|" * (len(counts) + 2) + "---|"]
    for model, each in found.items():
        lines.append(f"| **`{model}`** |{' |' * (len(counts) + 3)}")
        lines += [_row(server, counts) for server in each["servers"]]
        top = _number(each["ceiling"]["images_per_s"]["median"])
        lines.append(f"| ceiling: {each['ceiling']['layout']}, batch {each['ceiling']['batch']}, without HTTP "
                     f"|{f' {top} |' * len(counts)} | | |")
    return "\n".join([*lines, "", f"![Images a second and p99 of each server, by connections]({plot})", "", *notes(found)])


def notes(found: dict[str, Any]) -> list[str]:
    """Sentences about machine, rounds, settings and whatever went wrong."""
    lines = []
    for model, each in found.items():
        machine, plan = each["machine"], each["plan"]
        seconds = ", ".join(f"{seconds} s at {count}" for count, seconds in plan["loads"].items())
        lines.append(
            f"`{model}`: {machine['cpus']} cores, {machine['processor']} ({', '.join(machine['features']) or 'no AVX2'}), commit "
            f"{each['commit']}; medians of {plan['rounds']} interleaved rounds ({seconds}), {each['photos']} photos; rates of "
            f"one server differed by up to {_widest(each['servers']):.0%} between rounds.")
        if each["load_before"] > BUSY:
            lines.append(f"**`{model}`: the machine was busy (load {each['load_before']:.1f}); these figures say little.**")
        if each["ceiling"]["fault"]:
            lines.append(f"The ceiling of `{model}` doesn't trust itself: {each['ceiling']['fault']}")
    servers = {server["name"]: server for each in found.values() for server in each["servers"]}
    told = [f"{server['name']} {server['version']}: {server['settings']}; {server['protocol']}"
            for server in servers.values()]
    lines.append(f"Settings: {'. '.join(told)}.")
    for model, each in found.items():
        for server in each["servers"]:
            if server["failure"]:
                lines.append(f"{server['name']} with `{model}`: {server['failure']}")
            if server["agreeing"] not in (None, each["photos"]):
                lines.append(f"{server['name']} with `{model}`: the best class is the expected one on {server['agreeing']} of "
                             f"{each['photos']} photos only.")
            lines += [f"{server['name']} with `{model}`, {count} connections: {load['problem']}"
                      for count, load in server["loads"].items() if load["errors"]]
    return [f"- {line}" for line in lines]


def place(page: Path, text: str) -> None:
    """Put a text between the page's two markers, in place of what is there.

    Raises:
        ClickException: the page hasn't got both markers.
    """
    whole = page.read_text()
    found = re.subn(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", lambda _: f"{text}\n", whole, flags=re.DOTALL)
    if found[1] != 1:
        raise click.ClickException(f"{os.path.relpath(page)} has {found[1]} places for the comparison; expected one, between "
                                   f"{BEGIN} and {END}")
    page.write_text(found[0])


def _row(server: dict[str, Any], counts: Sequence[str]) -> str:
    cells = [_cell(server["loads"].get(count)) for count in counts]
    if server["failure"] and not server["loads"]:
        return f"| {server['name']} | {_escaped(server['failure'])[:120]} |{' |' * (len(counts) + 2)}"
    pss, start, broken = server["peak_pss_mb"]["median"], server["start_s"]["median"], server["broken"]
    return (f"| {server['name']} | {' | '.join(cells)} | {'none' if pss is None else f'{pss:,.0f} MB'} | "
            f"{'none' if start is None else f'{start:.1f} s'} | {_answer(broken) if broken else 'none'} |")


def _cell(load: dict[str, Any] | None) -> str:
    if load is None or load["images_per_s"]["median"] is None:
        return "none"
    rate, p50, p99 = (_number(load[name]["median"]) for name in ("images_per_s", "p50_ms", "p99_ms"))
    wrong = f", {load['errors']:,} failed" if load["errors"] else ""
    return f"**{rate}** · {p50} / {p99}{wrong}"


def _answer(broken: dict[str, Any]) -> str:
    said = _escaped(broken["words"])
    said = said if len(said) <= WORDS else said[:WORDS].rstrip() + "…"
    beside = f"; {broken['harmed']} of {broken['beside']} good ones fail with it" if broken["harmed"] else ""
    return f"{broken['status'] or 'no answer'} “{said}”{beside}"


def _widest(servers: Sequence[dict[str, Any]]) -> float:
    """The largest distance between rounds, as a share of the median."""
    rates = [load["images_per_s"] for server in servers for load in server["loads"].values()]
    return max(((rate["greatest"] - rate["least"]) / rate["median"] for rate in rates if rate["median"]), default=0.0)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
