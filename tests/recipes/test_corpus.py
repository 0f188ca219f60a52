"""The default corpus, built by the real builder from a few tiny packages made here."""

from __future__ import annotations

import io
import json
import math
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from model.drawings.colours import COLOURS as NAMED
from model.drawings.concepts import everyday, slugify
from model.drawings.drawing import RenderError
from model.errors import DataError
from model.recipes.default import corpus
from model.recipes.default.corpus import clipart, compositions, emoji, faces, icons, nouns, plan, render
from model.recipes.default.corpus.licences import check
from model.recipes.default.corpus.manifest import read
from model.recipes.default.corpus.packages import FetchError, Package, fetch
from model.training import train_vae
from model.training.data import Sample, iterate
from model.training.filters import Filter
from model.training.options import LoopOptions, VAEOptions

EMOJI = {  # label -> code point, group
    "cat face": ("1F431", 3),
    "dog face": ("1F436", 3),
    "red apple": ("1F34E", 4),
    "grapes": ("1F347", 4),
    "automobile": ("1F697", 5),
    "sun": ("2600-FE0F", 5),
    "left arrow": ("2B05-FE0F", 8),
    "waving hand": ("1F44B", 1),
    "flag: Japan": ("1F1EF-1F1F5", 9),
    "red circle": ("1F534", 8),
    "alembic": ("2697", 7),  # none of the everyday things
}
COLOURS = ["#e11", "#1a1", "#11e", "#a50", "#0aa", "#a0a", "#333", "#770", "#075", "#d12", "#507"]


