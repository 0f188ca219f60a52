"""Published index files: every row is counted once, whatever state it is in, and sound ones are joined to pictures."""

from __future__ import annotations

import gzip
import io
import json
import resource
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.errors import DataError
from model.training.count import Counts, count
from model.training.data import Sample
from model.training.filters import fit_size
from model.training.published.layouts import WIT_COLUMNS, Row, layout_of, read
from model.training.published.rows import LONGEST, RowReport, rows, split
from model.training.published.store import CaptionStore, normal, parted
from model.training.rules import RULES, Rules
from tests.training import published_files as made


def only(counts: Counts) -> dict[str, Any]:
    """The counts of the one file."""
    [found] = counts.to_dict()["files"].values()
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("layout", made.LAYOUTS)
@pytest.mark.parametrize("ending", [".tsv", ".tsv.gz", ".tsv.bz2"])
def test_every_row_of_every_layout_is_counted_under_one_reason(tmp_path: Path, layout: str, ending: str) -> None:
    path = tmp_path / f"index{ending}"
    expected = made.write(path, layout, sound=1000 if ending == ".tsv" else 60)
    found = only(count([path], RULES))
    assert found["layout"] == layout
    assert found["broken"] == expected.broken
    assert found["refused"] == expected.refused
    assert (found["passed"], found["rows"]) == (expected.passed, expected.rows)
    assert found["rows"] == found["passed"] + sum(found["broken"].values()) + sum(found["refused"].values())


def test_a_header_that_names_caption_and_url_is_no_row_and_says_the_order(tmp_path: Path) -> None:
    for layout, header in (("cc3m", b"caption\turl\n"), ("cc12m", b"url\tcaption\n")):
        path = tmp_path / f"{layout}.tsv"
        path.write_bytes(b"\xef\xbb\xbf" + header + getattr(made, layout)(1) + b"\r\n")
        assert layout_of(path) == layout
        report = RowReport()
        assert list(read(path, layout, report)) == [Row(made.address(1), [(1.0, made.caption(1))])]
        assert report.rows == 1


