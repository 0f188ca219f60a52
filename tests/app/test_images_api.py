"""The OpenAI routes without that package: formats and sizes, edits, the best of many, and every refusal."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.commands.generate import read_provenance
from app.pictures.encode import enlarge
from tests.app.live import Live, ledger
from tests.app.quick import SIZE
from tests.app.test_uploads import png

GRID = 8
CELL = SIZE // GRID
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"


def generations(live: Live, **fields: Any) -> httpx.Response:
    return live.client.post(GENERATIONS, json={"prompt": "a red apple", "seed": 7, **fields})


def opened(answer: httpx.Response, index: int = 0) -> Image.Image:
    assert answer.status_code == 200, answer.text
    image = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][index]["b64_json"], validate=True)))
    image.load()
    return image


def file(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def tokens(answer: httpx.Response, index: int = 0) -> np.ndarray[Any, Any]:
    """The kept tokens that a picture's file tells, -1 where it was painted."""
    with tempfile.NamedTemporaryFile(suffix=".png") as picture:
        picture.write(base64.b64decode(answer.json()["data"][index]["b64_json"]))
        picture.flush()
        _, how = read_provenance(Path(picture.name))
    assert how.forced is not None
    return np.frombuffer(how.forced, "<i2").reshape(GRID, GRID)


PICTURE = Image.effect_noise((SIZE, SIZE), 90).convert("RGB")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("side", [SIZE, 100, 512])
def test_a_larger_square_is_the_same_picture_by_lanczos(live: Live, kind: str, side: int) -> None:
    native = opened(generations(live))
    answer = generations(live, size=f"{side}x{side}", output_format=kind)
    picture = opened(answer)
    assert (picture.format, picture.size, picture.mode) == (kind.upper(), (side, side), "RGB")
    assert (answer.json()["size"], answer.json()["output_format"]) == (f"{side}x{side}", kind)
    expected = enlarge(native.tobytes(), SIZE, side)
    if kind == "png":
        assert picture.tobytes() == expected
    else:
        brightness = (
            image.convert("L").tobytes() for image in (picture, Image.frombytes("RGB", (side, side), expected))
        )
        was, is_ = (np.frombuffer(levels, np.uint8).astype(float) for levels in brightness)
        assert np.abs(was - is_).mean() < 6


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_compression_is_honoured(live: Live, kind: str) -> None:
    sizes = [len(generations(live, output_format=kind, output_compression=level).content) for level in (0, 50, 100)]
    assert sizes == sorted(set(sizes))
    assert len(generations(live, output_format=kind).content) == sizes[-1]


def test_what_only_advises_changes_nothing(live: Live) -> None:
    advice = {
        "model": "quick", "quality": "hd", "style": "vivid", "moderation": "low", "user": "me", "size": "auto",
        "response_format": "b64_json", "background": "opaque", "output_compression": 100, "safety_identifier": "x",
        "stream": False, "partial_images": 0, "svg": None, "frame_count": None, "best_of": None,
    }  # fmt: skip
    assert opened(generations(live, **advice)).tobytes() == opened(generations(live)).tobytes()


def test_the_prompt_is_in_the_file_if_it_is_wanted(live: Live) -> None:
    answer = generations(live, embed_prompt=True)
    assert opened(answer).text["Prompt"] == "a red apple"  # type: ignore[attr-defined]
    assert "Prompt" not in opened(generations(live)).text  # type: ignore[attr-defined]


def test_the_best_of_many_are_returned_with_their_scores(live: Live) -> None:
    everything = generations(live, n=4, best_of=4).json()["data"]
    scores = [picture["score"] for picture in everything]
    assert scores == sorted(scores, reverse=True)
    answer = generations(live, n=2, best_of=4)
    assert answer.json()["data"] == everything[:2]
    assert answer.json()["usage"]["output_tokens"] == 4 * GRID**2
    alone = generations(live, index=everything[0]["index"]).json()["data"][0]
    assert alone["b64_json"] == everything[0]["b64_json"]
    over_the_other_route = live.generate(text="a red apple", seed=7, num_images=2, best_of=4)
    assert over_the_other_route.json() == [picture["b64_json"] for picture in everything[:2]]
    assert over_the_other_route.headers["x-seeds"] == ",".join(f"7:{picture['index']}" for picture in everything[:2])
    assert over_the_other_route.headers["x-scores"] == ",".join(f"{score:.6f}" for score in scores[:2])


