"""Uploads are decoded in processes that can be ended: in turn, within the request's time, and whatever a picture does.

A decoder that is stopped (SIGSTOP) stands for a picture that takes for ever.
"""

from __future__ import annotations

import asyncio
import io
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

import httpx
import pytest
from PIL import Image

from app.pictures.decode import read_upload
from app.pictures.decoder import ASKED, HEAD, REFUSED
from app.pictures.decoders import COMMAND, ROOT, Decoders
from app.pictures.turns import Turns
from model.config import VAEConfig, from_preset
from model.errors import Draining, InvalidRequest
from tests.app.live import Live, one_process
from tests.app.test_lifecycle import exit_status, gone
from tests.test_picture_files import many_scans

Start = Callable[..., Live]
SIDE, GRID, PIXELS = 16, 2, 1 << 24
FORM = from_preset(VAEConfig, "tiny", image_size=SIDE)  # its cells have 8 pixels a side


def file(size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize(size).save(out, kind)
    return out.getvalue()


SMALL, LARGE = file(), file((4096, 4096), "JPEG")


def run(test: Callable[[Decoders], Any], **options: Any) -> Any:
    """Run a coroutine function over decoders, which are closed after it and leave no process."""

    async def main() -> Any:
        decoders = Decoders(PIXELS, **options)
        try:
            return await test(decoders)
        finally:
            processes = list(decoders._alive)
            await decoders.close()
            assert all(process.returncode is not None for process in processes)

    return asyncio.run(main())


async def stuck(decoders: Decoders, data: bytes = SMALL, client: str = "a") -> tuple[asyncio.Task[Any], int]:
    """A picture that is being decoded until its process, of this id, is told to go on."""
    await decoders.decode("image", SMALL, FORM)
    process = decoders._idle[-1]
    os.kill(process.pid, signal.SIGSTOP)
    task = asyncio.create_task(decoders.decode("image", data, FORM, client))
    while process in decoders._idle:
        await asyncio.sleep(0)
    return task, process.pid


def test_a_decoder_gives_the_same_picture_as_this_process_and_is_kept() -> None:
    async def decode(decoders: Decoders) -> None:
        for data in (SMALL, file(kind="JPEG"), file(kind="WEBP"), LARGE):
            assert await decoders.decode("image", data, FORM) == read_upload(data, SIDE, GRID, PIXELS)
        with pytest.raises(InvalidRequest, match="^mask must be a PNG, JPEG or WebP file, got 5 bytes") as caught:
            await decoders.decode("mask", b"hello", FORM)
        assert caught.value.field == "mask"
        assert len(decoders._alive) == 1

    run(decode)


def test_several_are_decoded_side_by_side() -> None:
    async def decode(decoders: Decoders) -> None:
        waiting, pid = await stuck(decoders)
        await decoders.decode("image", SMALL, FORM)
        assert not waiting.done()
        os.kill(pid, signal.SIGCONT)
        assert (await waiting).width == 40

    run(decode, processes=2)


def test_a_picture_that_takes_too_long_is_refused_and_the_next_one_has_a_new_decoder() -> None:
    async def decode(decoders: Decoders) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await decoders.decode("image", LARGE, FORM)
        most = "at most 0.001 s of processor time to decode"
        assert str(caught.value) == f"image must be a picture that takes {most}, got one that takes more"
        decoders.seconds = 60.0  # of the next process
        assert await decoders.decode("image", SMALL, FORM)

    run(decode, seconds=0.001)


def test_a_picture_that_crashes_its_decoder_is_refused() -> None:
    async def decode(decoders: Decoders) -> None:
        waiting, pid = await stuck(decoders)
        os.kill(pid, signal.SIGSEGV)
        os.kill(pid, signal.SIGCONT)
        with pytest.raises(InvalidRequest) as caught:
            await waiting
        found = "one that ended its decoder (SIGSEGV)"
        assert str(caught.value) == f"image must be a picture that can be decoded, got {found}"
        assert await decoders.decode("image", SMALL, FORM)

    run(decode, processes=1)


def test_a_decoder_that_is_killed_from_outside_costs_nobody_a_picture() -> None:
    async def decode(decoders: Decoders) -> None:
        waiting, pid = await stuck(decoders)
        os.kill(pid, signal.SIGKILL)
        assert (await waiting).width == 40
        os.kill(decoders._idle[-1].pid, signal.SIGKILL)  # idle, and perhaps not yet missed
        assert (await decoders.decode("image", SMALL, FORM)).width == 40

    run(decode, processes=1)


def test_a_picture_that_nobody_waits_for_is_given_up_at_once() -> None:
    async def decode(decoders: Decoders) -> None:
        waiting, pid = await stuck(decoders)
        behind = asyncio.create_task(decoders.decode("image", SMALL, FORM, "b"))
        later = asyncio.create_task(decoders.decode("image", SMALL, FORM, "c"))
        await asyncio.sleep(0)
        behind.cancel()
        waiting.cancel()
        assert (await later).width == 40
        for task in (waiting, behind):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert pid not in {process.pid for process in decoders._idle}

    run(decode, processes=1)


def test_close_waits_for_no_picture() -> None:
    async def decode(decoders: Decoders) -> None:
        waiting, _ = await stuck(decoders)
        behind = asyncio.create_task(decoders.decode("image", SMALL, FORM, "b"))
        await asyncio.sleep(0)
        await decoders.close()
        for task in (waiting, behind, asyncio.create_task(decoders.decode("image", SMALL, FORM))):
            with pytest.raises(Draining):
                await task

    run(decode, processes=1)


def test_clients_take_turns() -> None:
    async def main() -> list[str]:
        turns, order = Turns(1), []

        async def one(name: str) -> None:
            async with turns.turn(name[0]):
                order.append(name)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(name)) for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1", "c2")]
            await asyncio.sleep(0)
            tasks[-1].cancel()
        return order

    assert asyncio.run(main()) == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