def test_a_labelled_cc3m_row_has_five_columns(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_bytes(made.cc3m(1) + b"\tcat,animal\t/m/01yrx,/m/0jbk\t0.9,0.8\n")
    assert [row.address for row in read(path, layout_of(path), RowReport())] == [made.address(1)]


def test_yfcc_of_both_releases_gives_decoded_captions_and_names(tmp_path: Path) -> None:
    for old in (False, True):
        path = tmp_path / "yfcc100m_dataset"
        path.write_bytes(made.yfcc(5, text="café & a dog", old=old))
        [row] = read(path, layout_of(path), RowReport())
        assert row.captions == [(0.5, "café & a dog")]
        assert row.names == (f"photo:{made.photo(5)}", *([] if old else [f"hash:{made.hash_of(5)}"]))


def test_a_subset_chooses_among_the_rows_of_yfcc(tmp_path: Path) -> None:
    (tmp_path / "dataset").write_bytes(b"\n".join(made.yfcc(number) for number in range(40)))
    lines = [f"{number}\t{made.photo(number)}\t{made.hash_of(number)}" for number in range(0, 40, 4)]
    (tmp_path / "subset.tsv").write_text("\n".join([*lines, "1\tbroken", "x\ty\tz"]))
    found = count([tmp_path / "dataset", tmp_path / "subset.tsv"], RULES).to_dict()["files"]
    assert found[str(tmp_path / "dataset")] == {
        "layout": "yfcc", "rows": 40, "broken": {}, "refused": {"not in the subset": 30}, "passed": 10
    }  # fmt: skip
    assert found[str(tmp_path / "subset.tsv")] == {
        "layout": "yfcc-subset", "rows": 12, "broken": {"too few columns": 1, "no photo id": 1}, "refused": {},
        "passed": 10,
    }  # fmt: skip


def test_wit_gives_three_captions_by_weight_and_the_first_size(tmp_path: Path) -> None:
    fields = made.wit(1).decode().split("\t")
    fields[7:9] = ["English: A map of Wales", "a map"]
    path = tmp_path / "wit.tsv"
    path.write_text("\t".join(WIT_COLUMNS) + "\n" + "\t".join(fields))
    [row] = read(path, "wit", RowReport())
    assert row.captions == [(0.5, made.caption(1)), (0.3, "a map"), (0.2, "A map of Wales")]
    assert (row.size, row.language) == ((640, 480), "en")


def test_a_file_cut_short_gives_what_is_whole_and_says_so(tmp_path: Path) -> None:
    whole = gzip.compress(b"\n".join(made.cc12m(number) for number in range(5000)))
    path = tmp_path / "cc12m.tsv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    found = only(count([path], RULES))
    assert 500 < found["passed"] < 4500
    assert found["cut_short"]


def test_rules_decide_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wit.tsv"
    made.write(path, "wit", 60)
    strict, loose = only(count([path], RULES)), only(count([path], Rules(english=False, least_side=10)))
    assert loose["passed"] == strict["passed"] + 9 + 12 + 5
    assert loose["broken"] == strict["broken"]


@pytest.mark.parametrize(
    "text", [b"", b"\n\n", b"hello\n", b"one\ttwo\tthree\n", b"\x89PNG\r\n\x1a\n\0\0", b"\x1f\x8b\0"]
)
def test_a_file_that_is_no_index_file_is_refused_in_one_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "other.tsv"
    path.write_bytes(text)
    with pytest.raises(DataError, match="other.tsv: not an index file of a known layout .*unpack .zip"):
        count([path], RULES)


@given(st.binary(max_size=300) | st.text(alphabet='ab"\t\nen:/htps', max_size=80).map(str.encode))
def test_nothing_that_a_file_holds_stops_the_walk(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tsv"
    path.write_bytes(text)
    for over_lines in (False, True):
        report = RowReport()
        sound = list(rows(path, report, over_lines))
        assert report.rows == len(sound) + report.broken.total()


@given(st.lists(st.text(alphabet='ab"\t\n,', max_size=8), min_size=1, max_size=5))
def test_quoted_fields_come_back_as_they_were(fields: list[str]) -> None:
    quoted = ['"' + field.replace('"', '""') + '"' for field in fields]
    assert split("\t".join(quoted).encode()) == [field.encode() for field in fields]


def test_memory_is_bounded_by_the_longest_row(tmp_path: Path) -> None:
    path = tmp_path / "long.tsv"
    path.write_bytes(b"\n".join([made.cc3m(1), b"x" * (4 * LONGEST), made.cc3m(2)]))
    report = RowReport()
    assert len(list(rows(path, report))) == 2
    assert report.broken == {"row too long": 1}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://A.example/x.jpg", "https://a.example/x.jpg#top", True),
        ("http://a.example/x.jpg", "http://a.example/X.jpg", False),
        ("http://a.example/x.jpg?s=1", "http://a.example/x.jpg?s=2", False),
        ("http://[", "http://[", True),
    ],
)
def test_addresses_are_compared_without_what_does_not_matter(one: str, other: str, same: bool) -> None:
    assert (normal(one) == normal(other)) == same