def edit(live: Live, *, image: bytes | None = None, mask: bytes | None = None, **fields: str) -> httpx.Response:
    files = {"image": file(PICTURE) if image is None else image, **({"mask": mask} if mask is not None else {})}
    return live.client.post(EDITS, data={"prompt": "a red apple", "seed": "7", **fields}, files=files)


def mask_of(*cells: tuple[int, int]) -> bytes:
    """A mask with one wholly transparent pixel in each of the cells (row, column)."""
    mask = Image.new("RGBA", (SIZE, SIZE), "black")
    for row, column in cells:
        mask.putpixel((column * CELL + CELL - 1, row * CELL), (0, 0, 0, 0))
    return file(mask)


def test_masked_cells_are_painted_and_the_others_kept(live: Live) -> None:
    answer = edit(live, mask=mask_of((2, 3), (7, 0)), n="2")
    for index in range(2):
        kept = tokens(answer, index)
        assert sorted(zip(*map(list, np.nonzero(kept == -1)), strict=True)) == [(2, 3), (7, 0)]
    assert (tokens(answer) == tokens(answer, 1)).all()
    usage = answer.json()["usage"]
    assert usage["input_tokens_details"] == {"text_tokens": usage["input_tokens"] - 62, "image_tokens": 62}
    assert usage["output_tokens"] == 2 * 2


def test_without_a_mask_the_pictures_own_holes_are_painted(live: Live) -> None:
    picture = PICTURE.convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, SIZE // 2, SIZE, SIZE))
    kept = tokens(edit(live, image=file(picture)))
    assert (kept[:4] >= 0).all()
    assert (kept[4:] == -1).all()


def test_rows_are_kept_the_same_on_both_routes(live: Live) -> None:
    answer = edit(live, keep_rows="3")
    kept = tokens(answer)
    assert (kept[:3] >= 0).all()
    assert (kept[3:] == -1).all()
    fields = {"text": "a red apple", "seed": "7", "keep_rows": "3"}
    other = live.client.post("/generate", data=fields, files={"image": file(PICTURE)})
    assert other.json() == [answer.json()["data"][0]["b64_json"]]


def test_a_wide_photograph_is_cut_to_its_middle_like_its_mask(live: Live) -> None:
    wide = Image.new("RGB", (3 * SIZE, SIZE), "red")
    wide.paste(PICTURE, (SIZE, 0))
    mask = Image.new("RGBA", wide.size, "black")
    mask.paste((0, 0, 0, 0), (0, 0, SIZE + 1, 1))  # most of it is outside
    assert (tokens(edit(live, image=file(wide), mask=file(mask))) == tokens(edit(live, mask=mask_of((0, 0))))).all()


