"""What pages of other origins can do to the server from a real browser: nothing, unless the operator names them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.live import Live
from tests.browser.conftest import FLAGS, SECONDS, chromium

NAME = "dalle.test"  # of the server, for browsers that are told so
FOREIGN_NAME = "foreign.test"
RULES = f"--host-resolver-rules=MAP {NAME} 127.0.0.1, MAP {FOREIGN_NAME} 127.0.0.1"
TEXT = "a red apple"
# Requests that a page sends without asking whether it may; the answers cannot be read.
SEND = """async (url) => {
    const form = new FormData();
    form.set("text", "a red apple");
    const plain = new Blob(['{"text": "a red apple"}'], { type: "text/plain" });
    for (const body of [form, new URLSearchParams(form), plain])
        await fetch(url, { method: "POST", mode: "no-cors", body }).catch(() => null);  // the answer is kept from us
}"""
SUBMIT = """([url, enctype]) => {
    const form = document.createElement("form");
    Object.assign(form, { action: url, method: "post", enctype });
    form.append(Object.assign(document.createElement("input"), { name: "text", value: "a red apple" }));
    document.body.append(form);
    form.submit();
}"""
READ = """async (url) => {
    const body = JSON.stringify({ text: "a red apple" });
    try {
        const answer = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body });
        return [answer.status, (await answer.json()).length, answer.headers.get("X-Seeds")];
    } catch (error) {
        return [error.name];
    }
}"""
ENCODINGS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where a site of somebody else is, whose page at /hidden does not tell its origin where it need not."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Referrer-Policy", "no-referrer" if self.path == "/hidden" else "unsafe-url")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>foreign</title><link rel=icon href=data:,><body>")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def knowing(browser: Browser) -> Iterator[Browser]:
    """A browser that resolves the names of this file as RULES say."""
    own = browser.browser_type.launch(executable_path=chromium(), args=[*FLAGS, RULES])
    yield own
    own.close()


@pytest.fixture
def visit(knowing: Browser) -> Iterator[Callable[[str], Page]]:
    """visit(url): a page in a profile of its own."""
    contexts = []

    def begin(url: str) -> Page:
        context = knowing.new_context()
        contexts.append(context)
        context.set_default_timeout(1000 * SECONDS)
        page = context.new_page()
        page.goto(url)
        return page

    yield begin
    for context in contexts:
        context.close()


def accepted(server: Live) -> float:
    return server.metrics()["dalle_requests_accepted_total"]


def refused(server: Live) -> float:
    return server.metrics().get('dalle_errors_total{code="foreign_page"}', 0.0)


@pytest.fixture(scope="module")
def named(weights: Path, port: int) -> Iterator[Live]:
    """A server that is called NAME too, and whose operator lets the page at localhost ask."""
    log = weights.with_name("named-log")
    with Live(weights, log, allowed_hosts=NAME, cors_origins=f"http://localhost:{port}") as server:
        yield server.ready()


# Of the same site but another port, of another site, of another site that hides its name, and over HTTP to a machine
# that is not this one, where Chromium sends Origin and no Sec-Fetch-Site.
PAGES = [
    ("127.0.0.1", "/", "127.0.0.1"),
    ("localhost", "/", "127.0.0.1"),
    ("localhost", "/hidden", "127.0.0.1"),
    ("127.0.0.1", "/", "localhost"),
    (FOREIGN_NAME, "/", "127.0.0.1"),
    (FOREIGN_NAME, "/", NAME),
    (FOREIGN_NAME, "/hidden", NAME),
]


@pytest.mark.parametrize(("host", "path", "target"), PAGES)
def test_a_foreign_page_has_nothing_painted(
    live: Live, named: Live, port: int, visit: Callable[[str], Page], host: str, path: str, target: str
) -> None:
    server = named if target == NAME else live
    url = f"http://{target}:{httpx.URL(server.url).port}/generate"
    before, refused_before = accepted(server), refused(server)
    page = visit(f"http://{host}:{port}{path}")
    page.evaluate(SEND, url)
    assert page.evaluate(READ, url) == ["TypeError"]
    for encoding in ENCODINGS:
        page = visit(f"http://{host}:{port}{path}")
        with page.expect_response(url) as answered:
            page.evaluate(SUBMIT, [url, encoding])
        assert answered.value.status == 403
        assert "DALLE_CORS_ORIGINS" in answered.value.json()["Error"]
    # What was sent has come, and READ has asked first and was told no.
    server.wait(lambda: refused(server) == refused_before + 6, "not all was refused")
    assert accepted(server) == before


def test_the_same_page_gets_its_picture_where_its_origin_is_allowed(
    named: Live, port: int, visit: Callable[[str], Page]
) -> None:
    before = accepted(named)
    page = visit(f"http://localhost:{port}")
    status, pictures, seeds = page.evaluate(READ, f"{named.url}/generate")
    assert (status, pictures) == (200, 1)
    assert int(seeds.partition(":")[0]) >= 0
    page.evaluate(SEND, f"{named.url}/generate")
    assert accepted(named) == before + 3  # the text that claims to be no JSON is refused as such


def test_a_page_whose_name_becomes_this_machines_reads_nothing(live: Live, visit: Callable[[str], Page]) -> None:
    page = visit("about:blank")
    answer = page.goto(f"http://{FOREIGN_NAME}:{httpx.URL(live.url).port}/")
    assert answer is not None
    assert answer.status == 403
    assert f"{FOREIGN_NAME}:" in answer.json()["Error"]
    assert page.evaluate("async () => (await fetch('/metrics')).status") == 403


def test_the_page_paints_by_a_name_that_is_allowed_and_without_tls(named: Live, visit: Callable[[str], Page]) -> None:
    page = visit(f"http://{NAME}:{httpx.URL(named.url).port}/")
    assert not page.evaluate("isSecureContext"), "so the browser sends Origin, and no Sec-Fetch-Site"
    page.get_by_label("Prompt").fill(TEXT)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#stage")).to_have_attribute("data-state", "done", timeout=1000 * SECONDS)
