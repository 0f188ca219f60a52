"""Bodies made to hold the event loop, and honest bodies that look odd: which are read, and what they cost."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Coroutine
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from app.http.body import JSON, MAX_FIELDS, MULTIPART, SLICE, URLENCODED, Body, read_body
from app.http.framing import StrictConnection
from app.http.openai_schemas import EditsRequest
from app.http.schemas import GenerateRequest, from_strings
from app.settings import Settings
from app.wording import SHOWN, shorten
from model.errors import DalleError
from tests.app.live import REPLICAS, Live

FORM = MULTIPART + "; boundary=B"
FILE = b'Content-Disposition: form-data; name="image"; filename="a.png"'
NAMED = b'Content-Disposition: form-data; name="%s"'
BODY, UPLOAD = 1 << 20, 8 << 20
CALLS = 30_000  # that Python may make in a turn of the loop: some milliseconds
BOUNDS = "the body must be JSON with at most 256 strings, 64 objects and arrays, and 4096 other characters"
PARTS = "the form must have at most 64 fields and files"


def reading(kind: str, data: bytes, model: type[Any] = GenerateRequest) -> Coroutine[Any, Any, Body[Any]]:
    """Read `data` as the route does that takes every kind of body."""

    async def receive() -> Message:
        return {"type": "http.request", "body": data}

    request = Request({"type": "http", "headers": [(b"content-type", kind.encode())]}, receive)
    return read_body(request, model, Settings(), files=("image", "mask"))


def read(kind: str, data: bytes, model: type[Any] = GenerateRequest) -> Body[Any]:
    return asyncio.run(reading(kind, data, model))


def refusal(kind: str, data: bytes) -> str:
    with pytest.raises(DalleError) as caught:
        read(kind, data)
    return str(caught.value)


def filled(unit: bytes, size: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """`size` bytes: one text, a unit again and again, another text."""
    return before + unit * ((size - len(before) - len(after)) // len(unit)) + after


def part(headers: bytes, content: bytes = b"") -> bytes:
    return b"--B\r\n" + headers + b"\r\n\r\n" + content + b"\r\n"


END = b"--B--\r\n"
LAST = b"\r\n" + END
BASE64 = b"\r\nContent-Transfer-Encoding: base64"
FIELDS = [part(NAMED % b"f%d" % i + b";" * 1900) for i in range(MAX_FIELDS)]
# What each of them once cost: a call of Python code for every key, escape, part, header or byte.
HOSTILE: dict[str, tuple[str, bytes, str]] = {
    "keys": (JSON, b"{" + b",".join(b'"k%d":1' % i for i in range(80_000)) + b"}", BOUNDS),
    "objects": (JSON, filled(b'{"a":1},', BODY, b'{"text":[', b"1]}"), BOUNDS),
    "arrays": (JSON, filled(b"[],", BODY, b'{"text":[', b"1]}"), BOUNDS),
    "numbers": (JSON, filled(b"1,", BODY, b'{"text":[', b"1]}"), BOUNDS),
    "strings": (JSON, filled(b'"",', BODY, b'{"text":[', b"1]}"), BOUNDS),
    "depth": (JSON, b'{"text":' + b"[" * 500_000 + b"]" * 500_000 + b"}", BOUNDS),
    "digits": (JSON, filled(b"9", BODY, b'{"seed":', b"}"), BOUNDS),
    "long key": (JSON, filled("é".encode(), BODY, b'{"', b'":1}'), "is not a field of this request"),
    "unknown keys": (
        JSON, b'{"text":"a",' + b",".join(b'"%s%d":1' % (b"temperature" * 6, i) for i in range(250)) + b"}",
        "/docs lists the fields",
    ),
    "near keys": (
        JSON, b'{"text":"a",' + b",".join(b'"temperature%d":1' % i for i in range(250)) + b"}",
        "did you mean temperature?",
    ),
    "long item": (JSON, filled(b'\\"', BODY, b'{"seed":["', b'"]}'), '775807, got ["'),
    "quotes": (JSON, filled(b'\\"', BODY, b'{"text":"', b'"}'), "not blank, got 5242"),
    "backslashes": (JSON, filled(b"\\\\", BODY, b'{"text":"', b'"}'), "not blank, got 5242"),
    "escapes": (URLENCODED, filled(b"%41", BODY, b"text="), "not blank, got 3495"),
    "percents": (URLENCODED, filled(b"%", BODY, b"text="), "not blank, got 10485"),
    "pairs": (URLENCODED, filled(b"a=1&", BODY), "the form must have at most 64 fields"),
    "digits of a form": (URLENCODED, filled(b"1", BODY, b"temperature=", b"x"), 'a number from 0 to 5, got "1111'),
    "parts": (FORM, filled(part(FILE), UPLOAD, b"", END), PARTS),
    "headers": (FORM, filled(b"a:\r\n", UPLOAD, b"--B\r\n", b"\r\n" + END), "headers of at most 2048 bytes"),
    "spaces": (FORM, filled(b" ", UPLOAD, b"--B\r\na:", b"\r\n\r\n\r\n" + END), "headers of at most 2048 bytes"),
    "padding": (FORM, filled(b" ", UPLOAD, b"--B", b"\r\n\r\n" + END), "headers of at most 2048 bytes"),
    "semicolons": (FORM, b"".join(FIELDS) + END, "text is missing"),
    "boundaries": (FORM, filled(b"\r\n--Bx", UPLOAD, b"--B\r\n" + FILE + b"\r\n\r\n", b"\r\n" + END), PARTS),
    "near": (FORM, filled(b"\r\n--A", UPLOAD, b"--B\r\n" + FILE + b"\r\n\r\n", b"\r\n" + END), "text is missing"),
    "preamble": (FORM, filled(b"\r\n-", UPLOAD), "its last boundary is missing"),
    "epilogue": (FORM, filled(b"\r\n--B", UPLOAD, part(NAMED % b"x") + END), "text is missing"),
    "base64": (
        FORM, filled(b"QUFB", UPLOAD, b"--B\r\n" + FILE + BASE64 + b"\r\n\r\n", LAST),
        "Content-Transfer-Encoding must be left out, or binary, got base64",
    ),
    "large field": (FORM, filled(b"a", UPLOAD, b"--B\r\n" + NAMED % b"text" + b"\r\n\r\n", LAST), "more bytes"),
    "type": (FORM + ";" * 60_000, b"", "Content-Type must be "),
}  # fmt: skip


def calls_a_turn(coroutine: Coroutine[Any, Any, Any]) -> int:
    """Run a coroutine that waits only for its next turn. Returns the largest number of calls of functions in a turn."""
    most = count = 0

    def counted(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    def turn() -> bool:
        sys.setprofile(counted)
        try:
            coroutine.send(None)
        except (StopIteration, DalleError):
            return False
        finally:
            sys.setprofile(None)
        return True

    async def turns() -> None:  # asyncio.timeout wants a task
        nonlocal most, count
        going = True
        while going:
            count = 0
            going = turn()
            most = max(most, count)

    asyncio.run(turns())
    return most


@pytest.mark.parametrize("name", HOSTILE)
def test_no_body_holds_the_event_loop(name: str) -> None:
    """In one turn of the loop Python code does little, whatever the body. A search that is not linear never ends."""
    kind, data, says = HOSTILE[name]
    assert says in refusal(kind, data)
    assert calls_a_turn(reading(kind, data)) < CALLS


def test_the_measure_notices_what_holds_the_event_loop() -> None:
    async def busy() -> None:
        for _ in range(CALLS):
            len("")

    assert calls_a_turn(busy()) >= CALLS


@pytest.mark.parametrize("number", ["1" * 1_000_000, "1" * 1_000_000 + "x", "1." * 500_000, "+" + "." * 100_000])
def test_a_long_number_in_a_form_is_refused(number: str) -> None:
    assert from_strings(GenerateRequest, {"temperature": number, "seed": number}) == {
        "temperature": number,
        "seed": number,
    }


@pytest.mark.parametrize(
    ("string", "number"),
    [
        ("1", 1.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("+0.25e1", 2.5),
        ("-1E-3", -0.001),
        ("1" * 100, float("1" * 100)),
    ]
    + [(string, None) for string in (".", "e5", "1e", "1..2", "1_0", "0x1", " 1", "1\n", "inf", "nan", "1" * 101, "١")],
)
def test_numbers_in_a_form_are_decimal(string: str, number: float | None) -> None:
    expected = string if number is None else number
    assert from_strings(GenerateRequest, {"temperature": string}) == {"temperature": expected}


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
@pytest.mark.parametrize("name", ["text", "prompt", "seed", "x"])
@pytest.mark.parametrize(("opens", "closes"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("depth", [1, 63, 64, 300, 900, 990, 5000])
def test_deep_json_is_refused_in_words(
    live: Live, path: str, name: str, opens: bytes, closes: bytes, depth: int
) -> None:
    content = b'{"%s": ' % name.encode() + opens * depth + b"1" + closes * depth + b"}"
    answer = live.client.post(path, content=content, headers={"Content-Type": JSON})
    assert answer.status_code == (422 if depth < 64 and path == "/generate" else 400)
    assert (BOUNDS in answer.text) == (depth >= 64)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "identity, gzip", "", "x" * 5000])
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/generate", JSON), ("/generate", URLENCODED), ("/generate", FORM),
        ("/v1/images/generations", JSON), ("/v1/images/edits", FORM),
    ],
)  # fmt: skip
def test_coded_bodies_are_refused_in_words(live: Live, path: str, kind: str, coding: str) -> None:
    answer = live.client.post(path, content=b"\x1f\x8b", headers={"Content-Type": kind, "Content-Encoding": coding})
    assert answer.status_code == 415
    assert "Content-Encoding must be left out, or identity, got " in answer.text
    assert len(answer.text) < 300


def test_a_byte_order_mark_is_passed_over(live: Live) -> None:
    mark = b"\xef\xbb\xbf"
    plain = live.post(content=b'{"text": "a red apple", "seed": 1}', headers={"Content-Type": JSON})
    marked = live.post(
        content=mark + b'{"text": "a red apple", "seed": 1}',
        headers={"Content-Type": JSON, "Content-Encoding": "Identity"},
    )
    assert marked.status_code == 200
    assert marked.json() == plain.json()
    assert "the body must be JSON, got an empty body" in refusal(JSON, mark)
    assert "the body must be JSON" in refusal(JSON, 2 * mark + b"{}")
    assert "Content-Type must be application/json for a body of JSON" in refusal(URLENCODED, mark + b'{"text": "a"}')


def test_the_longest_texts_are_read_whole() -> None:
    for text in ("🦆" * 32_000, '"\\' * 16_000, " \n[{:,}]" * 4000):
        for escaped in (True, False):
            data = json.dumps({"text": text, "seed": 1}, ensure_ascii=escaped, indent=1000).encode()
            assert read(JSON, data).fields.text == text
        data = b"text=" + b"".join(b"%%%02x" % byte for byte in text.encode())
        assert read(URLENCODED, data).fields.text == text
        assert read(FORM, part(NAMED % b"text", text.encode()) + END).fields.text == text


@given(st.integers(SLICE - 12, SLICE + 3), st.text(max_size=9))
@examples(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_slice_divides_an_escape(before: int, text: str) -> None:
    data = b"text=" + b"+" * before + b"".join(b"%%%02X" % byte for byte in text.encode()) + b"%%zz%"
    assert read(URLENCODED, data).fields.text == " " * before + text + "%%zz%"


def test_forms_may_have_padding_a_preamble_and_an_epilogue() -> None:
    data = (
        b"about to come\r\n--B \t\r\ncontent-disposition:form-data ;name=text\r\n\r\n\r\na\r\n--\r\n\r\n--B--\r\nmore"
    )
    assert read(FORM, data).fields.text == "\r\na\r\n--\r\n"
    content = bytes(range(256)) * 9000 + b"\r\n--\r\n-B"
    sent = read(FORM, b"\r\n" + part(NAMED % b"text", b"a") + part(FILE, content) + part(FILE) + END).files
    assert sent == {"image": [content, b""]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (part(b"") + END, "a part has no Content-Disposition with a name"),
        (b"--B\r\n\r\na\r\n" + END, "a part has no Content-Disposition with a name"),
        (b"--B\r\n--B--", "a part must begin with headers"),
        (b"--B\r\n\r\n--B--", "a part must begin with headers"),
        (b"--Bx\r\n" + NAMED % b"text" + b"\r\n\r\na\r\n" + END, "a line that is not a header"),
        (b"--B\r\ntext\r\n\r\na\r\n" + END, "a line that is not a header"),
        (part(b"Content-Disposition: form-data") + END, "a part has no Content-Disposition with a name"),
        (part(NAMED % b"text", b"a").replace(b"\r\n", b"\n") + END, "its last boundary is missing"),
        (2 * part(NAMED % b"text", b"a") + END, "text must be given once"),
        (part(NAMED % b"\xff", b"a") + END, "the form must be UTF-8, got a name with 0xff at byte 0"),
        (END, "text is missing"),
    ],
)
def test_broken_forms_are_refused_in_words(data: bytes, says: str) -> None:
    assert says in refusal(FORM, data)


def test_a_message_reads_only_the_beginning_of_a_value() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, [1] * 1_000_000, "é" * 1_000_000, "a" * 1_000_000, {"a": deep}, 10**4000):
        assert len(shorten(value)) == SHOWN
        assert shorten(value).endswith("...")
    for short in ('"a b"', '["a", {"b": 1.5}, null]', "[]", '{"a": [true]}', "1", '"a\\u00e9\\n"'):
        assert shorten(json.loads(short)) == short
    while deep:  # or Python goes as deep to free it
        deep = deep.pop()


CHUNKED = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def events(data: bytes) -> int:
    """How many events a connection gives for a request until it is complete or refused."""
    connection = StrictConnection()
    connection.receive_data(data)
    count = 1
    try:
        while not isinstance(connection.next_event(), h11.EndOfMessage):
            count += 1
    except h11.RemoteProtocolError:
        return count
    return count + 1_000_000


def test_a_body_in_tiny_chunks_is_given_up_early(live: Live) -> None:
    assert events(CHUNKED + b"1\r\n \r\n" * 200_000 + b"0\r\n\r\n") < 300
    assert events(CHUNKED + b"1;a=b\r\n \r\n" * 200_000 + b"0\r\n\r\n") < 300
    assert events(CHUNKED + b"40\r\n" + b" " * 64 + b"\r\n0\r\n\r\n") > 1_000_000
    assert events(CHUNKED + (b"40\r\n" + b" " * 64 + b"\r\n") * 2000 + b"0\r\n\r\n") > 1_000_000
    honest = (bytes([letter]) for letter in b'{"text": "a red apple", "seed": 1}')
    assert live.post(content=honest, headers={"Content-Type": JSON}).status_code == 200
    host, _, port = live.url.removeprefix("http://").partition(":")
    if REPLICAS:  # Ray's proxy reads the chunks
        return
    with socket.create_connection((host, int(port)), 60) as connection:
        connection.sendall(CHUNKED + b"1\r\n \r\n" * 300)  # at once: what comes after a refusal may cut it off
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert live.post(content=iter([b" " * 64] * 2000), headers={"Content-Type": JSON}).json() == {
        "Error": "the body must be JSON, got an empty body"
    }


def test_an_honest_body_may_be_read_in_any_pieces() -> None:
    data = CHUNKED + (b"40\r\n" + b" " * 64 + b"\r\n") * 300 + b"0\r\n\r\n"
    for size in (7, 64, 101, 4096):
        connection, ends = StrictConnection(), False
        for start in range(0, len(data), size):
            connection.receive_data(data[start : start + size])
            while (event := connection.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.EndOfMessage):
                    ends = True
                    break
        assert ends


PIECES = [
    b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"\\u", b"d800", b"\\ud800", b"null", b"1e999", b"-", b"NaN", b" ",
    b'"text"', b'"seed"', b'"image"', b"\xef\xbb\xbf", b"\xff", b"\0", b"9" * 400, b"[" * 70, b'"",' * 90, b"%", b"%f0",
    b"&", b"=", b"+", b"text=", b"seed=", b"image=", b"--", b"\r\n", b"\r", b"\n", b"--B", b"\r\n--B", b"\r\n--B--",
    b"\r\n\r\n", b";", b"name=", b'filename="', b"*=", NAMED % b"text", NAMED % b"seed", FILE, b"Content-Type: a/b",
    b"Content-Transfer-Encoding: 8bit", b"a" * 3000, "🦆".encode(),
]  # fmt: skip
SOUND = {
    JSON: b'{"text": "a \\"red\\" apple", "num_images": 2, "seed": 7, "temperature": 0.5, "truncate": true}',
    URLENCODED: b"text=a+red%20apple&num_images=2&seed=7&temperature=0.5&truncate=true",
    FORM: part(NAMED % b"text", b"a red apple") + part(NAMED % b"seed", b"7") + part(FILE, b"\x89PNG") + END,
}


@given(st.sampled_from(list(SOUND)), st.sampled_from([GenerateRequest, EditsRequest]), st.data())
@examples(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damage_is_refused_or_harmless(kind: str, model: type[Any], data: st.DataObject) -> None:
    """Whatever the bytes, the answer is a request or a refusal of one short line."""
    body = SOUND[kind]
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(body)))
        more = data.draw(st.sampled_from(PIECES) | st.binary(max_size=4))
        body = body[:at] + more + body[at + data.draw(st.integers(0, 12)) :]
    said = ""
    try:
        read(kind, body, model)
    except DalleError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 4000
