"""DiceBear's portraits: faces composed of parts. Captions name the parts.

The generator is a JavaScript library. A script in this module calls it, and `node` runs the script. It draws the first
faces of each style and prints them with their parts. Only styles whose design is CC0 or CC BY are used.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.drawings.compose import Drawing
from model.drawings.concepts import Concept, Name

from .licences import check
from .packages import FetchError, Package
from .source import Packages, Source

VERSION = "9.4.3"
CORE = Package("npm", "@dicebear/core", VERSION)
FACES = 150  # of each style

# Style -> how its captions begin. All are drawn head and shoulders unless "face".
STYLES = {
    "pixel-art": "pixel art portrait",
    "open-peeps": "hand-drawn portrait",
    "lorelei": "black and white portrait",
    "notionists": "black and white cartoon portrait",
    "big-smile": "cartoon face",
    "micah": "cartoon portrait",
    "personas": "cartoon portrait",
}
PACKAGES = {style: Package("npm", f"@dicebear/{style}", VERSION) for style in STYLES}

_SCRIPT = """
import { createAvatar } from '@dicebear/core';
const [styles, count] = [process.argv[2].split(','), Number(process.argv[3])];
for (const name of styles) {
  const style = await import('@dicebear/' + name);
  for (let seed = 0; seed < count; seed++) {
    const { svg, extra } = createAvatar(style, { seed: name + seed }).toJson();
    console.log(JSON.stringify({ name, seed, svg, extra, meta: style.meta }));
  }
}
"""

_HAIR = (("black", (40, 20, 15)), ("brown", (110, 70, 45)), ("blonde", (225, 185, 110)), ("red", (190, 80, 40)))


def _hair(colour: str) -> str:
    """The name of a hair colour "#rrggbb". "" for a colour that hair does not have."""
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
        return ""
    rgb = tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
    if max(rgb) - min(rgb) < 25:
        return "black" if max(rgb) < 80 else "gray" if max(rgb) < 220 else "white"
    name, nearest = min(_HAIR, key=lambda known: math.dist(rgb, known[1]))
    return name if math.dist(rgb, nearest) < 55 else ""


_WORN = {"turban": "a turban", "hijab": "a headscarf", "beanie": "a beanie", "cap": "a cap"}


def describe(parts: dict[str, Any]) -> str:
    """ "a person with black hair, glasses and a beard", from the parts that a face was made of."""
    what = []
    head = str(parts.get("head", parts.get("hair", parts.get("top", ""))))
    bald = re.match(r"bald|noHair|shaved|none|mrClean", head) is not None
    worn = re.search(r"hat|cap\b|beanie|turban|hijab", head, re.IGNORECASE)
    hat = "a hat" if "hat" in parts else _WORN.get(worn[0].lower(), "a hat") if worn else ""
    if not bald and not hat and "hair" in parts and (hair := _hair(str(parts.get("hairColor", "")))):
        what.append(f"{hair} hair")
    if "glasses" in parts or "glasses" in str(parts.get("accessories", "")).lower():
        what.append("glasses")
    if hat:
        what.append(hat)
    if parts.get("beard") or parts.get("facialHair") or "beard" in head.lower():
        what.append("a beard")
    if "earrings" in parts:
        what.append("earrings")
    if not what:
        return "a person"
    return "a person with " + " and ".join(filter(None, [", ".join(what[:-1]), what[-1]]))


def _generate(packages: Packages, count: int) -> list[dict[str, Any]]:
    node = shutil.which("node")
    if node is None:
        raise FetchError("node: not found on this machine; it is needed to draw the faces of @dicebear/core")
    with tempfile.TemporaryDirectory() as folder:
        modules = Path(folder) / "node_modules" / "@dicebear"
        modules.mkdir(parents=True)
        for package in (CORE, *PACKAGES.values()):
            (modules / package.name.removeprefix("@dicebear/")).symlink_to(packages[package.name].root.resolve())
        script = Path(folder) / "faces.mjs"
        script.write_text(_SCRIPT)
        command = [node, "--preserve-symlinks", str(script), ",".join(STYLES), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise FetchError(f"node: cannot draw the faces: {done.stderr.strip().splitlines()[-1:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _read(packages: Packages, count: int = FACES) -> Iterator[Drawing]:
    for face in _generate(packages, count):
        style, meta, seed = face["name"], face["meta"], face["seed"]
        person = describe(face["extra"])
        portrait = f"{STYLES[style]} of {person}"
        concept = Concept(
            f"portrait-{style}",
            (Name(portrait, "a"), Name(person.removeprefix("a "), "a")),
            (Name(STYLES[style], "a"), Name("portrait", "a")),
            "portrait",
        )
        yield Drawing(
            key=f"dicebear-{style}-{seed:04d}",
            source=f"dicebear-{style}",
            package=str(packages[PACKAGES[style].name]),
            licence=check(meta["license"]["name"], f"dicebear {style}"),
            author=meta.get("creator", ""),
            url=meta.get("source", ""),
            style="portrait",
            concept=concept,
            art=face["svg"],
        )


SOURCES = (Source("dicebear", (CORE, *PACKAGES.values()), _read),)
