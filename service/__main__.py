"""The command line: `python -m service serve | classify | plan | settings`.

Exit codes: 0, 1 where a picture could not be classified, 2 where a setting, a model or an option can't be used.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service import __version__, cache_folder, logs, planning
from service import settings as names
from service.problems import Problem, StartError
from service.settings import Settings

if TYPE_CHECKING:
    from service.answer import Answer

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """Says in one line why something can't be done."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; a reason not to start ends it with exit code 2."""
        try:
            return super().invoke(context)
        except StartError as error:
            click.echo(f"Error: {error}", err=True)
            context.exit(2)


def settable(*only: str) -> Callable[[Command], Command]:
    """Give a command an option for each setting, or for those named."""

    def decorate(command: Command) -> Command:
        for row in reversed(names.table()):
            name = row.option.removeprefix("--").replace("-", "_")
            if not only or name in only:
                shown = f"{row.meaning} [{row.variable}; default: {row.default.strip('`')}]"
                command = click.option(row.option, name, metavar="VALUE", help=shown.replace("`", ""))(command)
        return command

    return decorate


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="quadrant")
def main() -> None:
    """Quadrant: a picture in, labels out."""


@main.command()
@settable()
def serve(**given: Any) -> None:
    """Serve the models over HTTP until SIGTERM or Ctrl-C."""
    from service import server, stages

    stages.mark("command line")
    server.serve(Settings.read(**given))


@main.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PHOTO...")
@click.option("--top-k", type=int, help="Most labels for each photo. [default: 5]")
@click.option("--threshold", type=float, default=0.0, show_default=True, help="Least score of a label.")
@click.option("--coverage", type=float, help="Add the labels that hold the true one with this probability.")
@click.option("--version", help="Version of the model. [default: the highest]")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each photo, as the service answers.")
@settable("models", "model", "provider", "engine_threads", "max_pixels", "log_level")
def classify(
    photos: tuple[Path, ...], top_k: int | None, threshold: float, coverage: float | None, version: str | None, as_json: bool,
    **given: Any,
) -> None:
    """Classify photos without a server, by the same path; `-` reads one from standard input."""
    from service.answer import Options
    from service.catalog import Catalog
    from service.native import library

    settings = Settings.read(**given | {"log_level": given["log_level"] or "warning"})
    logs.configure(settings.log_level)
    library.configure(settings.native, cache_folder.folder(settings.packed_weights))
    plan = dataclasses.replace(planning.plan(settings), batch_cap=1)  # one after the other; a larger one needn't be warm
    catalog = Catalog.load(settings, plan, only_default=True)
    failed = False
    try:
        classifier = catalog.find(version=version)
        options = Options(top_k=top_k, threshold=threshold, coverage=coverage)
        classifier.check(options)
        for photo in photos:
            try:
                data = sys.stdin.buffer.read() if str(photo) == "-" else photo.read_bytes()
                answer = classifier.classify(data, options)
                click.echo(_line(photo, answer) if as_json else _table(photo, answer))
            except OSError as error:
                failed = True
                click.echo(f"{photo}: can't be read: {error.strerror}", err=True)
            except Problem as problem:
                failed = True
                click.echo(f"{photo}: {problem.detail} ({problem.code})", err=True)
    except Problem as problem:  # about the options, not about a photo
        raise StartError(problem.detail) from problem
    finally:
        catalog.close()
    sys.exit(1 if failed else 0)


@main.command()
@settable("workers", "request_threads", "engine_threads", "batch_cap", "queue_capacity", "decode_memory", "provider")
def plan(**given: Any) -> None:
    """Print the numbers that `serve` would run with on this machine, and why."""
    from service import server

    click.echo("\n".join(server.plan_lines(planning.plan(Settings.read(**given)))))


@main.command()
def settings() -> None:
    """Print all settings as a table in Markdown."""
    click.echo(names.markdown())


def _line(photo: Path, answer: Answer) -> str:
    import msgspec

    return msgspec.json.encode({"file": str(photo), **msgspec.to_builtins(answer)}).decode()


def _table(photo: Path, answer: Answer) -> str:
    image, width = answer.image, max([len(each.label) for each in answer.predictions], default=0)
    rows = [f"{photo}  ({image.format}, {image.width} × {image.height})"]
    rows += [f"  {100 * each.score:6.2f} %  {each.label:<{width}}  {each.id}" for each in answer.predictions]
    if answer.abstained:
        rows.append("  not sure enough to say (abstained)")
    if answer.prediction_set is not None:
        rows.append(f"  prediction set: {', '.join(each.label for each in answer.prediction_set) or 'empty'}")
    return "\n".join(rows)


if __name__ == "__main__":
    main(prog_name="python -m service")
