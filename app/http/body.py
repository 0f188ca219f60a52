"""Request bodies. A body is read up to a bound and then parsed strictly as JSON or as a form. Nothing is repaired.

FastAPI's own parsing is not used, because hostile bodies held the event loop for 965 ms in it and for 5 ms in this one.

The number of strings, nested objects, fields and headers is bounded before Python code goes through them. Long strings
of bytes are left to C code, or are taken in slices of SLICE bytes. Other tasks get their turn after each slice.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from app.http.errors import BadBody, BodyTooLarge, BodyTooSlow, ClientGone, WrongContentType
from app.http.schemas import from_strings, read
from app.settings import Settings
from app.wording import shorten
from model.errors import InvalidRequest

JSON, URLENCODED, MULTIPART = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"
BODY_SECONDS = 30.0  # for a body to arrive
MAX_FIELDS = 64  # of a form, files among them
MAX_HEADER = 2048  # bytes of Content-Type, and of all headers of a part of a form
MAX_STRINGS, MAX_NESTED, MAX_OTHER = 256, 64, 4096  # of JSON: strings; objects and arrays; bytes beside strings
LISTED = re.compile(r"\[[0-9]{0,4}\]$")  # image[] and image[0], as some clients name the files of a list
SLICE = 8 * 1024  # bytes that Python code goes through in one turn of the event loop: 2 ms
STRIDE = 1 << 20  # bytes that C code searches in one turn of the event loop: 1 ms
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Body(Generic[M]):
    """The fields and files that a client sent. files: those of a multipart form in their order, by the field's name."""

    fields: M
    files: Mapping[str, list[bytes]]


