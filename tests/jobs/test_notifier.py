"""Webhooks are told of the ends of jobs. A slow receiver holds up its own client only."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from app.jobs.calls import Calls
from app.jobs.folder import Folder
from app.jobs.notifier import Notifier
from app.jobs.rows import State, StoredJob
from app.jobs.store import Store
from app.jobs.webhooks import Sender
from tests.jobs.receiver import SECRET, Receiver


def test_a_receiver_that_hangs_holds_up_its_own_client_only(
    tmp_path: Path, receiver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.webhooks.SECONDS", 1000.0)
    store = Store(f"sqlite:///{tmp_path}/jobs.sqlite3", Folder(str(tmp_path / "pictures")))
    for client, path in (
        ("slow", "silent"),
        ("slow", "silent"),
        ("slow", "silent"),
        ("quick", "200"),
        ("quick", "200"),
    ):
        job = store.accept({}, 1, client, hook={"url": f"{receiver}/{path}", "secret": SECRET})
        store.end(job.id, State.FAILED)

    async def message(job: StoredJob) -> dict[str, Any]:
        return {"client": job.client}

    def told() -> list[str]:
        return [json.loads(body)["client"] for _, body in Receiver.got]

    async def scene() -> None:
        async with asyncio.timeout(60):
            calls, sender = Calls(), Sender(private=True)
            running = asyncio.create_task(Notifier(store, calls, sender, message).run())
            while told().count("quick") < 2:
                await asyncio.sleep(0.01)
            assert told().count("slow") <= 1
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await sender.close()
            await calls.close(store.close)

    asyncio.run(scene())
