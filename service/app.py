"""Builds the application; the only place where its parts meet."""

from __future__ import annotations

import sys

from flask import Flask

from service import cache_folder, logs, planning, shelf
from service.catalog import Catalog
from service.native import library
from service.problems import StartError
from service.settings import Settings
from service.web import classify, direct, docs, errors, health, info, models, observe
from service.web.parts import Parts, attach
from service.web.room import SHARE, Room

log = logs.get(__name__)


def create_app(
    settings: Settings | None = None, catalog: Catalog | None = None, default: shelf.Default | None = None,
) -> Flask:
    """Build the application. Loads the models unless a catalog is handed in, as tests do.

    Args:
        settings: read from the environment unless given.
        catalog: the models, loaded already.
        default: the default model; chosen by `shelf` unless given.

    Raises:
        StartError: a setting or a model can't be used, or the process is going to fork.
    """
    settings = Settings.read() if settings is None else settings
    plan = planning.plan(settings)
    if catalog is None:
        _refuse_before_the_fork()
        logs.configure(settings.log_level)
        library.configure(settings.native, cache_folder.folder(settings.packed_weights))
        if (found := library.native()).libjpeg is None:
            log.warning("pillow_decodes", reason=found.reason)
        catalog = Catalog.load(settings, plan, default=default)
    app = Flask("service", static_folder=None)
    app.url_map.merge_slashes = False  # "//classify" is no address; a redirect would lose the body
    parts = Parts(settings, plan, catalog, Room(plan.decode_memory // SHARE, settings.max_body_bytes))
    attach(app, parts)
    observe.install(app)
    errors.install(app)
    for resource in (classify, models, health, info, docs):
        app.register_blueprint(resource.blueprint)
    app.wsgi_app = observe.sending(direct.Direct(app.wsgi_app, parts))  # type: ignore[method-assign, assignment]
    return app


def _refuse_before_the_fork() -> None:
    """A session's threads don't survive a fork: the child would hang at its first picture (onnxruntime#9800).

    Raises:
        StartError: called by gunicorn's master, as with `--preload`.
    """
    frame, names = sys._getframe(), set()
    while frame is not None:
        if frame.f_globals.get("__name__") == "gunicorn.arbiter":
            names.add(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    if names and "spawn_worker" not in names:
        raise StartError("the application was loaded before gunicorn's workers were forked; models must be loaded in the workers:"
                         " leave out --preload (preload_app)")