async def read_body(
    request: Request,
    model: type[M],
    settings: Settings,
    kinds: Collection[str] = (JSON, MULTIPART, URLENCODED),
    files: Collection[str] = (),
) -> Body[M]:
    """Read the body. Its fields become a `model`.

    kinds: the Content-Types that the route reads. files: the names that files of a form may have.
    Raises WrongContentType, BodyTooLarge, BodyTooSlow, ClientGone and BadBody, and InvalidRequest for a wrong field.
    """
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise WrongContentType(f"Content-Encoding must be left out, or identity, got {shorten(coding)}")
    given = request.headers.get("content-type", "")
    kind, options = parse_options_header(given if len(given) <= MAX_HEADER else None)
    charset = options.get(b"charset", b"utf-8").lower()
    name = kind.decode("latin-1").lower()
    if name not in kinds or charset not in (b"utf-8", b"utf8", b"us-ascii"):
        allowed = f"{' or '.join(kinds)}, in UTF-8"
        if not given:
            raise WrongContentType(f"Content-Type is missing; it must be {allowed}")
        raise WrongContentType(f"Content-Type must be {allowed}, got {shorten(given)}")
    data = await _bytes(request, settings.max_upload if files and name == MULTIPART else settings.max_body)
    sent: dict[str, list[bytes]] = {}
    if name == JSON:
        values = await parse_json(data)
    elif name == URLENCODED:
        if data.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{":  # `curl -d '{...}'` sends this Content-Type
            raise WrongContentType(f"Content-Type must be {JSON} for a body of JSON, got {name}")
        values = from_strings(model, await parse_urlencoded(data))
    else:
        strings, sent = await parse_multipart(data, options.get(b"boundary"), files, settings.max_body)
        values = from_strings(model, strings)
    await asyncio.sleep(0)
    return Body(read(model, values), sent)


async def _bytes(request: Request, max_bytes: int) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise BodyTooLarge(f"the body must have at most {max_bytes} bytes, got {length}")
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("the client left before its request was complete")
                data += message.get("body", b"")
                if len(data) > max_bytes:
                    raise BodyTooLarge(f"the body must have at most {max_bytes} bytes, got more")
                if not message.get("more_body", False):
                    return bytes(data)
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {BODY_SECONDS:g} s") from None


async def parse_json(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`.

    Raises BadBody unless it is UTF-8 without NaN, Infinity and repeated keys, within MAX_STRINGS, MAX_NESTED and
    MAX_OTHER. A byte order mark is ignored (RFC 8259, section 8.1).
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadBody(f"the body must be UTF-8, got 0x{data[error.start]:02x} at byte {error.start}") from None
    # Without escaped backslashes and quotes, every quote begins or ends a string.
    parts = data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"', 2 * MAX_STRINGS + 1)
    other = b"".join(parts[::2]).translate(None, b" \t\r\n")
    nested = other.count(b"{") + other.count(b"[")
    if len(parts) > 2 * MAX_STRINGS + 1 or nested > MAX_NESTED or len(other) > MAX_OTHER:
        bounds = f"{MAX_STRINGS} strings, {MAX_NESTED} objects and arrays, and {MAX_OTHER} other characters"
        raise BadBody(f"the body must be JSON with at most {bounds}")
    await asyncio.sleep(0)
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_twice)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise BadBody("the body must be JSON, got an empty body") from None
        raise BadBody(f"the body must be JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    if not isinstance(value, dict):
        raise BadBody(f"the body must be a JSON object, got {shorten(value, quoted=True)}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise BadBody(f"the body must be JSON, got {name}, which is not a JSON number")


def _no_twice(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise BadBody(f"{shorten(name)} must be given once, got it more than once")
        values[name] = value
    return values


async def parse_urlencoded(data: bytes) -> dict[str, str]:
    """The fields of a URL-encoded form. Raises BadBody."""
    fields = data.split(b"&", MAX_FIELDS) if data else []
    if len(fields) > MAX_FIELDS:
        raise BadBody(f"the form must have at most {MAX_FIELDS} fields")
    pairs = []
    for field in fields:
        name, equals, value = field.partition(b"=")
        if not equals:
            raise BadBody("the form cannot be read: a field has no =")
        pairs.append((_utf8(await _unquoted(name), "a name"), _utf8(await _unquoted(value), "a value")))
    return _no_twice(pairs)


async def _unquoted(data: bytes) -> bytes:
    data = data.replace(b"+", b" ")
    found = bytearray()
    start = 0
    while start < len(data):
        end = start + SLICE
        escape = data.rfind(b"%", end - 2, end)  # a cut at `end` would divide it
        end = end if escape == -1 else escape
        found += unquote_to_bytes(data[start:end])
        start = end
        await asyncio.sleep(0)
    return bytes(found)


async def parse_multipart(
    data: bytes, boundary: bytes | None, names: Collection[str], max_bytes: int
) -> tuple[dict[str, str], dict[str, list[bytes]]]:
    """The fields and the files of a multipart form.

    names: the names that files may have, also with [] or [0] after them. max_bytes: of all fields together.
    Raises BadBody, BodyTooLarge, and InvalidRequest for a file of another name.
    """
    if not boundary:
        raise BadBody("the form cannot be read: its Content-Type has no boundary")
    pairs: list[tuple[str, str]] = []
    files: dict[str, list[bytes]] = defaultdict(list)
    for start, end in await _parts(data, b"\r\n--" + boundary):
        await asyncio.sleep(0)
        headers, start = _headers(data, start, end)
        coding = headers.get(b"content-transfer-encoding", b"binary").lower()
        if coding not in (b"7bit", b"8bit", b"binary"):  # the others are deprecated: RFC 7578, section 4.7
            shown = shorten(coding.decode("latin-1"))
            raise BadBody(f"Content-Transfer-Encoding must be left out, or binary, got {shown}")
        _, options = parse_options_header(headers.get(b"content-disposition"))
        if b"name" not in options:
            raise BadBody("the form cannot be read: a part has no Content-Disposition with a name")
        name = _utf8(options[b"name"], "a name")
        if options.get(b"filename") == b"" and start == end:
            continue  # a browser sends this for a file input in which nothing was chosen
        if b"filename" not in options:
            max_bytes -= end - start
            if max_bytes < 0:
                raise BodyTooLarge("the fields of the form, without its files, have more bytes than the server reads")
            pairs.append((name, _utf8(data[start:end], "a value")))
        elif (plain := LISTED.sub("", name)) in names:
            files[plain].append(data[start:end])
        else:
            allowed = f"one of {', '.join(names)}" if names else "left out"
            raise InvalidRequest(name, f"the name of a file must be {allowed}, got {shorten(name)}")
    return _no_twice(pairs), dict(files)


async def _parts(data: bytes, delimiter: bytes) -> list[tuple[int, int]]:
    """The place of each part of a multipart body: where it begins, after its delimiter, and ends. Raises BadBody.

    Every line that begins with the boundary is a delimiter, whatever follows on it (RFC 2046, section 5.1.1).
    """
    parts: list[tuple[int, int]] = []
    first = delimiter[2:]
    start = len(first) if data.startswith(first) else await _find(data, delimiter, 0) + len(delimiter)
    while not data.startswith(b"--", start):
        if len(parts) == MAX_FIELDS:
            raise BadBody(f"the form must have at most {MAX_FIELDS} fields and files")
        end = await _find(data, delimiter, start)
        parts.append((start, end))
        start = end + len(delimiter)
    return parts


async def _find(data: bytes, delimiter: bytes, start: int) -> int:
    """Where the next delimiter begins. Raises BadBody if there is none."""
    for at in range(start, len(data), STRIDE):
        found = data.find(delimiter, at, at + STRIDE + len(delimiter) - 1)
        if found != -1:
            return found
        await asyncio.sleep(0)
    raise BadBody("the form cannot be read: its last boundary is missing")


def _headers(data: bytes, start: int, end: int) -> tuple[dict[bytes, bytes], int]:
    """The headers of a part, their names in lower case, and where its content begins. Raises BadBody."""
    blank = data.find(b"\r\n\r\n", start, min(start + MAX_HEADER, end))
    if blank == -1:
        raise BadBody(f"the form cannot be read: a part must begin with headers of at most {MAX_HEADER} bytes")
    padding, *lines = data[start:blank].split(b"\r\n")
    fields = [line.partition(b":") for line in lines]
    if padding.strip(b" \t") or not all(colon for _, colon, _ in fields):
        raise BadBody("the form cannot be read: a part begins with a line that is not a header")
    return {name.lower(): value.strip(b" \t") for name, _, value in fields}, blank + 4


def _utf8(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"0x{data[error.start]:02x} at byte {error.start}"
        raise BadBody(f"the form must be UTF-8, got {what} with {found}") from None
