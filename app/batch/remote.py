"""Paints lines of a file of prompts as jobs of a server. The server goes on while this machine sleeps.

Each line is a job. Its Idempotency-Key comes from the folder. So the same command, started again, finds its jobs.
"""

from __future__ import annotations

import json
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpcore
from pydantic import ValidationError

from app.addresses import read_address
from app.batch.folder import Folder, Found, Wanted
from app.environment import CLIENT_KEY
from app.http.job_schemas import JobAnswer, JobPicture
from model.errors import DalleError, DataError, InvalidRequest
from model.limits import printable

PATIENCE = 900.0  # seconds for which a server that was there may be away
PAUSES = (1, 2, 5, 10, 30)  # seconds between attempts; the last one again and again
LOOK = 1.0  # seconds between looks at a job
TIMES = 20  # times that a job is asked for again which was cancelled, or failed, or whose pictures were removed
ANSWER_BYTES = 1 << 26
OVER_SHARE, STORE_FULL = 429, 507
AGAIN = frozenset({OVER_SHARE, 502, 503, 504})
ENDED = frozenset({"failed", "cancelled", "expired"})


class Refused(DalleError):
    """The server refuses a request. The message is the server's."""


class Full(Refused):
    """The server has no room for more jobs now."""


@dataclass(frozen=True)
class Answered:
    """A server's answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Its JSON. None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class RemoteServer:
    """A server at an address such as http://localhost:8000. key: the API key, "" for none.

    Raises InvalidRequest for a wrong address.
    """

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url.rstrip("/")
        parts = read_address(url, ("http", "https"))
        if parts is None or "?" in url or "#" in url:
            raise InvalidRequest("server", f"--server must be an address such as http://localhost:8000, got {url}")
        self._headers = {"Host": parts.netloc.rpartition("@")[2], "User-Agent": "dalle-server"}
        if key:
            if not (key.isascii() and key.isprintable()):
                raise InvalidRequest("server", f"{CLIENT_KEY} must hold printable ASCII characters")
            self._headers["Authorization"] = f"Bearer {key}"
        self._pool = httpcore.ConnectionPool(ssl_context=ssl.create_default_context())
        self._known = False

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def model(self) -> str:
        """The name of the server's default model. Raises DataError if no such server answers."""
        told = self.call("GET", "/v1/models").json()
        try:
            name = str(told["data"][0]["id"])
        except (TypeError, KeyError, IndexError):
            raise DataError(f"{self.url} must be the address of a dalle-server, got another answer") from None
        self._known = True
        return name

    def accept(self, wanted: Wanted, patient: bool = True) -> JobAnswer:
        """The job of a line, a new one if there is none. Raises Refused. patient: as in `call`."""
        line = wanted.line
        fields = {**line.fields.model_dump(exclude_none=True), "text": line.text, "count": line.count}
        for attempt in range(TIMES):
            headers = {"Idempotency-Key": f"{wanted.key}-{attempt}", "Content-Type": "application/json"}
            job = _job(self.call("POST", "/v1/jobs", json.dumps(fields).encode(), headers, patient))
            there = {picture.number for picture in job.pictures or []}
            if job.state not in ENDED and (job.state != "completed" or there.issuperset(wanted.missing)):
                break
        return job

    def job(self, job_id: str) -> JobAnswer:
        """The job as it is now. Raises Refused."""
        return _job(self.call("GET", f"/v1/jobs/{job_id}"))

    def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        self.call("DELETE", f"/v1/jobs/{job_id}")

    def picture(self, picture: JobPicture) -> bytes:
        """The file of a picture. Raises Refused."""
        parts = urlsplit(picture.url)  # the address may be that of a proxy's inner side, so only its end counts
        return self.call("GET", f"/pictures/{parts.path.rpartition('/')[2]}?{parts.query}").body

    def call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, patient: bool = True
    ) -> Answered:
        """Send a request and return the answer. If the server has answered before and is away now, wait for it.

        patient: wait also for room. Raises Refused for a status of 4xx and 5xx, and DataError if nobody answers.
        """
        until = time.monotonic() + (PATIENCE if self._known else 0.0)
        for attempt in range(10_000):
            try:
                answer = self._once(method, path, body, {**self._headers, **(headers or {})})
                if answer.status not in AGAIN or (answer.status == OVER_SHARE and not patient):
                    break
                why = _said(answer)
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
                why = str(error) or type(error).__name__
            if time.monotonic() >= until:
                raise DataError(f"{self.url} does not answer: {printable(why)}")
            time.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
        if answer.status in (OVER_SHARE, STORE_FULL):
            raise Full(_said(answer))
        if answer.status >= 400:
            raise Refused(_said(answer))
        if answer.status >= 300:
            raise DataError(f"{self.url} must be the server's own address, got a redirect")
        return answer

    def _once(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answered:
        times = {"timeout": {"connect": 10.0, "read": 60.0, "write": 60.0, "pool": 10.0}}
        given: dict[bytes | str, bytes | str] = {"Content-Length": str(len(body))}
        given.update(headers.items())
        parts: list[bytes] = []
        with self._pool.stream(method, self.url + path, headers=given, content=body, extensions=times) as answer:
            for part in answer.iter_stream():
                parts.append(part)
                if sum(map(len, parts)) > ANSWER_BYTES:
                    raise DataError(f"{self.url}: an answer must have at most {ANSWER_BYTES:,} bytes, got more")
            return Answered(answer.status, b"".join(parts))


def paint_there(
    server: RemoteServer, folder: Folder, wanted: Sequence[Wanted], on_progress: Callable[[float], object]
) -> list[DalleError]:
    """Have what is missing painted, and fetch it. Returns what failed. on_progress: as in `paint_here`.

    If the server has no room for more jobs, the first one is fetched before. Raises DataError, which names the line, if
    the server refuses one. Then the jobs of the other lines are cancelled.
    """
    jobs: deque[tuple[Wanted, JobAnswer]] = deque()
    failed: list[DalleError] = []
    fetched = 0

    def fetch(one: Wanted, job: JobAnswer) -> None:
        nonlocal fetched
        missing = set(one.missing)
        try:
            while True:
                for picture in job.pictures or []:
                    if picture.number in missing:
                        how = picture.style, picture.score, picture.prompt_fit
                        found = Found(picture.text, picture.seed, picture.index, *how)
                        folder.keep(one, picture.number, server.picture(picture), found)
                        missing.remove(picture.number)
                        fetched += 1
                        on_progress(fetched)
                if not missing or job.state not in ("queued", "running"):
                    break
                on_progress(fetched + (job.rows_done / job.rows_total * job.pictures_total - job.pictures_done))
                time.sleep(LOOK + job.pictures_done / 200)  # the answer lists all pictures
                job = server.job(job.id)
            if missing:
                failed.append(one.line.fault(job.error.message if job.error else f"its job is {job.state}"))
        except Refused as error:
            failed.append(one.line.fault(error))

    for one in wanted:
        while True:
            try:
                jobs.append((one, server.accept(one, patient=not jobs)))
                break
            except Refused as error:
                if isinstance(error, Full) and jobs:
                    fetch(*jobs.popleft())
                    continue
                for _, job in jobs:
                    server.cancel(job.id)
                raise one.line.fault(error) from None
    for pair in jobs:
        fetch(*pair)
    return failed


def _job(answer: Answered) -> JobAnswer:
    try:
        return JobAnswer.model_validate_json(answer.body)
    except ValidationError:
        raise DataError("the server's answer must be a job, got another") from None


def _said(answer: Answered) -> str:
    """What a refusing answer says, on one line."""
    told = answer.json()
    if isinstance(told, dict) and isinstance(told.get("error"), dict):
        told = told["error"].get("message")
    elif isinstance(told, dict):
        told = told.get("Error")
    return printable(told)[:500] if isinstance(told, str) else f"status {answer.status}"
