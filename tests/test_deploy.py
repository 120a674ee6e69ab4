"""Container, compose file, Prometheus and Grafana against the code. `make container-check` runs the image for real."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service import instruments, settings

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def compose() -> Any:
    """docker-compose.yml."""
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def dashboard() -> Any:
    """Grafana's dashboard."""
    return json.loads((ROOT / "deploy" / "grafana" / "quadrant.json").read_text())


def exposed() -> set[str]:
    """Every series that the instruments can give."""
    names = set()
    for name, each in vars(instruments).items():
        if name.isupper() and hasattr(each, "describe"):
            for family in each.describe():
                endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
                names |= {family.name + ending for ending in endings}
    return names


def test_every_panel_asks_for_series_that_exist(dashboard):
    """A panel over a metric that was renamed shows "No data", which reads as "all quiet"."""
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) >= 10
    for expression in expressions:
        asked = set(re.findall(r"quadrant_\w+", expression))
        assert asked, expression
        assert asked <= exposed(), expression
        assert set(re.findall(r'endpoint="(.*?)"', expression)) <= {"/classify"}  # tests/loadtest/test_run.py sees that label


def test_panels_find_their_data_source(dashboard):
    """A dashboard with another data source's id is empty."""
    source = yaml.safe_load((ROOT / "deploy" / "grafana" / "datasource.yml").read_text())["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}


def test_prometheus_scrapes_the_service_of_the_compose_file(compose):
    """The target is a service's name and the port that it listens on inside."""
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    host, port = scrape["static_configs"][0]["targets"][0].split(":")
    assert host in compose["services"]
    assert f"QUADRANT_PORT={port}" in DOCKERFILE
    assert f"EXPOSE {port}" in DOCKERFILE
    assert [mapping.split(":")[-1] for mapping in compose["services"][host]["ports"]] == [port]


def test_what_compose_mounts_exists(compose):
    """Docker makes a folder of a file that is missing, and the container fails on it."""
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (ROOT / source).is_file(), source


def test_compose_gives_the_drain_its_time(compose):
    """Killed in the middle of the drain, requests in flight are lost."""
    seconds = int(compose["services"]["quadrant"]["stop_grace_period"].removesuffix("s"))
    assert seconds > settings.Settings().drain_delay_s + settings.Settings().drain_timeout_s


def test_variables_set_in_the_image_are_settings():
    """A typo would be ignored, with a warning that nobody reads."""
    names = set(re.findall(r"\bQUADRANT_[A-Z_]+(?==)", DOCKERFILE))
    assert {"QUADRANT_HOST", "QUADRANT_PORT", "QUADRANT_PROVIDER"} <= names <= {row.variable for row in settings.table()}


def test_the_image_runs_its_command_itself_and_not_as_root():
    """A shell as first process swallows SIGTERM; root in a container is root outside of it one fault later."""
    last = DOCKERFILE.split("\nFROM ")[-1]
    assert re.search(r"^USER (\d+)", last, re.MULTILINE)[1] != "0"
    assert json.loads(re.search(r"^CMD (.*)$", last, re.MULTILINE)[1]) == ["python3", "-m", "service", "serve"]
    assert json.loads(re.search(r"HEALTHCHECK .*?CMD (\[.*?\])$", last, re.MULTILINE | re.DOTALL)[1])[0] == "python3"


def test_container_check_is_a_script_that_bash_reads():
    """It is run by hand and by CI of others; a slip in it is found only there."""
    assert subprocess.run(["bash", "-n", ROOT / "deploy" / "container-check"], check=False).returncode == 0
