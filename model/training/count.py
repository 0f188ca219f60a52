"""A dry run: what index files and pictures hold, and what the filters leave of them. Counts, and writes nothing.

The same readers, join and rules as in training, one after another, so training on these paths takes what passes here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from model.errors import DataError
from model.training.data import Report, Sample, iterate
from model.training.filters import Filter, Rules
from model.training.published.store import CaptionStore, FileReport, parted


@dataclass
class Counts:
    """What was found. Every row and every picture stands in exactly one place of its section."""

    files: dict[str, FileReport] = field(default_factory=dict)  # by path
    pictures: Report | None = None  # None where no pictures were named
    joined: int = 0  # pictures that got the captions of an index row
    refused: dict[str, int] = field(default_factory=dict)  # pictures that break a rule: reason -> how many
    passed: int = 0  # pictures to train the transformer on

    def to_dict(self) -> dict[str, Any]:
        """For JSON: {"files": {path: {...}}, "pictures": {...}}."""
        files = {
            path: {
                "layout": report.layout,
                "rows": report.rows,
                "broken": dict(report.broken),
                "refused": report.refused,
                "passed": report.passed,
                **({"cut_short": report.cut_short} if report.cut_short else {}),
            }
            for path, report in self.files.items()
        }
        found: dict[str, Any] = {"files": files}
        if self.pictures:
            found["pictures"] = {
                "found": self.pictures.read + self.pictures.undecodable,
                "corrupt": dict(self.pictures.corrupt),
                "joined": self.joined,
                "refused": self.refused,
                "passed": self.passed,
            }
        return found


def count(paths: Sequence[Path], rules: Rules) -> Counts:
    """Read all that `paths` name: index files, and folders and tars of pictures.

    Raises DataError for a path that is neither, or where there is nothing at all.
    """
    if not paths:
        raise DataError("no data: name index files, folders or tars")
    counts = Counts()
    pictures, files = parted(paths)
    with tempfile.TemporaryDirectory(prefix="dalle-server-") as folder:
        store = CaptionStore.build(files, Path(folder) / "captions.sqlite", rules, counts.files)
        if pictures:
            judge, counts.pictures = Filter(rules=rules), Report()

            def refine(sample: Sample) -> Sample | None:
                if files:
                    sample, found = store.join(sample)
                    counts.joined += found
                return judge(sample)

            samples = iterate(pictures, refine=refine, report=counts.pictures)
            for _ in track(samples, "reading pictures", total=None, console=Console(stderr=True)):
                counts.passed += 1
            counts.refused = {reason: number for reason, number in judge.counts.most_common() if reason != "passed"}
        store.close()
    return counts
