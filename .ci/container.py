#!/usr/bin/env python3
"""Builds the container image where no Docker engine runs, and tries it for real: `make container`, as root on Debian.

buildah builds the Dockerfile and runs the image, both with chroot isolation, over a base that debootstrap makes of
this machine's own Debian: that and its Python stand in for the official Python image. pip gets this machine's
configuration as the build's secret, and the local folders that it names as mounts.

What this cannot see: chroot isolation shares the machine's network and processes and drops no more capabilities than
a user who is not root lacks anyway, so published ports and `cap_drop` are not tried, and tini is not process 1. A
read-only root is tried as the kernel's read-only mounts of every folder of the image, with a tmpfs on /tmp, as in
docker-compose.yml.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BASE = "localhost/dalle-server-base"
IMAGE = "localhost/dalle-server"
START_SECONDS = 300
PNG = b"\x89PNG\r\n\x1a\n"


class Failed(Exception):
    """What the image does not do. The message is one line."""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(*command: str | Path, **options: Any) -> str:
    """The output of a command that must succeed. Raises Failed with the end of what it said."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if done.returncode:
        raise Failed(f"{command[0]} {command[1]} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout.strip()


def install_tools() -> None:
    """buildah and debootstrap, if they are missing."""
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if missing:
        run("apt-get", "update", "-qq")
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=environ)


def this_debian() -> tuple[str, str]:
    """Suite and mirror that this machine's own packages come from."""
    suite = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE)
    if suite is None:
        raise Failed("/etc/os-release names no suite of Debian")
    lines = run("apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages").splitlines()
    mirrors = [line.split()[1] for line in lines if line.split()[0] == suite[1]]
    if not mirrors:
        raise Failed(f"apt's sources name no mirror of {suite[1]}")
    return suite[1], mirrors[0]


def pip_configuration(folder: Path) -> list[str]:
    """buildah's arguments by which the build's pip is configured as this machine's is."""
    listed = run(sys.executable, "-m", "pip", "config", "list")
    settings = dict(re.findall(r"^(?::env:|global)\.(.+)='(.*)'$", listed, re.MULTILINE))
    pip_conf = folder / "pip.conf"
    pip_conf.write_text("".join(["[global]\n", *(f"{name} = {value}\n" for name, value in settings.items())]))
    pip_conf.chmod(0o600)
    # The pages of an index in files point to files beside the folder of its pages.
    words = [word for value in settings.values() for word in value.split()]
    paths = {Path(word.removeprefix("file://")) for word in words if re.match(r"(file://)?/", word)}
    paths = {path.parent if path.name == "simple" else path for path in paths if path.exists()}
    mounts = [part for path in sorted(paths) for part in ("--volume", f"{path}:{path}:ro")]
    return ["--secret", f"id=pip.conf,src={pip_conf}", *mounts]


class Buildah:
    """buildah with a store of its own in `folder`, so that no image of this machine is touched."""

    def __init__(self, folder: Path) -> None:
        self._store = ["--root", str(folder / "store"), "--runroot", str(folder / "state")]

    def command(self, verb: str, *arguments: str | Path) -> list[str]:
        return ["buildah", *self._store, verb, *map(str, arguments)]

    def __call__(self, verb: str, *arguments: str | Path) -> str:
        return run(*self.command(verb, *arguments))

    def inspect(self, image: str) -> dict[str, Any]:
        """What the image says of itself, in Docker's format."""
        config: dict[str, Any] = json.loads(self("inspect", "--type", "image", image))["Docker"]["config"]
        return config

    def megabytes(self, image: str) -> float:
        size = run("buildah", *self._store, "images", "--format", "{{.Size}}", image).split()
        return float(size[0]) * {"kB": 1e-3, "KB": 1e-3, "MB": 1.0, "GB": 1e3}[size[1]]


def make_base(buildah: Buildah, folder: Path, suite: str, mirror: str) -> None:
    """The image BASE: Debian, python3 and its venv module."""
    root = folder / "base"
    run("debootstrap", "--variant=minbase", "--include=python3,python3-venv", suite, root, mirror)
    run("chroot", root, "apt-get", "clean")
    # As in Debian's official images: apt keeps neither packages nor indices of them.
    (root / "etc/apt/apt.conf.d/docker-clean").write_text(
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };\n'
        'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
    )
    shutil.rmtree(root / "var/lib/apt/lists")
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, root, "/")
    buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    buildah("commit", "--quiet", "--rm", container, BASE)
    shutil.rmtree(root)


