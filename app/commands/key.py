"""`dalle-server key`: a new API key, and the hash that the server is told."""

from __future__ import annotations

import typer

from app.http.keys import key_hash, make_key


def key() -> None:
    """Make an API key. Its hash goes into DALLE_API_KEYS, or into a line of the file DALLE_API_KEYS_FILE.

    The key itself is shown once and kept nowhere. Clients send it as `Authorization: Bearer KEY`.
    """
    made = make_key()
    typer.echo(f"key   {made}")
    typer.echo(f"hash  {key_hash(made)}")
