"""A server that is given a hostile checkpoint says one line, ends, and has taken little memory for it."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch

from model.checkpoints import sums
from tests.app.live import COMMAND, Live

MEMORY = 1_200_000  # KiB, of the server or of its worker; torch alone takes a third of that
# A process takes over the peak of the one that starts it. This one may be large, so a small one starts the server.
MEASURED = f"""
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-c", {COMMAND!r}, *sys.argv[1:]], timeout=300)
print("KiB", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(done.returncode)
"""


def large(path: Path) -> None:
    values = json.loads((path / "config.json").read_text())
    values["transformer"].update(dim=16384, depth=256, heads=256, kv_heads=256, head_dim=1024, local_dim=16384)
    (path / "config.json").write_text(json.dumps(values))
    sums.write(path)


def endless(path: Path) -> None:
    with (path / "config.json").open("r+b") as file:
        file.truncate(2**40)  # a hole: it takes no room on the disk


def pipe(path: Path) -> None:
    (path / "SHA256SUMS").unlink()
    os.mkfifo(path / "SHA256SUMS")


def device(path: Path) -> None:
    (path / "vae-1-of-1.safetensors").unlink()
    (path / "vae-1-of-1.safetensors").symlink_to("/dev/zero")


def no_numbers(path: Path) -> None:
    file = path / "transformer-1-of-1.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["norm.weight"][0] = math.nan
    file.write_bytes(safetensors.torch.save(tensors))
    sums.write(path)


@pytest.mark.parametrize(
    ("act", "line"),
    [
        (large, "transformer-*.safetensors: places has the shape (17, 64), and the config asks for (17, 16384)"),
        (endless, "config.json must be at most 1,048,576 bytes, got 1,099,511,627,776"),
        (pipe, "SHA256SUMS must be a regular file, got a pipe"),
        (device, "vae-1-of-1.safetensors must be a regular file, got a device"),
        (no_numbers, "transformer-1-of-1.safetensors: 'norm.weight' must be finite numbers, got nan to nan"),
    ],
)
def test_a_hostile_checkpoint_ends_the_server_with_one_line_and_little_memory(
    quick_checkpoint: Path, tmp_path: Path, act: Callable[[Path], None], line: str
) -> None:
    weights = Path(shutil.copytree(quick_checkpoint, tmp_path / "weights"))
    act(weights)
    with Live(weights, tmp_path / "log", command=MEASURED) as server:
        assert server.process.wait() == 1, server.log
        *told, memory = [said for said in server.log.splitlines() if not said.startswith("20")]
        assert len(told) == 1, server.log
        assert told[0].startswith(f"dalle-server: {weights}/{line}")
        assert int(memory.removeprefix("KiB ")) < MEMORY
