"""`/openapi.json`, `/docs`, `/problems`: the interface for programs and for people, without internet.

Swagger UI comes from the package flask-swagger-ui, which carries its files; nothing of it is copied in here.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from flask import Blueprint, Response, render_template_string, send_from_directory

from service import __version__
from service.problems import every_problem
from service.web import answers

blueprint = Blueprint("docs", __name__)

ASSETS = str(resources.files("flask_swagger_ui") / "dist")

DOCS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Quadrant: the interface</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="docs/favicon-32x32.png"><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><main id="interface"></main>
<noscript>This page needs JavaScript; <a href="openapi.json">openapi.json</a> does not.</noscript>
<script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body></html>
"""
# No validator: it would be asked on the internet.
START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#interface", deepLinking: true, validatorUrl: null});\n'
PROBLEMS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Quadrant: problems</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}
h2{margin:1.6rem 0 .2rem;font-size:1.05rem}h2:target{outline:2px solid;outline-offset:.3rem}</style></head><body>
<h1>Problems</h1>
<p>Whatever can't be answered is refused with a problem document (RFC 9457).
Its <code>code</code> is stable; sentences are not.</p>
{% for each in problems %}<h2 id="{{ each.code }}"><code>{{ each.code }}</code> · {{ each.status|int }} · {{ each.title }}</h2>
<p>{{ each.__doc__ }}</p>
{% endfor %}</body></html>
"""


@functools.cache
def description() -> dict[str, Any]:
    """The OpenAPI document, as `openapi.yaml` has it, with the version that runs."""
    import yaml  # only for whoever asks

    document: dict[str, Any] = yaml.safe_load(resources.files("service.web").joinpath("openapi.yaml").read_text("utf-8"))
    document["info"]["version"] = __version__
    return document


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The interface for programs."""
    return answers.json(description())


@blueprint.get("/docs")
def docs() -> Response:
    """The interface for people."""
    return _page(DOCS)


@blueprint.get("/docs/start.js")
def script() -> Response:
    """Starts Swagger UI; a file of its own, for the page allows no script within."""
    return Response(START, content_type="text/javascript; charset=utf-8")


@blueprint.get("/docs/<name>")
def asset(name: str) -> Response:
    """A file of Swagger UI."""
    return send_from_directory(ASSETS, name, max_age=86_400)


@blueprint.get("/problems")
def problems() -> Response:
    """What each code means; `type` of a problem document leads here."""
    codes = {each.code: each for each in every_problem() if each.code != "internal"} | {"internal": every_problem()[0]}
    return _page(render_template_string(PROBLEMS, problems=sorted(codes.values(), key=lambda each: (each.status, each.code))))


def _page(content: str) -> Response:
    response = Response(content, content_type="text/html; charset=utf-8")
    # Swagger UI sets styles on elements and shows pictures from data URLs; nothing is ever loaded from elsewhere.
    response.headers["Content-Security-Policy"] = (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'self'; "
        "base-uri 'none'")
    return response
