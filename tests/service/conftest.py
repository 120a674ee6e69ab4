"""Fixtures of the service's unit tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.metrics import DROPPED


@pytest.fixture
def dropped() -> Callable[[], dict[str, float]]:
    """Reads the counter of dropped pictures, by reason."""

    def read() -> dict[str, float]:
        found = {"expired": 0.0, "gone": 0.0}
        for metric in DROPPED.collect():
            found |= {sample.labels["reason"]: sample.value for sample in metric.samples if sample.name.endswith("_total")}
        return found

    return read
