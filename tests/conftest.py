"""Fixtures that all tests share: few, nouns, and real where that is cheap."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry

from service.modelfile import ModelFile
from service.settings import PREFIX, Settings
from tests import models


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the settings of whoever runs it, or the request ids of another test."""
    for name in [*os.environ]:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Packed weights of the tests' models don't belong into the cache of whoever runs them."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `models` folder with `quadrants/1` in it."""
    folder = tmp_path_factory.mktemp("models")
    models.build(folder / "quadrants" / "1" / "model.onnx")
    return folder


@pytest.fixture(scope="session")
def tiny_model(model_folder: Path) -> ModelFile:
    """A few-KB model that names the brightest quadrant; `tests.models` knows the right answer."""
    return ModelFile.open(model_folder / "quadrants" / "1" / "model.onnx")


@pytest.fixture(scope="session")
def settings(model_folder: Path) -> Settings:
    """Small limits, one worker, the tiny model, the CPU."""
    return Settings(
        models=model_folder, provider="cpu", port=0, workers=1, request_threads=4, engine_threads=1, batch_cap=4,
        queue_capacity=8, deadline_ms=5000.0, max_body_bytes=200_000, max_pixels=1_000_000, max_pictures=4,
        decode_memory=64 * 2**20,
    )


@pytest.fixture
def registry() -> CollectorRegistry:
    """A fresh Prometheus registry."""
    return CollectorRegistry()
