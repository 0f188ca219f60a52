"""API keys. If the operator sets any, only requests with one of them are let in. The server knows only their hashes.

    dalle-server key  # makes a key, and its hash for DALLE_API_KEYS or a line of DALLE_API_KEYS_FILE

With keys set, every path except those of OPEN and OPEN_FOLDERS needs a key, even a path that is no route. The key is
checked before the body is read.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.errors import NotAuthorised
from app.jobs.webhooks import check_secret, check_url
from app.settings import Settings, SettingsError
from model.errors import InvalidRequest

OPEN = frozenset({"/", "/docs", "/openapi.json", "/livez", "/readyz", "/healthz"})
OPEN_FOLDERS = ("/demo/", "/pictures/")  # the pages' own files; a picture's route looks at keys and links itself
HASH = re.compile(r"[0-9a-f]{64}")
Hook = dict[str, str]  # url and secret of a webhook
SHOWN = 8  # digits of a key's hash that the log shows
log = logging.getLogger("dalle.keys")


def make_key() -> str:
    """A new secret key of 256 random bits."""
    return f"dalle-{secrets.token_urlsafe(32)}"


def key_hash(key: str) -> str:
    """The SHA-256 of a key, by which the server knows it. A key is random, so nobody can find it from its hash."""
    return hashlib.sha256(key.encode("latin-1", "replace")).hexdigest()


def read_keys(settings: Settings) -> dict[str, Hook | None]:
    """The hashes of the keys that are let in, each with its webhook. If there are none, everybody is let in.

    Raises SettingsError, which names the file and the line that is wrong. It does not show the line, because the line
    may be a key.
    """
    keys: dict[str, Hook | None] = dict.fromkeys(settings.api_keys.lower().replace(",", " ").split())
    if (file := settings.api_keys_file) is not None:
        found = _read_file(file, settings.private_webhooks)
        if not found:
            raise SettingsError(f"{file} must hold the hash of an API key, got none: nobody would be let in")
        keys |= found
    return keys


def _read_file(file: Path, private_webhooks: bool) -> dict[str, Hook | None]:
    try:
        data = file.read_bytes()
        encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        lines = data.decode(encoding).splitlines()  # Windows writes byte order marks
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{file}: the API keys cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    found: dict[str, Hook | None] = {}
    for number, line in enumerate(lines, 1):
        digest, *hook = line.partition("#")[0].split() or [""]
        if not digest:
            continue
        if not HASH.fullmatch(digest.lower()) or len(hook) not in (0, 2):
            raise SettingsError(
                f"{file}, line {number} must be the hash of an API key, 64 digits from 0 to f, alone or with the "
                "address and the secret of a webhook"
            )
        if hook:
            try:
                check_url(hook[0], private_webhooks)
                check_secret(hook[1])
            except InvalidRequest as error:
                raise SettingsError(f"{file}, line {number}: {str(error).partition(', got')[0]}") from None
        found[digest.lower()] = {"url": hook[0], "secret": hook[1]} if hook else None
    return found


def reloader(
    settings: Settings, let_in: Callable[[Mapping[str, Hook | None]], Awaitable[None]]
) -> Callable[[], Awaitable[None]] | None:
    """A function for SIGHUP. It reads the file of keys again, and has them let in. None if the settings name no file.

    let_in: lets these keys in, and no others.
    """
    if settings.api_keys_file is None:
        return None
    one = asyncio.Lock()  # so that the last reading wins

    async def reload() -> None:
        async with one:
            try:
                known = await asyncio.to_thread(read_keys, settings)
            except SettingsError as error:
                log.error("SIGHUP: the API keys stay as they were: %s", error)
            else:
                await let_in(known)
                log.info("SIGHUP: the API keys were read again, %d of them", len(known))

    return reload


def is_open(path: str) -> bool:
    """Whether requests to this path need no key."""
    return path in OPEN or path.startswith(OPEN_FOLDERS)


class Keys:
    """The hashes of the keys that are let in. They may be replaced while the server runs."""

    def __init__(self, keys: Mapping[str, Hook | None]) -> None:
        self.replace(keys)

    def replace(self, keys: Mapping[str, Hook | None]) -> None:
        """Let these keys in from the next request on, and no others. keys: hashes, each with its webhook."""
        self._hashes = [known.encode() for known in keys]
        self._hooks = dict(keys)

    async def let_in(self, keys: Mapping[str, Hook | None]) -> None:
        """As `replace`, for `reloader`."""
        self.replace(keys)

    def hook(self, digest: str) -> Hook | None:
        """The webhook that is told of the jobs of the key with this hash."""
        return self._hooks.get(digest)

    def check(self, scope: Scope) -> str:
        """The hash of the request's key. Raises NotAuthorised."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if not given:
            raise NotAuthorised("Authorization is missing; it must be Bearer and an API key", False)
        scheme, _, key = given[0].partition(b" ")
        if scheme.lower() == b"bearer" and len(given) == 1:
            digest = hashlib.sha256(key.strip()).hexdigest()
            if self.known(digest):
                return digest
        raise NotAuthorised("Authorization must be Bearer and an API key that this server knows", True)

    def known(self, digest: str) -> bool:
        """Whether this is the hash of a key that is let in. Both answers take the same time."""
        # All hashes are compared, even after an equal one is found: the time must tell nothing.
        same = [hmac.compare_digest(digest.encode(), known) for known in self._hashes]
        return any(same)


class Guard:
    """ASGI middleware. A request without a known key reaches open paths only.

    It puts the hash of a known key into the state, as `key`. Raises NotAuthorised.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key if the path needs one."""
        if scope["type"] == "http" and not is_open(scope["path"]):
            scope["state"]["key"] = found = self._keys.check(scope)
            scope["state"]["log"]["key"] = found[:SHOWN]
        await self._app(scope, receive, send)
