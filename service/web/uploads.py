"""A request → pictures and options, in each of the ways that clients send them."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from flask import Request
from werkzeug.datastructures import FileStorage
from werkzeug.formparser import FormDataParser

from service.classifier import Options
from service.problems import BadOption, BadRequest, EmptyBody, TooManyPictures, UnsupportedMediaType
from service.settings import Settings
from service.web import body

EXPECTED = {
    "top_k": "a whole number from 1 up",
    "threshold": "a number from 0 to 1",
    "model": "a model's name",
    "version": "a whole number from 1 up",
}


class Upload(NamedTuple):
    """What a request asks.

    Attributes:
        many: answer with a list, even of one: the request was made to hold several.
    """

    pictures: list[bytes]
    options: Options
    many: bool


def read(request: Request, settings: Settings) -> Upload:
    """Take in a request.

    Raises:
        Problem: of the body, the media type, the form or an option.
    """
    kind = request.mimetype
    if not _known(kind):
        raise UnsupportedMediaType(
            f'content type is "{kind[:100]}"; expected image/*, application/octet-stream, multipart/form-data or application/json',
            content_type=kind[:100],
        )
    query = dict(_single(request.args.items(multi=True)))
    content = body.read(request.environ, settings.max_body_bytes, settings.body_timeout_s)
    if kind == "multipart/form-data":
        pictures, given, many = _form(content, request, settings)
    elif kind == "application/json":
        pictures, given, many = _json(content)
    else:
        pictures, given, many = [content], {}, False
    if len(pictures) > settings.max_pictures:
        raise TooManyPictures(f"{len(pictures)} pictures in one request; this server accepts up to {settings.max_pictures}",
                              pictures=len(pictures), max_pictures=settings.max_pictures)
    if not many and not pictures[0]:
        raise EmptyBody("the request has no picture in it; send its bytes as the body")
    if twice := sorted(query.keys() & given.keys()):
        raise BadOption(f'option "{twice[0]}" is given twice, in the address and in the body', option=twice[0])
    return Upload(pictures, parse_options(query | given), many)


def parse_options(given: Mapping[str, Any]) -> Options:
    """Options from text or JSON values.

    Raises:
        BadOption: an unknown name, or a value that can't be one; names what is expected.
    """
    values = {}
    for name, value in given.items():
        if name not in EXPECTED:
            raise BadOption(f'option "{name[:60]}" is not known; expected one of {", ".join(EXPECTED)}', option=name[:60])
        values[name] = _option(name, value)
    return Options(**values)


def _option(name: str, value: Any) -> Any:
    wanted: Any = {"top_k": int, "version": int, "threshold": float, "model": str}[name]
    try:
        found = msgspec.convert(value, wanted, strict=isinstance(value, bool))
        fits = 0 <= found <= 1 if name == "threshold" else bool(found) if name == "model" else found >= 1
    except msgspec.ValidationError:
        fits = False
    if not fits:
        shown = json.dumps(value, ensure_ascii=False)
        raise BadOption(f"{name} is {shown[:60]}; expected {EXPECTED[name]}", option=name)
    return found


def _known(kind: str) -> bool:
    others = ("", "application/octet-stream", "multipart/form-data", "application/json", "application/x-www-form-urlencoded")
    return kind.startswith("image/") or kind in others  # curl --data-binary says x-www-form-urlencoded of any bytes


def _single(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    seen = set()
    for name, value in pairs:
        if name in seen:
            raise BadOption(f'option "{name[:60]}" is given twice', option=name[:60])
        seen.add(name)
        yield name, value


def _form(content: bytes, request: Request, settings: Settings) -> tuple[list[bytes], dict[str, Any], bool]:
    parser = FormDataParser(
        # In memory: the body is there already, and no larger than allowed.
        stream_factory=lambda *_, **__: io.BytesIO(), max_form_memory_size=settings.max_body_bytes,
        max_form_parts=settings.max_pictures + len(EXPECTED) + 64, silent=False,
    )
    try:
        _, fields, files = parser.parse(io.BytesIO(content), request.mimetype, len(content), request.mimetype_params)
    except Exception as error:
        raise BadRequest(f"the multipart form can't be read: {error}") from error
    uploads: list[FileStorage] = [file for _, file in files.items(multi=True)]
    if not uploads:
        raise EmptyBody("the form has no file in it; expected at least one, in a field of any name")
    return [file.stream.read() for file in uploads], dict(_single(fields.items(multi=True))), len(uploads) > 1


class _Inputs(msgspec.Struct, forbid_unknown_fields=True):
    inputs: str | list[str]
    parameters: dict[str, Any] = {}


def _json(content: bytes) -> tuple[list[bytes], dict[str, Any], bool]:
    if not content:
        raise EmptyBody('the body is empty; expected {"inputs": BASE64}')
    try:
        sent = msgspec.json.decode(content, type=_Inputs)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f'the JSON can\'t be used: {error}; expected {{"inputs": BASE64 or a list of them, "parameters": {{…}}}}') from error
    inputs = [sent.inputs] if isinstance(sent.inputs, str) else sent.inputs
    if not inputs:
        raise EmptyBody('"inputs" is an empty list; expected at least one picture')
    parameters = {name: value for name, value in sent.parameters.items() if value is not None}
    return [_base64(text, place) for place, text in enumerate(inputs)], parameters, isinstance(sent.inputs, list)


def _base64(text: str, place: int) -> bytes:
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise BadRequest(f'inputs[{place}] is a data URL that begins "{head[:40]}"; expected data:image/…;base64,…', input=place)
    elif text.startswith(("http://", "https://")):
        raise BadRequest(f"inputs[{place}] is a web address; this server fetches nothing: send the picture itself", input=place)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"inputs[{place}] is not base64: {error}", input=place) from error
