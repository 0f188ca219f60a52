"""Webhooks are signed, bounded in time, and lead to public addresses only."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from standardwebhooks import Webhook

from app.jobs import webhooks
from app.jobs.webhooks import Sender, check_secret, check_url, is_public
from model.errors import InvalidRequest
from tests.jobs.receiver import SECRET, Receiver


def send(url: str, private: bool = True, secret: str = SECRET) -> webhooks.Tried:
    async def attempt() -> webhooks.Tried:
        sender = Sender(private)
        try:
            return await sender.send(url, secret, "msg_1", {"type": "job.completed", "data": {"text": "чат 🐈"}})
        finally:
            await sender.close()

    return asyncio.run(attempt())


def test_a_message_is_signed_as_the_specification_says(receiver: str) -> None:
    assert send(f"{receiver}/204") == webhooks.Tried(True, "status 204")
    headers, body = Receiver.got[0]
    read = Webhook(SECRET).verify(body, headers)
    assert read == {"type": "job.completed", "data": {"text": "чат 🐈"}} == json.loads(body)
    assert headers["webhook-id"] == "msg_1"


@pytest.mark.parametrize(("status", "done"), [(200, True), (410, True), (404, False), (500, False), (302, False)])
def test_what_an_answer_means(receiver: str, status: int, done: bool) -> None:
    assert send(f"{receiver}/{status}") == webhooks.Tried(done, f"status {status}")
    assert len(Receiver.got) == 1  # a redirect is not followed


def test_a_receiver_that_says_nothing_is_given_up(receiver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "SECONDS", 0.2)
    assert send(f"{receiver}/silent") == webhooks.Tried(False, "no answer within 0.2 s")


def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert not send(f"http://localhost:{port}/200").done
    found = send("http://no-such-name.invalid/")
    assert not found.done
    assert "no-such-name.invalid has no address" in found.why


def test_a_name_that_leads_into_the_own_network_is_not_connected(receiver: str) -> None:
    found = send(f"{receiver}/200", private=False)
    assert not found.done  # a name server may have lied for a moment
    assert "localhost leads to" in found.why
    assert Receiver.got == []


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[list[str]]:
    """A name server that gives these answers, one after another. Returns those that are left."""
    left, real = list(answers), socket.getaddrinfo

    def look_up(host: str, port: int, **given: Any) -> Any:
        if host != "hook.example.org":
            return real(host, port, **given)
        return [entry for address in left.pop(0) for entry in real(address, port, **given)]

    monkeypatch.setattr("app.jobs.webhooks.socket.getaddrinfo", look_up)
    return left


@pytest.mark.parametrize("private", ["127.0.0.1", "169.254.169.254", "::1"])
def test_a_name_that_leads_elsewhere_after_it_was_checked_gains_nothing(
    receiver: str, monkeypatch: pytest.MonkeyPatch, private: str
) -> None:
    port = receiver.rpartition(":")[2]
    url = f"http://hook.example.org:{port}/200"
    left = names(monkeypatch, ["192.88.99.1", private], [private], ["127.0.0.1", "127.0.0.1"])
    for _ in range(2):
        assert "which is not a public address" in send(url, private=False).why
    assert Receiver.got == []
    assert len(left) == 1  # each attempt looks the name up once, and connects to what it found
    assert send(url).done


def test_the_next_address_of_a_name_is_tried(receiver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = receiver.rpartition(":")[2]
    names(monkeypatch, ["127.0.0.2", "127.0.0.1"])  # nobody listens at the first one
    assert send(f"http://hook.example.org:{port}/200") == webhooks.Tried(True, "status 200")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1",
     "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::", "255.255.255.255",
     "fec0::1", "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1", "5f00::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    ["", "ftp://example.org", "http://example.org", "https://", "https://user@example.org", "https://127.0.0.1/x",
     "https://[::1]/", "https://169.254.169.254/latest", "https://example.org:0/", "https://example.org:x/",
     "https://ex\nample.org/", "https://exämple.org"],
)  # fmt: skip
def test_addresses_that_no_webhook_may_have(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"webhook\.url must .*, got "):
        check_url(url, private=False)


def test_addresses_that_a_webhook_may_have() -> None:
    check_url("https://example.org:8443/hook?key=1", private=False)
    check_url("http://127.0.0.1:9000/hook", private=True)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_short", "whsec_" + "A" * 30, "whsec_!!" + "A" * 40])
def test_secrets_that_cannot_sign(secret: str) -> None:
    with pytest.raises(InvalidRequest, match=r"webhook\.secret must be"):
        check_secret(secret)


def test_attempts_end_after_days() -> None:
    check_secret(SECRET)
    pauses = [webhooks.pause(tries) for tries in range(1, 12)]
    assert pauses[-1] is None
    assert 2 * 86_400 < sum(pause for pause in pauses if pause) < 4 * 86_400
