"""The application without a socket, around the tiny model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from service import planning
from service.app import create_app
from service.catalog import Catalog
from service.settings import Settings
from tests import models


@pytest.fixture
def catalog(settings: Settings) -> Iterator[Catalog]:
    catalog = Catalog.load(settings, planning.plan(settings))
    yield catalog
    catalog.close()


@pytest.fixture
def app(settings: Settings, catalog: Catalog) -> Flask:
    return create_app(settings, catalog)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A PNG whose bottom left quadrant is the brightest: class 2, id q2."""
    return models.png(models.quadrant_picture(2))