def fetched(path: Path, samples: list[dict[str, Any]], corrupt: int = 0) -> None:
    """A shard as img2dataset writes it: KEY.jpg, KEY.txt and KEY.json."""
    with tarfile.open(path, "w") as tar:
        for place, meta in enumerate(samples):
            noise = np.random.default_rng(place).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            out = io.BytesIO()
            Image.fromarray(noise).resize((256, 256), Image.Resampling.NEAREST).save(out, "JPEG")
            key = f"00000{place:04d}"
            status = {"key": key, "status": "success", "error_message": None, "width": 256, "height": 256,
                      "original_width": 640, "original_height": 480, "exif": "{}", "sha256": "0" * 64}  # fmt: skip
            picture = out.getvalue()[: 40 if place < corrupt else None]
            text = json.dumps({**status, **meta}, indent=4).encode()
            for ending, data in (("jpg", picture), ("txt", (meta.get("caption") or "").encode()), ("json", text)):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_fetched_pictures_get_the_captions_of_their_rows(tmp_path: Path) -> None:
    (tmp_path / "cc12m.tsv").write_bytes(b"\n".join(made.cc12m(number) for number in range(30)))
    (tmp_path / "shards").mkdir()
    samples: list[dict[str, Any]] = [{"url": made.address(number), "caption": None} for number in range(20)]
    samples += [{"url": "http://elsewhere.example/1.jpg", "caption": "a red boat"}, {"url": "http://b.example/2.jpg"}]
    samples += [{**samples[10], "original_width": 640, "original_height": 300}]
    fetched(tmp_path / "shards" / "00000.tar", samples, corrupt=2)
    (tmp_path / "shards" / "00001.tar").write_bytes(b"<html>not found</html>")
    found = count([tmp_path / "shards", tmp_path / "cc12m.tsv"], RULES).to_dict()["pictures"]
    named = found.pop("named")
    assert named["shard"] == ["00001.tar (truncated header)"]
    assert [line.partition(" ")[0] for line in named["picture"]] == ["00000.tar:000000000", "00000.tar:000000001"]
    assert found == {
        "found": 23,
        "corrupt": {"shard": 1, "picture": 2},
        "unused": {},
        "joined": 19,
        "refused": {"no caption": 1, "aspect ratio outside 1:2": 1},
        "passed": 19,
    }


@pytest.mark.parametrize(
    ("key", "meta"),
    [
        ("000000001", {"url": "https://live.staticflickr.com/65535/6000000021_0123abcdef_b.jpg"}),
        ("000000001", {"url": "https://elsewhere.example/x.jpg", "photoid": 6000000021}),
        ("000000001", {"url": f"https://a.example/data/images/000/{made.hash_of(3)}.jpg"}),
        (made.hash_of(3).upper(), {}),
        ("6000000021", {}),
    ],
)
def test_photos_of_flickr_are_found_by_id_or_hash(tmp_path: Path, key: str, meta: dict[str, Any]) -> None:
    (tmp_path / "dataset").write_bytes(b"\n".join(made.yfcc(number) for number in range(5)))
    store = CaptionStore.build([tmp_path / "dataset"], tmp_path / "captions.sqlite", RULES, {})
    sample = Sample(key, np.zeros((256, 256, 3), np.uint8), [], meta)
    joined, found = store.join(sample)
    assert found
    assert joined.captions == [(0.5, made.caption(3))]
    assert store.join(Sample("000000001", sample.image, [], {"url": "https://a.example/000000001.jpg"}))[1] is False
    store.close()


def test_pictures_and_index_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    fetched(tmp_path / "00000.tar", [{}])
    (tmp_path / "00000.tar").rename(tmp_path / "shard")
    (tmp_path / "broken.tar").write_bytes(b"")
    (tmp_path / "index").write_bytes(made.cc3m(1))
    paths = [tmp_path / name for name in ("shards", "shard", "broken.tar", "index")]
    assert parted(paths) == (paths[:3], paths[3:])
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        parted([tmp_path / "nowhere"])


def test_a_size_that_no_picture_has_is_none(tmp_path: Path) -> None:
    sound = made.wit(1, size=(640, 480))
    (tmp_path / "wit.tsv").write_bytes(b"\n".join([sound.replace(b"640", b"9" * 5000), sound, b""]))
    assert [row.size for row in read(tmp_path / "wit.tsv", "wit", RowReport())] == [None, (640, 480)]


def test_a_side_beyond_all_numbers_is_passed_over() -> None:
    found = Sample("a", np.zeros((256, 256, 3), np.uint8), [], {"original_width": 10**400, "original_height": 10**399})
    assert fit_size(found) == ""


def limited() -> None:
    """No file may grow beyond this, which to a writer is like a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_full_disk_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    made.write(tmp_path / "cc3m.tsv", "cc3m")
    command = [
        sys.executable,
        "-c",
        "from app.cli import main; main()",
        "corpus",
        "index",
        str(tmp_path / "cc3m.tsv"),
        "--any-language",
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], preexec_fn=limited, capture_output=True, text=True)
    assert done.returncode == 1
    assert "captions cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "no space is left on its disk" in done.stderr
    assert "Traceback" not in done.stderr
