"""How right a running service is, and how well it knows: asked picture by picture through `POST /classify`.

    python -m loadtest.accuracy --data tiny-imagenet-200 --url http://127.0.0.1:8000 --coverage 0.9

Knows the service by its HTTP answers alone. Besides accuracy: the expected calibration error of the scores
(15 bins), how often it is right where it does not abstain, and how often its prediction sets hold the true class.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import click
import requests

from loadtest import labelled
from loadtest.labelled import ALTERED, Labelled

BINS = 15


class Outcome(NamedTuple):
    """What was answered about one picture.

    Attributes:
        rank: place of the true class among the five best: 0 is the best, None is not among them.
        score: of the best class, 0 to 1.
        abstained: as answered; None where the model has no threshold.
        members: number of labels in the prediction set; None where none was asked for.
        held: the true class is one of them.
    """

    rank: int | None = None
    score: float = 0.0
    abstained: bool | None = None
    members: int | None = None
    held: bool = False
    problem: str | None = None


class Client:
    """Asks over connections kept alive, one a thread."""

    def __init__(self, url: str, model: str | None, coverage: float | None, alteration: str) -> None:
        self._url, self._model, self._local = url.rstrip("/"), model, threading.local()
        self._alter = ALTERED[alteration]
        wanted = {"top_k": 5, "model": model, "coverage": coverage}
        self._params = {name: value for name, value in wanted.items() if value is not None}

    def known(self) -> set[str]:
        """Ids and words of the model's classes."""
        try:
            name = self._model or requests.get(f"{self._url}/models", timeout=60).json()["default"]
            reply = requests.get(f"{self._url}/models/{name}/labels", timeout=60)
        except requests.RequestException as error:
            raise click.ClickException(f"no service answers at {self._url}: {error}") from error
        if reply.status_code != 200:
            raise click.ClickException(f"{self._url}: {reply.status_code} {reply.text[:200]}")
        return {label[key] for label in reply.json()["labels"] for key in ("id", "label")}

    def ask(self, picture: Labelled) -> Outcome:
        """What the service's answer has to do with the true class."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        try:
            reply = self._local.session.post(
                f"{self._url}/classify", params=self._params, data=self._alter(picture.file.read_bytes()),
                headers={"Content-Type": "application/octet-stream"}, timeout=60,
            )
            if reply.status_code != 200:
                return Outcome(problem=f"{picture.file.name}: {reply.status_code} {reply.text[:200]}")
            answer = reply.json()
        except requests.RequestException as error:
            return Outcome(problem=f"{picture.file.name}: {error}")
        best = answer["predictions"]
        ranks = [rank for rank, guess in enumerate(best) if picture.truth in (guess["id"], guess["label"])]
        members = answer.get("prediction_set")
        return Outcome(
            ranks[0] if ranks else None, best[0]["score"], answer["abstained"], None if members is None else len(members),
            any(picture.truth in (each["id"], each["label"]) for each in members or []),
        )


def figures(outcomes: list[Outcome]) -> dict[str, Any]:
    """The shares that are reported, 0 to 1; pictures without an answer count as wrong."""
    found: dict[str, Any] = {
        "pictures": len(outcomes),
        "failed": sum(outcome.problem is not None for outcome in outcomes),
        "top1": sum(outcome.rank == 0 for outcome in outcomes) / len(outcomes),
        "top5": sum(outcome.rank is not None for outcome in outcomes) / len(outcomes),
    }
    answered = [outcome for outcome in outcomes if outcome.problem is None]
    bins: list[list[float]] = [[] for _ in range(BINS)]
    for outcome in answered:
        bins[min(int(outcome.score * BINS), BINS - 1)].append(outcome.score - (outcome.rank == 0))
    found["calibration_error"] = sum(abs(sum(each)) for each in bins) / max(1, len(answered))
    given = [outcome.rank == 0 for outcome in answered if outcome.abstained is False]
    if any(outcome.abstained is not None for outcome in answered):
        found["given"] = {"share": len(given) / len(answered), "right": sum(given) / max(1, len(given))}
    sets = [outcome for outcome in answered if outcome.members is not None]
    if sets:
        found["sets"] = {
            "held": sum(outcome.held for outcome in sets) / len(sets),
            "labels": sum(outcome.members or 0 for outcome in sets) / len(sets),
        }
    return found


def words(found: dict[str, Any], coverage: float | None) -> str:
    """A few lines for people."""
    lines = [f"{found['pictures']:,} pictures, {found['failed']} failed: top-1 {found['top1']:.2%}, top-5 {found['top5']:.2%}",
             f"calibration error {found['calibration_error']:.4f}"]
    if "given" in found:
        lines.append(f"does not abstain on {found['given']['share']:.1%}: {found['given']['right']:.2%} of them right")
    if "sets" in found:
        lines.append(f"prediction sets for {coverage:.0%} hold the true class {found['sets']['held']:.2%} of the time, "
                     f"{found['sets']['labels']:.1f} labels each")
    return "\n".join(lines)


def _shown(outcomes: Iterator[Outcome], total: int) -> Iterator[Outcome]:
    for done, outcome in enumerate(outcomes, 1):
        if sys.stderr.isatty() and (done % 100 == 0 or done == total):
            print(f"\r{done:,} of {total:,} pictures", end="" if done < total else "\n", file=sys.stderr)
        yield outcome


@click.command()
@click.option("--data", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True,
              help="Tiny ImageNet, a folder of one folder a class, or files named n02123159_tiger_cat.JPEG.")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
@click.option("--model", help="Which model; the service's own choice if not given.")
@click.option("--coverage", type=click.FloatRange(0, 1), help="Ask for prediction sets of this coverage, and count.")
@click.option("--alter", "alteration", type=click.Choice(list(ALTERED)), default="none", show_default=True,
              help="What to do to each picture before it is sent.")
@click.option("--connections", default=8, show_default=True, type=click.IntRange(1, 256))
@click.option("--limit", type=click.IntRange(1), help="Ask about every n-th picture only, this many in all.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(
    folder: Path, url: str, model: str | None, coverage: float | None, alteration: str, connections: int, limit: int | None,
    as_json: bool,
) -> None:
    """Measure the accuracy that a client of the service sees, on the classes that its model knows."""
    client = Client(url, model, coverage, alteration)
    every = labelled.read(folder)
    if not every:
        raise click.ClickException(
            f"{folder} holds no labelled pictures: neither val/val_annotations.txt nor CLASS/PICTURE nor n01234567_word.jpg")
    known = client.known()
    pictures = [picture for picture in every if picture.truth in known]
    if not pictures:
        raise click.ClickException(f"the model knows none of the classes of {len(every):,} pictures, as {every[0].truth!r}")
    if len(pictures) < len(every):
        print(f"{len(every) - len(pictures):,} pictures of classes that the model doesn't know are left out", file=sys.stderr)
    if limit:
        pictures = pictures[:: max(1, len(pictures) // limit)][:limit]
    with ThreadPoolExecutor(connections) as pool:
        outcomes = list(_shown(pool.map(client.ask, pictures), len(pictures)))
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    for problem in problems[:5]:
        print(f"failed: {problem}", file=sys.stderr)
    if len(problems) == len(pictures):
        raise click.ClickException(f"none of {len(pictures):,} pictures was answered")
    found = figures(outcomes)
    print(json.dumps(found) if as_json else words(found, coverage))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
