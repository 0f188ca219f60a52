"""Clients of a running server, and the times that they see. A client opens a connection for each request."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from model.errors import DalleError

TEXTS = ("a red apple", "a cat", "a blue car", "a tree", "a yellow star", "a house", "a fish", "the flag of Japan")
LOAD = 0.8  # of the throughput: how much the clients that do not wait ask for


class BenchFailed(DalleError):
    """The benchmark cannot go on. The message is one line."""


@dataclass(frozen=True)
class Load:
    """What a number of clients saw.

    per_second: pictures, where each client asks again as soon as it has its picture. asked: requests a second of
    clients that do not wait for their pictures. seconds: of these requests, ascending, from the moment at which each
    was to be sent.
    """

    clients: int
    per_second: float
    asked: float
    seconds: tuple[float, ...]

    def quantile(self, share: float) -> float:
        """The time within which this share of the requests was answered (the nearest rank)."""
        return quantile(self.seconds, share)


def quantile(ascending: Sequence[float], share: float) -> float:
    """The nearest rank: the least value that at least the share of all values do not exceed."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


async def alone(url: str, seeds: Iterator[int], seconds: float) -> tuple[float, ...]:
    """Seconds of one request after another, ascending: for so many seconds, and two at least."""
    until, found = time.perf_counter() + seconds, list[float]()
    while len(found) < 2 or time.perf_counter() < until:
        began = time.perf_counter()
        await picture(url, next(seeds))
        found.append(time.perf_counter() - began)
    return tuple(sorted(found))


async def load(url: str, clients: int, seeds: Iterator[int], seconds: float) -> Load:
    """Measure the throughput of so many clients. Then measure requests that come at LOAD of it (an open loop)."""
    per_second = await _closed(url, clients, seeds, seconds)
    asked = LOAD * per_second
    return Load(clients, per_second, asked, await _open(url, clients, asked, seeds, 1.5 * seconds))


async def _closed(url: str, clients: int, seeds: Iterator[int], seconds: float) -> float:
    """Pictures a second, up to the last answer. A client asks again until `seconds` are over."""
    began, done = time.perf_counter(), list[float]()

    async def client() -> None:
        while True:
            await picture(url, next(seeds))
            done.append(time.perf_counter() - began)
            if done[-1] > seconds:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return len(done) / done[-1]


async def _open(url: str, clients: int, rate: float, seeds: Iterator[int], seconds: float) -> tuple[float, ...]:
    """Each client sends at random moments (a Poisson process), whether its earlier requests are answered or not.

    Times count from these moments, so a server that falls behind is not spared.
    """
    found: list[float] = []

    async def ask(moment: float) -> None:
        await picture(url, next(seeds))
        found.append(time.perf_counter() - moment)

    async def client(number: int, group: asyncio.TaskGroup) -> None:
        chance = random.Random(number)
        moment = began
        while (moment := moment + chance.expovariate(rate / clients)) < began + seconds:
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            group.create_task(ask(moment))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number, group))
    if not found:  # so slow that no moment came
        await ask(time.perf_counter())
    return tuple(sorted(found))


async def streamed(url: str, seeds: Iterator[int], images: int, seconds: float) -> tuple[float, float]:
    """Seconds of so many pictures at once, plain, and with every second row sent: the least of each, in turns."""
    plain, live = list[float](), list[float]()
    until = time.perf_counter() + seconds
    while not live or time.perf_counter() < until:
        for found, every in ((plain, None), (live, 2)):
            fields = {"prompt": TEXTS[0], "n": images, "seed": next(seeds), "stream": True}
            began = time.perf_counter()
            answer = await post(url, "/v1/images/generations", fields | ({"every_rows": every} if every else {}))
            found.append(time.perf_counter() - began)
            if answer.count(b"image_generation.completed") < images:
                raise BenchFailed("a stream of the benchmark did not send all its pictures")
    return min(plain), min(live)


async def picture(url: str, seed: int) -> bytes:
    """Ask for one picture by /generate. Raises BenchFailed if the answer is an error."""
    return await post(url, "/generate", {"text": TEXTS[seed % len(TEXTS)], "num_images": 1, "seed": seed})


async def post(url: str, path: str, fields: dict[str, object]) -> bytes:
    """The whole answer to a JSON body. Raises BenchFailed if it is an error, or if no answer comes."""
    parts, body = urlsplit(url), json.dumps(fields).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            answer = await reader.read()
        finally:
            writer.close()
    except OSError as error:
        raise BenchFailed(f"the server cannot be reached: {error.strerror or error}") from None
    head, _, rest = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        raise BenchFailed(f"{path} answered {head.partition(chr(13).encode())[0].decode('latin-1')!r}")
    return rest


def numbered(seed: int) -> Iterator[int]:
    """Seeds of requests, all different."""
    return itertools.count(seed)
