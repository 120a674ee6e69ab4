"""The real service: gunicorn, two workers, a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import Running, service


@pytest.fixture(scope="session")
def variables(model_folder: Path) -> dict[str, str]:
    """Settings of the running service: the tiny model, two workers, small limits."""
    return {
        "QUADRANT_MODELS": str(model_folder), "QUADRANT_PROVIDER": "cpu", "QUADRANT_WORKERS": "2",
        "QUADRANT_REQUEST_THREADS": "8", "QUADRANT_ENGINE_THREADS": "1", "QUADRANT_BATCH_CAP": "4",
        "QUADRANT_MAX_BODY_BYTES": "1MiB", "QUADRANT_MAX_PIXELS": "1000000", "QUADRANT_MAX_PICTURES": "4",
        "QUADRANT_BODY_TIMEOUT_S": "2",
    }


@pytest.fixture(scope="session")
def running_service(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all tests that only ask; whoever kills or stops starts its own."""
    with service(tmp_path_factory.mktemp("service") / "log", variables) as running:
        yield running
