"""API keys, where the operator wants them: who may ask. The server knows only their SHA-256 hashes.

    dalle-server key  # makes a key, and the hash of it for DALLE_API_KEYS or a line of DALLE_API_KEYS_FILE

With keys set every path is closed unless it stands in OPEN, whether there is a route for it or not. A key is checked
before anything of the request's body is read.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.errors import NotAuthorised
from app.settings import Settings, SettingsError

OPEN = frozenset({"/", "/docs", "/openapi.json", "/livez", "/readyz", "/healthz"})
OPEN_FOLDER = "/demo/"  # the pages' own files
HASH = re.compile(r"[0-9a-f]{64}")
SHOWN = 8  # digits of a key's hash that the log tells it by


def make_key() -> str:
    """A new key of 256 random bits, to be kept secret."""
    return f"dalle-{secrets.token_urlsafe(32)}"


def key_hash(key: str) -> str:
    """What the server is told of a key. Keys are random, so a plain hash cannot be turned round."""
    return hashlib.sha256(key.encode("latin-1", "replace")).hexdigest()


def read_hashes(settings: Settings) -> frozenset[str]:
    """The hashes of the keys that are let in; none: everybody is.

    Raises SettingsError naming the file, and the line of it that is no hash, never what stands there: it may be a key.
    """
    hashes = set(settings.api_keys.replace(",", " ").split())
    if (file := settings.api_keys_file) is not None:
        found = _read_file(file)
        if not found:
            raise SettingsError(f"{file}: holds no hash of an API key, so nobody would be let in")
        hashes |= found
    return frozenset(hashes)


def _read_file(file: Path) -> set[str]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{file}: the API keys cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    found = set()
    for number, line in enumerate(lines, 1):
        first = line.partition("#")[0].strip()
        if first and not HASH.fullmatch(first):
            raise SettingsError(f"{file}, line {number}: no hash of an API key, which is 64 digits from 0 to f")
        found |= {first} - {""}
    return found


def is_open(path: str) -> bool:
    """Whether a path is answered without a key."""
    return path in OPEN or path.startswith(OPEN_FOLDER)


class Keys:
    """The keys that are let in, by their hashes. They may be replaced while the server runs."""

    def __init__(self, hashes: Collection[str]) -> None:
        self.replace(hashes)

    def replace(self, hashes: Collection[str]) -> None:
        """From the next request on let these keys in, and no others."""
        self._hashes = [known.encode() for known in hashes]

    def known(self, digest: str) -> bool:
        """Whether this is the hash of a key that is let in. Takes the same time for every answer."""
        same = [hmac.compare_digest(digest.encode(), known) for known in self._hashes]  # all of them, whichever fits
        return any(same)


class Guard:
    """ASGI: lets a request with a known key on, its hash as `key` in the state, and others to open paths only.

    Raises NotAuthorised.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key, where one is needed."""
        if scope["type"] == "http" and not is_open(scope["path"]):
            scope["state"]["key"] = found = self._check(scope)
            scope["state"]["log"]["key"] = found[:SHOWN]
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> str:
        """The hash of the request's key."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if not given:
            raise NotAuthorised("an API key is needed: send the header Authorization: Bearer KEY", False)
        scheme, _, key = given[0].partition(b" ")
        if scheme.lower() == b"bearer" and len(given) == 1:
            digest = hashlib.sha256(key.strip()).hexdigest()
            if self._keys.known(digest):
                return digest
        raise NotAuthorised("the header Authorization holds no API key that is known here, as Bearer KEY", True)
