"""Addresses of pictures: in answers, fetched as files, of one key only, and in what webhooks are told."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

from PIL import Image
from standardwebhooks import Webhook

from tests.app.asking_jobs import ENDED, ask, ended
from tests.app.live import Live
from tests.jobs.receiver import SECRET, Receiver


def test_answers_can_have_addresses_instead_of_files(live: Live) -> None:
    fields = {"seed": 3, "num_images": 2}
    files = [base64.b64decode(one) for one in live.generate(text="a cat", **fields).json()]
    urls = live.generate(text="a cat", response_format="url", **fields).json()
    assert [live.client.get(url).content for url in urls] == files
    answer = live.client.post(
        "/v1/images/generations",
        json={"prompt": "a cat", "n": 2, "seed": 3, "response_format": "url", "output_format": "webp"},
    ).json()
    assert all("b64_json" not in one for one in answer["data"])
    for one in answer["data"]:
        found = live.client.get(one["url"])
        assert found.headers["content-type"] == "image/webp"
        with Image.open(io.BytesIO(found.content)) as picture:
            assert picture.format == "WEBP"


def test_pictures_are_served_as_files(live: Live) -> None:
    (picture,) = ended(live, ask(live, text="a cat"))["pictures"]
    whole = live.client.get(picture["url"])
    assert whole.headers["content-type"] == "image/png"
    assert "immutable" in whole.headers["cache-control"]
    assert "no-" not in whole.headers["cache-control"]
    assert whole.headers["cross-origin-resource-policy"] == "cross-origin"  # other pages may show it
    head = live.client.head(picture["url"])
    assert (head.headers["content-length"], head.content) == (str(len(whole.content)), b"")
    assert head.headers["cache-control"].partition("=")[0] == whole.headers["cache-control"].partition("=")[0]
    part = live.client.get(picture["url"], headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, whole.content[2:6])
    assert part.headers["content-range"] == f"bytes 2-5/{len(whole.content)}"
    assert live.client.get(picture["url"], headers={"Range": "bytes=-4"}).content == whole.content[-4:]
    assert live.client.get(picture["url"], headers={"Range": "bytes=999999-"}).status_code == 416
    tag = whole.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", W/{tag}', "*"):
        same = live.client.get(picture["url"], headers={"If-None-Match": known})
        assert (same.status_code, same.content) == (304, b"")
    assert live.client.get(picture["url"], headers={"If-None-Match": '"other"'}).content == whole.content
    for known, found in ((tag, whole.content[:2]), ('"other"', whole.content), (f"W/{tag}", whole.content)):
        headers = {"Range": "bytes=0-1", "If-Range": known}
        assert live.client.get(picture["url"], headers=headers).content == found
    for name in ("x.png", "../../jobs.sqlite3", "A" * 32 + ".png"):
        assert live.client.get(f"/pictures/{name}").status_code == 404


def test_with_keys_a_job_and_its_pictures_are_their_owners(quick_checkpoint: Path, tmp_path: Path) -> None:
    hashes = ",".join(hashlib.sha256(key.encode()).hexdigest() for key in ("mine", "yours"))
    with Live(quick_checkpoint, tmp_path / "log", store=tmp_path / "store", api_keys=hashes) as server:
        server.ready()
        mine, yours = ({"Authorization": f"Bearer {key}"} for key in ("mine", "yours"))
        where = server.client.post("/v1/jobs", json={"text": "a cat"}, headers=mine).headers["location"]

        def done() -> Any:
            job = server.client.get(where, headers=mine).json()
            return job if job["state"] in ENDED else None

        link = server.wait(done, "the job has not ended")["pictures"][0]["url"]
        assert server.client.get(where, headers=yours).status_code == 404
        assert server.client.get("/v1/jobs", headers=yours).json()["data"] == []
        assert server.client.get(link).status_code == 200  # whoever has the link
        plain, _, query = link.partition("?")
        assert server.client.get(plain).status_code == 404
        assert server.client.get(plain, headers=mine).status_code == 200
        assert server.client.get(plain, headers=yours).status_code == 404
        later = query.replace("until=1", "until=2", 1)
        assert server.client.get(f"{plain}?{later}").status_code == 404


def test_a_webhook_is_told_again_until_it_listens(quick_checkpoint: Path, tmp_path: Path, receiver: str) -> None:
    hook = {"url": f"{receiver}/503", "secret": SECRET}
    with Live(quick_checkpoint, tmp_path / "log", store=tmp_path / "store", private_webhooks=True) as server:
        job = ended(server.ready(), ask(server, text="a cat", count=2, webhook=hook))
        server.wait(lambda: len(Receiver.got) >= 2, "the webhook is not told again")
        headers, data = Receiver.got[0]
        told = Webhook(SECRET).verify(data, headers)
        assert (told["type"], told["data"]["id"]) == ("job.completed", job["id"])
        assert [server.client.get(one["url"]).status_code for one in told["data"]["pictures"]] == [200, 200]
        assert Receiver.got[1][0]["webhook-id"] == headers["webhook-id"]


def test_a_key_has_a_webhook_of_its_own(quick_checkpoint: Path, tmp_path: Path, receiver: str) -> None:
    digest = hashlib.sha256(b"mine").hexdigest()
    (tmp_path / "keys").write_text(f"{digest} {receiver}/200 {SECRET}\n")
    given: dict[str, Any] = {"store": tmp_path / "store", "private_webhooks": True, "api_keys_file": tmp_path / "keys"}
    with Live(quick_checkpoint, tmp_path / "log", **given) as server:
        server.ready().client.headers["Authorization"] = "Bearer mine"
        job = ended(server, ask(server, text="a cat"))
        server.wait(lambda: Receiver.got, "the webhook is not told")
        headers, data = Receiver.got[0]
        assert Webhook(SECRET).verify(data, headers)["data"]["id"] == job["id"]
