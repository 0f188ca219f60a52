"""`dalle-server corpus index`: a dry run over index files and pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from app import cli
from tests.test_picture_files import many_scans
from tests.training import published_files as made
from tests.training.test_data import picture


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)  # what `main` would set, and leave behind
    monkeypatch.setattr(sys, "argv", ["dalle-server", "corpus", "index", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code if isinstance(stop.value.code, int) else 0


def test_a_dry_run_prints_a_table_and_ends_with_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cc12m.tsv"
    expected = made.write(path, "cc12m", sound=60)
    assert run(monkeypatch, str(path)) == 0
    table, line = capsys.readouterr().out.rstrip("\n").rsplit("\n", 1)
    assert json.loads(line)["files"][str(path)] == {
        "layout": "cc12m", "rows": expected.rows, "broken": expected.broken, "refused": expected.refused, "passed": 60
    }  # fmt: skip
    for reason in (*expected.broken, *expected.refused, "passed"):
        assert reason in table
    assert run(monkeypatch, str(path), "--any-language", "--set", "letters=1") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["files"][str(path)]["passed"] == 60 + 9
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_path_without_data_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("nothing\n")
    for name in ("nowhere.tsv", "notes.txt"):
        assert run(monkeypatch, str(tmp_path / name)) == 1
        [line] = capsys.readouterr().err.strip().splitlines()
        assert name in line


def test_what_is_not_used_is_named_and_says_nothing_to_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(many_scans(12_000, 512))
    (tmp_path / "b.png").write_bytes(picture(kind="PNG"))
    (tmp_path / "lost\x1b[2J[red].txt").write_text("a dog")
    assert run(monkeypatch, str(tmp_path), "--any-language") == 0
    shown = capsys.readouterr()
    table, line = shown.out.rstrip("\n").rsplit("\n", 1)
    assert "\x1b" not in shown.out + shown.err
    assert table.replace("\n", "").isprintable()
    assert r"lost\x1b[2J[red].txt" in "".join(table.split())
    found = json.loads(line)["pictures"]
    assert (found["found"], found["corrupt"], found["unused"]) == (2, {"picture": 1}, {"text without a picture": 1})
    assert "must have at most" in found["named"]["picture"][0]
    assert found["named"]["text without a picture"][0].endswith(r"lost\x1b[2J[red].txt")
