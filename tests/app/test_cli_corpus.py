"""`dalle-server corpus index`: a dry run over index files and pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from app import cli
from tests.training import published_files as made


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
