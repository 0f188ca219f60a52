"""The folder and SHA256SUMS: pipes, devices and endless files are refused, and nothing waits for them."""

from __future__ import annotations

import json
import os
import re
import socket
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from app.checkpoint import ServedCheckpoint
from model.checkpoints import load, sums
from model.checkpoints.describe import describe
from tests.checkpoints.refused import refusal, values_of


def no_end(path: Path, name: str) -> None:
    (path / name).unlink()
    (path / name).symlink_to("/dev/zero")


def pipe(path: Path, name: str) -> None:
    (path / name).unlink()
    os.mkfifo(path / name)


def bound_socket(path: Path, name: str) -> None:
    (path / name).unlink()
    here = Path.cwd()
    os.chdir(path)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
    finally:
        os.chdir(here)


def folder(path: Path, name: str) -> None:
    (path / name).unlink()
    (path / name).mkdir()


def loop(path: Path, name: str) -> None:
    (path / name).unlink()
    (path / name).symlink_to(name)


def link_to_folder(path: Path, name: str) -> None:
    (path / name).unlink()
    (path / name).symlink_to(path)


def without_end(path: Path, name: str) -> None:
    with (path / name).open("r+b") as file:
        file.truncate(2**40)  # a hole: it takes no room on the disk


NOT_FILES: dict[str, tuple[Callable[[Path, str], object], str]] = {
    "a device": (no_end, " must be a regular file, got a device"),
    "a pipe": (pipe, " must be a regular file, got a pipe"),
    "a socket": (bound_socket, ": cannot be read: No such device or address"),
    "a folder": (folder, " must be a regular file, got a folder"),
    "a link to a folder": (link_to_folder, " must be a regular file, got a folder"),
    "a link to itself": (loop, ": cannot be read: Too many levels of symbolic links"),
    "a file of a terabyte": (without_end, r"( must be at most [\d,]+ bytes|: altered or cut short)"),
}
NAMES = (
    "SHA256SUMS",
    "config.json",
    "tokenizer.json",
    "vae-1-of-1.safetensors",
    "reviser-1-of-1.safetensors",
    "a.md",
    "things-3d.txt",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", NOT_FILES)
def test_a_path_that_is_no_regular_file_is_neither_waited_for_nor_read(copy: Path, kind: str, name: str) -> None:
    (copy / "a.md").write_text("# A model\n")
    sums.write(copy)
    act, line = NOT_FILES[kind]
    act(copy, name)
    told = re.compile(re.escape(str(copy / name)) + line)
    tracemalloc.start()
    try:
        assert told.match(refusal(copy))
        if name in ("config.json", "tokenizer.json", "things-3d.txt"):
            assert told.match(refusal(copy, ServedCheckpoint.read))
        problems = describe(copy).problems
        assert any(told.match(problem) for problem in problems)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, copy: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to(copy)
    for name, line in (
        ("gone", "gone: no such folder"),
        ("file", "file: not a folder"),
        ("file/inside", "inside: cannot be read: Not a directory"),
        ("loop", "loop: cannot be read: Too many levels of symbolic links"),
        ("x" * 300, "cannot be read: File name too long"),
        ("a\0b", "cannot be read: embedded null byte"),
    ):
        assert line in refusal(tmp_path / name)
        assert line in refusal(tmp_path / name, ServedCheckpoint.read)
        assert line in describe(tmp_path / name).problems[0]
    assert "empty/SHA256SUMS: no such file" in refusal(tmp_path / "empty")
    assert "empty/config.json: no such file" in refusal(tmp_path / "empty", ServedCheckpoint.read)
    assert load(tmp_path / "link").config == load(copy).config


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(copy: Path) -> None:
    (copy / "SHA256SUMS").chmod(0)
    assert "SHA256SUMS: cannot be read: Permission denied" in refusal(copy)
    copy.chmod(0)
    try:
        assert "copy: cannot be read: Permission denied" in refusal(copy)
    finally:
        copy.chmod(0o700)


def test_files_that_change_between_the_sums_and_their_reading_are_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = sums.load(copy)
    (copy / "config.json").write_text(json.dumps({**values_of(copy), "name": "another"}))
    monkeypatch.setattr(sums, "load", lambda _: listed)
    assert "config.json: altered or cut short" in refusal(copy)


def test_a_folder_that_was_replaced_after_the_server_read_it_is_refused(copy: Path) -> None:
    served = ServedCheckpoint.read(copy)
    assert load(copy, known=served.known).config == served.config
    (copy / "config.json").write_text(json.dumps({**values_of(copy), "name": "another"}))
    sums.write(copy)
    assert load(copy).config.name == "another"
    assert "config.json: replaced since it was first read" in refusal(copy, partial(load, known=served.known))
    served = ServedCheckpoint.read(copy)
    (copy / "things-3d.txt").write_text("dog\n")
    sums.write(copy)
    assert "things-3d.txt: replaced since it was first read" in refusal(copy, partial(load, known=served.known))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "line 1 must be a SHA-256 sum and the name of a file beside it, got ''"),
        (f"{'0' * 64}  a/b\n", "line 1 must be"),
        (f"{'0' * 64}  ..\n", "line 1 must be"),
        (f"{'0' * 64}  SHA256SUMS\n", "line 1 must be"),
        (f"{'0' * 64}  a\x1b[2J\n", "line 1 must be"),
        (f"{'0' * 64}  a\rb\n", "line 1 must be"),
        (f"{'0' * 64}  a\u2028b\n", "line 1 must be"),
        (f"{'0' * 64}  {'a' * 256}\n", "line 1 must be"),
        (f"{'0' * 63}  a\n", "line 1 must be"),
        (f"{'0' * 64}  a\n" * 2, "line 2 names a again"),
        ("".join(f"{'0' * 64}  {i}\n" for i in range(10**6)), " must be at most 1,048,576 bytes, got 72,888,890"),
        ("x" * 10**6, "of 1000000 characters"),
    ],
)
def test_a_malformed_file_of_sums_is_refused(copy: Path, text: str, line: str) -> None:
    (copy / "SHA256SUMS").write_text(text, newline="")
    assert line in refusal(copy)


def test_documents_have_a_limit_all_together(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.checkpoints.native.DOCUMENT_BYTES", 5)
    (copy / "a.md").write_text("abc")
    (copy / "b.md").write_text("abc")
    sums.write(copy)
    assert "b.md must be at most 2 bytes, got 3" in refusal(copy)
