"""The application, with a way to make its batch thread die; for gunicorn in `test_workers.py`."""

from __future__ import annotations

from typing import Any, NoReturn

from flask import Flask

from service.app import create_app as create
from service.web.parts import KEY


def create_app() -> Flask:
    app = create()
    batcher = app.extensions[KEY].catalog.find().batcher

    def die(_: Any, **_more: bool) -> NoReturn:
        raise SystemExit("the batch thread is told to die")

    @app.post("/die")
    def sentence() -> str:
        batcher._engine.run = die
        return "at the next picture"

    return app
