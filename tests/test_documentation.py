"""The documentation says what the code does: its commands run, its tables and answers are compared."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import export.__main__
import loadtest.compare.__main__
import service.__main__
from loadtest import accuracy, bench, curve, limit, models_cost, profile, run, start, tune
from service import settings
from service.app import create_app
from service.settings import Settings
from tests.running import ROOT, Running
from tests.running import service as running
from tests.service import pictures

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("*/README.md")), *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {
    "-m service": service.__main__.main, "-m export": export.__main__.main,
    "-m loadtest.run": run.main, "-m loadtest.accuracy": accuracy.main,
    "-m loadtest.models_cost": models_cost.main, "-m loadtest.limit": limit.main, "-m loadtest.bench": bench.main,
    "-m loadtest.curve": curve.main, "-m loadtest.tune": tune.main, "-m loadtest.profile": profile.main,
    "-m loadtest.start": start.main, "-m loadtest.compare": loadtest.compare.__main__.main,
}
CALIBRATED = "alexnet64-tiny-imagenet"
# A line, and its continuation inside a list.
CALL = re.compile(r"python (-m (?:service|export|loadtest\.\w+))\b([^`\n|]*(?:\n  (?! *python)[^`\n]*)?)")


def blocks(language: str) -> list[str]:
    """Fenced blocks of the README."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def calls() -> Iterator[tuple[str, list[str]]]:
    """Every call of one of our commands in any page: which command, its words."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for found in CALL.finditer(text):
            words = shlex.split(found[2].split("  #")[0], comments=False)
            yield found[1], words


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's own photo."""
    file = tmp_path_factory.mktemp("reader") / "photo.jpg"
    file.write_bytes(pictures.jpeg())
    return file


@pytest.fixture(scope="module")
def default_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """What `make run` serves: the committed models."""
    with running(tmp_path_factory.mktemp("default") / "log", {"QUADRANT_MODELS": str(ROOT / "models")}) as one:
        yield one


def test_the_table_of_settings_is_the_programs_own():
    """A setting that is documented wrongly is found at three in the morning."""
    shown = re.search(r"<!-- settings: .*? -->\n(.*?)\n<!-- /settings -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1].strip() == settings.markdown().strip()


def test_every_command_in_the_pages_exists_with_its_options():
    """An option that was renamed in the code alone leaves a reader with an error."""
    seen = 0
    for name, words in calls():
        command: click.Command = COMMANDS[name]
        if isinstance(command, click.Group):
            if not words or not re.fullmatch(r"[a-z]+", words[0]):
                continue
            assert words[0] in command.commands, f"{name} {words[0]} does not exist"
            command = command.commands[words[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            if re.match(r"--[a-z]", word):
                assert word.split("=")[0] in known | {"--help"}, f"{name}: {word} is not among {sorted(known)}"
        seen += 1
    assert seen >= 8


def test_every_verb_of_make_in_the_pages_exists():
    """`make` is all that a newcomer knows."""
    makefile = (ROOT / "Makefile").read_text()
    verbs = {verb for page in PAGES for verb in re.findall(r"(?:`|^|&& )make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert {"run", "test", "check", "load"} <= verbs
    for verb in verbs:
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), f"make {verb}"


def test_every_page_that_is_linked_exists():
    """A dead link is worse than none."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_first_curl_prints_the_answer_that_is_shown(default_service, photo):
    """The first screen is what a newcomer tries."""
    line = next(line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl"))
    words = shlex.split(line.replace("http://127.0.0.1:8000", default_service.url).replace("photo.jpg", str(photo)))
    found = json.loads(subprocess.run([*words, "-sS"], capture_output=True, check=True, text=True).stdout)
    shown = json.loads(blocks("json")[0])

    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {key: shape(inner) for key, inner in value.items()}
        return [shape(inner) for inner in value] if isinstance(value, list) else type(value).__name__

    assert shape(found) == shape(shown)
    assert list(found) == list(shown)


def test_the_calibrated_model_gives_prediction_sets_and_says_when_it_abstains(default_service, photo):
    """As its page says; the set of a higher coverage holds that of a lower one."""
    asked = f"/classify?model={CALIBRATED}&coverage="
    sets = {}
    for coverage in ("0.6", "0.9"):
        answer = default_service.ask(asked + coverage, photo.read_bytes()).json
        sets[coverage] = {each["index"] for each in answer["prediction_set"]}
        assert answer["abstained"] in (True, False)
    assert sets["0.6"] <= sets["0.9"]
    assert sets["0.9"]
    assert default_service.ask(asked + "0.2", photo.read_bytes()).status == 400


def test_every_address_in_the_readme_answers(default_service):
    """The table of resources is read before /docs is."""
    name = default_service.ask("/models").json["default"]
    addresses = set(re.findall(r"`(?:GET )?(/[a-zA-Z/.]+)`", README)) - {"/classify"}
    assert len(addresses) >= 8
    for address in addresses:
        assert default_service.ask(address.replace("NAME", name)).status == 200, address


def test_photos_are_classified_without_a_server_as_shown(photo):
    """The same path, the same answer."""
    line = next(line for block in blocks("sh") for line in block.splitlines() if "-m service classify" in line)
    words = [str(photo) if word == "photo.jpg" else word for word in shlex.split(line)[1:]]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT, check=True)
    assert len(re.findall(r"^ +\d+\.\d\d %  \w", done.stdout, re.MULTILINE)) == 3, done.stdout


def test_the_accuracy_in_the_pages_is_the_one_on_record():
    """A figure that nobody can reproduce is an advertisement."""
    record = json.loads((ROOT / "docs" / "training-alexnet64.json").read_text())["validation"]
    assert record["pictures"] == 10_000
    page = (ROOT / "models" / "README.md").read_text()
    measured = re.search(r"\| `alexnet64-tiny-imagenet` \|.*?\| (\d+\.\d+) % \| (\d+\.\d+) % \|", page)
    assert measured is not None
    assert [float(figure) for figure in measured.groups()] == pytest.approx([100 * record["top1"], 100 * record["top5"]], abs=0.2)


def test_the_default_model_is_the_one_the_readme_speaks_of(monkeypatch):
    """`make run` without a setting serves it, and the answer that is shown carries its digest."""
    monkeypatch.chdir(ROOT)
    with create_app(Settings.read()).test_client() as client:
        shown, served = json.loads(blocks("json")[0])["model"], client.get("/models").json
        (default,) = [each for each in served["models"] if each["default"]]
        assert served["default"] == default["name"] == shown["name"]
        assert (default["version"], default["digest"][:8] + "…") == (shown["version"], shown["digest"])
        assert default["name"] == (ROOT / "models" / "default").read_text().strip()
