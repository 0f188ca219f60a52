"""What a picture's file tells of how it was painted, and that this paints it again, to the bit."""

from __future__ import annotations

import base64
import io
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.cli import main
from app.commands.generate import read_provenance
from app.pictures.provenance import Provenance, forced_tokens, prompt_hash
from model.errors import DataError
from model.inference.requests import SamplingParams
from tests.app.live import Live
from tests.app.quick import SIZE

PROMPT = "a red apple 🍎"
Again = Callable[..., int]


def how(**changes: Any) -> Provenance:
    params = SamplingParams(seed=2**63 - 1, temperature=0.1, top_k=5, top_p=0.9, guidance=3.3)
    return Provenance(**{"model": "m", "index": 3, "params": params, "prompt_hash": prompt_hash(PROMPT), **changes})


@pytest.mark.parametrize("changes", [{}, {"prompt": PROMPT}, {"forced": struct.pack("<4h", -1, 0, 8191, -1)}])
def test_what_is_written_is_read(changes: dict[str, Any]) -> None:
    assert Provenance.read(how(**changes).texts()) == how(**changes)


def test_the_tokens_that_were_kept_are_told() -> None:
    tokens = struct.pack("<4h", 5, 6, 7, 8)
    assert struct.unpack("<4h", forced_tokens(tokens, bytes([0, 1, 1, 0]))) == (-1, 6, 7, -1)


@pytest.mark.parametrize(
    ("chunk", "text", "says"),
    [
        ("Seed", None, "must be a single picture that dalle-server painted, got a file without the text chunk Seed"),
        ("Seed", "x", "must hold a text chunk Seed that can be read"),
        ("Parameters", "{", "must hold a text chunk Parameters that can be read"),
        ("Parameters", '{"temperature": 1, "colour": 2}', "must hold a text chunk Parameters that can be read"),
        ("Parameters", "[]", "must hold a text chunk Parameters that can be read"),
        (
            "Seed",
            "9" * 5000,
            "must hold a text chunk Seed that can be read: it must be an integer of 0 or more, got '999",
        ),
        ("Index", "-1", "must hold a text chunk Index that can be read: it must be an integer of 0 or more, got '-1'"),
        ("Parameters", '{"temperature": "1"}', "it: temperature must be a number from 0 to 5, got '1'"),
        ("Parameters", '{"temperature": NaN}', "it: not JSON: 'NaN' is no finite number"),
        ("Parameters", '{"temperature": null}', "it: temperature must be a number from 0 to 5, got null"),
        ("Parameters", '{"top_k": 1.5}', "it: top_k must be an integer from 0 to 32768, got 1.5"),
        ("Parameters", '{"top_k": true}', "it: top_k must be an integer from 0 to 32768, got true"),
        ("Parameters", "[" * 4000, "it: not JSON that is read here: it nests too deep"),
        ("Parameters", " " * 5000, "it must have at most 4096 characters, got 5000"),
        ("Forced", "!", "must hold a text chunk Forced that can be read"),
        ("Forced", "eJwDAAAAAAE", "must hold a text chunk Forced that can be read"),
    ],
)
def test_a_chunk_that_is_wrong_is_named(chunk: str, text: str | None, says: str) -> None:
    texts = {**how(forced=bytes(8)).texts(), chunk: text}
    with pytest.raises(DataError, match=says):
        Provenance.read({name: value for name, value in texts.items() if value is not None})


@pytest.fixture
def again(
    live: Live,  # noqa: ARG001  # started before the number of threads is changed
    quick_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Again]:
    """again(file, text=None): the exit status of `dalle-server generate --like`, with as many threads as the server."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)  # what `main` would set, and leave behind

    def run(file: Path, *more: str, weights: Path = quick_checkpoint) -> int:
        arguments = ["generate", *more, "--like", str(file), "--weights", str(weights), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["dalle-server", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    yield run
    torch.set_num_threads(threads)


def picture() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((SIZE, SIZE), 90).convert("RGB").save(file, "PNG")
    return file.getvalue()


ORDERS: list[dict[str, Any]] = [
    {"embed_prompt": "true"},
    {"embed_prompt": "true", "index": "4", "guidance": "1", "temperature": "0.5", "top_k": "3", "size": "160x160"},
    {"embed_prompt": "true", "index": "2", "keep_rows": "3"},
]


@pytest.mark.parametrize("fields", ORDERS)
def test_like_paints_the_identical_picture(live: Live, again: Again, tmp_path: Path, fields: dict[str, Any]) -> None:
    fields = {"prompt": PROMPT, "n": "2", **fields}
    if "keep_rows" in fields:
        answer = live.client.post("/v1/images/edits", data=fields, files={"image": picture()})
    else:
        numbers = {"n": 2, "index": 4, "guidance": 1, "temperature": 0.5, "top_k": 3, "embed_prompt": True}
        body = {name: numbers.get(name, value) for name, value in fields.items()}
        answer = live.client.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text
    (tmp_path / "x.png").write_bytes(base64.b64decode(answer.json()["data"][1]["b64_json"]))
    assert again(tmp_path / "x.png") == 0
    (first, told), (second, told_again) = (read_provenance(tmp_path / name) for name in ("x.png", "x-again.png"))
    assert first.tobytes() == second.tobytes()
    assert told == told_again
    assert told.index == int(fields.get("index", 0)) + 1


def test_without_the_prompt_in_the_file_it_must_be_given(
    live: Live, again: Again, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (painted,) = live.pictures(text=PROMPT, seed=1)
    file = tmp_path / "x.png"
    file.write_bytes(base64.b64decode(painted))
    assert again(file) == 1
    assert "holds only a hash of its text" in capsys.readouterr().err
    assert again(file, "a blue circle") == 1
    assert "TEXT must be the text that" in capsys.readouterr().err
    assert again(file, PROMPT) == 0
    assert again(tmp_path / "x-again.png") == 0  # which holds it


def test_what_is_not_identical_is_said_to_be_so(
    live: Live, again: Again, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(base64.b64decode(live.pictures(text=PROMPT, seed=1, embed_prompt=True)[0]))
    assert again(file, weights=tiny_checkpoint) == 1
    assert "--weights must hold quick, which painted" in capsys.readouterr().err
    assert again(file, "--seed", "1") == 2
    assert again(file, "-n", "2") == 2
    with Image.open(file) as image:
        image.putpixel((5, 5), (1, 2, 3))
        info = PngInfo()
        for name, text in Provenance.read(image.text).texts().items():  # type: ignore[attr-defined]
            info.add_itxt(name, text)
        image.save(file, pnginfo=info)
    assert again(file) == 1
    assert "x-again.png is not identical: " in capsys.readouterr().err
    (tmp_path / "plain.png").write_bytes(picture())
    assert again(tmp_path / "plain.png") == 1
    assert "got a file without the text chunk Software" in capsys.readouterr().err
    assert again(tmp_path / "none.png") == 1
