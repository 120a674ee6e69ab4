"""What `app` hands to the views of a request: the settings, the plan, the catalog, room for bodies."""

from __future__ import annotations

from typing import NamedTuple

from flask import Flask, current_app

from service.catalog import Catalog
from service.planning import Plan
from service.settings import Settings
from service.web.room import Room

KEY = "quadrant"


class Parts(NamedTuple):
    """The parts of a running service."""

    settings: Settings
    plan: Plan
    catalog: Catalog
    room: Room


def attach(app: Flask, parts: Parts) -> None:
    """Make the parts reachable from the application's views."""
    app.extensions[KEY] = parts


def here() -> Parts:
    """The parts of the application that handles the current request."""
    parts: Parts = current_app.extensions[KEY]
    return parts
