"""Request bodies: read up to a bound, then parsed strictly as JSON or as a form. Nothing is guessed or repaired.

No body keeps the event loop for more than a few milliseconds. What Python code has to go through is bounded in number
(strings, nested objects, fields, headers of a part) before it is parsed; what is bounded in bytes only is left to C
code, or taken in slices of SLICE bytes with a turn for everybody else in between.
"""

from __future__ import annotations

import asyncio
import codecs
import json
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
SLICE = 8 * 1024  # bytes that Python code goes through in a turn of the event loop: 2 ms
STRIDE = 1 << 20  # bytes that C code searches in a turn: 1 ms
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
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise WrongContentType(f"Content-Encoding must be left out, or identity, got {shorten(coding)}")
    given = request.headers.get("content-type", "")
    kind, options = parse_options_header(given if len(given) <= MAX_HEADER else None)
    charset = options.get(b"charset", b"utf-8").lower()
    name = kind.decode("latin-1").lower()
    if name not in kinds or charset not in (b"utf-8", b"utf8", b"us-ascii"):
        shown = shorten(given) if given else "missing"
        raise WrongContentType(f"Content-Type: {shown}, and it must be {' or '.join(kinds)}, in UTF-8")
    data = await _bytes(request, settings.max_upload if files and name == MULTIPART else settings.max_body)
    sent: dict[str, list[bytes]] = {}
    if name == JSON:
        values = await parse_json(data)
    elif name == URLENCODED:
        if data.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{":  # `curl -d '{...}'`, unless it is told otherwise
            raise WrongContentType(f"Content-Type: {name}, and the body looks like JSON: send Content-Type: {JSON}")
        values = from_strings(model, await parse_urlencoded(data))
    else:
        strings, sent = await parse_multipart(data, options.get(b"boundary"), files, settings.max_body)
        values = from_strings(model, strings)
    await asyncio.sleep(0)
    return Body(read(model, values), sent)


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


async def parse_json(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`: UTF-8, with or without a byte order mark (RFC 8259, section 8.1, lets one be ignored),
    no NaN or Infinity, no key twice, and within MAX_STRINGS, MAX_NESTED and MAX_OTHER. Raises BadBody."""
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadBody(f"the body is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
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
        what = "empty" if not text.strip() else f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise BadBody(f"the body is {what}") from None
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


async def parse_urlencoded(data: bytes) -> dict[str, str]:
    """The fields of an URL-encoded form. Raises BadBody."""
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
        escape = data.rfind(b"%", end - 2, end)  # that a cut here would go through
        end = end if escape == -1 else escape
        found += unquote_to_bytes(data[start:end])
        start = end
        await asyncio.sleep(0)
    return bytes(found)


async def parse_multipart(
    data: bytes, boundary: bytes | None, names: Collection[str], max_bytes: int
) -> tuple[dict[str, str], dict[str, list[bytes]]]:
    """The fields of a multipart form, of `max_bytes` together at most, and its files, which may be of these names.

    Raises BadBody, BodyTooLarge, and InvalidRequest for a file of no such name.
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
        if b"filename" not in options:
            max_bytes -= end - start
            if max_bytes < 0:
                raise BodyTooLarge("the fields of the form have more bytes than the server reads beside files")
            pairs.append((name, _utf8(data[start:end], "a value")))
        elif name in names:
            files[name].append(data[start:end])
        else:
            taken = f"files are taken as {', '.join(names)}" if names else "no field takes one"
            raise InvalidRequest(name, f"{shorten(name)}: a file, and {taken}")
    return _no_twice(pairs), dict(files)


async def _parts(data: bytes, delimiter: bytes) -> list[tuple[int, int]]:
    """Where the parts of a multipart body begin, after their delimiter, and end. Raises BadBody.

    A line that begins with the boundary is one, whatever follows: RFC 2046, section 5.1.1.
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
    """Where the delimiter stands next. Raises BadBody if it does not."""
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
        raise BadBody(f"the form cannot be read: a part must begin with headers, of {MAX_HEADER} bytes at most")
    padding, *lines = data[start:blank].split(b"\r\n")
    fields = [line.partition(b":") for line in lines]
    if padding.strip(b" \t") or not all(colon for _, colon, _ in fields):
        raise BadBody("the form cannot be read: a line between a boundary and a part is no header")
    return {name.lower(): value.strip(b" \t") for name, _, value in fields}, blank + 4


def _utf8(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is 0x{data[error.start]:02x}"
        raise BadBody(f"the form holds {what} that is not UTF-8: {found}") from None
