"""Folders and shards as samples: which are read, in which order, and what happens to unreadable ones."""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from model.errors import DataError
from model.squares import square
from model.training.data import Sample, iterate, order, parse_text, sample_caption
from model.training.folders import HIDDEN
from model.training.pairing import LOST_TEXT, SECOND_PICTURE
from model.training.report import Report
from model.training.shards import ShardWriter


def picture(seed: int = 0, size: tuple[int, int] = (256, 256), kind: str = "WEBP") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(out, kind, lossless=True)
    return out.getvalue()


def shards(folder: Path, count: int = 10, limit: int = 10_000) -> Path:
    with ShardWriter(folder, "train", limit) as writer:
        for at in range(count):
            meta = {"captions": [[0.7, f"a cat {at}"], [0.3, "cat"]], "concept": f"c{at}",
                    "split": "val" if at % 5 == 0 else "train"}  # fmt: skip
            writer.add(f"key-{at:03d}", picture(at), meta)
    return folder


def keys(paths: list[Path], **options: Any) -> list[str]:
    return [sample.key for sample in iterate(paths, **options)]


def test_a_shard_gives_back_what_was_written(tmp_path: Path) -> None:
    samples = list(iterate([shards(tmp_path, 3)]))
    assert [s.key for s in samples] == ["key-000", "key-001", "key-002"]
    assert samples[1].captions == [(0.7, "a cat 1"), (0.3, "cat")]
    assert samples[1].meta == {"concept": "c1", "split": "train"}
    assert samples[1].image.shape == (256, 256, 3)
    assert samples[1].image.dtype == np.uint8
    with Image.open(io.BytesIO(picture(1))) as image:
        assert np.array_equal(samples[1].image, np.asarray(image.convert("RGB")))


def test_shards_keep_to_their_limit_and_depend_on_nothing_but_their_content(tmp_path: Path) -> None:
    first, second = shards(tmp_path / "a"), shards(tmp_path / "b")
    names = sorted(path.name for path in first.iterdir())
    assert names[:2] == ["train-000000.tar", "train-000001.tar"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
        assert (first / name).stat().st_size <= 10_240
    assert len(keys([first])) == 10


def test_a_key_with_a_dot_is_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "x") as writer, pytest.raises(ValueError, match="no dot and no slash"):
        writer.add("a.b", b"", {})


