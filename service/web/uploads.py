"""A request → pictures and options, in each of the ways that clients send them.

Of a picture it knows only that it is bytes. What a client declares a picture to be is never believed.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from service.answer import Options
from service.problems import BadOption, BadRequest, EmptyBody, Problem, TooManyPictures, UnsupportedMediaType
from service.settings import Settings
from service.web import body

RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # the last: what curl --data-binary says of any bytes
MOST_FIELDS = 32  # of a form, beside its files
SHOWN = 60  # characters of a client's own text that messages repeat

Entry = bytes | Problem  # a picture, or why there is none in its place


class Upload(NamedTuple):
    """What a request asks.

    Attributes:
        pictures: at least one; in their order.
        several: answer with a list; the request was made to hold several, or does.
    """

    pictures: list[Entry]
    options: Options
    several: bool

    def take(self) -> bytes:
        """The only picture, which is no longer held here: it can be let go once it is decoded."""
        (picture,) = self.pictures
        self.pictures.clear()
        assert isinstance(picture, bytes)  # of one alone, `read` raises the problem
        return picture


class Given(NamedTuple):
    """One option as it came: text, or a value of JSON."""

    name: str
    value: Any


def read(request: Request, settings: Settings) -> Upload:
    """Take in a request.

    Raises:
        Problem: of the media type, the body, the form, the JSON or an option.
    """
    kind = request.mimetype
    if not (kind in RAW or kind.startswith("image/") or kind in READERS):
        raise UnsupportedMediaType(
            f'content type is "{_short(kind)}"; expected image/*, application/octet-stream, multipart/form-data or '
            "application/json", content_type=_short(kind))
    given = [Given(*pair) for pair in request.args.items(multi=True)]
    if kind not in READERS:
        return raw(request.environ, given, settings)
    content = body.read(request.environ, settings.max_body_bytes, settings.body_timeout_s)
    options(given)  # what is wrong in the query needs no body to be unpacked
    pictures, more, several = READERS[kind](content, request, settings)
    chosen = options([*given, *more])
    if len(pictures) > settings.max_pictures:
        raise _too_many(len(pictures), settings)
    return Upload(pictures, chosen, several)


def raw(environ: dict[str, Any], given: Iterable[Given], settings: Settings) -> Upload:
    """Take in a request whose body is one image.

    Raises:
        Problem: of the body or an option.
    """
    content = body.read(environ, settings.max_body_bytes, settings.body_timeout_s)
    if not content:
        raise EmptyBody("body is empty; expected the bytes of a picture")
    return Upload([content], options(given), False)


def options(given: Iterable[Given]) -> Options:
    """Options from the query, form fields and `parameters`, all together.

    Raises:
        BadOption: an unknown name, one given twice, or a value that can't be one; names what is expected.
    """
    values: dict[str, Any] = {}
    for name, value in given:
        if name not in OPTIONS:
            raise BadOption(f'option "{_short(name)}" is not known; expected one of {", ".join(OPTIONS)}',
                            option=_short(name), known=list(OPTIONS))
        if name in values:
            raise BadOption(f"option {name} is given twice; expected it once", option=name)
        parse, expected = OPTIONS[name]
        values[name] = parse(value)
        if values[name] is None:
            shown = _short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            raise BadOption(f'{name} is "{shown}"; expected {expected}', option=name, value=shown)
    return Options(**values)


def _whole(value: Any) -> int | None:
    """1 and up, from a number or its digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    return value if type(value) is int and value >= 1 else None


