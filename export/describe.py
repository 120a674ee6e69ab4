"""A model in words and as a layer table, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from rich import box
from rich.console import Console, Group
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from export import calibration, graph, layers
from service import recipe as recipes
from service.problems import StartError
from service.recipe import Golden, Label, Layer, Recipe

WIDTH = 116  # columns that the layer table takes; more where names are long, up to:
MOST_WIDTH = 200


class Described(NamedTuple):
    """What a model says of itself."""

    recipe: Recipe
    labels: tuple[Label, ...]
    golden: tuple[Golden, ...]


def find(model: Path) -> Path:
    """The file meant by models/NAME/VERSION/model.onnx, models/NAME/VERSION or models/NAME (its highest version).

    Raises:
        graph.UnusableModel: there is none.
    """
    versions = sorted(
        (folder for folder in model.glob("*/model.onnx") if folder.parent.name.isdecimal()),
        key=lambda file: int(file.parent.name),
    )
    for file in (model, model / "model.onnx", *versions[-1:]):
        if file.is_file():
            return file
    raise graph.UnusableModel(f"{model} is no model; expected an ONNX file, models/NAME/VERSION or models/NAME")


def read(file: Path) -> tuple[Described | None, list[Layer]]:
    """What the model says of itself (None for a bare one), and the layers of its graph.

    Raises:
        graph.UnusableModel: the file is no ONNX, or describes itself wrongly.
    """
    try:
        model = onnx.load(file, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise graph.UnusableModel(
            f"{file} can't be read as ONNX ({error}); expected a classifier in one .onnx file"
        ) from error
    if not model.graph.node:
        raise graph.UnusableModel(f"{file} holds no graph; expected an ONNX classifier")
    properties = {prop.key: prop.value for prop in model.metadata_props}
    try:
        described = _parse(properties) if "quadrant.recipe" in properties else None
    except StartError as error:
        raise graph.UnusableModel(f"{file}: {error}") from error
    graph.tidy(model)
    return described, layers.table(model)


def _parse(properties: dict[str, str]) -> Described:
    labels = recipes.parse_labels(properties.get("quadrant.labels", "[]"))
    golden = recipes.parse_golden(properties.get("quadrant.golden", "[]"), len(labels))
    return Described(Recipe.parse(properties["quadrant.recipe"]), labels, golden)


def as_json(file: Path) -> str:
    """Recipe (null for a bare model), labels and layers as one JSON object."""
    described, rows = read(file)
    parameters, multiply_adds = layers.totals(rows)
    content: dict[str, Any] = {
        "recipe": described.recipe if described else None,
        "labels": described.labels if described else None,
        "layers": rows,
        "parameters": parameters,
        "multiply_adds": multiply_adds,
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=1).decode()


def show(file: Path, console: Console) -> None:
    """Print both."""
    described, rows = read(file)
    table = _table(rows)
    # In less width it would cut names and numbers short.
    console.width = max(console.width, Measurement.get(console, console.options.update(width=MOST_WIDTH), table).maximum)
    console.print(_words(file, described))
    console.print(table)


def _words(file: Path, described: Described | None) -> Panel:
    if described is None:
        text = Text(
            "A bare graph: it says nothing of its preprocessing and labels, and the service refuses it.\n"
            '"python -m export annotate" adds both.'
        )
        return Panel(text, title=f"[bold]{file.name}", title_align="left", border_style="yellow")
    recipe = described.recipe
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    version = file.resolve().parent.name
    facts.add_row("model", f"[bold]{recipe.name}[/bold]" + (f", version {version}" if version.isdecimal() else ""))
    if recipe.description:
        facts.add_row("description", Text(recipe.description))
    facts.add_row("architecture", Text(recipe.architecture))
    facts.add_row("input", f"{recipe.input.height} × {recipe.input.width} × 3 (height × width × RGB), 0-255")
    words = ", ".join(label.label for label in described.labels[:3])
    facts.add_row("labels", Text(f"{len(described.labels)}: {words}, …"))
    facts.add_row("golden examples", str(len(described.golden)))
    facts.add_row("preprocessing", Text(recipe.in_words()))
    if recipe.calibration:
        facts.add_row("calibration", Text(calibration.words(recipe.calibration)))
    for key, value in recipe.provenance.items():
        if isinstance(value, str | int | float):
            facts.add_row(key.replace("_", " "), Text(str(value)))
    return Panel(Group(facts), title=f"[bold]{recipe.name}", title_align="left", border_style="cyan")


def _table(rows: list[Layer]) -> Table:
    parameters, multiply_adds = layers.totals(rows)
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, footer_style="bold", header_style="bold")
    table.add_column("layer", "total", no_wrap=True)
    table.add_column("type", no_wrap=True)
    for heading in ("filter", "stride", "padding", "depth", "output"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("parameters", f"{parameters:,}", justify="right", no_wrap=True)
    table.add_column("multiply-adds", f"{multiply_adds:,}", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row.name),
            row.type,
            _sides(row.filter),
            _sides(row.stride),
            _padding(row.padding),
            str(row.depth or ""),
            _sides(row.output),
            _count(row.parameters),
            _count(row.multiply_adds),
            style="" if row.parameters else "dim",
        )
    return table


def _sides(values: tuple[int, ...] | None) -> str:
    return " × ".join(str(value) if value else "?" for value in values or [])


def _padding(values: tuple[int, ...] | None) -> str:
    if not values or len(set(values)) == 1:
        return str(values[0]) if values else ""
    return ", ".join(map(str, values))


def _count(value: int) -> str:
    return f"{value:,}" if value else ""
