"""What .ci/run checks beside the tests: weights change with their version."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent.parent / ".ci" / "weights.py"
GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with weights of version 1."""
    (tmp_path / "weights" / "default").mkdir(parents=True)
    subprocess.run([*GIT, "init", "-q"], cwd=tmp_path, check=True)
    commit(tmp_path, b"a", {"name": "a"})
    commit(tmp_path, b"b", {"name": "a", "version": "1"})
    return tmp_path


def commit(repository: Path, weights: bytes, config: dict[str, str]) -> None:
    folder = repository / "weights" / "default"
    (folder / "vae-1-of-1.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps(config))
    subprocess.run([*GIT, "add", "-A"], cwd=repository, check=True)
    subprocess.run([*GIT, "commit", "-qm", "a"], cwd=repository, check=True)


def check(repository: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, CHECK, repository], capture_output=True, text=True)
    return done.returncode, done.stderr


def test_weights_without_a_history_of_versions_pass(repository: Path) -> None:
    assert check(repository) == (0, "")


def test_new_weights_with_a_new_version_pass_and_so_does_a_new_card(repository: Path) -> None:
    commit(repository, b"c", {"name": "a", "version": "2"})
    assert check(repository) == (0, "")
    commit(repository, b"c", {"name": "b", "version": "2"})
    assert check(repository) == (0, "")


def test_new_weights_of_the_old_version_are_refused_until_they_get_another(repository: Path) -> None:
    commit(repository, b"c", {"name": "a", "version": "1"})
    status, line = check(repository)
    assert status == 1
    assert "weights/default" in line
    assert "keeps version 1" in line
    (repository / "README.md").write_text("another commit on top")
    subprocess.run([*GIT, "add", "-A"], cwd=repository, check=True)
    subprocess.run([*GIT, "commit", "-qm", "b"], cwd=repository, check=True)
    assert check(repository)[0] == 1
    commit(repository, b"c", {"name": "a", "version": "2"})
    assert check(repository) == (0, "")


def test_new_weights_that_lose_the_version_are_refused(repository: Path) -> None:
    commit(repository, b"c", {"name": "a"})
    assert check(repository)[0] == 1
