"""Lists of captions in folders of pictures: which forms are known, and what happens to rows that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.training.data import iterate
from model.training.report import Report
from tests.training.test_data import picture

LISTED = {
    "metadata.jsonl": '{"file_name": "a.png", "text": "a \\"red\\" cat"}\n\n'
    '{"file_name": "in/b.jpg", "text": "Käse, two"}\n',
    "metadata.csv": '\ufefffile_name,text\r\na.png,"a ""red"" cat"\r\nin/b.jpg,"Käse, two"\r\n',
    "captions.txt": 'image,caption\na.png,"a ""red"" cat"\nin/b.jpg,"Käse, two"\n',
    "captions.csv": 'id,image,caption\n1,a.png,"a ""red"" cat"\n2,in/b.jpg,"Käse, two"\n',
}


def folder_of_two(folder: Path) -> Path:
    (folder / "in").mkdir()
    (folder / "a.png").write_bytes(picture(1, kind="PNG"))
    (folder / "in" / "b.jpg").write_bytes(picture(2, kind="JPEG"))
    return folder


@pytest.mark.parametrize("name", LISTED)
def test_a_list_gives_its_captions_to_the_pictures_that_it_names(tmp_path: Path, name: str) -> None:
    (folder_of_two(tmp_path) / name).write_text(LISTED[name], newline="")
    report = Report()
    captions = {sample.key: sample.captions for sample in iterate([tmp_path], report=report)}
    assert captions == {"a": [(1.0, 'a "red" cat')], "b": [(1.0, "Käse, two")]}
    assert not report.corrupt
    assert not report.unused


def test_rows_of_one_picture_add_up_and_a_text_beside_it_goes_first(tmp_path: Path) -> None:
    (folder_of_two(tmp_path) / "captions.txt").write_text("image,caption\na.png,a cat\na.png,a pet\nin/b.jpg,a dog\n")
    (tmp_path / "in" / "b.txt").write_text("a hound")
    captions = {sample.key: sample.captions for sample in iterate([tmp_path])}
    assert captions == {"a": [(1.0, "a cat"), (1.0, "a pet")], "b": [(1.0, "a hound")]}


def test_rows_that_cannot_be_used_are_counted_and_stop_nothing(tmp_path: Path) -> None:
    rows = [
        "{",
        "[]",
        '{"file_name": "a.png"}',
        '{"image": "a.png", "caption": "a cat"}',
        '{"file_name": 3, "text": "x"}',
        '{"file_name": "gone.png", "text": "a dog"}',
    ]
    (folder_of_two(tmp_path) / "metadata.jsonl").write_text("\n".join(rows))
    report = Report()
    captions = {sample.key: sample.captions for sample in iterate([tmp_path], report=report)}
    assert captions == {"a": [(1.0, "a cat")], "b": []}
    assert report.corrupt == {"list": 4}
    assert report.unused == {"line of a list without a picture": 1}
    assert "metadata.jsonl, row 3 (it needs file_name" in str(report)


def test_a_list_that_is_no_utf_8_is_counted(tmp_path: Path) -> None:
    (folder_of_two(tmp_path) / "metadata.csv").write_bytes(b"file_name,text\na.png,caf\xe9\n")
    report = Report()
    assert len(list(iterate([tmp_path], report=report))) == 2
    assert report.corrupt == {"list": 1}
