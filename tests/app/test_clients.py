"""Requests as clients really send them: forms of pages, slashes, names of lists, OpenAI clients without masks."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from app.http.paths import Paths
from app.http.schemas import GenerateRequest, from_strings
from tests.app.live import Live

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"


def png(size: tuple[int, int] = (64, 64)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(out, "PNG")
    return out.getvalue()


def form(*parts: tuple[str, str | None, bytes]) -> dict[str, Any]:
    """A multipart body of (name, filename or None, content)."""
    body = b""
    for name, filename, content in parts:
        file = (
            b"" if filename is None else f'; filename="{filename}"\r\nContent-Type: application/octet-stream'.encode()
        )
        body += (
            b'--B\r\nContent-Disposition: form-data; name="%s"' % name.encode() + file + b"\r\n\r\n" + content + b"\r\n"
        )
    return {"content": body + b"--B--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=B"}}


def test_a_file_input_in_which_nothing_was_chosen_is_no_file(live: Live) -> None:
    text = ("text", None, b"a red apple")
    assert live.post(**form(text, ("image", "", b""))).status_code == 200
    assert live.post(**form(text, ("other", "", b""), ("keep_rows", None, b""))).status_code == 200
    unnamed = live.post(**form(text, ("keep_rows", None, b"4"), ("image", "", png())))  # a file, only without a name
    assert unnamed.status_code == 200
    mask = ("mask", "", b"")
    answer = live.client.post(EDITS, **form(("prompt", None, b"a"), ("image", "a.png", png()), mask))
    assert answer.json()["error"]["param"] == "image"


def test_blank_fields_of_a_form_are_left_out() -> None:
    read = {"text": "a", "seed": "", "temperature": " ", "num_images": "", "truncate": "", "style": ""}
    assert from_strings(GenerateRequest, read) == {"text": "a"}
    assert from_strings(GenerateRequest, {"text": "", "unknown": ""}) == {"text": "", "unknown": ""}
    assert from_strings(GenerateRequest, {"truncate": "True", "revise": "False", "embed_prompt": "on"}) == {
        "truncate": True,
        "revise": False,
        "embed_prompt": True,
    }


@pytest.mark.parametrize("path", [f"/{GENERATIONS}", f"{GENERATIONS}/", "/v1//images/generations//"])
def test_slashes_too_many_change_nothing(live: Live, path: str) -> None:
    answer = live.client.post(live.url + path, json={"prompt": "a red apple"})
    assert answer.status_code == 200, answer.text


PLACES = [
    ("", "/", "/", ""),
    ("", "//", "/", ""),
    ("", "/docs", "/docs", ""),
    ("", "/docs/", "/docs", "../docs"),
    ("", "/docs//", "/docs", "../../docs"),
    ("", "/generate/", "/generate", "../generate"),
    ("/dalle", "/dalle", "/", "dalle/"),
    ("/dalle", "/dalle/", "/", ""),
    ("/dalle", "/dalle/docs/", "/docs", "../docs"),
    ("/dalle", "/dalle//v1/models", "/v1/models", ""),
    ("/dalle", "/v1/models", "/v1/models", ""),
    ("/dalle", "/dallex", "/dallex", ""),
    ("/a/b", "/a/b/generate", "/generate", ""),
]


@pytest.mark.parametrize(("root", "given", "path", "moved"), PLACES)
def test_prefixes_and_slashes_are_taken_off(root: str, given: str, path: str, moved: str) -> None:
    seen: list[tuple[str, str]] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        del receive, send
        seen.append((scope["path"], scope["state"]["moved"]))

    running = Paths(inner, root)({"type": "http", "path": given}, None, None)  # type: ignore[arg-type]
    with pytest.raises(StopIteration):
        running.send(None)
    assert seen == [(path, moved)]


def test_a_near_route_is_named(live: Live) -> None:
    for path in ("/images/generations", "/v1/v1/images/generations"):
        answer = live.client.post(path, json={"prompt": "a"})
        assert answer.status_code == 404
        assert f"did you mean {GENERATIONS}?" in answer.text


@pytest.mark.parametrize("name", ["image", "image[]", "image[0]", "image[12]"])
def test_files_of_a_list_have_several_names(live: Live, name: str) -> None:
    fields = {"prompt": "a red apple", "keep_rows": "4"}
    assert live.client.post(EDITS, data=fields, files=[(name, ("a.png", png()))]).status_code == 200


def test_a_lenient_server_paints_what_is_nearest(start: Callable[..., Live]) -> None:
    server = start(lenient="true").ready()
    for size, painted in (("1792x1024", 1024), ("96x64", 64), ("32x32", 64), ("4096x4096", 1024), ("128x128", 128)):
        answer = server.client.post(GENERATIONS, json={"prompt": "a red apple", "size": size}).json()
        assert answer["size"] == f"{painted}x{painted}"
        with Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))) as image:
            assert image.size == (painted, painted)
    files = [("image[]", ("image.png", png()))]
    answer = server.client.post(EDITS, data={"prompt": "a red apple"}, files=files).json()
    assert answer["usage"]["input_tokens_details"]["image_tokens"] == 8 * 8 // 2


def test_a_client_that_reads_addresses_of_dall_e_3_finds_them(start: Callable[..., Live]) -> None:
    server = start(lenient="true", served_model_name="dall-e-3").ready()
    asked = {"quality": "standard", "style": "vivid", "size": "1024x1792", "prompt": "a red apple", "n": 1}  # LibreChat
    (picture,) = server.client.post(GENERATIONS, json={"model": "dall-e-3", **asked}).json()["data"]
    assert server.client.get(picture["url"]).content == base64.b64decode(picture["b64_json"])
    for more in ({"model": "quick"}, {}, {"model": "dall-e-3", "response_format": "b64_json"}):
        (picture,) = server.client.post(GENERATIONS, json={**asked, **more}).json()["data"]
        assert "url" not in picture
        assert picture["b64_json"]
