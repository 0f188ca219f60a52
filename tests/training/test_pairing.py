"""Which caption belongs to which picture: no picture gets the caption of another, and what is left over is named."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest

from model.errors import DataError
from model.training.data import iterate
from model.training.folders import CACHED, DANGLING, HIDDEN, ODD, TWICE
from model.training.pairing import LOST_ROW, LOST_TEXT, SECOND_PICTURE, SECOND_TEXT, SHARED_TEXT
from model.training.prepare import state_of
from model.training.report import Report
from model.training.sources import DOTTED, LINK, OTHER
from model.training.token_shards import tars_of
from tests.training.test_data import picture

PICTURE = picture(kind="JPEG")
NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


def make(folder: Path, files: Mapping[str, str | None]) -> Path:
    """Write these files: texts, and pictures for None."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.write_bytes(PICTURE)
        else:
            path.write_text(text, encoding="utf-8", newline="")
    return folder


def tar(path: Path, members: list[tuple[str, str | None]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, text in members:
            member, content = tarfile.TarInfo(name), PICTURE if text is None else text.encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def read(path: Path) -> tuple[dict[str, list[str]], Report]:
    """The captions by key, or by the key and its place if there are two; and the report."""
    report, found = Report(), dict[str, list[str]]()
    for sample in iterate([path], report=report):
        key = sample.key if sample.key not in found else f"{sample.key} again"
        found[key] = [text for _, text in sample.captions]
    return found, report


def test_two_pictures_of_one_stem_get_their_own_rows(tmp_path: Path) -> None:
    rows = "file_name,text\n0.jpg,a dog\n0.png,a car\n1.jpg,a cat\n2.jpg,a fish\n"
    names = ("0.jpg", "0.png", "1.jpg", "1.png", "2.png")
    found, report = read(make(tmp_path, {"metadata.csv": rows, **dict.fromkeys(names)}))
    assert found == {"0": ["a car"], "0.jpg": ["a dog"], "1": ["a cat"], "2": []}
    assert report.unused == {LOST_ROW: 1, SECOND_PICTURE: 1}
    assert report.named[LOST_ROW] == ["2.jpg"]
    assert report.named[SECOND_PICTURE][0].endswith("1.png")


def test_a_text_beside_two_listed_pictures_is_nobodys(tmp_path: Path) -> None:
    files = {
        "0.jpg": None,
        "0.png": None,
        "0.txt": "a bus",
        "metadata.csv": "file_name,text\n0.jpg,a dog\n0.png,a car\n",
    }
    found, report = read(make(tmp_path, files))
    assert found == {"0": ["a car"], "0.jpg": ["a dog"]}
    assert report.unused == {SHARED_TEXT: 1}


def test_each_line_of_a_text_is_a_caption(tmp_path: Path) -> None:
    found, _ = read(
        make(tmp_path, {"a.jpg": None, "a.txt": "\ufeffa  dog\r\n\r\n a puppy \ran animal\n", "b.jpg": None})
    )
    assert found == {"a": ["a dog", "a puppy", "an animal"], "b": []}


@pytest.mark.parametrize(
    ("rows", "captions", "broken"),
    [
        ("image,caption\na.jpg,a small dog, brown,on grass\n", ["a small dog, brown,on grass"], 0),
        ("image,caption\r\na.jpg, a dog, brown\r\n", ["a dog, brown"], 0),
        ("id,image,caption\n1,a.jpg,a dog, brown\n", ["a dog, brown"], 0),
        ("caption,image\na dog, brown,a.jpg\n", ["a dog, brown"], 0),
        ('image,caption\na.jpg, "a dog, brown"\n', ["a dog, brown"], 0),
        ('image,caption\na.jpg,"a dog,\nbrown"\n', ["a dog,\nbrown"], 0),
        ("image,caption,split\na.jpg,a dog, brown,train\n", [], 1),
        ('image,caption\na.jpg,a "dog", brown\n', [], 1),
        ("image,caption\na.jpg\n", [], 1),
        ('image,caption\na.jpg,"a cat\na.jpg,a dog\n', ["a dog"], 1),  # a quote that is never closed
        ('image,caption\na.jpg,"a cat\na.jpg,"a dog"\n', ["a dog"], 1),
        ("image,caption\na.jpg,a dog\n\n\na.jpg,a pet\n", ["a dog", "a pet"], 0),
        ("\nimage,caption\na.jpg,a dog\n", ["a dog"], 0),
    ],
)
def test_no_caption_of_a_list_is_cut(tmp_path: Path, rows: str, captions: list[str], broken: int) -> None:
    found, report = read(make(tmp_path, {"a.jpg": None, "captions.txt": rows}))
    assert found == {"a": captions}
    assert report.corrupt["list"] == broken


def test_rows_that_are_not_utf_8_are_refused_alone(tmp_path: Path) -> None:
    make(tmp_path, {"a.jpg": None, "b.jpg": None})
    (tmp_path / "captions.csv").write_bytes(b"image,caption\na.jpg,caf\xe9\nb.jpg,a dog\n")
    found, report = read(tmp_path)
    assert found == {"a": [], "b": ["a dog"]}
    assert report.named["list"] == ["captions.csv, row 1 (it is not UTF-8)"]


@pytest.mark.parametrize(
    "name",
    ["images\\0.jpg", ".\\images\\0.jpg", "images\\\\0.jpg", "images/0.jpg", "./images//0.jpg", "images/0",
     "IMAGES/0.JPG", "C:\\Users\\me\\data\\images\\0.jpg", "/home/me/data/images/0.jpg", "\\\\server\\images\\0.jpg",
     "0.jpg", "../data/images/0.jpg"],
)  # fmt: skip
def test_a_row_finds_its_picture_however_its_path_is_written(tmp_path: Path, name: str) -> None:
    data = make(tmp_path / "data", {"images/0.jpg": None, "images/1.jpg": None})
    with (data / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "text"), (name, "a dog")])
    found, report = read(data)
    assert found == {"0": ["a dog"], "1": []}
    assert not report.unused


