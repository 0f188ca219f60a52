"""Streamed tars: their order, their token shards, and runs on them that are killed, resumed and shared by processes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from model.errors import DataError
from model.training import train_transformer, train_vae
from model.training.examples import StreamedExamples
from model.training.loop import Place
from model.training.options import LoopOptions, TransformerOptions, VAEOptions
from model.training.pictures import StreamedPictures
from model.training.rules import RULES, Rules
from model.training.selection import Selection
from model.training.shards import ShardWriter
from model.training.streams import SHUFFLED_SHARDS, Position, Streams, count_streams
from model.training.token_shards import TokenShard, token_shards
from model.vae import VAE
from tests.training.killed import killed

HERE = Place(torch.device("cpu"), None)
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=9)
SCRIPT = """
import sys, torch
from tests.training import test_stream as t
from pathlib import Path
torch.set_num_threads(1)
t.run_transformer(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
"""


def epoch_of(streams: Streams, epoch: int) -> list[list[Position]]:
    """The samples of every stream in one epoch, in order."""
    share = streams.batch // streams.streams
    found: list[list[Position]] = [[] for _ in range(streams.streams)]
    step, most = 0, max(sum(streams.sizes) * (epoch + 1), 1)
    while step * share <= most:
        for place in range(streams.batch):
            at = streams.at(step, place)
            if at.epoch == epoch:
                found[place // share].append(at)
        step += 1
    return found


@settings(deadline=None, max_examples=40)
@given(SIZES, st.integers(1, 12), st.integers(0, 5), st.integers(0, 2))
def test_a_stream_reads_all_of_its_own_shards_once_an_epoch(
    sizes: list[int], batch: int, seed: int, epoch: int
) -> None:
    streams = Streams(sizes, batch, count_streams(len(sizes), batch, 1), seed)
    seen = [sorted((at.shard, at.index) for at in stream) for stream in epoch_of(streams, epoch)]
    assert sorted(chain.from_iterable(seen)) == [
        (shard, row) for shard, size in enumerate(sizes) for row in range(size)
    ]
    read = [{shard for shard, _ in samples} for samples in seen]
    assert sum(map(len, read)) == len(sizes), "a shard is read by one stream"


@settings(deadline=None, max_examples=40)
@given(SIZES, st.integers(0, 5))
def test_the_place_of_a_sample_depends_on_nothing_that_was_read_before(sizes: list[int], seed: int) -> None:
    count = count_streams(len(sizes), 12, 1)
    forward, backward = Streams(sizes, 12, count, seed), Streams(sizes, 12, count, seed)
    steps = [(step, place) for step in range(12) for place in range(12)]
    assert [forward.at(*step) for step in steps] == [backward.at(*step) for step in reversed(steps)][::-1]


def test_processes_read_shards_of_their_own_and_the_same_batches() -> None:
    sizes = [5, 3, 7, 2, 6, 4, 5, 5]
    one, two = Streams(sizes, 16, count_streams(8, 16, 1), 3), Streams(sizes, 16, count_streams(8, 16, 2), 3)
    assert [one.at(7, place) for place in range(16)] == [two.at(7, place) for place in range(16)]
    read = [
        {two.at(step, place).shard for step in range(20) for place in range(8 * rank, 8 * rank + 8)} for rank in (0, 1)
    ]
    assert not read[0] & read[1]
    assert read[0] | read[1] == set(range(8))


def test_neighbouring_shards_are_shuffled_together_and_epochs_differ() -> None:
    streams = Streams([50] * 12, 4, 1, 0)
    first, second = ([(at.shard, at.index) for at in epoch_of(streams, epoch)[0]] for epoch in (0, 1))
    assert first != second
    window = first[: 50 * SHUFFLED_SHARDS]
    assert len({shard for shard, _ in window}) == SHUFFLED_SHARDS
    assert len({shard for shard, _ in window[:20]}) > 1


def test_batches_that_cannot_be_shared_are_refused_in_words() -> None:
    assert count_streams(10, 48, 3) == 6
    for shards, batch, world in ((1, 4, 2), (8, 9, 2), (3, 5, 4)):
        with pytest.raises(DataError, match=f"got {shards} shards, a batch of {batch} and {world} processes"):
            count_streams(shards, batch, world)


def picture(number: int, kind: str = "PNG") -> bytes:
    """A circle of its own colour and place."""
    random = np.random.default_rng(number)
    image = Image.new("RGB", (256, 256), "white")
    x, y = (int(at) for at in random.integers(0, 150, 2))
    ImageDraw.Draw(image).ellipse((x, y, x + 100, y + 90), fill=tuple(int(c) for c in random.integers(0, 200, 3)))
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def write(folder: Path, name: str, numbers: list[int], **meta: Any) -> Path:
    """A tar of pictures, each with a caption that names its number."""
    with ShardWriter(folder, name) as writer:
        for number in numbers:
            writer.add(f"{number:04d}", picture(number), {"captions": [f"a circle, number {number}"], **meta}, "png")
    return folder / f"{name}-000000.tar"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tars of four pictures, and one that is none."""
    folder = tmp_path_factory.mktemp("shards")
    for part in range(4):
        write(folder, f"part{part}", list(range(10 * part, 10 * part + 4)), mirror=part == 0)
    (folder / "part9.tar").write_bytes(b"<html>not found</html>")
    return folder


@pytest.fixture(scope="module")
def home(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short streamed VAE run in `vae`."""
    folder = tmp_path_factory.mktemp("home")
    run_vae(shards, folder)
    return folder


def run_vae(shards: Path, home: Path, **changes: Any) -> VAE:
    values: dict[str, Any] = {"steps": 3, "batch": 4, "warmup": 2, "report_every": 1, "sample_every": 99}
    loop = LoopOptions(out=home / "vae", **{**values, **changes})
    return train_vae.train(VAEOptions((shards,), loop, preset="tiny", crop=64, cache=home / "cache", stream=True))


def run_transformer(shards: Path, home: Path, steps: int, out: str = "transformer") -> None:
    """A tiny stage 2 in home/out, streamed, of the stage 1 beside it."""
    loop = LoopOptions(out=home / out, steps=steps, batch=4, warmup=2, report_every=1, save_every=2, sample_every=99)
    options = TransformerOptions(
        (shards,), loop, preset="tiny", vocabulary=300, prompts=(), cache=home / "cache", stream=True
    )
    train_transformer.train(options, train_vae.load(home / "vae"))


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def texts(found: list[TokenShard]) -> list[str]:
    return [shard.line(int(row))["captions"][0][1] for shard in found for row in shard.train]


def numbers(*found: int) -> list[str]:
    return [f"a circle, number {number}" for number in found]


def test_token_shards_hold_every_picture_once_and_are_made_once(shards: Path, home: Path) -> None:
    vae = train_vae.load(home / "vae")
    found = token_shards((shards,), vae, home / "cache", RULES, HERE)
    assert texts(found) == numbers(*(10 * part + at for part in range(4) for at in range(4)))
    with Image.open(io.BytesIO(picture(11))) as file:
        image = torch.from_numpy(np.array(file)).permute(2, 0, 1)[None].float() / 255
    assert (vae.encode(image).flatten().numpy() == found[1].tokens(1)).mean() > 0.99
    assert not np.array_equal(found[0].tokens(2, mirrored=True), found[0].tokens(2))
    with pytest.raises(KeyError):
        found[1].tokens(2, mirrored=True)  # nothing in that tar may be mirrored
    stamps = {path: path.stat().st_mtime_ns for path in (home / "cache").rglob("*.npy")}
    again = token_shards((shards,), vae, home / "cache", RULES, HERE)
    assert [shard.folder for shard in again] == [shard.folder for shard in found]
    assert {path: path.stat().st_mtime_ns for path in (home / "cache").rglob("*.npy")} == stamps
    [report] = found[0].folder.parent.glob("report-*.json")
    assert json.loads(report.read_text()) == {
        "tars": 5, "corrupt": {"shard": 1}, "refused": {}, "passed": 16, "learnt from": 16, "held out": 0
    }  # fmt: skip


def test_samples_that_break_a_rule_are_left_out_and_counted(home: Path, tmp_path: Path) -> None:
    write(tmp_path / "shards", "a", [1, 2, 3])
    write(tmp_path / "shards", "b", [4, 2, 5])  # 2 came before
    with ShardWriter(tmp_path / "shards", "c") as writer:
        writer.add("cut", picture(6)[:50], {"captions": ["a circle"]}, "png")
        writer.add("blank", picture(7), {"captions": []}, "png")
        writer.add("jpeg", picture(1, "JPEG"), {"captions": ["a circle, number 1"]}, "jpg")
        writer.add("val", picture(8), {"captions": ["a circle, number 8"], "split": "val"}, "png")
        writer.add("train", picture(9), {"captions": ["a circle, number 9"], "split": "train"}, "png")
    vae = train_vae.load(home / "vae")
    found = token_shards((tmp_path / "shards",), vae, tmp_path, RULES, HERE)
    assert texts(found) == numbers(1, 2, 3, 4, 5, 9)
    [held_out] = found[2].held_out
    assert found[2].line(int(held_out))["key"] == "val"
    [report] = found[0].folder.parent.glob("report-*.json")
    assert json.loads(report.read_text()) == {
        "tars": 3,
        "corrupt": {"picture": 1},
        "refused": {"no caption": 1, "duplicate picture": 1, "near-duplicate picture": 1},
        "passed": 7,
        "learnt from": 6,
        "held out": 1,
    }
    loose = token_shards((tmp_path / "shards",), vae, tmp_path, Rules(near=False), HERE)
    assert texts(loose) == numbers(1, 2, 3, 4, 5, 1, 9)


def test_a_changed_tar_is_encoded_again_and_a_half_made_shard_is_made_anew(home: Path, tmp_path: Path) -> None:
    vae, folder = train_vae.load(home / "vae"), tmp_path / "shards"
    write(folder, "a", [1, 2])
    [first] = token_shards((folder,), vae, tmp_path, RULES, HERE)
    first.folder.rename(first.folder.with_suffix(".partial"))  # as a kill leaves it
    (first.folder.with_suffix(".partial") / "tokens.npy").write_bytes(b"half")
    assert texts(token_shards((folder,), vae, tmp_path, RULES, HERE)) == numbers(1, 2)
    write(folder, "a", [1, 2, 3])
    assert texts(token_shards((folder,), vae, tmp_path, RULES, HERE)) == numbers(1, 2, 3)


def test_captions_come_from_index_files(home: Path, tmp_path: Path) -> None:
    tar = write(tmp_path, "a", [1], url="http://pictures.example/1.jpg")
    (tmp_path / "cc3m.tsv").write_text("a red boat on a lake\thttps://pictures.example/1.jpg\n")
    [found] = token_shards((tar, tmp_path / "cc3m.tsv"), train_vae.load(home / "vae"), tmp_path, RULES, HERE)
    assert texts([found]) == ["a red boat on a lake"]
    (tmp_path / "cc3m.tsv").write_text("a blue boat on the lake\thttps://pictures.example/1.jpg\n")
    [found] = token_shards((tar, tmp_path / "cc3m.tsv"), train_vae.load(home / "vae"), tmp_path, RULES, HERE)
    assert texts([found]) == ["a blue boat on the lake"]


def test_data_that_cannot_be_streamed_is_refused_in_words(home: Path, tmp_path: Path) -> None:
    vae = train_vae.load(home / "vae")
    (tmp_path / "0.png").write_bytes(picture(1))
    with pytest.raises(DataError, match="data must hold tars for a stream"):
        token_shards((tmp_path,), vae, tmp_path, RULES, HERE)
    (tmp_path / "0.tar").write_bytes(b"")
    with pytest.raises(DataError, match="no picture is fit"):
        token_shards((tmp_path,), vae, tmp_path, RULES, HERE)
    chosen = TransformerOptions(
        (tmp_path,), LoopOptions(tmp_path, 1, 1), selection=Selection(sources={"x": 1.0}), stream=True
    )
    with pytest.raises(DataError, match="concepts, sources and mix must be left out"):
        train_transformer.train(chosen, vae)


def test_pictures_of_stage_one_are_decoded_as_they_come_and_unfit_ones_replaced(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "a") as writer:
        for number in range(60):
            data = picture(number)[: 50 if number % 10 == 3 else None]
            writer.add(f"{number:04d}", data, {"captions": [], "split": "val" if number % 10 == 5 else "train"}, "png")
    (tmp_path / "b.tar").write_bytes(b"x" * 2000)
    pictures = StreamedPictures((tmp_path,), tmp_path, RULES, 4, 0, HERE)
    randoms = [np.random.default_rng(0)] * 4
    known = {image.tobytes() for image in map(pixels, range(60))}
    shown = [image.tobytes() for step in range(40) for image in pictures.draw(step, 0, randoms)]
    assert set(shown) <= known
    assert {pixels(number).tobytes() for number in range(60) if number % 10 not in (3, 5) and number != 49} == set(
        shown
    )
    assert pictures.report.corrupt["picture"] > 0
    assert [np.array_equal(image, pixels(49)) for image in pictures.held_out()] == [True]
    again = StreamedPictures((tmp_path,), tmp_path, RULES, 4, 0, HERE).draw(7, 0, randoms)
    assert [image.tobytes() for image in again] == shown[28:32]


def pixels(number: int) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(picture(number))) as file:
        return np.array(file)


def test_runs_of_unfit_pictures_stop_nothing_and_are_stood_in_for_by_many(tmp_path: Path) -> None:
    small = io.BytesIO()
    Image.new("RGB", (40, 40)).save(small, "PNG")
    with ShardWriter(tmp_path, "a") as writer:
        for number in range(120):
            data = small.getvalue() if 20 <= number < 90 else picture(number)
            writer.add(f"{number:04d}", data, {"captions": []}, "png")
    with ShardWriter(tmp_path, "b") as writer:
        writer.add("0", small.getvalue(), {"captions": []}, "png")
    pictures = StreamedPictures((tmp_path,), tmp_path, RULES, 4, 0, HERE)
    steps = 30  # the first tar about once, the second sixty times
    shown = Counter(
        image.tobytes() for step in range(steps) for image in pictures.draw(step, 0, [np.random.default_rng(0)] * 4)
    )
    assert shown.total() == 4 * steps
    assert max(shown.values()) < 12
    assert len(shown) > 30


def test_nothing_but_unfit_pictures_is_an_error(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "a") as writer:
        writer.add("0", b"no picture", {}, "png")
    with pytest.raises(DataError, match="none of the . tars has a picture that is fit"):
        StreamedPictures((tmp_path,), tmp_path, RULES, 1, 0, HERE).draw(0, 0, [np.random.default_rng(0)])


def test_streamed_stage_one_goes_on_with_the_same_losses(shards: Path, home: Path, tmp_path: Path) -> None:
    for _ in range(3):
        run_vae(shards, tmp_path, minutes=0.0)  # one step
    assert losses(tmp_path / "vae") == losses(home / "vae")


def test_a_killed_stream_goes_on_in_mid_shard_with_the_same_losses(shards: Path, home: Path) -> None:
    run_transformer(shards, home, 8, "whole")
    killed(SCRIPT, 5, shards, home, 8)
    saved = torch.load(home / "transformer" / "state.pt", weights_only=True)
    assert saved["step"] == 4
    assert {stream["row"] for stream in saved["data"]["lanes"]} - {0}, "no stream stands within a shard"
    run_transformer(shards, home, 8)
    assert losses(home / "transformer") == losses(home / "whole")


def test_two_processes_stream_the_same_samples_as_one(shards: Path, home: Path) -> None:
    run_transformer(shards, home, 3, "one")
    root = Path(__file__).parents[2]
    script = home / "two.py"
    script.write_text(SCRIPT.replace("int(sys.argv[3])", 'int(sys.argv[3]), "two"'))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(script), str(shards), str(home), "3"]
    subprocess.run(command, cwd=root, env=environment, check=True, timeout=120, capture_output=True)
    assert losses(home / "two") == pytest.approx(losses(home / "one"), rel=2e-3)


def test_the_saved_place_names_the_shards_and_where_each_stream_is(home: Path, tmp_path: Path) -> None:
    vae = train_vae.load(home / "vae")
    write(tmp_path, "a", [1, 2, 3])
    first = StreamedExamples(token_shards((tmp_path,), vae, tmp_path, RULES, HERE), 2, 0, 1)
    [stream] = first.position(4)["lanes"]
    assert (stream["epoch"], stream["offset"]) == (2, 2)  # 4 steps of 2 are 2 epochs of 3 and 2 more
    assert first.position(4) == first.position(4)
    write(tmp_path, "b", [4, 5])
    second = StreamedExamples(token_shards((tmp_path,), vae, tmp_path, RULES, HERE), 2, 0, 1)
    assert first.position(4)["shards"] != second.position(4)["shards"]
    assert len(second.position(4)["lanes"]) == 2


def test_held_out_pictures_and_captions_of_a_stream(home: Path, tmp_path: Path) -> None:
    write(tmp_path, "a", list(range(52)))
    found = token_shards((tmp_path,), train_vae.load(home / "vae"), tmp_path, RULES, HERE)
    examples = StreamedExamples(found, 2, 0, 1)
    assert [example.captions[0][1] for example in examples.held_out()] == numbers(49)
    assert list(examples.captions()) == numbers(*range(49), 50, 51)
