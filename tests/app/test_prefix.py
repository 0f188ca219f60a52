"""The page, its parts, the API, a stream, jobs and addresses below a path of a real nginx.

It strips the path, passes it on, or asks for another host.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from tests.app.live import Live

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/errors;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location /stripped/ {{
            proxy_pass {url}/;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Prefix /stripped;
        }}
        location /inner/ {{
            proxy_pass {url}/;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Prefix /inner/;
        }}
        location /passed/on {{
            proxy_pass {url};
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine: apt-get install nginx-light")


@pytest.fixture
def proxy(start: Callable[..., Live], tmp_path: Path) -> Iterator[str]:
    """The address of an nginx before a ready server."""
    server = start(root_path="/passed/on", trusted_proxies="127.0.0.1").ready()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "nginx.conf"
    config.write_text(CONFIG.format(folder=tmp_path, port=port, url=server.url))
    running = subprocess.Popen([str(NGINX), "-c", str(config), "-e", str(tmp_path / "errors")])
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and running.poll() is None:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        assert running.poll() is None, (tmp_path / "errors").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(60)


def links(page: httpx.Response) -> set[str]:
    """The addresses that a page names, made absolute as a browser does."""
    found = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    found += re.findall(r'(?:from|import) "([^"]+)"', page.text) if page.url.path.endswith(".js") else []
    return {urljoin(str(page.url), address) for address in found}


def test_everything_works_below_a_path(proxy: str) -> None:
    with httpx.Client(timeout=300, trust_env=False, follow_redirects=True) as client:
        for prefix in (f"{proxy}/stripped", f"{proxy}/passed/on"):
            todo, seen = {f"{prefix}/", f"{prefix}/docs", f"{prefix}/docs/"}, set[str]()
            while todo:
                address = todo.pop()
                answer = client.get(address)
                assert answer.status_code == 200, address
                assert str(answer.url).startswith(prefix)
                seen.add(address)
                todo |= {link for link in links(answer) if link.startswith(proxy)} - seen
            assert seen >= {f"{prefix}/demo/stream.js", f"{prefix}/demo/base.css", f"{prefix}/openapi.json"}
            body = {"prompt": "a red apple", "stream": True, "partial_images": 1}
            with client.stream("POST", f"{prefix}/v1/images/generations", json=body) as stream:
                assert stream.status_code == 200
                assert [line for line in stream.iter_lines() if line.startswith("data:")][-1] == "data: [DONE]"
            assert client.post(f"{prefix}/generate", json={"text": "a red apple"}).status_code == 200
        assert str(client.get(f"{proxy}/passed/on").url) == f"{proxy}/passed/on/"
        assert client.get(f"{proxy}/passed/on/openapi.json").json()["servers"] == [{"url": "/passed/on"}]


def test_addresses_in_answers_lead_through_the_proxy(proxy: str) -> None:
    with httpx.Client(timeout=300, trust_env=False) as client:
        for prefix in (f"{proxy}/stripped", f"{proxy}/inner", f"{proxy}/passed/on"):
            body = {"prompt": "a red apple", "response_format": "url"}
            (picture,) = client.post(f"{prefix}/v1/images/generations", json=body).json()["data"]
            told = client.post(f"{prefix}/v1/jobs", json={"text": "a red apple"}).headers["location"]
            for address in (picture["url"], told):
                assert address.startswith(f"{prefix}/")
                assert client.get(address).status_code == 200


def test_only_a_trusted_proxy_tells_the_address_and_only_a_right_one(start: Callable[..., Live]) -> None:
    def base(server: Live, **told: str) -> str:
        headers = {f"X-Forwarded-{name}": value for name, value in told.items()}
        answer = server.post(json={"text": "a cat", "response_format": "url"}, headers=headers)
        url: str = answer.json()[0]
        return url.partition("/pictures/")[0]

    with start() as plain:
        assert base(plain.ready(), Host="example.org", Prefix="/dalle") == plain.url
    with start(trusted_proxies="127.0.0.1", root_path="/own") as server:
        assert base(server.ready()) == f"{server.url}/own"
        assert base(server, Host="[2001:db8::1]:8443, inner", Proto="https", Prefix="/a, /b") == (
            "https://[2001:db8::1]:8443/a"
        )
        for wrong in ("//evil", "/a?b", "/a b", "a", "/", "/a/../b#"):
            assert base(server, Host="a@evil/x", Prefix=wrong) == f"{server.url}/own"