def test_an_interrupted_shard_never_gets_its_name(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path, "x") as writer:
            writer.add("a", picture(), {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_texts_beside_pictures(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.png").write_bytes(picture(1, kind="PNG"))
    (tmp_path / "b.txt").write_text("a blue\n  house\n")
    (tmp_path / "deep" / "a.jpg").write_bytes(picture(2, kind="JPEG"))
    (tmp_path / "deep" / "a.json").write_text(json.dumps({"caption": "a dog", "concept": "dog"}))
    (tmp_path / "c.webp").write_bytes(picture(3))
    report = Report()
    found = {s.key: s for s in iterate([tmp_path], report=report)}
    assert found["b"].captions == [(1.0, "a blue"), (1.0, "house")]
    assert found["a"].captions == [(1.0, "a dog")]
    assert found["a"].meta == {"concept": "dog"}
    assert found["c"].captions == []
    assert (report.read, report.without_caption, report.undecodable) == (3, 1, 0)


def test_files_that_cannot_be_read_are_counted_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good.png").write_bytes(picture(1, kind="PNG"))
    (tmp_path / "cut.png").write_bytes(picture(2, kind="PNG")[:60])
    (tmp_path / "text.webp").write_bytes(b"not a picture")
    (tmp_path / "words.webp").write_bytes(picture(3))
    (tmp_path / "words.json").write_text("{")
    (tmp_path / "latin.webp").write_bytes(picture(4))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    report = Report()
    assert keys([tmp_path], report=report) == ["good"]
    assert (report.read, report.undecodable) == (1, 4)
    assert "4 cannot be read" in caplog.text


def test_no_file_is_passed_over_in_silence(tmp_path: Path) -> None:
    for at, name in enumerate(("a.gif", "b.bmp", "c.TIFF", "d.avif", "e.jfif", "two.jpg", "two.png")):
        kind = {"a": "GIF", "b": "BMP", "c": "TIFF", "d": "AVIF", "t": "PNG"}.get(name[0], "JPEG")
        Image.open(io.BytesIO(picture(at))).convert("RGB").save(tmp_path / name, kind)
    (tmp_path / "f.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "lost.txt").write_text("a cat whose picture is lost")
    (tmp_path / "._a.gif").write_bytes(b"what macOS leaves")
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / "00000_stats.json").write_text("{}")
    report = Report()
    assert keys([tmp_path], report=report) == ["a", "b", "c", "d", "e", "two"]
    assert report.corrupt == {"picture": 1}
    assert report.unused == {LOST_TEXT: 2, SECOND_PICTURE: 1, HIDDEN: 1}
    assert [Path(name).name for name in report.named[LOST_TEXT]] == ["lost.txt", "00000_stats.json"]
    assert "unused: " in str(report)


def test_a_json_without_a_caption_leaves_it_to_the_text_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1, kind="JPEG"))
    (tmp_path / "a.json").write_text('{"original_width": 640}')
    (tmp_path / "a.txt").write_text("a cat")
    (tmp_path / "b.jpg").write_bytes(picture(2, kind="JPEG"))
    (tmp_path / "b.caption").write_text("a dog")
    first, second = iterate([tmp_path])
    assert (first.captions, first.meta) == ([(1.0, "a cat")], {"original_width": 640})
    assert second.captions == [(1.0, "a dog")]


@pytest.mark.parametrize("missing", ["empty", "absent", "broken.tar", "other"])
def test_a_path_without_samples_is_an_error_that_names_it(tmp_path: Path, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.tar").write_bytes(b"x" * 2000)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "bad.png").write_bytes(b"no")
    with pytest.raises(DataError, match=missing):
        list(iterate([tmp_path / missing]))


def test_a_shard_cut_short_gives_its_whole_samples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = shards(tmp_path, 4, 1 << 20) / "train-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: 3 * len(whole) // 8])
    found = keys([shard])
    assert found
    assert found == [f"key-{at:03d}" for at in range(len(found))]
    assert len(found) < 4
    assert caplog.text


def test_a_shard_that_ends_too_early_or_is_damaged_is_told(tmp_path: Path) -> None:
    shard = shards(tmp_path, 4, 1 << 20) / "train-000000.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        third = tar.getmember("key-002.webp").offset
    padded, cut = whole + bytes(1 << 17), whole[:third]
    broken = whole[:third] + b"?" * 512 + whole[third + 512 :]
    emptied = whole[:third] + bytes(1024) + whole[third + 1024 :]
    for content, left, told in ((padded, 4, {}), *((bad, 2, {"end of a shard": 1}) for bad in (cut, broken, emptied))):
        shard.write_bytes(content)
        report = Report()
        assert len(keys([shard], report=report)) == left
        assert report.corrupt == told


def test_names_and_texts_that_cannot_be_written_again(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", encoding="utf-8", errors="surrogateescape") as tar:
        for name, text in (("caf\udce9", '{"caption": "a cat"}'), ("half", r'{"caption": "a \ud800 cat"}'),
                           ("meta", r'{"caption": "a cat", "by": "\ud800"}'), ("whole", r'{"text": "a \ud83d\ude00"}'),
                           ("split", '{"caption": "a cat", "split": ["train"]}')):  # fmt: skip
            for suffix, content in ((".webp", picture(len(name))), (".json", text.encode())):
                member = tarfile.TarInfo(name + suffix)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    report = Report()
    samples = list(iterate([tmp_path], split="train", report=report))
    assert [sample.key for sample in samples] == ["caf\ufffd", "whole"]
    assert samples[1].captions == [(1.0, "a \U0001f600")]
    assert report.corrupt == {"text": 3}
    assert any("a.tar:split" in name and "a list of 1" in name for name in report.names)


def test_splits_part_the_whole(tmp_path: Path) -> None:
    folder = shards(tmp_path)
    train, val = keys([folder], split="train"), keys([folder], split="val")
    assert val == ["key-000", "key-005"]
    assert sorted(train + val) == keys([folder])


def test_the_same_seed_and_epoch_give_the_same_order(tmp_path: Path) -> None:
    folder = shards(tmp_path)
    assert keys([folder], seed=1, epoch=2) == keys([folder], seed=1, epoch=2)
    assert keys([folder], seed=1, epoch=2) != keys([folder], seed=1, epoch=3)
    assert sorted(keys([folder], seed=7)) == keys([folder])


def test_a_walk_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = shards(tmp_path)
    whole = list(iterate([folder], seed=3, split="train"))
    rest = iterate([folder], seed=3, split="train", start=whole[3].position + 1)
    assert [s.key for s in rest] == [s.key for s in whole[4:]]


@given(st.integers(0, 200), st.integers(1, 9), st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_readers_share_the_samples_without_overlap(count: int, world: int, seed: int, epoch: int) -> None:
    shares = [order(count, seed, epoch, rank, world).tolist() for rank in range(world)]
    assert sorted(place for share in shares for place in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_refine_drops_and_changes(tmp_path: Path) -> None:
    def only_even(sample: Sample) -> Sample | None:
        return sample if int(sample.key[-1]) % 2 == 0 else None

    assert keys([shards(tmp_path)], refine=only_even) == [f"key-00{at}" for at in (0, 2, 4, 6, 8)]


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=20, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "CMYK", "1"]))
def test_any_picture_becomes_a_square_of_rgb(width: int, height: int, mode: str) -> None:
    pixels = np.asarray(square(Image.new(mode, (width, height)), 256))
    assert pixels.shape == (256, 256, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_keep_their_shades(kind: str) -> None:
    shades = np.linspace(0, 65535, 256).astype(np.uint16)
    out = io.BytesIO()
    Image.fromarray(np.tile(shades, (256, 1))).save(out, kind)
    with Image.open(out) as image:
        assert np.array_equal(np.asarray(square(image, 256))[0, :, 0], np.arange(256))


def test_transparency_shows_white_and_the_middle_is_kept() -> None:
    image = Image.new("RGBA", (512, 256), (255, 0, 0, 255))
    image.paste((0, 0, 255, 255), (128, 0, 384, 256))
    assert (np.asarray(square(image, 256)) == (0, 0, 255)).all()
    assert (np.asarray(square(Image.new("RGBA", (90, 90), (0, 0, 0, 0)), 256)) == 255).all()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ('{"captions": ["a", null, [0.5, null], NaN]}', [(1.0, "a")]),
        ('{"captions": [null], "caption": null, "text": "b"}', [(1.0, "b")]),
        ('{"captions": [[0.25, "a"], [0.75, "b"], [0, "c"]]}', [(0.25, "a"), (0.75, "b")]),
        ('{"captions": ["a", "b"]}', [(1.0, "a"), (1.0, "b")]),
        ('{"text": " a "}', [(1.0, "a")]),
        ('{"concept": "x"}', []),
    ],
)
def test_captions_are_read_in_every_spelling(raw: str, expected: list[tuple[float, str]]) -> None:
    assert parse_text(raw.encode(), ".json")[0] == expected


@pytest.mark.parametrize("raw", ["[]", '{"captions": 3}', '{"captions": [[1, 2]]}', '{"captions": [[-1, "a"]]}',
                                 '{"captions": [[NaN, "a"]]}', '{"captions": [[1]]}',
                                 '{"captions": [3]}', '{"captions": [[null, "a"]]}',
                                 '{"captions": [[1%s, "a"]]}' % ("0" * 400)])  # fmt: skip
def test_malformed_captions_are_value_errors(raw: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_text(raw.encode(), ".json")


def test_captions_are_drawn_by_weight() -> None:
    rng = random.Random(0)
    drawn = [sample_caption([(3.0, "often"), (1.0, "seldom")], rng) for _ in range(4000)]
    assert 0.72 < drawn.count("often") / len(drawn) < 0.78
    assert sample_caption([(2.0, "only")], np.random.default_rng(0)) == "only"
    assert sample_caption([], rng) == ""


def test_odd_metadata_spoil_no_picture(tmp_path: Path) -> None:
    whole = picture(kind="PNG")
    text = b"zTXta\0\0" + zlib.compress(bytes(8 << 20))  # more than Pillow inflates, and its checksum is wrong
    (tmp_path / "text.png").write_bytes(whole[:33] + struct.pack(">I", len(text) - 4) + text + bytes(4) + whole[33:])
    jpeg = picture(1, kind="JPEG")
    entries = struct.pack(">HHI4s", 0x011A, 2, 4, b"72\0\0") + struct.pack(">HHIHH", 0x0112, 3, 1, 3, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\2" + entries + bytes(4)  # a resolution as ASCII, and upside down
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:-2])  # without its end marker
    report = Report()
    text_png, turned = iterate([tmp_path], report=report)
    assert report.undecodable == 0
    assert np.array_equal(text_png.image, np.asarray(square(Image.open(io.BytesIO(whole)), 256)))
    assert np.array_equal(turned.image, np.asarray(square(Image.open(io.BytesIO(jpeg)), 256))[::-1, ::-1])
