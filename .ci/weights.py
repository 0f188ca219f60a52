"""Refuse a commit that changes weights without a new `version` in their config.json.

    python3 .ci/weights.py [REPOSITORY]  # exit status 1 and one line a folder at fault

For each folder in weights/ it finds the newest commit that changed a safetensors file, and compares the version before
that commit with today's. It passes where the history does not reach so far (a shallow clone), and where there was no
version before.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def git(repository: Path, *arguments: str) -> str | None:
    """What a git command prints; None if it fails."""
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def version(repository: Path, commit: str, folder: str) -> str | None:
    """The version in a commit's config.json of `folder`; None if there is none."""
    text = git(repository, "show", f"{commit}:{folder}/config.json")
    found = json.loads(text).get("version") if text else None
    return None if found is None else str(found)


def faults(repository: Path) -> list[str]:
    """One line for each folder of weights whose last change kept its version."""
    found = []
    listed = git(repository, "ls-tree", "-d", "--name-only", "HEAD", "weights/") or ""
    for folder in listed.split():
        commit = (git(repository, "log", "-1", "--format=%H", "--", f"{folder}/*.safetensors") or "").strip()
        parent = (git(repository, "rev-parse", "--verify", "--quiet", f"{commit}^") or "").strip()
        if not commit or not parent:
            continue
        before, now = version(repository, parent, folder), version(repository, "HEAD", folder)
        if before is not None and now in (before, None):
            found.append(
                f"{folder}: commit {commit[:10]} changes the weights and keeps version {before} in config.json"
            )
    return found


if __name__ == "__main__":
    lines = faults(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    sys.exit("\n".join(lines) or 0)
