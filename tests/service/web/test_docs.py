"""The description says what the service does, and can be read without internet."""

from __future__ import annotations

import re
from typing import Any

import jsonschema_rs
import pytest
from flask import Flask
from flask.testing import FlaskClient

from service import __version__, containers
from service.problems import Problem, every_problem
from service.web import docs, uploads

HIDDEN = {"/docs/<name>", "/docs/start.js"}  # parts of /docs, of no use alone
CODES = sorted({problem.code for problem in every_problem()})


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return docs.description()


def resolved(node: Any, root: dict[str, Any]) -> Any:
    """The node behind a reference."""
    while isinstance(node, dict) and "$ref" in node:
        place = root
        for step in node["$ref"].removeprefix("#/").split("/"):
            place = place[step]
        node = place
    return node


def examples(root: dict[str, Any]) -> list[tuple[str, Any, dict[str, Any]]]:
    """Every example of a body: where, the example, its schema."""
    found = []
    for path, methods in root["paths"].items():
        for method in methods.values():
            bodies = {"request": method.get("requestBody", {})} | method["responses"]
            for status, body in bodies.items():
                for media, content in resolved(body, root).get("content", {}).items():
                    values = [resolved(each, root)["value"] for each in content.get("examples", {}).values()]
                    values += [content["example"]] if "example" in content else []
                    found += [(f"{path} {status} {media}", value, content["schema"]) for value in values]
    return found


def test_it_is_served_as_it_is_written(client: FlaskClient, described: dict[str, Any]):
    """Version 3.1, with the version that runs."""
    reply = client.get("/openapi.json")
    assert reply.json == described
    assert (reply.json["openapi"], reply.json["info"]["version"]) == ("3.1.0", __version__)


def test_every_address_is_described(app: Flask, described: dict[str, Any]):
    """What isn't described isn't found by anyone."""
    rules = {
        re.sub(r"<(\w+)>", r"{\1}", rule.rule): (rule.methods or set()) - {"HEAD", "OPTIONS"}
        for rule in app.url_map.iter_rules() if rule.rule not in HIDDEN
    }
    assert rules == {path: {method.upper() for method in methods} for path, methods in described["paths"].items()}


@pytest.mark.parametrize("problem", every_problem(), ids=lambda problem: problem.__name__)
def test_every_problem_is_described(described: dict[str, Any], problem: type[Problem]):
    """`code` is part of the interface: a new one appears here first."""
    assert problem.code in described["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]


@pytest.mark.parametrize("code", [code for code in CODES if code != "too-large"])  # a mere parent, never raised by itself
def test_every_code_has_an_example_with_its_status_and_title(described: dict[str, Any], code: str):
    """An example that contradicts the code is worse than none."""
    problem = next(each for each in every_problem() if each.code == code)
    found = [value for _, value, _ in examples(described) if isinstance(value, dict) and value.get("code") == code]
    assert found
    assert {(each["status"], each["title"], each["type"]) for each in found} == {
        (int(problem.status), problem.title, f"/problems#{code}")}


def test_no_code_is_described_that_does_not_exist(described: dict[str, Any]):
    """A client would wait for it in vain."""
    assert sorted(described["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == CODES


def test_every_example_fits_its_schema(described: dict[str, Any]):
    """Examples are copied; they must work."""
    found = examples(described)
    assert len(found) > 20
    for place, value, schema in found:
        validator = jsonschema_rs.Draft202012Validator(schema | {"components": described["components"]})
        assert not [f"{place}: {error.message}" for error in validator.iter_errors(value)]


def test_every_option_and_format_is_described(described: dict[str, Any]):
    """The tables in the code and in the description are the same."""
    asked = {resolved(each, described)["name"] for each in described["paths"]["/classify"]["post"]["parameters"]
             if resolved(each, described)["in"] == "query"}
    parameters = described["components"]["schemas"]["Inputs"]["properties"]["parameters"]["properties"]
    assert asked == set(parameters) - {"function_to_apply"} == set(uploads.OPTIONS)
    formats = described["components"]["schemas"]["Answer"]["properties"]["image"]["properties"]["format"]["enum"]
    assert formats == list(containers.SUPPORTED)


def test_answers_fit_their_schemas(client: FlaskClient, picture: bytes, described: dict[str, Any]):
    """The description is a promise."""
    def check(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
        jsonschema_rs.Draft202012Validator(schema).validate(value)

    check("Answer", client.post("/classify", data=picture).json)
    check("Models", client.get("/models").json)
    check("Model", client.get("/models/quadrants").json)
    check("Labels", client.get("/models/quadrants/labels").json)
    check("Info", client.get("/info").json)
    check("Problem", client.get("/nope").json)


def test_the_page_needs_no_internet(client: FlaskClient):
    """Everything that it loads is here, and nothing else may be loaded."""
    page = client.get("/docs")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {path: client.get(f"/{path}", buffered=True).status_code for path in loaded} == dict.fromkeys(loaded, 200)
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert "://" not in page.text + docs.START


def test_the_page_shows_openapi_3_1(client: FlaskClient):
    """Swagger UI reads 3.1 from version 5 on; before, it showed an error."""
    script = client.get("/docs/swagger-ui-bundle.js", buffered=True).text
    assert "openapi" in script
    assert "OpenAPI 3.1" in script or "oas31" in script.lower()


def test_every_code_is_explained(client: FlaskClient):
    """The section that `type` refers to, in words."""
    page = client.get("/problems").text
    assert re.findall(r'<h2 id="([^"]+)"', page) == sorted(
        CODES, key=lambda code: (next(int(each.status) for each in every_problem() if each.code == code), code))
