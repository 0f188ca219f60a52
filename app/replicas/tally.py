"""Counts the pictures that all replicas together are asked for, so that the bounds of the queue hold for the whole."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.types import Receive, Scope, Send

from app.http import body as bodies
from app.http.paths import SLASHES
from app.http.proxies import Proxies
from app.pool.job import Elsewhere
from app.settings import MAX_IMAGES, Settings
from model.errors import DalleError

PAINTING = ("/generate", "/v1/images/generations", "/v1/images/edits", "/v1/images/variations")


@dataclass(frozen=True)
class Asked:
    """What the front reads in a request: the model's name as the client writes it, and how many pictures it takes."""

    model: str = ""
    pictures: int = 0


class Tally:
    """The pictures of the requests that replicas answer now. It is used on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._guarded = bool(settings.api_keys or settings.api_keys_file)
        self._proxies = Proxies(self._note, settings.proxies)
        self.replicas: Counter[str] = Counter()  # pictures by the replica that paints them
        self._models: Counter[str] = Counter()
        self._clients: Counter[str] = Counter()

    async def read(self, scope: Scope, body: bytes) -> Asked:
        """What a request asks for. One that cannot be read takes no place: a replica refuses it and says why."""
        if scope["method"] != "POST" or not SLASHES.sub("/", scope["path"]).rstrip("/").endswith(PAINTING):
            return Asked()
        try:
            fields = await _fields(dict(scope["headers"]).get(b"content-type", b""), body, self._settings)
            wanted = int(fields.get("best_of") or fields.get("num_images") or fields.get("n") or 1)
        except (DalleError, ValueError, TypeError):
            return Asked()
        return Asked(str(fields.get("model") or ""), wanted if 0 < wanted <= 16 * MAX_IMAGES else 0)

    async def client(self, scope: Scope) -> str:
        """Whose share of the queue a request uses: an API key's, or an address's."""
        if self._guarded:
            _, _, key = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            return hashlib.sha256(key.strip()).hexdigest()
        seen = {**scope, "state": {}}
        await self._proxies(seen, _nothing, _nobody)
        client: str = seen["client"][0] if seen.get("client") else ""
        return client

    @contextlib.contextmanager
    def hold(self, asked: Asked, client: str) -> Iterator[Elsewhere]:
        """Count the request's pictures while the context lasts. Yields those of the requests before it.

        A request that finds no room is not counted: a replica refuses it.
        """
        before = Elsewhere(dict(self._models), self._clients[client])
        taken, share = sum(self._models.values()), self._settings.client_queue
        fits = taken + asked.pictures <= self._settings.queue
        counted = asked.pictures if fits and not (share and before.own + asked.pictures > share) else 0
        self._models[asked.model] += counted
        self._clients[client] += counted
        try:
            yield before
        finally:
            _take(self._models, asked.model, counted)
            _take(self._clients, client, counted)

    @contextlib.contextmanager
    def given(self, replica: str, pictures: int) -> Iterator[None]:
        """Count the pictures as the replica's while the context lasts."""
        self.replicas[replica] += pictures
        try:
            yield
        finally:
            _take(self.replicas, replica, pictures)

    async def _note(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Nothing: `client` reads what the proxies' middleware has put into the scope."""


def _take(counter: Counter[str], name: str, pictures: int) -> None:
    counter[name] -= pictures
    if not counter[name]:
        del counter[name]


async def _fields(kind: bytes, body: bytes, settings: Settings) -> dict[str, Any]:
    name, options = parse_options_header(kind[: bodies.MAX_HEADER])
    if name == bodies.JSON.encode():
        return await bodies.parse_json(body)
    if name == bodies.URLENCODED.encode():
        return dict(await bodies.parse_urlencoded(body))
    if name == bodies.MULTIPART.encode():
        found, _ = await bodies.parse_multipart(body, options.get(b"boundary"), ("image", "mask"), settings.max_body)
        return dict(found)
    return {}


async def _nothing() -> Any:
    raise AssertionError


async def _nobody(_: Any) -> None:
    raise AssertionError
