"""The application, whose models load for as long as a file is there; for gunicorn in `test_lazy.py`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flask import Flask

from service import loading
from service.app import create_app as create
from service.engine import Engine

VARIABLE = "SLOW_WHILE"  # names the file


class Slow(Engine):
    def prove(self, golden=None, company=0):
        while Path(os.environ[VARIABLE]).exists():
            time.sleep(0.01)
        return super().prove(golden, company)


def create_app() -> Flask:
    app = create()
    loading.Engine = Slow  # type: ignore[misc]  # from now on: the default model is loaded
    return app
