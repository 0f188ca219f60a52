"""POST /generate over a real socket: what is painted, what is told about it, and every wrong input."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.app.live import Live, ledger, one_process
from tests.app.quick import SIZE

JSON = {"Content-Type": "application/json"}


def opened(picture: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(picture, validate=True)))
    image.load()
    return image


def test_it_answers_a_bare_array_of_base64_pngs(live: Live) -> None:
    answer = live.generate(text="a red apple", num_images=3, seed=7)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    pictures = answer.json()
    assert len(pictures) == len(set(pictures)) == 3
    for image in map(opened, pictures):
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIZE, SIZE))
    assert answer.headers["x-seeds"] == "7:0,7:1,7:2"
    assert [part.split(";")[0] for part in answer.headers["server-timing"].split(", ")] == ["queue", "paint", "encode"]
    assert "x-text-truncated" not in answer.headers


def test_the_same_request_gives_the_same_bytes_and_another_seed_other_pictures(live: Live) -> None:
    first, again, other = (live.pictures(text="a blue circle", num_images=2, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert not set(first) & set(other)


def test_seed_and_index_name_a_picture_and_a_random_seed_is_told(live: Live) -> None:
    answer = live.generate(text="a blue circle", num_images=3)
    seed, index = answer.headers["x-seeds"].split(",")[2].split(":")
    alone = live.pictures(text="a blue circle", seed=int(seed), index=int(index))
    assert alone == [answer.json()[2]]


def test_the_png_tells_how_it_was_painted_but_not_the_prompt(live: Live) -> None:
    (picture,) = live.pictures(text="a yellow star", seed=5, temperature=0.5, top_k=4, top_p=0.9, guidance=1)
    texts = opened(picture).text  # type: ignore[attr-defined]
    assert (texts["Seed"], texts["Index"], texts["Model"]) == ("5", "0", "quick")
    parameters = {"temperature": 0.5, "top_k": 4, "top_p": 0.9, "guidance": 1.0, "opening": 0.0}
    assert json.loads(texts["Parameters"]) == parameters
    assert texts["Prompt-SHA256"] == hashlib.sha256(b"a yellow star").hexdigest()
    assert texts["Software"].startswith("dalle-server ")
    assert b"yellow" not in base64.b64decode(picture)


def test_forms_of_both_kinds_paint_what_json_paints(live: Live) -> None:
    expected = live.pictures(text="a red apple & more", num_images=2, seed=3, temperature=0.5)
    fields = {"text": "a red apple & more", "num_images": "2", "seed": "3", "temperature": "0.5"}
    assert live.post(data=fields).json() == expected
    assert live.post(files={name: (None, value) for name, value in fields.items()}).json() == expected


@one_process("the proxy takes any id")
def test_a_client_may_choose_the_request_id_and_nothing_odd(live: Live) -> None:
    def told(given: str) -> str:
        answer = live.post(json={}, headers={"X-Request-Id": given})
        return str(answer.headers["x-request-id"])

    assert told("my-id.1") == "my-id.1"
    assert len(told("has spaces in it")) == len(told("x" * 65)) == 32


def test_too_many_tokens_are_refused_with_both_numbers_or_cut_and_told(live: Live) -> None:
    text = "🦆" * 100  # four bytes each, and no merge knows them
    refused = live.generate(text=text)
    assert refused.status_code == 422
    assert "got 401" in refused.json()["Error"]
    assert "at most 256" in refused.json()["Error"]
    cut = live.generate(text=text, truncate=True)
    assert cut.status_code == 200
    assert cut.headers["x-text-truncated"] == "256 of 401 tokens"


LONG = "x" * 100_000
WRONG: list[tuple[object, int, str]] = [
    ({}, 422, "text is missing; it must be a text of 1 to 32000 characters that is not blank"),
    ({"num_images": 1}, 422, "text is missing"),
    ({"text": ""}, 422, "text must be a text of 1 to 32000 characters that is not blank, got empty"),
    ({"text": " \n\t\u3000"}, 422, "not blank, got blank"),
    ({"text": None}, 422, "not blank, got null"),
    ({"text": 5}, 422, "not blank, got 5"),
    ({"text": ["a"]}, 422, 'not blank, got ["a"]'),
    ({"text": LONG}, 422, "text must be a text of 1 to 32000 characters that is not blank, got 100000 characters"),
    ({"text": "a", "num_images": 0}, 422, "num_images must be an integer from 1 to 10, got 0"),
    ({"text": "a", "num_images": 11}, 422, "num_images must be an integer from 1 to 10, got 11"),
    ({"text": "a", "num_images": -1}, 422, "from 1 to 10, got -1"),
    ({"text": "a", "num_images": "3"}, 422, 'from 1 to 10, got "3"'),
    ({"text": "a", "num_images": 3.0}, 422, "from 1 to 10, got 3.0"),
    ({"text": "a", "num_images": True}, 422, "from 1 to 10, got true"),
    ({"text": "a", "num_images": None}, 422, "from 1 to 10, got null"),
    ({"text": "a", "num_images": 10**30}, 422, "from 1 to 10, got 1000000000000000000000000000000"),
    ({"text": "a", "seed": -1}, 422, "seed must be an integer from 0 to 9223372036854775807, got -1"),
    ({"text": "a", "seed": 2**63}, 422, "from 0 to 9223372036854775807, got 9223372036854775808"),
    ({"text": "a", "temperature": 5.1}, 422, "temperature must be a number from 0 to 5, got 5.1"),
    ({"text": "a", "temperature": False}, 422, "temperature must be a number from 0 to 5, got false"),
    ({"text": "a", "temperature": 10**400}, 422, "temperature must be a number from 0 to 5, got 1000"),
    ({"text": "a", "top_k": 32769}, 422, "top_k must be an integer from 0 to 32768, got 32769"),
    ({"text": "a", "top_k": 17}, 422, "top_k must be an integer from 0 to 16, got 17"),  # this model has 16 codes
    ({"text": "a", "top_p": 0}, 422, "top_p must be a number above 0, up to 1, got 0"),
    ({"text": "a", "guidance": 21}, 422, "guidance must be a number from 0 to 20, got 21"),
    ({"text": "a", "no_such": 1}, 422, "no_such is not a field of this request; /docs lists the fields"),
    ({"text": "a", "no such": 1}, 422, '"no such" is not a field'),
    ({"text": "a", "temprature": 1}, 422, "temprature is not a field of this request; did you mean temperature?"),
    ({"text": "a", "Seed": 1}, 422, "Seed is not a field of this request; did you mean seed?"),
    ({"text": "a", "seed": "x"}, 422, 'seed must be an integer from 0 to 9223372036854775807, got "x"'),
    ({"text": "a", "seed": -1, "top_p": 2}, 422, "got -1; top_p must be a number above 0, up to 1, got 2"),
    ({"text": "a", "best_of": 17}, 422, "best_of must be an integer from 1 to 16, got 17"),
    ({"text": "a", "num_images": 3, "best_of": 2}, 422, "best_of must be from 3, the pictures to return, to 16, got 2"),
    ({"text": "a", "image": "x"}, 422, "image must be a file in a multipart/form-data body"),
    ({"text": "a", "keep_rows": 2}, 422, "image must be one file with keep_rows, got none"),
    ({"text": "a", "keep_rows": 0}, 422, "keep_rows must be an integer of 1 or more, got 0"),
    ({"text": "a", "keep_rows": 8}, 422, "keep_rows must be an integer from 1 to 7, got 8"),  # of 8 rows
    ({"text": "a", "x" * 500: 1}, 422, "x" * 70),
    (["a"], 400, 'the body must be a JSON object, got ["a"]'),
    ("text", 400, 'the body must be a JSON object, got "text"'),
    (b"", 400, "the body must be JSON, got an empty body"),
    (b"{", 400, "the body must be JSON: Expecting property name"),
    (b'{"text": "a"} {', 400, "the body must be JSON: Extra data"),
    (b'{"text": "a", "temperature": NaN}', 400, "the body must be JSON, got NaN, which is not a JSON number"),
    (b'{"text": "a", "temperature": -Infinity}', 400, "got -Infinity"),
    (b'{"text": "a", "temperature": 1e999}', 422, "temperature must be a number from 0 to 5, got Infinity"),
    (b'{"text": "a", "text": "b"}', 400, "text must be given once"),
    (b'{"text": "\xff"}', 400, "the body must be UTF-8, got 0xff at byte 10"),
    ('{"text": "é"}'.encode("utf-16"), 400, "the body must be UTF-8"),
    (b'{"text": "\\ud800"}', 422, "holds a lone surrogate"),
]


@pytest.mark.parametrize(("body", "status", "says"), WRONG)
def test_wrong_json_is_refused_in_words(live: Live, body: object, status: int, says: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = live.post(content=content, headers=JSON)
    check_refusal(answer, status, says)


def check_refusal(answer: httpx.Response, status: int, says: str) -> None:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["Error"]
    assert says in answer.json()["Error"]
    assert len(answer.json()["Error"]) < 500


def part(head: str, value: bytes) -> bytes:
    return b"--B\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + value + b"\r\n"


END = b"--B--\r\n"
TEXT = part('name="text"', b"a")
KEEP = part('name="keep_rows"', b"4")
MULTIPART = "multipart/form-data; boundary=B"
URLENCODED = "application/x-www-form-urlencoded"
WRONG_FORMS: list[tuple[str | None, bytes, int, str]] = [
    (None, b'{"text": "a"}', 415, "Content-Type is missing; it must be application/json"),
    ("text/plain", b'{"text": "a"}', 415, "in UTF-8, got text/plain"),
    ("application/json; charset=latin-1", b'{"text": "a"}', 415, 'in UTF-8, got "application/json; charset=latin-1"'),
    (URLENCODED, b'{"text": "a"}', 415, "Content-Type must be application/json for a body of JSON"),
    (URLENCODED, b"", 422, "text is missing"),
    (URLENCODED, b"text", 400, "the form cannot be read"),
    (URLENCODED, b"text=", 422, "not blank, got empty"),
    (URLENCODED, b"text=%ff", 400, "the form must be UTF-8, got a value with 0xff at byte 0"),
    (URLENCODED, b"text=a&text=b", 400, "text must be given once"),
    (URLENCODED, b"text=a&num_images=3.0", 422, 'num_images must be an integer from 1 to 10, got "3.0"'),
    (URLENCODED, b"text=a&num_images=%203", 422, 'num_images must be an integer from 1 to 10, got " 3"'),
    (URLENCODED, b"text=a&num_images=11", 422, "num_images must be an integer from 1 to 10, got 11"),
    (URLENCODED, b"text=a&temperature=nan", 422, 'temperature must be a number from 0 to 5, got "nan"'),
    (URLENCODED, b"text=a&temperature=inf", 422, 'temperature must be a number from 0 to 5, got "inf"'),
    (URLENCODED, b"text=a&truncate=yes", 422, 'truncate must be true or false, got "yes"'),
    ("multipart/form-data", b"", 400, "its Content-Type has no boundary"),
    (MULTIPART, b"", 400, "the form cannot be read"),
    (MULTIPART, b"junk", 400, "the form cannot be read"),
    (MULTIPART, part('name="text"', b"a"), 400, "its last boundary is missing"),
    (MULTIPART, part('name="text"', b"\xff") + END, 400, "got a value with 0xff at byte 0"),
    (
        MULTIPART,
        part('name="text"; filename="a.txt"', b"a") + END,
        422,
        "the name of a file must be one of image, got text",
    ),
    (
        MULTIPART,
        TEXT + part('name="image"; filename="a.png"', b"a") + END,
        422,
        "keep_rows is missing; with a file it must be",
    ),
    (
        MULTIPART,
        TEXT + KEEP + part('name="image"; filename="a.png"', b"a") + END,
        422,
        "image must be a PNG",
    ),
    (
        MULTIPART,
        TEXT + KEEP + part('name="image"; filename="a.png"', b"") + END,
        422,
        "image must be a PNG",
    ),
    (
        MULTIPART,
        TEXT + KEEP + 2 * part('name="image"; filename="a.png"', b"a") + END,
        422,
        "image must be one file with keep_rows, got 2",
    ),
    (MULTIPART, TEXT + KEEP + END, 422, "image must be one file with keep_rows, got none"),
    (MULTIPART, part('name="text"', b"a") + part('name="x"', b"") + END, 422, "x is not a field of this request"),
]


@pytest.mark.parametrize(("kind", "content", "status", "says"), WRONG_FORMS)
def test_wrong_forms_and_types_are_refused_in_words(
    live: Live, kind: str | None, content: bytes, status: int, says: str
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    check_refusal(live.post(content=content, headers=headers), status, says)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_refused_and_the_client_reads_why(live: Live, declared: bool) -> None:
    size = 4 << 20
    content: Any = b" " * size if declared else iter([b" " * 65536] * (size // 65536))
    answer = live.post(content=content, headers=JSON)
    check_refusal(answer, 413, str(size if declared else 1 << 20))


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/generate", 405, "the method must be POST, got GET /generate"),
        ("DELETE", "/healthz", 405, "the method must be GET, got DELETE /healthz"),
        ("GET", "/no-such", 404, "GET /no-such is not a route; /docs lists the routes"),
        ("POST", "/generat", 404, "POST /generat is not a route; did you mean /generate?"),
        ("GET", "/demo/no-such.js", 404, "/demo/no-such.js"),
    ],
)
def test_other_routes_and_methods_speak_the_same_dialect(
    live: Live, method: str, path: str, status: int, says: str
) -> None:
    answer = live.client.request(method, path)
    check_refusal(answer, status, says)
    assert (status == 405) == ("allow" in answer.headers)


def test_refusals_disturb_nothing(live: Live) -> None:
    before = ledger(live.metrics())
    expected = live.pictures(text="a red apple", seed=1)
    for body, status, _ in WRONG[:8]:
        assert live.generate(**body).status_code == status if isinstance(body, dict) else True
    assert live.pictures(text="a red apple", seed=1) == expected
    after = ledger(live.metrics())
    assert after["accepted"] - before["accepted"] == after["completed"] - before["completed"] == 2
