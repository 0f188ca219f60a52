"""The unmodified `openai` package, three majors of it, against the real server over a real socket."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.app import openai_client
from tests.app.live import Live, ledger
from tests.app.quick import SIZE

GRID = 8
MAJORS = ("3.54.0", "2.6.1", "1.109.1")
Seen = dict[str, Any]


def installed(version: str) -> Path:
    """A folder with this version of the package, kept beside the interpreter's own packages; "" for that of its own.

    What the package needs besides is what the development tools have installed.
    """
    folder = Path(sys.prefix) / f"openai-{version}"
    if not folder.exists():
        making = folder.with_name(f"{folder.name}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(making)]
        done = subprocess.run([*command, f"openai=={version}", "distro>=1.7,<2"], capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"pip cannot install openai {version}: {done.stderr.strip()[-500:]}")
        try:
            making.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(making)
    return folder


@pytest.fixture(scope="module")
def busy(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose workers make no step; see openai_client."""
    log = tmp_path_factory.mktemp("busy") / "log"
    with Live(quick_checkpoint, log, queue=16, client_queue=12) as server, server.ready().stopped():
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A picture, and a mask whose lower right quarter is to be painted."""
    folder = tmp_path_factory.mktemp("edit")
    image, mask = Image.new("RGB", (SIZE, SIZE), "red"), Image.new("RGBA", (SIZE, SIZE), "black")
    mask.paste((0, 0, 0, 0), (SIZE // 2, SIZE // 2, SIZE, SIZE))
    image.save(folder / "image.png")
    mask.save(folder / "mask.png")
    return folder / "image.png", folder / "mask.png"


@pytest.fixture(scope="module", params=MAJORS)
def seen(request: pytest.FixtureRequest, live: Live, busy: Live, files: tuple[Path, Path]) -> Seen:
    """What one major of the package saw."""
    version: str = request.param
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "DALLE"))}
    if version != MAJORS[0]:
        environ["PYTHONPATH"] = str(installed(version))
    command = [sys.executable, "-W", "ignore", openai_client.__file__, live.url, busy.url, *map(str, files)]
    before = late_answers(busy)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result: Seen = json.loads(done.stdout)
    assert result["version"] == version
    result["late answers"] = late_answers(busy) - before
    return result


def late_answers(server: Live) -> float:
    name = 'dalle_http_answers_total{method="POST",route="/v1/images/generations",status="504"}'
    return server.metrics().get(name, 0)


@pytest.fixture(scope="module")
def pictures(live: Live) -> list[str]:
    """What /generate paints of the same prompt and seed."""
    return live.pictures(text=openai_client.PROMPT, num_images=3, seed=7)


def test_it_paints_what_generate_paints_and_tells_seed_and_usage(seen: Seen, pictures: list[str]) -> None:
    assert seen["plain"] == pictures
    assert seen["seeds"] == [[7, 0], [7, 1], [7, 2]]
    assert seen["nulls"] == pictures[:1]
    assert seen["size"] == f"{SIZE}x{SIZE}"
    text, drawn = seen["usage"]["input_tokens"], 3 * GRID**2
    assert seen["usage"]["output_tokens"] == drawn
    assert seen["usage"]["total_tokens"] == text + drawn
    assert seen["usage"]["input_tokens_details"] == {"text_tokens": text, "image_tokens": 0}
    assert seen["id"]
    assert seen["models"] == ["quick"]
    assert seen["model"].pop("sampling").keys() == {"temperature", "top_k", "top_p", "guidance"}
    assert seen["model"] == {"id": "quick", "object": "model", "created": 0, "owned_by": "dalle-server"}


@pytest.mark.parametrize("partials", range(4))
def test_streams_show_so_many_unfinished_pictures_and_then_the_finished(
    seen: Seen, pictures: list[str], partials: int
) -> None:
    events = seen[f"stream-{partials}"]
    done = {event["index"]: event for event in events if event["type"] == "image_generation.completed"}
    assert [done[index]["file"] for index in (0, 1)] == pictures[:2]
    assert sum(event["output_tokens"] for event in done.values()) == 2 * GRID**2
    shown = [event for event in events if event["type"] == "image_generation.partial_image"]
    assert len(events) == len(done) + len(shown)
    rows = [GRID * share // (partials + 1) for share in range(1, partials + 1)]
    for event in shown:  # a frame that is late is left out, and so is one that the reader was too late for
        assert event["rows_done"] == rows[event["partial_image_index"]]
    assert {event["seed"] for event in events} == {7}
    for index in (0, 1):
        own = [event["rows_done"] for event in events if event["index"] == index]
        assert own == sorted(set(own))
        assert own[-1] == GRID
        assert len(own[:-1]) <= partials


def test_edits_take_a_mask_one_file_or_a_list_and_stream(seen: Seen) -> None:
    assert len(set(seen["edit"])) == 2
    assert seen["edit-list"] == seen["edit"][:1]
    *shown, done = seen["edit-stream"]
    assert done["type"] == "image_edit.completed"
    assert done["file"] == seen["edit"][0]
    assert done["output_tokens"] == GRID**2 // 4
    assert {event["type"] for event in shown} <= {"image_edit.partial_image"}


def test_refusals_are_the_packages_own_classes_and_name_the_field(seen: Seen) -> None:
    for name, error in seen["refused"].items():
        if name in ("model", "no-model"):
            assert (error["class"], error["status"], error["code"]) == ("NotFoundError", 404, "model_not_found")
            assert error["param"] == "model"
            continue
        field = {"before-a-stream": "n", "mask": "image"}.get(name, name)
        assert (error["class"], error["status"]) == ("BadRequestError", 400), name
        assert (error["param"], error["type"]) == (field, "invalid_request_error")
        assert any(f"{field} {verb} " in error["message"] for verb in ("must", "is"))


def test_load_and_time_are_told_by_the_packages_classes_and_a_late_job_is_not_sent_again(
    seen: Seen, busy: Live
) -> None:
    share, late, streamed = (seen["overloaded"][name] for name in ("share", "late", "streamed"))
    assert (share["class"], share["status"], share["type"]) == ("RateLimitError", 429, "rate_limit_error")
    assert (late["class"], late["status"], late["code"]) == ("InternalServerError", 504, "deadline_exceeded")
    assert (streamed["class"], streamed["code"], streamed["type"]) == ("APIError", "deadline_exceeded", "server_error")
    assert seen["late answers"] == 1
    ledger(busy.metrics())


def test_a_full_queue_is_503_with_a_time_to_come_back(busy: Live) -> None:
    busy.wait(lambda: busy.in_flight() == 0, "what was refused for its deadline still has its place")
    with contextlib.ExitStack() as streams:
        for address, n in (("127.0.0.2", 10), ("127.0.0.3", 6)):
            transport = httpx.HTTPTransport(local_address=address)
            client = streams.enter_context(httpx.Client(base_url=busy.url, transport=transport, timeout=60))
            body = {"prompt": "a", "n": n, "stream": True}
            held = streams.enter_context(client.stream("POST", "/v1/images/generations", json=body))
            assert held.status_code == 200
        answer = busy.client.post("/v1/images/generations", json={"prompt": "a"})
        edit = busy.client.post("/v1/images/edits", data={"prompt": "a"}, files={"image": b"not read any more"})
    assert answer.status_code == edit.status_code == 503
    assert answer.json()["error"]["code"] == "overloaded"
    assert answer.json()["error"]["type"] == "server_error"
    assert int(answer.headers["retry-after"]) >= 1
    assert "x-should-retry" not in answer.headers


def test_a_client_that_left_its_stream_left_nothing(seen: Seen, live: Live) -> None:
    assert seen["left"] in ("image_generation.partial_image", "image_generation.completed")
    live.wait(lambda: live.in_flight() == 0, "a job of a client that left goes on")
    live.wait(lambda: live.metrics()["dalle_slots_busy"] == 0, "a slot is not free")
    ledger(live.metrics())
