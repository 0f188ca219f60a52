"""Request bodies: read up to a bound, then parsed strictly as JSON or as a form. Nothing is guessed or repaired."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import Request

from app.http.errors import BadBody, BodyTooLarge, BodyTooSlow, ClientGone, WrongContentType
from app.http.schemas import from_strings, read
from app.settings import Settings
from app.wording import shorten
from model.errors import InvalidRequest

JSON, URLENCODED, MULTIPART = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"
BODY_SECONDS = 30.0  # for a body to arrive
MAX_FIELDS = 64  # of a form
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Body(Generic[M]):
    """What a client sent. files: of a multipart form, by the name of their field, in order."""

    fields: M
    files: Mapping[str, list[bytes]]


async def read_body(
    request: Request,
    model: type[M],
    settings: Settings,
    kinds: Collection[str] = (JSON, MULTIPART, URLENCODED),
    files: Collection[str] = (),
) -> Body[M]:
    """The body, its fields as a `model`. kinds: the Content-Types that are read. files: names that a form's files have.

    Raises WrongContentType, BodyTooLarge (having read the limit at most), BodyTooSlow, ClientGone, BadBody, and
    InvalidRequest for fields.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    charset = options.get(b"charset", b"utf-8").lower()
    name = kind.decode("latin-1").lower()
    if name not in kinds or charset not in (b"utf-8", b"utf8", b"us-ascii"):
        found = request.headers.get("content-type")
        shown = "missing" if found is None else shorten(found)
        raise WrongContentType(f"Content-Type: {shown}, and it must be {' or '.join(kinds)}, in UTF-8")
    data = await _bytes(request, settings.max_upload if files and name == MULTIPART else settings.max_body)
    if name == JSON:
        return Body(read(model, parse_json(data)), {})
    if name == URLENCODED:
        if data.lstrip()[:1] == b"{":  # what `curl -d '{...}'` sends unless it is told otherwise
            raise WrongContentType(f"Content-Type: {name}, and the body looks like JSON: send Content-Type: {JSON}")
        return Body(read(model, from_strings(model, parse_urlencoded(data))), {})
    strings, sent = parse_multipart(data, options.get(b"boundary"), files)
    return Body(read(model, from_strings(model, strings)), sent)


async def _bytes(request: Request, max_bytes: int) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise BodyTooLarge(f"the body has {length} bytes, and the server reads at most {max_bytes}")
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("the client left before its request was complete")
                data += message.get("body", b"")
                if len(data) > max_bytes:
                    raise BodyTooLarge(f"the body has more than the {max_bytes} bytes that the server reads")
                if not message.get("more_body", False):
                    return bytes(data)
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {BODY_SECONDS:g} s") from None


def parse_json(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`: UTF-8, no NaN or Infinity, no key twice. Raises BadBody."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadBody(f"the body is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_twice)
    except json.JSONDecodeError as error:
        what = "empty" if not text.strip() else f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise BadBody(f"the body is {what}") from None
    except RecursionError:
        raise BadBody("the body is not JSON that a request can be: it is nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadBody(f"the body is not JSON that a request can be: {error}") from None
    if not isinstance(value, dict):
        raise BadBody(f"the body must be a JSON object, and it is {shorten(value)}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise BadBody(f"the body is not JSON: it holds {name}, which is no JSON number")


def _no_twice(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise BadBody(f"{shorten(name)}: stands more than once in the body")
        values[name] = value
    return values


def parse_urlencoded(data: bytes) -> dict[str, str]:
    """The fields of an URL-encoded form. Raises BadBody."""
    try:
        pairs = parse_qsl(
            data.decode("ascii"), keep_blank_values=True, strict_parsing=bool(data), errors="strict",
            max_num_fields=MAX_FIELDS,
        )  # fmt: skip
    except UnicodeDecodeError as error:
        raise BadBody(f"the form is not UTF-8 in URL encoding: {error.reason} at byte {error.start}") from None
    except ValueError as error:
        raise BadBody(f"the form cannot be read: {error}") from None
    return _no_twice(pairs)


def parse_multipart(
    data: bytes, boundary: bytes | None, names: Collection[str] = ()
) -> tuple[dict[str, str], dict[str, list[bytes]]]:
    """The fields of a multipart form, and its files. Raises BadBody, and InvalidRequest for a file of no known name."""
    pairs: list[tuple[str, str]] = []
    files: dict[str, list[bytes]] = defaultdict(list)
    complete = False

    def on_field(field: Field) -> None:
        if len(pairs) == MAX_FIELDS:
            raise FormParserError(f"more than {MAX_FIELDS} fields")
        pairs.append((_utf8(field.field_name or b"", "a name"), _utf8(field.value or b"", "a value")))

    def on_file(file: File) -> None:
        name = _utf8(file.field_name or b"", "a name")
        try:
            if name not in names:
                taken = f"files are taken as {', '.join(names)}" if names else "no field takes one"
                raise InvalidRequest(name, f"{shorten(name)}: a file, and {taken}")
            if sum(map(len, files.values())) == MAX_FIELDS:
                raise FormParserError(f"more than {MAX_FIELDS} files")
            file.file_object.seek(0)
            files[name].append(file.file_object.read())
        finally:
            file.close()

    def on_end() -> None:
        nonlocal complete
        complete = True

    try:
        parser = FormParser(MULTIPART, on_field, on_file, on_end, boundary, config={"MAX_MEMORY_FILE_SIZE": len(data)})
        parser.write(data)
        parser.finalize()
    except FormParserError as error:
        raise BadBody(f"the form cannot be read: {shorten(str(error))}") from None
    if not complete:
        raise BadBody("the form cannot be read: its last boundary is missing")
    return _no_twice(pairs), dict(files)


def _utf8(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is 0x{data[error.start]:02x}"
        raise BadBody(f"the form holds {what} that is not UTF-8: {found}") from None