@pytest.mark.parametrize(
    ("names", "pictures"),
    [
        (["D:\\a\\0.jpg", "D:\\b\\0.jpg"], ["0.jpg"]),  # which of the two it was, nobody knows
        (["0.jpg"], ["a/0.jpg", "b/0.jpg"]),
        (["0.png"], ["0.jpg"]),
        (["0"], ["0.jpg", "0.png"]),
        (["A.jpg", "a.JPG"], ["a.jpg"]),
    ],
)
def test_a_row_that_fits_not_just_one_picture_is_left_out(
    tmp_path: Path, names: list[str], pictures: list[str]
) -> None:
    lines = [json.dumps({"file_name": name, "text": name}) for name in names]
    found, report = read(make(tmp_path, {**dict.fromkeys(pictures), "metadata.jsonl": "\n".join(lines)}))
    assert all(not captions for captions in found.values())
    assert report.unused[LOST_ROW] == len(names)
    assert report.named[LOST_ROW] == names


def test_an_exact_row_goes_before_one_that_only_resembles_it(tmp_path: Path) -> None:
    rows = "file_name,text\nA.jpg,a cat\na.jpg,a dog\n"
    found, report = read(make(tmp_path, {"a.jpg": None, "metadata.csv": rows}))
    assert found == {"a": ["a dog"]}
    assert report.named[LOST_ROW] == ["A.jpg"]


@pytest.mark.parametrize(
    ("files", "captions"),
    [
        (("images/0.jpg", "captions/0.txt"), {"0": ["captions/0.txt"]}),
        (("images/train/0.jpg", "images/val/0.jpg", "captions/train/0.txt", "captions/val/0.txt"),
         {"0": ["captions/train/0.txt"], "0 again": ["captions/val/0.txt"]}),
        (("train/images/0.jpg", "val/images/0.jpg", "train/texts/0.txt", "val/texts/0.txt"),
         {"0": ["train/texts/0.txt"], "0 again": ["val/texts/0.txt"]}),
        (("images/0.jpg", "0.txt", "cover.jpg"), {"cover": [], "0": ["0.txt"]}),
        (("images/0.jpg", "masks/0.jpg", "captions/0.txt"), {"0": [], "0 again": []}),
        (("images/0.jpg", "english/0.txt", "german/0.txt"), {"0": []}),
        (("images/0.jpg", "images/0.txt", "other/0.txt"), {"0": ["images/0.txt"]}),
        ((f"{NFD}.jpg", f"{NFC}.txt"), {NFD: [f"{NFC}.txt"]}),
        ((f"{NFC}.jpg", f"{NFD}.txt", f"{NFC}.txt"), {NFC: [f"{NFC}.txt"]}),
        (("IMG_1.JPG", "img_1.txt"), {"IMG_1": ["img_1.txt"]}),
        (("A.jpg", "a.jpg", "a.txt"), {"A": [], "a": ["a.txt"]}),
    ],
)  # fmt: skip
def test_a_text_elsewhere_is_joined_if_it_can_be_of_one_picture_only(
    tmp_path: Path, files: tuple[str, ...], captions: dict[str, list[str]]
) -> None:
    found, report = read(make(tmp_path, {name: None if name.lower().endswith("jpg") else name for name in files}))
    assert found == captions
    texts = sum(name.endswith("txt") for name in files) - sum(map(len, captions.values()))
    assert report.unused[LOST_TEXT] == len(report.named.get(LOST_TEXT, [])) == texts