class Container:
    """A container of the image, run as the image's own user with every folder of it mounted read-only."""

    def __init__(self, buildah: Buildah) -> None:
        self._buildah = buildah
        self.name = buildah("from", IMAGE)
        root = Path(buildah("mount", self.name))
        self._mounts = ["--mount", "type=tmpfs,destination=/tmp,tmpfs-mode=1777"]
        self._mounts += ["--mount", "type=tmpfs,destination=/run,tmpfs-mode=755"]  # buildah makes a file there
        for path in sorted(root.iterdir()):
            if path.is_dir() and not path.is_symlink() and path.name not in ("dev", "proc", "run", "sys", "tmp"):
                self._mounts += ["--volume", f"{path}:/{path.name}:ro"]

    def command(self, *arguments: str, **variables: object) -> list[str]:
        environ = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
        options = ["--isolation", "chroot", *self._mounts, *environ]
        return self._buildah.command("run", *options, self.name, "--", *arguments)

    def run(self, *arguments: str, **variables: object) -> str:
        return run(*self.command(*arguments, **variables))


def children(pid: int) -> list[int]:
    """Of a process, with theirs."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        direct = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [each for child in direct for each in (child, *children(child))]


def argv(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    except OSError:
        return [""]


def wait(found: Callable[[], Any], what: str, seconds: float, server: subprocess.Popen[bytes], log: Path) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        if result := found():
            return result
        time.sleep(0.5)
    how = f"within {seconds:g} s" if server.poll() is None else f"before the server ended with {server.poll()}"
    raise Failed(f"{what} {how}; its log:\n{log.read_text(encoding='utf-8')[-4000:]}")


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    """Status and body of an answer; 0 while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except ConnectionRefusedError:
        return 0, b""
    finally:
        connection.close()


def check_configuration(config: dict[str, Any]) -> None:
    if not re.match(r"[1-9]\d*:", config.get("User", "")):
        raise Failed(f"its user is {config.get('User')!r}, and must be a number other than 0")
    if Path(config["Entrypoint"][0]).name != "tini":
        raise Failed(f"its entrypoint is {config['Entrypoint']}, and must begin with tini")
    if config.get("Healthcheck", {}).get("Test", [""])[0] != "CMD":
        raise Failed("it has no health check of a command")
    say(f"ok  runs {' '.join(config['Entrypoint'] + config['Cmd'])} as {config['User']}")


def check_files(container: Container, user: str) -> None:
    """What the image's user is, and what it can write. Links and the devices of /dev are no files of the image."""
    uid = container.run("id", "-u")
    if uid != user.partition(":")[0]:
        raise Failed(f"it runs as user {uid}, and must as {user}")
    unmounted = Container.__new__(Container)
    unmounted.__dict__.update(container.__dict__, _mounts=[])
    find = (
        "find / -xdev -not -type l -writable -not -path '/proc/*' -not -path '/dev/*' -not -path '/sys/*' 2>/dev/null"
    )
    expected = {"/tmp", "/var/tmp", "/run/lock", "/run/secrets", "/dev", "/proc", "/sys"}
    loose = set(unmounted.run("sh", "-c", f"{find}; true").splitlines()) - expected
    if loose:
        raise Failed(f"its user may write {', '.join(sorted(loose)[:9])}")
    say(f"ok  user {uid} may write nothing but /tmp and /var/tmp, even where the root is not read-only")
    attempts = [
        "app/x",
        "weights/default/x",
        "weights/default/config.json",
        ".venv/x",
        "/etc/x",
        "/var/tmp/x",
        "/usr/x",
    ]
    script = 'for path; do ( : >>"$path" ) 2>/dev/null && echo "$path"; done; : >/tmp/x'
    if written := container.run("sh", "-c", script, "sh", *attempts):
        raise Failed(f"with a read-only root, {written.split()} could be written")
    say("ok  with a read-only root nothing but /tmp can be written")


