"""A text-to-image model of LlamaGen, from its files to pictures: imported, drawn by the engine, served over HTTP."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

import model
from app.checkpoint import ServedCheckpoint
from app.cli import main
from model.checkpoints.describe import describe
from model.importing.read import read_import
from model.importing.write import write_import
from model.inference.engine import Engine
from model.inference.events import Painted
from model.inference.requests import GenerationRequest, SamplingParams
from tests.app.live import Live
from tests.families.llamagen.originals import vq
from tests.families.llamagen.text_originals import (
    LENGTHS,
    SCALE,
    SPIECE,
    arrays,
    encoder_files,
    prompts,
    state,
    written,
)
from tests.running import Run, runner

SETTINGS = {"heads": "2", "image_size": "32"}
SETS = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
QUERY = "encoder.block.1.layer.0.SelfAttention.q.weight"


def tokenizer_of_images(folder: Path) -> Path:
    torch.save(vq(), folder / "vq")
    return folder / "vq"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llamagen-text")
    files = [*written(folder), tokenizer_of_images(folder)]
    write_import(read_import(files, SETTINGS), folder / "model", {})
    return folder / "model"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return runner("dalle-server", main, capsys, monkeypatch, tmp_path)


def test_the_engine_draws_what_the_original_draws(imported: Path) -> None:
    """Texts of three lengths beside each other, and one alone."""
    golden, painter = arrays(), model.load(imported, "cpu")
    text = golden["text_ids"]
    assert torch.equal(painter.draw(text, top_k=1), golden["greedy"])
    assert torch.equal(painter.draw(text, top_k=1, guidance=SCALE), golden["guided"])
    assert torch.equal(painter.draw(text[1:2, :4], top_k=1, guidance=SCALE), golden["guided"][1:2])


def test_a_prompt_is_painted_from_its_words(imported: Path) -> None:
    assert describe(imported).problems == ()
    served, ids = ServedCheckpoint.read(imported), arrays()["text_ids"].tolist()
    for prompt, row, length in zip(prompts(), ids, LENGTHS, strict=True):
        assert served.tokenize(prompt, truncate=True)[0] == row[:length]
    sampling = served.config.sampling
    assert (sampling.temperature, sampling.top_k, sampling.guidance) == (1.0, 50, 7.5)


def test_pictures_are_the_same_in_any_company(imported: Path) -> None:
    """In strict mode: alone, beside texts of other lengths, in few slots, with forced tokens, with a score."""
    checkpoint = model.load(imported, "cpu").checkpoint
    texts = [tuple(checkpoint.tokenizer.encode(prompt, truncate=True)) for prompt in prompts()]
    forced = np.full(64, -1, "<i2")
    forced[5:30] = 7

    def painted(slots: int, order: list[int]) -> dict[tuple[str, int], bytes]:
        engine = Engine(checkpoint, slots=slots)
        for i in order:
            params = SamplingParams(seed=3, guidance=2.0 + i)
            more: dict[str, Any] = {"forced": forced.tobytes()} if i == 1 else {"score": True, "partial_rows": (2, 5)}
            engine.add(GenerationRequest(str(i), texts[i], 3, params, **more))
        found: dict[tuple[str, int], bytes] = {}
        while engine.has_work:
            found |= {(e.request_id, e.index): e.tokens for e in engine.step() if isinstance(e, Painted)}
        return found

    crowd = painted(8, [0, 1, 2])
    assert len(set(crowd.values())) == 9
    assert painted(3, [2, 1, 0]) == crowd
    assert painted(2, [1]) == {key: tokens for key, tokens in crowd.items() if key[0] == "1"}
    assert np.array_equal(np.frombuffer(crowd["1", 0], "<i2")[5:30], forced[5:30])


def pixels(pictures: list[str]) -> list[bytes]:
    return [Image.open(io.BytesIO(base64.b64decode(picture))).tobytes() for picture in pictures]


def test_it_is_served_over_http(imported: Path, tmp_path: Path) -> None:
    with Live(imported, tmp_path / "log") as live:
        live.ready()
        body = {"text": "A Red <b>Apple</b>", "num_images": 2, "seed": 7}
        first, plain = (
            live.client.post("/generate", json=changed) for changed in (body, {**body, "text": "a red apple"})
        )
        assert first.status_code == 200, first.text
        one, two = pixels(first.json())
        assert one != two
        assert pixels(plain.json()) == [one, two]
        long = live.client.post("/generate", json={**body, "text": "apple " * 40})
        assert long.status_code == 422
        assert "at most 11 text tokens" in long.json()["Error"]
        asked = {"prompt": "a cat", "stream": True, "partial_images": 2, "seed": 1}
        with live.client.stream("POST", "/v1/images/generations", json=asked) as stream:
            told = [line for line in stream.iter_lines() if line.startswith("data:")]
        assert told[-1] == "data: [DONE]"
        assert "image_generation.completed" in told[-2]
        files = {"image": io.BytesIO(png(one))}
        edit = live.client.post("/v1/images/edits", data={"prompt": "a cat", "keep_rows": 3}, files=files)
        assert edit.status_code == 200, edit.text


def png(rgb: bytes) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (32, 32), rgb).save(file, "PNG")
    return file.getvalue()


def test_files_of_transformers_are_read_however_they_are_saved(imported: Path, tmp_path: Path) -> None:
    """One file of safetensors with the table under its other name, a tokenizer.json, and the list of the files."""
    files, vae = written(tmp_path), tokenizer_of_images(tmp_path)
    tensors = {key: tensor.contiguous() for part in encoder_files() for key, tensor in part.items()}
    tensors["lm_head.weight"] = tensors["lm_head.weight"].clone()
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    safetensors.torch.save_file(tensors, tmp_path / "f")
    (tmp_path / "g").write_bytes((imported / "tokenizer.json").read_bytes())
    (tmp_path / "h").write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, "f")}))
    given = [files[1], files[4], vae, *(tmp_path / name for name in "fgh")]
    write_import(read_import(given, SETTINGS), tmp_path / "again", {})
    for shard in sorted(imported.glob("transformer-*.safetensors")):
        assert (tmp_path / "again" / shard.name).read_bytes() == shard.read_bytes()
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (imported / "tokenizer.json").read_bytes()


def test_inspect_tells_what_each_file_is(command: Run, imported: Path, tmp_path: Path) -> None:
    done = command("inspect", *written(tmp_path))
    assert done.status == 0, done.err
    for words in ("llamagen", "t5", "Apache-2.0", "sentencepiece", "tokens 220", "t5.d_kv"):
        assert words in " ".join(done.out.split())
    done = command("inspect", imported)
    assert done.status == 0
    assert "of the family llamagen-text" in " ".join(done.out.split())
    assert "T5, 2 layers of 24, 3 heads" in done.out


def test_refusals_are_one_line_and_leave_nothing(command: Run, tmp_path: Path) -> None:
    vae = tokenizer_of_images(tmp_path)

    def refused(*leave_out: str, **changes: dict[str, Tensor]) -> str:
        files = [file for file in written(tmp_path, **changes) if file.name not in leave_out]
        return said(*files)

    def said(*files: Path) -> str:
        done = command("import", *files, vae, *SETS, "--out", tmp_path / "out")
        assert done.status == 1
        assert len(done.err.splitlines()) == 1
        assert not (tmp_path / "out").exists()
        return done.err.removeprefix("dalle-server: ").removeprefix(f"{tmp_path}/").rstrip()

    assert "give the files of FLAN-T5-XL too" in refused("a", "c", "d", "e")
    assert "give its spiece.model or tokenizer.json too" in refused("d")
    assert refused("b") == "a: an encoder of texts, which paints nothing alone: give the weights of LlamaGen too"
    gone = "is missing, and so is a file of the encoder, if it has several"
    assert refused("a").startswith("c: the key ")
    assert refused("a").endswith(gone)
    assert refused("a", t5={"decoder.block.9.layer.0.x": torch.zeros(1)}).endswith(gone)
    assert refused(t5={QUERY: torch.zeros(0)}) == f"a: the key {QUERY!r} {gone}"
    assert "must be finite numbers, got NaN" in refused(t5={QUERY: torch.full((24, 24), torch.nan)})
    assert refused(t5={QUERY: torch.zeros(24, 9)}).endswith("must have the shape (24, 24), got (24, 9)")
    belongs = refused(t5={"encoder.more": torch.zeros(3)})
    assert belongs == "a: 'encoder.more' belongs to nothing in this model"
    wide = {"cls_embedding.uncond_embedding": torch.zeros(12, 2048)}
    told = "b: 'cls_embedding.uncond_embedding' is for an encoder 2048 wide, and that of the T5 given is 24"
    assert refused(t2i=wide) == told
    narrow = {"cls_embedding.cap_proj.fc1.weight": torch.zeros(32, 20)}
    assert refused(t2i=narrow).endswith("must have the shape (32, 24), got (32, 20)")
    few = {"shared.weight": state("t5")["shared.weight"][:200]}
    assert refused(t5=few) == "d: the tokenizer must have at most 200 ids, as the encoder's table has, got 220"
    plain = {"encoder.block.0.layer.1.DenseReluDense.wi_0.weight": torch.zeros(0),
             "encoder.block.0.layer.1.DenseReluDense.wi.weight": torch.zeros(40, 24)}  # fmt: skip
    assert "feed-forwards must be gated" in refused(t5=plain)
    files = written(tmp_path)
    for content, told in (
        ({"model_type": "t5", "d_kv": 16}, "e: d_kv must be 8, got 16"),
        ({"model_type": "t5", "feed_forward_proj": "relu"}, "e: feed_forward_proj must be gated-gelu, got 'relu'"),
        ({"model_type": "t5", "relative_attention_max_distance": 2}, "less than 4 times the distance 2, got 8"),
        ({"weight_map": {"encoder.far": "x-00003.bin"}}, "e: 'encoder.far' is in 'x-00003.bin': give that file too"),
        ({"model_type": "bert"}, "e: a JSON file, but neither a tokenizer nor a vocabulary"),
    ):
        files[4].write_text(json.dumps(content))
        assert told in said(*files)
    files[4].write_bytes(SPIECE.read_bytes()[:300])
    assert "a second sentencepiece" in said(*files)
    files[3].write_bytes(SPIECE.read_bytes()[:300])
    assert "cut short or damaged" in said(*files[:4])
    files[2].write_bytes(files[0].read_bytes())
    told = said(*files[:3])
    assert told.startswith("c: 'encoder.block.0.layer.1.DenseReluDense.wo.weight' is in ")
    assert told.endswith("/a too")

    class Runs:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, ("touch ran",)

    torch.save({"encoder.block.0.layer.0.x": Runs()}, files[2])
    assert said(*files[:3]).startswith("c: asks for posix.system, which could run a program")
