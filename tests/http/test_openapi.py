"""The description holds for the running service, under requests that nobody thought of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from service.web import docs
from tests.running import ROOT, Running, environment

LONGEST_S = 60  # it takes about 5 s on two cores
COMMAND = (
    sys.executable, "-m", "schemathesis.cli", "run",
    "--phases", "examples,coverage,fuzzing",
    "--max-examples", "100",  # an address
    "--generation-deterministic",
    "--checks", "all",
    # What fits the schema may still be no picture, and a name no model's: both are refused.
    "--exclude-checks", "positive_data_acceptance",
    "--continue-on-failure",
    "--request-timeout", "20",
    "--suppress-health-check", "all",
    "--no-color",
)


def test_the_service_keeps_its_description(running_service: Running, tmp_path: Path):
    """Never a 5xx; never a status, header, media type or member that isn't described; nothing wrong is let through.

    By command, in its own process: it brings all its phases, and no warning of its own fails our tests.
    """
    run = subprocess.run(
        [*COMMAND, f"{running_service.url}/openapi.json"], cwd=tmp_path, capture_output=True, text=True, timeout=LONGEST_S,
        env=environment({"SCHEMATHESIS_HOOKS": "tests.http.bodies", "PYTHONPATH": str(ROOT)}))
    assert run.returncode == 0, run.stdout + run.stderr
    operations = sum(map(len, docs.description()["paths"].values()))
    assert f"Tested: {operations - 1}" in run.stdout, run.stdout  # all but the description itself
