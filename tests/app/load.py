"""Many clients at once against the real server. Their answers are recorded, and compared with its log and metrics.

    python -m tests.app.load --clients 200 --seconds 60               # random weights, a picture in milliseconds
    python -m tests.app.load --weights weights/default --threads 0    # the model that is shipped
    python -m tests.app.load --clients 500 --seconds 0 --leave 0.98 --queue 4000  # nearly all leave

Clients send JSON and forms, read answers and streams, and come back when Retry-After says. Some leave at a random
moment. Three records are compared, so that no request is lost: the answers that each client got, the line of each
request in the server's log, and the counts of /metrics, which must add up at every scrape. Pictures of one seed must be
the same bits, whenever and with whatever neighbours they were painted. The figures are one line of JSON. If a check
fails, the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import json
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from PIL import Image

from tests.app.live import Live, ledger, samples

BOUNDARY = "a-line-that-is-in-no-picture"
Kind = Literal["generate", "json", "stream", "edit", "edit-stream"]
KINDS: tuple[Kind, ...] = ("generate", "generate", "json", "stream", "stream", "edit", "edit-stream")
Saw = Literal["pictures", "refused", "failed", "left", "lost"]


@dataclass(frozen=True)
class Crowd:
    """How the clients behave: their number, for how many seconds each sends requests one after another, the share of
    requests that they leave and within how many seconds, and how many different pictures of a kind they ask for.
    """

    clients: int
    seconds: float
    leave: float
    wait: float
    seeds: int = 3


@dataclass
class Entry:
    """One request in the journal. status: 0 if there was none. seconds: from connecting to the end of the answer."""

    id: str
    saw: Saw = "lost"
    status: int = 0
    why: str = ""
    seconds: float = 0.0
    retry_after: float = 0.0


@dataclass
class Journal:
    """What all clients saw. pictures: the first, edited or not, of a seed and index, which later ones must equal."""

    entries: list[Entry] = field(default_factory=list)
    pictures: dict[tuple[bool, int, int], str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    scrapes: int = 0
    most_in_flight: float = 0.0

    def take(self, kind: Kind, seed: int, found: dict[int, str], expected: int) -> None:
        """Compare pictures with those of the same seed. Raises ValueError if some are missing or differ."""
        if len(found) != expected:
            raise ValueError(f"{len(found)} pictures instead of {expected}")
        for index, picture in found.items():
            if not base64.b64decode(picture).startswith(b"\x89PNG"):
                raise ValueError("no picture")
            if self.pictures.setdefault((kind.startswith("edit"), seed, index), picture) != picture:
                raise ValueError(f"picture {index} of seed {seed} is another one")

    def refusals(self) -> list[float]:
        """Seconds of each, ascending."""
        return sorted(entry.seconds for entry in self.entries if entry.saw == "refused")


class Connection:
    """One request over one connection. The client or the server closes it, whichever is done first."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.status = 0
        self.headers: dict[str, str] = {}

    async def send(self, path: str, headers: dict[str, str], body: bytes | None) -> None:
        """Send the request and read the head of the answer."""
        lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [] if body is None else [f"Content-Length: {len(body)}"]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}

    async def body(self) -> AsyncIterator[bytes]:
        """What the answer holds. Raises asyncio.IncompleteReadError if it is cut short."""
        if "content-length" in self.headers:
            yield await self._reader.readexactly(int(self.headers["content-length"]))
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)

    async def whole(self) -> bytes:
        return b"".join([part async for part in self.body()])

    def close(self, hard: bool = False) -> None:
        """hard: by a reset, as of a client that was killed."""
        (self._writer.transport.abort if hard else self._writer.close)()


async def connect(url: str) -> Connection:
    parts = urlsplit(url)
    return Connection(*await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20))


async def scrape(url: str) -> dict[str, float]:
    """Every sample of /metrics."""
    connection = await connect(url)
    try:
        await connection.send("/metrics", {}, None)
        return samples((await connection.whole()).decode())
    finally:
        connection.close()


def edited() -> bytes:
    """A picture with a transparent half."""
    file = io.BytesIO()
    image = Image.new("RGBA", (64, 64), (200, 30, 30, 255))
    image.paste((0, 0, 0, 0), (0, 32, 64, 64))
    image.save(file, "PNG")
    return file.getvalue()


PICTURE = edited()


