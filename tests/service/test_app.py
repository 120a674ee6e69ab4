"""Where the parts meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import logs
from service.app import create_app
from service.problems import StartError
from service.settings import Settings
from service.web.parts import KEY


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging is set up once a process; these tests leave pytest's alone."""
    monkeypatch.setattr(logs, "configure", lambda level: None)


def test_it_loads_the_models_itself(settings: Settings):
    """`gunicorn 'service.app:create_app()'` needs nothing else."""
    app = create_app(settings)
    catalog = app.extensions[KEY].catalog
    try:
        assert app.test_client().get("/health/ready").json["models"] == ["quadrants/1"]
    finally:
        catalog.close()


def test_settings_come_from_the_environment(model_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A container is set up by variables alone."""
    monkeypatch.setenv("QUADRANT_MODELS", str(model_folder))
    monkeypatch.setenv("QUADRANT_PROVIDER", "cpu")
    monkeypatch.setenv("QUADRANT_MAX_PICTURES", "3")
    app = create_app()
    try:
        assert app.test_client().get("/info").json["limits"]["max_pictures"] == 3
    finally:
        app.extensions[KEY].catalog.close()


def test_without_a_model_it_does_not_start(tmp_path: Path):
    """A service that could only refuse would hide that its folder is not mounted."""
    with pytest.raises(StartError, match="holds no model"):
        create_app(Settings(models=tmp_path, provider="cpu"))
