"""The description of the interface: for programs, for people, and what each problem means."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from flask import Blueprint, Response, jsonify, render_template_string, send_from_directory

from service import problems

blueprint = Blueprint("docs", __name__)
SWAGGER = Path(str(resources.files("swagger_ui"))) / "static"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Quadrant: the interface</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="swagger-ui"></div><script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script></body></html>"""
START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});\n'
PROBLEMS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Quadrant: problems</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}
h2{margin:1.6rem 0 .2rem;font-size:1.05rem}code{background:#eee;padding:.1em .3em}</style></head><body>
<h1>Problems</h1><p>Every refusal is a problem document (RFC 9457); <code>code</code> is stable, sentences are not.</p>
{% for one in problems %}<h2 id="{{ one.code }}">{{ one.status|int }} <code>{{ one.code }}</code></h2>
<p>{{ one.title }}. {{ one.__doc__.split("\n")[0] }}</p>{% endfor %}</body></html>"""


@functools.cache
def description() -> dict[str, Any]:
    """The OpenAPI document as parsed from `openapi.yaml`."""
    text = resources.files("service.web").joinpath("openapi.yaml").read_text()
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def kinds() -> list[type[problems.Problem]]:
    """Every kind of problem, by status and code."""
    found, queue = [problems.Problem], [problems.Problem]
    while queue:
        below = queue.pop().__subclasses__()
        queue += below
        found += below
    return sorted({one.code: one for one in found}.values(), key=lambda one: (int(one.status), one.code))


@blueprint.get("/")
def start() -> Response:
    """Where to go from here."""
    return jsonify(service="Quadrant", classify="POST /classify", docs="/docs", openapi="/openapi.json", models="/models",
                   info="/info", ready="/health/ready", metrics="/metrics")


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The interface for programs."""
    return jsonify(description())


@blueprint.get("/docs")
def docs() -> str:
    """The interface for people; works without internet."""
    return PAGE


@blueprint.get("/docs/start.js")
def script() -> Response:
    """Starts Swagger UI."""
    return Response(START, content_type="text/javascript; charset=utf-8")


@blueprint.get("/docs/<path:name>")
def asset(name: str) -> Response:
    """A file of the package that carries Swagger UI."""
    return send_from_directory(SWAGGER, name, max_age=86400)


@blueprint.get("/problems")
def problem_list() -> str:
    """What each problem's code means."""
    return render_template_string(PROBLEMS, problems=kinds())
