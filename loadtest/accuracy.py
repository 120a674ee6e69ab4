"""Top-1 and top-5 accuracy of a running service, asked picture by picture through `POST /classify`.

    python loadtest/accuracy.py --data tiny-imagenet-200 --url http://127.0.0.1:8000

Knows the service by its HTTP answers alone. Labels are Tiny ImageNet's official validation set, or a
folder that holds one folder a class, named by the class's id or word.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click
import requests


class Labelled(NamedTuple):
    """A picture's file and its true class, by id or word."""

    file: Path
    truth: str


class Outcome(NamedTuple):
    """Place of the true class among the five best: 0 is the best, None is not among them."""

    rank: int | None
    problem: str | None


def labelled(folder: Path) -> list[Labelled]:
    """The pictures to ask about, in a fixed order."""
    annotations = folder / "val" / "val_annotations.txt"
    if annotations.exists():
        lines = [line.split("\t") for line in annotations.read_text().splitlines() if line.strip()]
        return [Labelled(folder / "val" / "images" / line[0], line[1]) for line in lines]
    return [Labelled(file, file.parent.name) for file in sorted(folder.glob("*/*")) if file.is_file()]


class Client:
    """Asks over connections kept alive, one a thread."""

    def __init__(self, url: str, model: str | None) -> None:
        self._url, self._local = f"{url.rstrip('/')}/classify", threading.local()
        self._params: dict[str, str | int] = {"top_k": 5} | ({"model": model} if model else {})

    def ask(self, picture: Labelled) -> Outcome:
        """Where the service's answer has the true class."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        try:
            reply = self._local.session.post(
                self._url, params=self._params, data=picture.file.read_bytes(),
                headers={"Content-Type": "application/octet-stream"}, timeout=60,
            )
            if reply.status_code != 200:
                return Outcome(None, f"{picture.file.name}: {reply.status_code} {reply.text[:200]}")
            best = reply.json()["predictions"]
        except requests.RequestException as error:
            return Outcome(None, f"{picture.file.name}: {error}")
        ranks = [rank for rank, guess in enumerate(best) if picture.truth in (guess["id"], guess["label"])]
        return Outcome(ranks[0] if ranks else None, None)


def _shown(outcomes: Iterator[Outcome], total: int) -> Iterator[Outcome]:
    for done, outcome in enumerate(outcomes, 1):
        if sys.stderr.isatty() and (done % 100 == 0 or done == total):
            print(f"\r{done:,} of {total:,} pictures", end="" if done < total else "\n", file=sys.stderr)
        yield outcome


@click.command()
@click.option("--data", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True,
              help="Tiny ImageNet in its official layout, or a folder of one folder a class.")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
@click.option("--model", help="Which model; the service's own choice if not given.")
@click.option("--connections", default=8, show_default=True, type=click.IntRange(1, 256))
@click.option("--limit", type=click.IntRange(1), help="Ask about every n-th picture only, this many in all.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(folder: Path, url: str, model: str | None, connections: int, limit: int | None, as_json: bool) -> None:
    """Measure the accuracy that a client of the service sees."""
    pictures = labelled(folder)
    if limit:
        pictures = pictures[:: max(1, len(pictures) // limit)][:limit]
    if not pictures:
        raise click.ClickException(f"{folder} holds no labelled pictures: neither val/val_annotations.txt nor CLASS/PICTURE")
    client = Client(url, model)
    with ThreadPoolExecutor(connections) as pool:
        outcomes = list(_shown(pool.map(client.ask, pictures), len(pictures)))
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    for problem in problems[:5]:
        print(f"failed: {problem}", file=sys.stderr)
    if len(problems) == len(pictures):
        raise click.ClickException(f"none of {len(pictures):,} pictures was answered")
    top1 = sum(outcome.rank == 0 for outcome in outcomes) / len(pictures)
    top5 = sum(outcome.rank is not None for outcome in outcomes) / len(pictures)
    if as_json:
        print(json.dumps({"pictures": len(pictures), "failed": len(problems), "top1": top1, "top5": top5}))
    else:
        print(f"{len(pictures):,} pictures, {len(problems)} failed: top-1 {top1:.2%}, top-5 {top5:.2%}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