def test_names_of_a_list_may_be_composed_otherwise(tmp_path: Path) -> None:
    found, _ = read(make(tmp_path, {f"{NFD}.jpg": None, "metadata.csv": f"file_name,text\n{NFC}.jpg,a dog\n"}))
    assert found == {NFD: ["a dog"]}


def test_a_third_text_and_one_in_capitals_are_counted(tmp_path: Path) -> None:
    files = {
        "a.jpg": None,
        "a.json": "{}",
        "a.txt": "a dog",
        "a.caption": "a cat",
        "b.jpg": None,
        "b.TXT": "B",
        "b.txt": "b",
    }
    found, report = read(make(tmp_path, files))
    assert found == {"a": ["a dog"], "b": ["B"]}
    assert report.unused == {SECOND_TEXT: 2}


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    make(tmp_path, {"elsewhere/0.jpg": None, "elsewhere/0.txt": "a dog", "data/own.jpg": None, "data/z/1.jpg": None})
    data = tmp_path / "data"
    for link, target in {"a": "z", "sub": "../elsewhere", "sub2": "../elsewhere", "z/up": "..", "gone": "nowhere",
                         "z/self": "self"}.items():  # fmt: skip
        (data / link).symlink_to(target)
    found, report = read(data)
    assert found == {"own": [], "0": ["a dog"], "1": []}
    assert report.unused == {TWICE: 3, DANGLING: 2}
    before = state_of([data])
    make(tmp_path, {"elsewhere/0.txt": "a puppy"})
    assert state_of([data]) != before
    tar(tmp_path / "elsewhere" / "x.tar", [("a.jpg", None)])
    assert [path.name for path in tars_of([data])] == ["x.tar"]


def test_hidden_files_and_those_of_tools_are_left_out(tmp_path: Path) -> None:
    hidden = (
        ".ipynb_checkpoints/0-checkpoint.jpg",
        ".git/x.jpg",
        "__MACOSX/._0.jpg",
        "._0.jpg",
        "in/@eaDir/0.jpg",
        "made/0.jpg",
    )
    data = make(
        tmp_path / ".cache", {"0.jpg": None, "notes.pdf": "x", "made/CACHEDIR.TAG": "", **dict.fromkeys(hidden)}
    )
    os.mkfifo(data / "pipe.jpg")
    found, report = read(data)
    assert found == {"0": []}
    assert report.unused == {HIDDEN: 5, CACHED: 1, OTHER: 1, ODD: 1}
    with pytest.raises(DataError, match="must be a folder or a regular file, got a pipe"):
        read(data / "pipe.jpg")


def test_a_tars_names_end_at_the_first_dot(tmp_path: Path) -> None:
    members: list[tuple[str, str | None]] = [
        ("./plain.jpg", None), ("./plain.txt", "a dog"), ("photo_22.00.jpg", None), ("photo_22.00.txt", "a cat"),
        ("plain.mask.png", None), ("plain.cls", "3"), ("lost.txt", "a bus"), (".ipynb_checkpoints/a.jpg", None),
        ("__MACOSX/._plain.jpg", None),
    ]  # fmt: skip
    path = tar(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("again.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "./plain.jpg"
        archive.addfile(link)
    found, report = read(path)
    assert found == {"plain": ["a dog"]}
    assert report.unused == {DOTTED: 3, OTHER: 1, HIDDEN: 2, LOST_TEXT: 1, LINK: 1}
    assert report.named[DOTTED] == ["a.tar:photo_22.00.jpg", "a.tar:photo_22.00.txt", "a.tar:plain.mask.png"]
    only = tar(tmp_path / "b.tar", [("a.0.jpg", None)])
    with pytest.raises(
        DataError, match=r"no pictures in it .* whose name has a dot before its ending 1 \(b.tar:a.0.jpg"
    ):
        read(only)


def test_a_name_that_a_tar_holds_twice_keeps_its_own_text(tmp_path: Path) -> None:
    found, _ = read(tar(tmp_path / "a.tar", [("a.jpg", None), ("a.txt", "first"), ("a.jpg", None)]))
    assert found == {"a": ["first"], "a again": []}


def test_names_in_reports_say_nothing_to_a_terminal(tmp_path: Path) -> None:
    _, report = read(tar(tmp_path / "a.tar", [("a.jpg", None), ("\x1b[2J.txt", "x"), ("b\x07.jpg", "no picture")]))
    assert str(report).isprintable()
    assert r"\x1b[2J.txt" in str(report)


def test_files_without_bound_are_not_read(tmp_path: Path) -> None:
    make(tmp_path, {"a.jpg": None, "a.txt": "a dog", "b.jpg": None})
    with (tmp_path / "a.txt").open("r+b") as file:
        file.truncate(1 << 30)
    found, report = read(tmp_path)
    assert found == {"b": []}
    assert report.corrupt == {"text": 1}
    assert "must have at most" in report.names[0]