def icon_set(name: str, spdx: str, corners: int, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """An iconify set with a polygon of its own for every emoji: each vendor by its number of corners."""
    icons: dict[str, Any] = {}
    for at, label in enumerate(EMOJI):
        if "Japan" in label and name == "noto":
            continue
        slug = "flag-for-flag-japan" if "Japan" in label else slugify(label)
        points = " ".join(
            f"{50 + 40 * math.cos(2 * math.pi * (step + at / 13) / corners):.1f},"
            f"{50 + (30 + at) * math.sin(2 * math.pi * (step + at / 13) / corners):.1f}"
            for step in range(corners)
        )
        icons[slug] = {"body": f'<polygon fill="{COLOURS[at]}" points="{points}"/>'}
    info = {"author": {"name": f"{name} people", "url": f"https://{name}.example"}, "license": {"spdx": spdx}}
    return {"prefix": name, "width": 100, "height": 100, "info": info, "icons": {**icons, **(extra or {})}}


def put(cache: Path, package: Package, files: dict[str, Any]) -> Path:
    """A package in the cache as `fetch` leaves it."""
    folder = cache / "packages" / package.folder
    for name, content in files.items():
        path = folder / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    (folder / "fetched.json").write_text(json.dumps({"version": package.version or "1.0-1"}))
    return folder / "package"


def make_cache(cache: Path) -> Path:
    """Packages of three vendors and the metadata."""
    metadata = [{"label": label, "hexcode": code, "group": group, "tags": ["ab", "animal", label]}
                for label, (code, group) in EMOJI.items()]  # fmt: skip
    put(cache, emoji.METADATA, {"en/data.json": metadata})
    odd = {
        "cat-face-dark-skin-tone": {"body": '<rect width="50" height="50"/>'},  # a tone: never taken
        "blank-thing": {"body": ""},
    }
    noto, twemoji = (
        package for package in (s.package for s in emoji.SETS) if package.name.endswith(("noto", "twemoji"))
    )
    drawn = icon_set("noto", "Apache-2.0", 3, odd)
    put(cache, noto, {"icons.json": drawn, "info.json": drawn["info"]})
    drawn = icon_set("twemoji", "CC-BY-4.0", 5)
    drawn["icons"]["sun"]["body"] = ""  # blank
    put(cache, twemoji, {"icons.json": drawn, "info.json": drawn["info"]})
    assets = {}
    for at, (code, _) in enumerate(EMOJI.values()):
        image = Image.new("RGBA", (256, 256))
        image.paste((20 * at, 255 - 20 * at, 90, 255), (20 + at, 30, 220, 180 + 3 * at))
        out = io.BytesIO()
        image.save(out, "WEBP", lossless=True)
        assets[f"assets/{code.lower()}.webp"] = out.getvalue()
    put(cache, emoji.FLUENT_3D, {"package.json": {"version": "1.1.0", "license": "MIT"}, **assets})
    return cache


class Built(NamedTuple):
    cache: Path
    out: Path
    summary: corpus.Summary
    steps: list[tuple[str, int, int]]


@pytest.fixture(autouse=True, scope="module")
def few_shapes() -> Iterator[None]:
    """Two plain shapes instead of 156, so that a build takes a second."""
    plain = [shape for shape in compositions.plain_shapes() if shape.key in ("shape-circle-red", "shape-star-white")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "plain_shapes", lambda: plain)
        yield


@pytest.fixture(scope="module")
def built(few_shapes: None, tmp_path_factory: pytest.TempPathFactory) -> Built:  # noqa: ARG001 - it comes first
    """The common corpus of these packages, built once."""
    folder = tmp_path_factory.mktemp("corpus")
    steps: list[tuple[str, int, int]] = []
    cache = make_cache(folder / "cache")
    summary = build(folder / "out", cache, progress=lambda *step: steps.append(step))
    return Built(cache, folder / "out", summary, steps)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A copy of the packages to spoil."""
    return make_cache(tmp_path / "cache")


VENDORS = ("noto", "twemoji", "fluent-3d")


def build(out: Path, cache: Path, **options: Any) -> corpus.Summary:
    """options: of `Plan` and of `corpus.build`."""
    ways = {"cache": cache, "sources": VENDORS, "processes": 1, **options}
    planned = {field.name: ways.pop(field.name) for field in fields(corpus.Plan) if field.name in ways}
    return corpus.build(out, corpus.Plan(**planned), **ways)


def samples(folder: Path) -> dict[str, Sample]:
    return {sample.key: sample for sample in iterate([folder])}


def test_the_common_corpus_from_packages_to_samples(built: Built) -> None:
    summary, seen = built.summary, built.steps
    found = samples(built.out)
    assert summary.pictures == len(found)
    assert (
        summary.pictures == sum(summary.kinds.values()) == sum(summary.splits.values()) == sum(summary.sources.values())
    )
    assert set(summary.kinds) == {"single", "background", "pair", "count", "place", "recolour"}
    assert summary.dropped["blank"] == 1
    assert summary.left_out == {}
    assert seen[-1][1] == seen[-1][2]

    cat = found["noto-cat-face"]
    texts = [text for _, text in cat.captions]
    assert {"a cat", "cat", "an emoji of a cat", "a kitten"} <= set(texts)
    assert sum(weight for weight, _ in cat.captions) == pytest.approx(1, abs=0.01)
    assert cat.meta | {"split": ""} == {"concept": "cat-face", "source": "noto", "licence": "Apache-2.0",
                                        "kind": "single", "split": "", "mirror": True}  # fmt: skip
    assert not found["noto-left-arrow"].meta["mirror"]
    assert "the flag of japan" in [text for _, text in found["twemoji-flag-jp"].captions]
    assert not found["twemoji-flag-jp"].meta["mirror"]
    assert "noto-alembic" not in found
    assert not [key for key in found if "tone" in key]
    assert not [key for key in found if key.startswith("fluent-3d-flag")]

    ink = np.argwhere((cat.image != 255).any(-1))
    assert 17 <= ink.min() <= 23  # padded by 8 %
    assert 233 <= ink.max() <= 239
    judge = Filter()
    some = [found[key] for key in sorted(found)[::3]]
    assert all(map(judge, some)), judge.report()


def test_every_drawing_on_colours_exactly_where_it_stands_alone(built: Built, tmp_path: Path) -> None:
    build(tmp_path / "backgrounds", built.cache, backgrounds=3)
    found = samples(tmp_path / "backgrounds")
    more = {key: sample for key, sample in found.items() if "-on-" in key}
    assert found.keys() - more.keys() == samples(built.out).keys()
    cats = {key: sample for key, sample in more.items() if key.startswith("noto-cat-face-on-")}
    assert 0 < len(cats) <= 3
    background = (found["noto-cat-face"].image == 255).all(-1)
    inside = (
        background
        & np.roll(background, 2, 0)
        & np.roll(background, -2, 0)
        & np.roll(background, 2, 1)
        & np.roll(background, -2, 1)
    )
    for key, sample in cats.items():
        colour = key.partition("-on-")[2].replace("-", " ")
        assert sample.meta | {"split": ""} == found["noto-cat-face"].meta | {"split": "", "kind": "background"}
        assert all(colour in text for _, text in sample.captions)
        assert (sample.image[inside] == NAMED[colour]).mean() > 0.99
    assert [key for key in more if "arrow" in key]


def test_every_thing_with_others_and_two_to_five_times(built: Built, tmp_path: Path) -> None:
    build(tmp_path / "pairs", built.cache, pairs=2)
    found = samples(tmp_path / "pairs")
    times = {key: sample for key, sample in found.items() if sample.meta["kind"] == "count"}
    cats = {key for key in times if key.startswith("noto-cat-face")}
    assert cats == {f"noto-cat-face-times-{number}" for number in (2, 3, 4, 5)}
    assert not [key for key in times if "flag" in key or "arrow" in key]
    shown = [sample.meta["concept"] for sample in found.values() if sample.meta["kind"] == "pair"]
    assert shown
    assert len({frozenset(pair.split("+")) for pair in shown}) == len(shown)
    # The shapes and singles are as they were without.
    alone = {key for key, sample in samples(built.out).items() if sample.meta["kind"] in ("single", "recolour")}
    assert alone <= found.keys()


def test_with_one_drawing_of_each_thing_each_name_means_one_thing() -> None:
    plain = compositions.plain_shapes()
    slugs = ("old-key", "key", "umbrella-with-rain-drops", "umbrella", "cat-face", "cat")
    known = [replace(plain[i], concept=everyday()[slug]) for i, slug in enumerate(slugs)]
    found = {drawing.concept.slug: drawing.concept for drawing in plan._with_own_names(known)}
    assert [name.text for name in found["key"].names] == ["key"]
    assert [name.text for name in found["old-key"].names] == ["old key"]
    assert "umbrella" in [name.text for name in found["umbrella"].names]
    rainy = found["umbrella-with-rain-drops"]
    assert "umbrella" not in [name.text for name in (*rainy.names, *rainy.synonyms)]
    assert found["cat"].names  # a thing that has no name of its own keeps its names


def test_a_build_of_chosen_things(built: Built, tmp_path: Path) -> None:
    chosen = {"cat-face": 1.0, "red-apple": 1.0, "circle-in-*": 1.0, "griffin": 1.0}
    summary = build(
        tmp_path / "chosen",
        built.cache,
        sources=VENDORS[::-1],
        concepts=chosen,
        paired={"red-apple": 1.0},
        pairs=2,
        backgrounds=3,
        one_each=True,
    )
    found = samples(tmp_path / "chosen")
    assert summary.left_out == {"griffin": "none of the sources has a drawing of it"}
    assert {sample.meta["concept"] for sample in found.values()} == {"cat-face", "red-apple", "circle-in-red"}
    # Of a shape the largest only: in another colour it is the same shape.
    assert [key for key, sample in found.items() if sample.meta["kind"] == "recolour"] == ["shape-circle-red-0"]
    firsts = [sample.meta["source"] for sample in found.values() if sample.meta["kind"] == "single"]
    assert len(firsts) == 2
    drawn = {key for key, sample in samples(built.out).items() if sample.meta["kind"] == "single"}
    for slug in ("cat-face", "red-apple"):
        first = next(vendor for vendor in VENDORS[::-1] if f"{vendor}-{slug}" in drawn)
        assert f"{first}-{slug}" in found
    assert {s.meta["concept"] for s in found.values() if s.meta["kind"] == "count"} == {"red-apple"}
    # A file's things are counted whatever they are.
    named = {"red-circle": 1.0, "waving-hand": 1.0}
    build(tmp_path / "named", built.cache, concepts=named, paired=named, pairs=1, one_each=True)
    counted = [s.meta["concept"] for s in samples(tmp_path / "named").values() if s.meta["kind"] == "count"]
    assert set(counted) == set(named)
    # And none where an emoji of the same name is drawn.
    build(tmp_path / "round", built.cache, concepts={"red-circle": 1.0, "circle-in-*": 1.0}, one_each=True)
    assert {sample.meta["concept"] for sample in samples(tmp_path / "round").values()} == {"red-circle"}
    build(tmp_path / "alone", built.cache, kinds=["single"])
    assert samples(tmp_path / "alone").keys() == drawn
    with pytest.raises(DataError, match="kinds must be of .*single.*, got singel"):
        build(tmp_path / "wrong", built.cache, kinds=["singel"])
    with pytest.raises(DataError, match="none of 0 drawings"):
        build(tmp_path / "wrong", built.cache, concepts={"griffin": 1.0})


def test_training_keeps_two_drawings_of_every_concept(built: Built) -> None:
    left = Counter(s.meta["concept"] for s in iterate([built.out], split="train") if s.meta["kind"] == "single")
    drawn = Counter(s.meta["concept"] for s in iterate([built.out]) if s.meta["kind"] == "single")
    assert all(left[concept] >= min(2, count) for concept, count in drawn.items())
    assert samples(built.out).keys() - {s.key for s in iterate([built.out], split="train")}


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_processes(built: Built, tmp_path: Path) -> None:
    build(tmp_path / "two", built.cache, processes=2)
    for name in ("train-000000.tar", "val-000000.tar", "manifest.jsonl", "manifest.json", "NOTICE"):
        assert (built.out / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_notice_names_every_source_with_licence_and_author(built: Built, tmp_path: Path) -> None:
    text = corpus.notice(built.out / "manifest.jsonl")
    assert text == (built.out / "NOTICE").read_text()
    for words in ("noto (npm:@iconify-json/noto@1.2.9)", "Apache License 2.0", "noto people", "https://noto.example",
                  "Creative Commons Attribution 4.0", "Microsoft Corporation", "shapes (dalle-server)"):  # fmt: skip
        assert words in text
    lines = read(built.out)
    assert {line["source"] for line in lines} == {*VENDORS, "shapes"}
    assert all(line["licence"] and line["package"] for line in lines)
    with pytest.raises(DataError, match="absent"):
        corpus.notice(tmp_path / "absent")


def test_shards_are_not_overwritten(built: Built) -> None:
    with pytest.raises(DataError, match="must be an empty folder, but it holds shards"):
        build(built.out, built.cache)


def test_a_licence_that_is_not_allowed_stops_the_build(cache: Path, tmp_path: Path) -> None:
    folder = next(cache.glob("packages/*twemoji*/package"))
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(json.dumps(info | {"license": {"spdx": "CC-BY-SA-4.0"}}))
    with pytest.raises(DataError, match=r"twemoji: its licence must be one of .*, got 'CC-BY-SA-4\.0'"):
        build(tmp_path / "out", cache)
    assert not (tmp_path / "out").exists()


def test_share_alike_art_is_for_evaluation_only(cache: Path, tmp_path: Path) -> None:
    put(cache, emoji.ICONIFY, {"json/openmoji.json": icon_set("openmoji", "CC-BY-SA-4.0", 7)})
    with pytest.raises(DataError, match="source must be one of .*, got openmoji"):
        build(tmp_path / "no", cache, sources=["openmoji"], selection="full")
    summary = build(tmp_path / "out", cache, sources=None, selection="eval")
    assert summary.splits == {"eval": len(EMOJI)}
    assert summary.kinds == {"eval": len(EMOJI)}
    assert list(iterate([tmp_path / "out"], split="train")) == []
    assert "measure models; no weights are trained on them" in (tmp_path / "out" / "NOTICE").read_text()
    loop = LoopOptions(out=tmp_path / "run", steps=1, batch=1)
    with pytest.raises(DataError, match="none of its .* pictures has the split"):
        train_vae.train(VAEOptions((tmp_path / "out",), loop, preset="tiny", cache=tmp_path / "prepared"))


def test_a_missing_client_names_itself_and_the_source(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(DataError, match=r"source emojione: npm: not found .* npm:@iconify/json"):
        build(tmp_path / "asked", built.cache, sources=["noto", "emojione"])
    summary = build(tmp_path / "out", built.cache, sources=None)
    assert {"emojione", "noto-v1", "fxemoji", "flag"} <= set(summary.left_out)
    assert "emojione is left out: npm: not found" in caplog.text
    with pytest.raises(DataError, match="source noto: npm: not found"):
        build(tmp_path / "none", tmp_path / "empty", sources=None)


def test_packages_are_fetched_by_npm_and_say_their_own_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "made.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        data = json.dumps({"version": "1.2.3"}).encode()
        member = tarfile.TarInfo("package/package.json")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncp {archive} ./scope-name.tgz\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    package = Package("npm", "@scope/name", "1.2.3")
    assert fetch(package, tmp_path / "cache").version == "1.2.3"
    assert fetch(package, tmp_path / "cache").root.joinpath("package.json").exists()
    assert (tmp_path / "calls").read_text() == "pack --silent @scope/name@1.2.3\n"  # once
    with pytest.raises(DataError, match="states version 1.2.3"):
        fetch(Package("npm", "@scope/name", "1.2.4"), tmp_path / "cache")
    npm.write_text("#!/bin/sh\necho 'npm error 404 no such package' >&2\nexit 1\n")
    with pytest.raises(FetchError, match="404 no such package"):
        fetch(Package("npm", "other", "1"), tmp_path / "cache")


def test_icons_are_taken_by_nouns_that_can_be_drawn(cache: Path, tmp_path: Path) -> None:
    index = ["apple n 1 0 1 0 00000001", "car n 1 0 1 0 00000002", "idea n 1 0 1 0 00000003",
             "fire_engine n 1 0 1 0 00000002", "home n 1 0 1 0 00000002"]  # fmt: skip
    data = "  licence\n00000001 13 n x\n00000002 06 n x\n00000003 09 n x\n"
    put(cache, nouns.WORDNET, {"usr/share/wordnet/index.noun": ("  licence\n" + "\n".join(index) + "\n").encode(),
                               "usr/share/wordnet/data.noun": data.encode()})  # fmt: skip
    body = {"body": '<path fill="currentColor" d="M0 0h20v24H0z"/>'}
    wide = {"body": '<path fill="currentColor" d="M0 0h24v10H0z"/>'}
    sets = {f"json/{s.name}.json": {"info": icon_set("x", "MIT", 3)["info"], "icons": {}} for s in icons.RECOLOURED}
    sets["json/mdi.json"]["icons"] = {"apple-outline": body, "apple-off": wide, "idea": wide, "home": wide, "car": wide}
    put(cache, emoji.ICONIFY, sets)
    build(tmp_path / "out", cache, sources=["recoloured"], selection="full")
    found = samples(tmp_path / "out")
    assert {key for key in found if key.startswith("mdi")} == {"mdi-apple-outline", "mdi-car"}
    apple = found["mdi-apple-outline"]
    assert (apple.meta["kind"], apple.meta["concept"]) == ("recolour", "apple")
    colour = next(c for c in sorted(NAMED, key=len, reverse=True) if f" {c} apple" in apple.captions[0][1])
    assert tuple(apple.image[128, 128]) == NAMED[colour]


def test_clip_art_is_named_by_title_or_else_by_keyword() -> None:
    known = frozenset({"bear", "apple", "vacuum cleaner", "cleaner"})
    assert clipart.name_of("Vacuum_cleaner 02", [], known) == "vacuum cleaner"
    assert clipart.name_of("Red Apple (B and W)", [], known) == "red apple"
    assert clipart.name_of("Ours", ["hash", "bear"], known) == "bear"
    assert clipart.name_of("Orso - bear", ["animal"], known) == "bear"
    assert clipart.name_of("Switch_Cisco_4500", ["animal"], known | {"animal"}) is None


def test_faces_say_what_they_are_made_of() -> None:
    assert faces.describe({"hair": "long", "hairColor": "#28150a", "glasses": "dark02", "beard": "b1"}) == (
        "a person with black hair, glasses and a beard"
    )
    assert faces.describe({"head": "turban"}) == "a person with a turban"
    assert faces.describe({"hair": "bald", "hairColor": "#28150a"}) == "a person"


def test_ink_is_cropped_also_where_it_is_small_on_a_large_page() -> None:
    svg = ('<svg xmlns="http://www.w3.org/2000/svg" width="595pt" height="842pt">'
           '<rect x="300" y="500" width="40" height="20" fill="red"/></svg>')  # fmt: skip
    ink = render.ink_of_svg(svg)
    assert ink.width == 256
    assert 126 <= ink.height <= 132
    assert np.asarray(ink)[60, 128].tolist() == [255, 0, 0, 255]
    for broken in ("<svg", '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'):
        with pytest.raises(RenderError):
            render.ink_of_svg(broken)


def test_licences_in_other_spellings() -> None:
    assert check("CC0 1.0", "x") == "CC0-1.0"
    assert check("MIT", "x") == "MIT"
    for refused in ("", "GPL-3.0", "CC-BY-NC-4.0", "CC-BY-SA-4.0"):
        with pytest.raises(DataError, match="x: its licence"):
            check(refused, "x")
    assert check("CC-BY-SA-4.0", "x", evaluation=True) == "CC-BY-SA-4.0"
