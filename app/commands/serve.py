"""`dalle-server serve`: the HTTP service. Flags win over DALLE_* variables; all settings are in app/settings.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from app.settings import load_settings


def serve(
    host: Annotated[str | None, Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, Option(help="Port to listen on; 0 takes a free one.", show_default="8000")] = None,
    weights: Annotated[Path | None, Option(help="Folder of the checkpoint.", show_default="weights/default")] = None,
    device: Annotated[str | None, Option(help="auto, cpu, cuda or cuda:0,cuda:1.", show_default="auto")] = None,
    slots: Annotated[int | None, Option(help="Pictures painted at once; a guided one takes two.")] = None,
    threads: Annotated[int | None, Option(help="Threads of arithmetic; 0: all cores.")] = None,
) -> None:
    """Serve pictures over HTTP. Every setting may also be a DALLE_* variable (DALLE_WEIGHTS=...)."""
    from app import server

    server.serve(load_settings(host=host, port=port, weights=weights, device=device, slots=slots, threads=threads))
