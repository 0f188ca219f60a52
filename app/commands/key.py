"""`dalle-server key` makes an API key and its hash."""

from __future__ import annotations

import typer

from app.http.keys import key_hash, make_key


def key() -> None:
    """Make an API key. Put its hash into DALLE_API_KEYS, or into a line of the file that DALLE_API_KEYS_FILE names.

    The key is shown once and is not stored. Clients send it as `Authorization: Bearer KEY`.
    """
    made = make_key()
    typer.echo(f"key   {made}")
    typer.echo(f"hash  {key_hash(made)}")