def _share(value: Any) -> float | None:
    """0 to 1."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and 0 <= number <= 1 else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _version(value: Any) -> str | None:
    number = _whole(value)
    return None if number is None else str(number)


OPTIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "top_k": (_whole, "a whole number from 1 up"),
    "threshold": (_share, "a number from 0 to 1"),
    "coverage": (_share, "a number from 0 to 1"),
    "model": (_text, "the name of a model"),
    "version": (_version, "a whole number from 1 up"),
}


def _form(content: bytes, request: Request, settings: Settings) -> tuple[list[Entry], list[Given], bool]:
    """A form with files in fields of any name; the other fields are options.

    Raises:
        BadRequest: not a form.
        EmptyBody: no file in it.
        TooManyPictures: or too many other fields.
    """
    parser = FormDataParser(
        stream_factory=lambda *_, **__: io.BytesIO(),  # the body is in memory already, and no longer than allowed
        max_form_memory_size=None, max_form_parts=settings.max_pictures + MOST_FIELDS, silent=False)
    try:
        _, fields, files = parser.parse(io.BytesIO(content), request.mimetype, len(content), request.mimetype_params)
    except RequestEntityTooLarge as error:
        raise _too_many(settings.max_pictures + MOST_FIELDS + 1, settings) from error
    except Exception as error:  # werkzeug's parser raises ValueError, and others over hostile bytes
        raise BadRequest(f"multipart form can't be read: {_reason(error)}") from error
    pictures: list[Entry] = []
    for _, file in files.items(multi=True):
        found = file.stream.read()
        if found or file.filename:  # a browser sends a nameless, empty one where nothing was chosen
            pictures.append(found)
    if not pictures:
        raise EmptyBody("form has no file in it; expected at least one part with a filename (curl: -F image=@photo.jpg)")
    return pictures, [Given(*pair) for pair in fields.items(multi=True)], len(pictures) > 1


class _Inputs(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON that Hugging Face's clients send."""

    inputs: str | list[str]
    parameters: dict[str, Any] | None = None


def _json(content: bytes, _: Request, settings: Settings) -> tuple[list[Entry], list[Given], bool]:
    """`{"inputs": BASE64, data URL or a list of them, "parameters": {…}}`.

    Raises:
        BadOption: another function than softmax is asked for.
        BadRequest: not such JSON, or its only picture is not base64.
        EmptyBody: no picture in it.
    """
    if not content:
        raise EmptyBody('body is empty; expected {"inputs": BASE64}')
    try:
        sent = msgspec.json.decode(content, type=_Inputs)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(
            f'JSON can\'t be used: {_reason(error)}; expected {{"inputs": BASE64 or a list of them, "parameters": {{…}}}}'
        ) from error
    several = isinstance(sent.inputs, list)
    texts = sent.inputs if isinstance(sent.inputs, list) else [sent.inputs]
    if not texts:
        raise EmptyBody('"inputs" is an empty list; expected at least one picture')
    if len(texts) > settings.max_pictures:  # before they are decoded
        raise _too_many(len(texts), settings)
    pictures = [_decoded(text) for text in texts]
    if not several and isinstance(pictures[0], Problem):
        raise pictures[0]
    parameters = {name: value for name, value in (sent.parameters or {}).items() if value is not None}
    if (function := parameters.pop("function_to_apply", "softmax")) != "softmax":
        raise BadOption(f'function_to_apply is "{_short(str(function))}"; expected softmax, which is part of every model here',
                        option="function_to_apply")
    return pictures, [Given(*pair) for pair in parameters.items()], several


READERS = {"multipart/form-data": _form, "application/json": _json}


def _decoded(text: str) -> Entry:
    """The bytes behind base64 or a data URL."""
    if text.startswith(("http://", "https://")):
        return BadRequest("picture is a web address; this server fetches nothing: send the picture itself")
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            return BadRequest(f'picture is a data URL that begins "{_short(head)}"; expected data:image/…;base64,…')
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass  # perhaps it is only broken into lines
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        return BadRequest(f"picture is not base64: {_reason(error)}")


def _too_many(count: int, settings: Settings) -> TooManyPictures:
    return TooManyPictures(f"{count} pictures in one call; this server accepts up to {settings.max_pictures}",
                           count=count, limit=settings.max_pictures)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