@dataclass(frozen=True)
class Request:
    """What a client asks for."""

    kind: Kind
    seed: int
    pictures: int
    partials: int

    @property
    def streams(self) -> bool:
        return self.kind in ("stream", "edit-stream")

    def encode(self) -> tuple[str, dict[str, str], bytes]:
        """Path, headers and body."""
        fields: dict[str, Any] = {"seed": self.seed}
        if self.kind == "generate":
            body = json.dumps(fields | {"text": "a red apple", "num_images": self.pictures})
            return "/generate", {"Content-Type": "application/json"}, body.encode()
        fields |= {"prompt": "a red apple", "n": self.pictures}
        if self.streams:
            fields |= {"stream": True, "partial_images": self.partials}
        if not self.kind.startswith("edit"):
            return "/v1/images/generations", {"Content-Type": "application/json"}, json.dumps(fields).encode()
        line = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
        texts = [f'{line}"{name}"\r\n\r\n{json.dumps(value).strip(chr(34))}\r\n' for name, value in fields.items()]
        file = f'{line}"image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        data = "".join([*texts, file]).encode() + PICTURE + f"\r\n--{BOUNDARY}--\r\n".encode()
        return "/v1/images/edits", {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, data

    def read(self, body: bytes) -> dict[int, str]:
        """The pictures of a whole answer, by index. Raises Refused for an error, ValueError for what is neither."""
        if not self.streams:
            said = json.loads(body)
            if self.kind == "generate":
                return dict(enumerate(said))
            return {picture["index"]: picture["b64_json"] for picture in said["data"]}
        *blocks, last, end = body.decode().split("\n\n")
        events = [json.loads(block.removeprefix("data: ")) for block in blocks if not block.startswith(":")]
        if end or last != "data: [DONE]":
            raise Refused(json.loads(last.removeprefix("data: "))["error"]["code"])
        partial = Counter(event["index"] for event in events if event["type"].endswith("partial_image"))
        if any(count > self.partials for count in partial.values()):
            raise ValueError(f"{max(partial.values())} unfinished pictures instead of {self.partials}")
        return {event["index"]: event["b64_json"] for event in events if event["type"].endswith("completed")}


class Refused(Exception):
    """A stream ended with an error. The code of it is its only argument."""


async def ask(url: str, request: Request, entry: Entry, journal: Journal, patience: float | None) -> None:
    """Send a request and fill its entry. patience: seconds after which the client leaves, None for never."""
    began = time.monotonic()
    connection: Connection | None = None
    try:
        async with asyncio.timeout(patience):
            connection = await connect(url)
            path, headers, body = request.encode()
            await connection.send(path, headers | {"X-Request-Id": entry.id}, body)
            entry.status = connection.status
            answer = await connection.whole()
            entry.seconds = time.monotonic() - began
            if entry.status == 200:
                journal.take(request.kind, request.seed, request.read(answer), request.pictures)
                entry.saw = "pictures"
            else:
                said = json.loads(answer)
                entry.why = said["Error"] if request.kind == "generate" else said["error"]["message"]
                entry.retry_after = float(connection.headers.get("retry-after", 0))
                entry.saw = "refused" if entry.status in (429, 503) and entry.retry_after else "failed"
    except Refused as error:
        entry.saw, entry.why = "failed", error.args[0]
    except TimeoutError:
        entry.saw = "left"
    except (OSError, asyncio.IncompleteReadError, ValueError, KeyError) as error:
        entry.why = f"{type(error).__name__}: {error}"
    finally:
        if connection is not None:
            connection.close(hard=entry.saw == "left" and random.random() < 0.5)


async def client(url: str, ids: Iterator[str], journal: Journal, until: float, crowd: Crowd) -> None:
    """One client, which comes within the first second: a request after another until `until`, at least one."""
    await asyncio.sleep(random.random())
    while True:
        request = Request(
            random.choice(KINDS), random.randrange(crowd.seeds), random.choice((1, 1, 2, 3)), random.randrange(4)
        )
        entry = Entry(next(ids))
        journal.entries.append(entry)
        await ask(
            url, request, entry, journal, random.uniform(0, crowd.wait) if random.random() < crowd.leave else None
        )
        now = time.monotonic()
        if now + entry.retry_after >= until:
            return
        await asyncio.sleep(entry.retry_after * random.uniform(1, 1.25))


async def watch(url: str, journal: Journal, slots: int) -> None:
    """Scrape until cancelled; the ledger must hold each time."""
    while True:
        found = await scrape(url)
        journal.scrapes += 1
        journal.most_in_flight = max(journal.most_in_flight, found["dalle_requests_in_flight"])
        try:
            ledger(found)
        except AssertionError:
            journal.wrong.append("the ledger does not add up")
        for name, limit in (("dalle_slots_busy", slots), ("dalle_pictures_in_flight", found["dalle_pictures_limit"])):
            if found[name] > limit:
                journal.wrong.append(f"{name} is {found[name]:g}, above {limit:g}")
        await asyncio.sleep(0.25)


async def run(url: str, slots: int, crowd: Crowd) -> tuple[Journal, float]:
    """The clients' journal, and the seconds from the last one's end until no slot was busy and nothing in flight."""
    journal, name = Journal(), secrets.token_hex(4)
    ids = (f"{name}-{number}" for number in itertools.count())
    for kind in ("generate", "edit"):  # undisturbed: what the pictures of the crowd are compared with
        for seed in range(crowd.seeds):
            journal.entries.append(Entry(next(ids)))
            await ask(url, Request(kind, seed, 3, 1), journal.entries[-1], journal, None)
    watching = asyncio.create_task(watch(url, journal, slots))
    until = time.monotonic() + crowd.seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(crowd.clients):
            group.create_task(client(url, ids, journal, until, crowd))
    ended = time.monotonic()
    while (found := await scrape(url))["dalle_slots_busy"] or found["dalle_requests_in_flight"]:
        if time.monotonic() - ended > 120:
            journal.wrong.append("slots are busy although all clients have gone")
            break
        await asyncio.sleep(0.02)
    idle = time.monotonic() - ended
    watching.cancel()
    await asyncio.wait({watching})
    if not watching.cancelled() and (error := watching.exception()):
        journal.wrong.append(f"/metrics could not be read: {error!r}")
    return journal, idle


def join(journal: Journal, lines: list[dict[str, Any]], counted: dict[str, float]) -> list[str]:
    """The faults that were found: requests whose journal entry, log line and count do not agree.

    lines: of the server's log, JSON. counted: the ledger, less what was in it before.
    """
    wrong = list(journal.wrong)
    logged: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if "status" in line:
            logged.setdefault(line["id"], []).append(line)
    accepted: Counter[Saw] = Counter()
    for entry in journal.entries:
        found = logged.get(entry.id, [])
        if len(found) != 1 and not (entry.saw == "left" and not found):  # it may leave before its request is there
            wrong.append(f"{entry} has {len(found)} lines in the log")
        for line in found:
            accepted[entry.saw] += "job" in line
            fits = {
                "pictures": line["status"] == 200 and "error" not in line,
                "refused": line["status"] == entry.status and "job" not in line,
                "failed": line["status"] == entry.status and "error" in line,
                "left": True,
                "lost": False,
            }[entry.saw]
            if not fits:
                wrong.append(f"{entry} is in the log as {line}")
    finished = counted["completed"] - accepted["pictures"]  # of those that left, when they were just being answered
    if counted["accepted"] != sum(accepted.values()):
        wrong.append(f"accepted are {dict(accepted)} by the journal, and {counted} by the ledger")
    if not 0 <= finished <= accepted["left"] or finished + counted["cancelled"] != accepted["left"]:
        wrong.append(f"ended are {dict(accepted)} by the journal, and {counted} by the ledger")
    return wrong


def check(server: Live, slots: int, crowd: Crowd) -> dict[str, Any]:
    """Run the clients against a ready server, which logs JSON, and join the books. Returns the figures."""
    before = ledger(server.metrics())
    journal, idle = asyncio.run(run(server.url, slots, crowd))
    after = ledger(server.metrics())
    counted = {name: after[name] - before[name] for name in after}
    lines: list[dict[str, Any]] = []

    def all_logged() -> bool:  # the line of a request is written after the last byte of its answer
        lines[:] = server.json_lines()
        jobs = {line["id"] for line in lines if "job" in line}
        answered = {entry.id for entry in journal.entries if entry.saw != "left"}
        accepted = len(jobs & {entry.id for entry in journal.entries})
        return answered <= {line.get("id") for line in lines} and accepted >= counted["accepted"]

    server.wait(all_logged, "requests are not in the log")
    refusals = journal.refusals()
    return {
        "requests": len(journal.entries),
        **Counter(entry.saw for entry in journal.entries),
        "ledger": counted,
        "scrapes": journal.scrapes,
        "most_in_flight": journal.most_in_flight,
        "refusal_p50_ms": _milliseconds(refusals, 0.5),
        "refusal_p99_ms": _milliseconds(refusals, 0.99),
        "idle_after_ms": round(1000 * idle),
        "wrong": join(journal, lines, counted),
    }


def _milliseconds(ascending: list[float], share: float) -> float | None:
    return round(1000 * ascending[int(share * (len(ascending) - 1))], 1) if ascending else None


def main() -> None:
    """The command of the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60, help="for new requests; those accepted are waited for")
    parser.add_argument("--leave", type=float, default=0.2, help="share of the requests whose client leaves")
    parser.add_argument("--wait", type=float, default=2, help="seconds within which it does")
    parser.add_argument("--seeds", type=int, default=3, help="different pictures of a kind")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--queue", type=int, default=128)
    parser.add_argument("--weights", type=Path, help="folder of a checkpoint; random weights if left out")
    given = parser.parse_args()
    from tests.app.quick import save_quick  # torch: only where weights are to be made

    with tempfile.TemporaryDirectory() as folder:
        weights = given.weights or save_quick(Path(folder) / "quick")
        settings = {"slots": given.slots, "threads": given.threads, "queue": given.queue}
        with Live(weights, Path(folder) / "log", flags=["--log", "json"], **settings) as server:
            server.ready()
            crowd = Crowd(given.clients, given.seconds, given.leave, given.wait, given.seeds)
            figures = check(server, given.slots, crowd)
    wrong = figures.pop("wrong")
    sys.stdout.write(json.dumps(figures) + "\n")
    if wrong:
        sys.exit("\n".join(wrong[:20]))


if __name__ == "__main__":
    main()