def check_server(container: Container, config: dict[str, Any], log: Path) -> None:
    """The image's own command on a read-only root: health, a picture, and SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = container.command(*config["Entrypoint"], *config["Cmd"], DALLE_PORT=port)
    began = time.monotonic()
    with log.open("wb") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        health = container.command(*config["Healthcheck"]["Test"][1:], DALLE_PORT=port)

        def healthy() -> bool:
            return subprocess.run(health, capture_output=True, check=False).returncode == 0

        wait(healthy, "the health check did not pass", START_SECONDS, server, log)
        say("ok  the health check's own command passes, on a read-only root")
        wait(lambda: ask(port, "GET", "/readyz")[0] == 200, "not ready", START_SECONDS, server, log)
        say(f"ok  ready after {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        status, body = ask(port, "POST", "/generate", {"text": "a red apple", "num_images": 1, "seed": 1})
        png = base64.b64decode(json.loads(body)[0]) if status == 200 else b""
        if not png.startswith(PNG) or struct.unpack(">II", png[16:24]) != (256, 256):
            raise Failed(f"POST /generate answered {status}: {body[:500]!r}")
        seconds = time.monotonic() - began
        say(f"ok  POST /generate answers a PNG of 256 x 256 pixels, {len(png)} bytes, in {seconds:.1f} s")
        inside = [pid for pid in children(server.pid) if Path(argv(pid)[0]).name == "tini"][-1]
        family = [inside, *children(inside)]
        os.kill(inside, signal.SIGTERM)
        status = server.wait(90)
        until = time.monotonic() + 10  # Python's own tracker of resources ends when it sees that the others have
        while (left := [argv(pid) for pid in family if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until:
            time.sleep(0.1)
        if status or left:
            raise Failed(f"SIGTERM: ended with {status}, left {left}; its log:\n{log.read_text()[-4000:]}")
        say(f"ok  SIGTERM to tini ends all {len(family)} processes with status 0")
        if subprocess.run(health, capture_output=True, check=False).returncode == 0:
            raise Failed("the health check passes although nothing listens")
        say("ok  and the health check fails then")
    finally:
        for pid in [server.pid, *children(server.pid)]:
            if server.poll() is None:
                os.kill(pid, signal.SIGKILL)
        server.wait()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch", default="cpu", help="the build argument TORCH (cpu)")
    parser.add_argument("--suite", help="Debian's suite for the base (this machine's)")
    parser.add_argument("--mirror", help="where debootstrap finds it (the first one of apt's sources)")
    options = parser.parse_args(arguments)
    if os.geteuid():
        raise Failed("only root can do this: sudo make container")
    install_tools()
    suite, mirror = options.suite or this_debian()[0], options.mirror or this_debian()[1]
    # /tmp may be a tmpfs, and too small for this.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="dalle-server-container-") as temporary:
        folder = Path(temporary)
        buildah = Buildah(folder)
        try:
            say(f"making a base of Debian {suite}")
            make_base(buildah, folder, suite, mirror)
            say(f"building the Dockerfile over it, TORCH={options.torch}")
            arguments = ["--build-arg", f"BASE={BASE}", "--build-arg", f"TORCH={options.torch}"]
            arguments += pip_configuration(folder)
            options_of_build = ["--isolation", "chroot", "--format", "docker", "--pull-never", "--quiet"]
            buildah("bud", *options_of_build, *arguments, "--tag", IMAGE, ROOT)
            base, whole = buildah.megabytes(BASE), buildah.megabytes(IMAGE)
            say(f"ok  built: {whole:.0f} MB, of which the base is {base:.0f} MB")
            config = buildah.inspect(IMAGE)
            check_configuration(config)
            container = Container(buildah)
            check_files(container, config["User"])
            check_server(container, config, folder / "server.log")
            say("not tried, as chroot isolation has none of it: published ports, cap_drop, and tini as process 1")
        finally:
            for verb in (("umount", "--all"), ("rm", "--all"), ("rmi", "--all", "--force")):
                subprocess.run(buildah.command(*verb), capture_output=True, check=False)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failed as failure:
        sys.exit(f"failed: {failure}")