def decoder(before: str, *data: bytes) -> tuple[bytes, int]:
    """The answers of a decoder's process, and its status. before: a statement that it begins with."""
    given = [str(number) for number in (PIXELS, 60)]
    command = COMMAND.replace("; main(", f"; import app.pictures.decoder as decoder; {before}; main(")
    assert command != COMMAND
    done = subprocess.run(
        [sys.executable, "-IS", "-c", command, *given, str(ROOT), *sys.path],
        input=b"".join(ASKED.pack(len(one), SIDE, GRID) + one for one in data), stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    return done.stdout, done.returncode


def test_a_decoder_loads_little() -> None:
    heavy = "'torch', 'numpy', 'pydantic', 'fastapi', 'asyncio', 'model.config'"
    assert decoder(f"assert not {{{heavy}}} & {{*sys.modules}}") == (b"", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="has no such limit")
def test_a_picture_that_takes_too_much_memory_is_refused() -> None:
    answers, status = decoder("decoder.BYTES_PER_PIXEL, decoder.BYTES_BESIDE = 0, 8 << 20", LARGE, SMALL)
    kind, size = HEAD.unpack_from(answers)
    said = answers[HEAD.size : HEAD.size + size].decode()
    assert (kind, said) == (REFUSED, "must be a picture that can be decoded, got one that takes too much memory")
    assert HEAD.unpack_from(answers, HEAD.size + size)[0] != REFUSED
    assert status == 0


# --- over a real server


def post(server: Live, data: bytes = SMALL, headers: dict[str, str] | None = None) -> httpx.Response:
    fields = {"text": "a", "keep_rows": "7", "seed": "1"}
    return server.client.post("/generate", data=fields, files={"image": data}, headers=headers)


def stop(server: Live) -> int:
    """Stop the one idle decoder of a server."""
    assert post(server).status_code == 200
    (pid,) = server.decoders()
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_a_picture_that_is_slow_to_decode_is_refused_in_words(live: Live) -> None:
    answer = post(live, many_scans(1000))
    assert (answer.status_code, answer.json()) == (422, {"Error": "image must have at most 100 scans, got 1000"})
    assert post(live, LARGE).status_code == 200  # 16 megapixels
    header = b"IHDR" + struct.pack(">IIBBBBB", 1, 1 << 24, 8, 0, 0, 0, 1)  # Adam7, of rows of one pixel
    chunks = [header, b"IDAT" + zlib.compress(bytes(1 << 26), 1), b"IEND"]  # more than its pixels take
    rows = b"".join(struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks)
    assert post(live, b"\x89PNG\r\n\x1a\n" + rows).status_code == 200


def test_a_late_picture_is_504_and_a_neighbours_is_decoded(start: Start) -> None:
    server = start().ready()
    pid = stop(server)
    answer = post(server, headers={"X-Request-Timeout": "0.5"})
    assert (answer.status_code, answer.json()) == (504, {"Error": "the request was not done within its 0.5 s"})
    server.wait(lambda: gone(pid), "the decoder of a late picture goes on")
    pid = stop(server)
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(post, server) for _ in range(2)]
        done, others = wait(both, 120, return_when=FIRST_COMPLETED)  # one has the decoder that is stopped
        assert len(done) == len(others) == 1
        os.kill(pid, signal.SIGKILL)
        assert [one.result().status_code for one in both] == [200, 200]


def test_a_picture_whose_client_has_left_is_given_up(start: Start) -> None:
    server = start().ready()
    pid = stop(server)
    request = server.client.build_request(
        "POST", "/generate", data={"text": "a", "keep_rows": "7"}, files={"image": SMALL}
    )
    head = f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: {request.headers['Content-Type']}\r\n"
    body = request.read()
    both = [socket.create_connection((request.url.host, request.url.port or 80)) for _ in range(2)]
    for client in both:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answered, _, _ = select.select(both, [], [], 120)
    assert len(answered) == 1  # the other one has the decoder that is stopped
    for client in both:
        client.close()
    server.wait(lambda: gone(pid), "the decoder of a client that has left goes on")
    server.wait(lambda: "client_gone" in server.log, "no line that the client left")


@one_process("the drain finishes requests whose picture is still decoded, too")
def test_a_shutdown_waits_for_no_decoder(start: Start) -> None:
    server = start(drain=3600).ready()
    pid = stop(server)
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(post, server) for _ in range(2)]
        _, others = wait(both, 120, return_when=FIRST_COMPLETED)
        server.process.send_signal(signal.SIGTERM)
        assert exit_status(server) == 0
        assert [one.result().status_code for one in others] == [503]
    assert gone(pid)


def test_decoders_end_with_a_server_that_is_killed(start: Start) -> None:
    server = start().ready()
    assert post(server).status_code == 200
    (pid,) = server.decoders()
    server.process.kill()
    server.process.wait()
    with suppress(AssertionError):
        server.wait(lambda: gone(pid), "", 60)
    assert gone(pid)
