"""What README promises, with only the packages that `make serve` installs, and from a wheel in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.app.live import Live, one_process
from tests.bare import ROOT, environment
from tests.revising import with_reviser

# Runs each command of a JSON list in this one process, and prints a JSON list of their statuses and lines on stderr.
DRIVER = """
import contextlib, io, json, sys
from app.cli import main
done = []
for arguments in json.load(sys.stdin):
    sys.argv = ["dalle-server", *arguments]
    err, status = io.StringIO(), 0
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
    done.append([status, err.getvalue()])
print(json.dumps(done))
"""


def commands(page: str) -> list[list[str]]:
    """The arguments of every `dalle-server` in the bash blocks of a page."""
    text = "".join(re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL))
    lines = text.replace("\\\n", "").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("dalle-server ")]


def run(folder: Path, environ: dict[str, str], wanted: list[list[str]]) -> list[tuple[int, str]]:
    """The exit status and stderr of each command, run in `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], env=environ, cwd=folder, input=json.dumps(wanted), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(status, err) for status, err in json.loads(done.stdout)]


def test_every_command_of_the_pages_runs_or_says_what_to_install(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder, bare = tmp_path / "folder", tmp_path / "bare"
    bare.mkdir()
    with_reviser(tiny_checkpoint, folder / "weights" / "default")
    for name in ("photo.jpg", "drawing.png"):
        Image.new("RGB", (300, 200), "red").save(folder / name)
    wanted = [*commands("README.md"), *commands("docs/training.md")]
    wanted = [arguments for arguments in wanted if arguments[0] not in ("serve", "import")]  # that needs others' files
    assert len(wanted) >= 15
    shown = {}
    for arguments, (status, err) in zip(wanted, run(folder, environment(bare), wanted), strict=True):
        shown[" ".join(arguments)] = status
        if arguments[0] in ("train", "corpus", "evaluate"):
            assert status == 1, err
            assert len(err.splitlines()) == 1
            assert re.match(r"dalle-server: training needs \w+, which is not installed; `make train-deps`", err)
        elif "runs/" in " ".join(arguments):  # of a run that could not be trained
            assert status == 1, err
            assert len(err.splitlines()) == 1
        else:
            assert status == 0, (arguments, err)
    assert {path.name for path in folder.glob("*.png")} >= {"apple.png", "best.png", "sheet.png"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this project, built and unpacked as pip would install it."""
    clone, wheels, site = (tmp_path_factory.mktemp(name) for name in ("clone", "wheels", "site"))
    for name in ("app", "model", "weights"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", "recipes"))
    built = clone / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / "model" / "kernels"
    built.mkdir(parents=True)  # where setuptools looks for native kernels that are newer than their sources
    for kernel in (clone / "model" / "kernels").glob("*.so"):
        kernel.rename(built / kernel.name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(wheels), str(clone)], check=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    kernels = {path.name for path in (ROOT / "model" / "kernels").glob("*.so")}
    assert {path.name for path in (site / "model" / "kernels").glob("*.so")} == kernels
    return site


@one_process("another package is needed than the wheel's own")
def test_a_wheel_serves_the_default_weights_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    folder, bare = tmp_path / "folder", tmp_path / "bare"
    folder.mkdir()
    bare.mkdir()
    environ = environment(bare, installed)
    with Live("", tmp_path / "log", cwd=folder, environ=environ) as server:
        (described,) = run(folder, environ, [["inspect", "weights/default"]])
        assert described == (0, "")
        assert f"loading {installed / 'weights' / 'default'}" in server.log
        server.ready()
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        (curl,) = re.findall(r"^(curl .*?)\n```", text, re.DOTALL | re.MULTILINE)
        curl = curl.replace("http://127.0.0.1:8000", server.url)
        subprocess.run(["bash", "-c", curl], cwd=folder, check=True, env=environ)
    with Image.open(folder / "apple.png") as image:
        assert image.size == (256, 256)
        assert image.info["Model"].startswith("dalle-server")
    assert [path.name for path in folder.iterdir()] == ["apple.png"]