WRONG: list[tuple[dict[str, Any], int, str, str]] = [
    ({"prompt": None}, 400, "prompt", "that is not blank, got null"),
    ({"prompt": "  "}, 400, "prompt", "prompt must be a text of 1 to 32000 characters that is not blank, got blank"),
    ({"prompt": "🦆" * 100}, 400, "prompt", "prompt must have at most 256 text tokens, got 401"),
    ({"prompt": "x" * 32_001}, 400, "prompt", "got 32001 characters"),
    ({"n": 0}, 400, "n", "n must be an integer from 1 to 10, got 0"),
    ({"n": "2"}, 400, "n", 'n must be an integer from 1 to 10, got "2"'),
    ({"model": "dall-e-2"}, 404, "model", "model must be quick, got dall-e-2"),
    ({"size": "256x128"}, 400, "size", "size must be auto or a square from 64x64 to 1024x1024, got 256x128"),
    ({"size": "63x63"}, 400, "size", "got 63x63"),
    ({"size": "1025x1025"}, 400, "size", "got 1025x1025"),
    ({"size": "large"}, 400, "size", "size must be auto or a square such as 512x512, got large"),
    ({"quality": "best"}, 400, "quality", "quality must be one of auto, low, "),
    ({"background": "transparent"}, 400, "background", "background must be one of auto, opaque, got transparent"),
    ({"output_format": "svg"}, 400, "output_format", "output_format must be one of png, jpeg, webp, got svg"),
    (
        {"output_compression": 101},
        400,
        "output_compression",
        "output_compression must be an integer from 0 to 100, got 101",
    ),
    (
        {"output_compression": 9},
        400,
        "output_compression",
        "output_compression must be 100 or left out with the output_format png, got 9",
    ),
    (
        {"response_format": "url", "stream": True},
        400,
        "response_format",
        "response_format must be b64_json in a stream, got url",
    ),
    ({"style": "odd"}, 400, "style", "style must be auto for a model without styles, got 'odd'"),
    ({"moderation": "none"}, 400, "moderation", "moderation must be one of auto, low, got none"),
    ({"user": "x" * 513}, 400, "user", "user must be a text of 0 to 512 characters, got 513 characters"),
    (
        {"partial_images": 4, "stream": True},
        400,
        "partial_images",
        "partial_images must be an integer from 0 to 3, got 4",
    ),
    ({"partial_images": 1}, 400, "partial_images", "partial_images must be left out without stream: true, got 1"),
    ({"every_rows": 1}, 400, "every_rows", "every_rows must be left out without stream: true, got 1"),
    ({"every_rows": 8, "stream": True}, 400, "every_rows", "every_rows must be an integer from 1 to 7, got 8"),
    (
        {"every_rows": 1, "partial_images": 1, "stream": True},
        400,
        "every_rows",
        "every_rows must be left out with partial_images",
    ),
    ({"best_of": 2, "n": 3}, 400, "best_of", "best_of must be from 3, the pictures to return, to 16, got 2"),
    ({"best_of": 2, "stream": True}, 400, "best_of", "best_of must be left out of a stream, got 2"),
    ({"stream": "yes"}, 400, "stream", 'stream must be true or false, got "yes"'),
    ({"svg": {}}, 400, "svg", "svg must be left out, got {}"),
    ({"frame_count": 2}, 400, "frame_count", "frame_count must be left out, got 2"),
    ({"keep_rows": 2}, 400, "keep_rows", "keep_rows is not a field of this request"),
    ({"top_p": 0}, 400, "top_p", "top_p must be a number above 0, up to 1, got 0"),
    ({"colour": 1}, 400, "colour", "colour is not a field of this request; /docs lists the fields"),
]


def check_refusal(answer: httpx.Response, status: int, param: str | None, says: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert error["code"]
    assert says in error["message"]


@pytest.mark.parametrize(("fields", "status", "param", "says"), WRONG)
def test_wrong_fields_are_refused_by_name(
    live: Live, fields: dict[str, Any], status: int, param: str, says: str
) -> None:
    check_refusal(generations(live, **fields), status, param, says)


WRONG_EDITS: list[tuple[dict[str, str], list[tuple[str, bytes]], str, str]] = [
    ({}, [], "image", "image must be one file, got none"),
    ({}, [("image", file(PICTURE)), ("image[]", file(PICTURE))], "image", "image must be one file, got 2"),
    ({}, [("image", b"junk")], "image", "image must be a PNG, JPEG or WebP file, got 4 bytes of something else"),
    ({}, [("image", file(PICTURE, "GIF"))], "image", "image must be a PNG, JPEG or WebP file, got"),
    (
        {},
        [("image", file(PICTURE))],
        "image",
        "image must be sent with a mask, or keep_rows, the number of its top rows to keep",
    ),
    (
        {},
        [("image", file(PICTURE)), ("mask", file(PICTURE))],
        "mask",
        "mask must have a wholly transparent pixel where the picture is painted anew, got none",
    ),
    ({}, [("image", file(PICTURE)), ("mask", mask_of())], "mask", "mask must have a wholly transparent pixel"),
    (
        {},
        [("image", file(PICTURE.resize((32, 32)))), ("mask", mask_of((0, 0)))],
        "mask",
        "mask must have 32 x 32 pixels like the image, got 64 x 64",
    ),
    (
        {"keep_rows": "8"},
        [("image", file(PICTURE))],
        "keep_rows",
        "keep_rows must be an integer from 1 to 7, got 8",
    ),
    (
        {"keep_rows": "2"},
        [("image", file(PICTURE)), ("mask", mask_of((0, 0)))],
        "keep_rows",
        "keep_rows must be left out with a mask, got 2",
    ),
    ({"n": "two"}, [("image", file(PICTURE))], "n", 'n must be an integer from 1 to 10, got "two"'),
    ({"mask": "x"}, [("image", file(PICTURE))], "mask", "mask must be a file in a multipart/form-data body"),
    (
        {},
        [("image", file(PICTURE)), ("markup", b"x")],
        "markup",
        "the name of a file must be one of image, mask, got markup",
    ),
]


@pytest.mark.parametrize(("fields", "files", "param", "says"), WRONG_EDITS)
def test_wrong_edits_are_refused_by_name(
    live: Live, fields: dict[str, str], files: list[tuple[str, bytes]], param: str, says: str
) -> None:
    parts: list[tuple[str, Any]] = [(name, (f"{name}.png", data)) for name, data in files] or [("x", (None, "y"))]
    if not files:
        fields, parts = {}, [("prompt", (None, "a red apple"))]
        answer = live.client.post(EDITS, files=parts)
    else:
        answer = live.client.post(EDITS, data={"prompt": "a red apple", **fields}, files=parts)
    check_refusal(answer, 400, param, says)


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "says"),
    [
        ("POST", GENERATIONS, {"content": b"{"}, 400, "the body must be JSON: "),
        (
            "POST",
            GENERATIONS,
            {"data": {"prompt": "a"}},
            415,
            "must be application/json, in UTF-8, got application/x-www-form-urlencoded",
        ),
        ("POST", EDITS, {"json": {"prompt": "a"}}, 415, "must be multipart/form-data, in UTF-8, got application/json"),
        (
            "POST",
            GENERATIONS,
            {"content": b" " * (2 << 20)},
            413,
            "the body must have at most 1048576 bytes, got 2097152",
        ),
        (
            "POST",
            EDITS,
            {"files": {"image": b" " * (9 << 20)}},
            413,
            "the body must have at most 8388608 bytes, got 9437",
        ),
        ("GET", GENERATIONS, {}, 405, "the method must be POST, got GET /v1/images/generations"),
        ("GET", "/v1/no-such", {}, 404, "GET /v1/no-such is not a route; /docs lists the routes"),
    ],
)
def test_wrong_bodies_and_routes_speak_that_dialect(
    live: Live, method: str, path: str, options: dict[str, Any], status: int, says: str
) -> None:
    if "content" in options:
        options = {**options, "headers": {"Content-Type": "application/json"}}
    check_refusal(live.client.request(method, path, **options), status, None, says)


def test_variations_keep_the_first_rows(live: Live) -> None:
    file = base64.b64decode(live.generate(text="a cat", seed=1).json()[0])

    def vary(**fields: str) -> list[Any]:
        answer = live.client.post(
            "/v1/images/variations", data={"seed": "2", **fields}, files={"image": ("a.png", file, "image/png")}
        )
        assert answer.status_code == 200, answer.text
        return [one["b64_json"] for one in answer.json()["data"]]

    assert len(set(vary(n="3"))) == 3
    assert vary() != vary(strength="1")
    wrong = live.client.post("/v1/images/variations", data={"strength": "0"}, files={"image": ("a.png", file)})
    assert wrong.json()["error"]["param"] == "strength"
    assert live.client.post("/v1/images/variations", files={"x": ("a.png", file)}).status_code == 400


def test_models_are_told_and_no_others(live: Live) -> None:
    assert live.client.get("/v1/models").json()["data"] == [live.client.get("/v1/models/quick").json()]
    check_refusal(
        live.client.get("/v1/models/openai/gpt-image-1"), 404, "model", "model must be quick, got openai/gpt-image-1"
    )


def test_a_picture_with_too_many_pixels_is_refused_by_its_header(live: Live) -> None:
    answer = edit(live, image=png(20_000, 20_000), keep_rows="2")
    check_refusal(answer, 400, "image", "image must have 1 to 16777216 pixels, got 20000 x 20000")


def test_the_prompt_is_in_no_log_line(live: Live) -> None:
    assert generations(live, prompt="qwertzuiop", user="asdfgh").status_code == 200
    with live.client.stream("POST", GENERATIONS, json={"prompt": "qwertzuiop", "stream": True}) as answer:
        assert answer.read()
    assert "qwertz" not in live.log
    assert "asdfgh" not in live.log


def test_openapi_documents_what_there_is(live: Live) -> None:
    paths = live.client.get("/openapi.json").json()["paths"]
    for path in (GENERATIONS, EDITS):
        assert set(paths[path]["post"]["responses"]) >= {"200", "400", "404", "413", "415", "429", "500", "503", "504"}
        assert "text/event-stream" in paths[path]["post"]["responses"]["200"]["content"]
    assert json.dumps(paths[EDITS]).count('"binary"') == 2


def test_nothing_is_left_over(live: Live) -> None:
    live.wait(lambda: live.in_flight() == 0, "a job is left over")
    ledger(live.metrics())
