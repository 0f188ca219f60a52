"""What is fit to train on: the rules of Ramesh et al. 2021 (2102.12092, appendix C) as pure functions, and their count.

    refuse = Filter()
    for sample in iterate(paths, refine=refuse): ...
    refuse.report()  # {"passed": 7410, "caption not English": 3, ...}

A rule judges a text, a size or a picture and knows nothing else. The paper names captions that are short, not English
or boilerplate, and aspect ratios outside [1/2, 2]; duplicates, tiny pictures and endless texts are ours to add.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt

from model.errors import DataError
from model.training.data import Captions, Sample
from model.training.duplicates import Seen

_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_DATE = rf"(\d{{1,4}}[-/. ]\d{{1,2}}[-/. ]\d{{1,4}}|(\d{{1,2}}\s+)?({_MONTHS})\s+(\d{{1,2}},?\s+)?\d{{2,4}})"
_BOILERPLATE = re.compile(
    rf"((photo(graph(ed)?)?|image|picture)?\s*(taken|created|uploaded)?\s+(on|at|from)\s+(the\s+)?)?{_DATE}\.?"
    r"|(img|dsc|dscn|dscf|image|photo|picture|untitled|screenshot|thumbnail|file)[-_ ]*\d*(\.(jpe?g|png|webp|gif))?"
    r"|(click|tap) (here )?to (enlarge|view|zoom)|image not available|https?://\S+",
    re.IGNORECASE,
)


def long_enough(text: str, letters: int = 3) -> bool:
    """The caption has at least `letters` letters: "a cat" has four."""
    return sum(character.isalpha() for character in text) >= letters


def not_boilerplate(text: str) -> bool:
    """The caption says something of its own: not a date, a camera's file name, a link or a web page's stock phrase."""
    return _BOILERPLATE.fullmatch(" ".join(text.split())) is None


@lru_cache(maxsize=1)
def _rank() -> Callable[[str], list[tuple[str, float]]]:
    """text -> (language, probability), most likely first. The model is loaded once a process (1 s)."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError("telling languages apart needs py3langid: install the train extra") from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return cast(Callable[[str], list[tuple[str, float]]], identifier.rank)


def _latin(character: str) -> bool:
    return unicodedata.name(character, "").startswith("LATIN")


@lru_cache(maxsize=65536)
def english(text: str, least: float = 0.002) -> bool:
    """The caption looks English: Latin letters for the most part, and nothing that tells of another language.

    Two words say little about a language ("a taco"), so the question is not whether English is the best guess but
    whether it can be ruled out: its probability by py3langid (langid.py, Lui & Baldwin 2012) is below `least`.
    """
    letters = [] if text.isascii() else [character for character in text if character.isalpha()]
    if 2 * sum(map(_latin, letters)) < len(letters):
        return False
    if len(text.split()) < 3:
        return True
    return bool(dict(_rank()(text.lower())).get("en", 0.0) >= least)


def good_aspect(width: int, height: int, most: float = 2.0) -> bool:
    """Width over height lies in [1 / most, most]."""
    return width <= most * height and height <= most * width


def big_enough(width: int, height: int, least: int = 64) -> bool:
    """The shorter side has at least `least` pixels."""
    return min(width, height) >= least


def not_blank(image: npt.NDArray[np.uint8]) -> bool:
    """(h, w, 3) has more than one shade: some channel's values lie 8 or more of 255 apart."""
    return int(np.ptp(image, axis=(0, 1)).max()) >= 8


@dataclass(frozen=True)
class Rules:
    """Where the lines are drawn."""

    english: bool = True  # captions in other languages are refused
    letters: int = 3  # the fewest of a caption
    characters: int = 2000  # the most of a caption; the model reads 256 tokens, some 1000 characters
    least_side: int = 64  # pixels
    most_aspect: float = 2.0  # of the longer side to the shorter
    near: bool = True  # pictures that look like an earlier one are refused too, not only equal ones

    def size(self, width: int, height: int) -> str:
        """Why a picture of this size is refused, or ""."""
        if not big_enough(width, height, least=self.least_side):
            return f"smaller than {self.least_side} pixels"
        return (
            "" if good_aspect(width, height, most=self.most_aspect) else f"aspect ratio outside 1:{self.most_aspect:g}"
        )


RULES = Rules()


def fit_captions(captions: Captions, rules: Rules = RULES) -> tuple[Captions, str]:
    """The captions that break no rule; and where none is left, the rule that took the last, else ""."""
    if not captions:
        return [], "no caption"
    tests: list[tuple[Callable[[str], bool], str]] = [
        (lambda text: long_enough(text, rules.letters), "caption too short"),
        (lambda text: len(text) <= rules.characters, "caption too long"),
        (not_boilerplate, "caption is boilerplate"),
        (lambda text: not rules.english or english(text), "caption not English"),
    ]
    for passes, reason in tests:
        captions = [(weight, text) for weight, text in captions if passes(text)]
        if not captions:
            return [], reason
    return captions, ""


class Filter:
    """Judges samples one after another; counts how many each rule refused. A duplicate is refused from its second on.

    A caption that breaks a rule is taken from its sample; a sample with no caption left is refused for the rule that
    took the last. captions=False is for training on pictures alone (the VAE): a sample keeps all captions and may have
    none, but what has a fit one is a duplicate only of what has one too, so that no caption is lost. A picture that
    was made smaller or square on its way must pass with its first size too, where "original_width" and
    "original_height" (of img2dataset) tell it. refused: told of each sample that is, and why.
    """

    def __init__(
        self,
        captions: bool = True,
        rules: Rules = RULES,
        refused: Callable[[Sample, str], None] = lambda _sample, _reason: None,
    ) -> None:
        self.captions = captions
        self.rules = rules
        self._refused = refused
        self.counts: Counter[str] = Counter()
        self._seen = Seen(rules.near)
        self._bare = Seen(rules.near)  # without a caption that is fit

    def __call__(self, sample: Sample) -> Sample | None:
        """The sample with the captions that pass, or None."""
        kept, reason = self._judge(sample)
        self.counts[reason or "passed"] += 1
        if reason:
            self._refused(sample, reason)
        return kept

    def _judge(self, sample: Sample) -> tuple[Sample | None, str]:
        if reason := fit_size(sample, self.rules):
            return None, reason
        captions, without = fit_captions(sample.captions, self.rules)
        if self.captions and without:
            return None, without
        if not not_blank(sample.image):
            return None, "blank picture"
        if reason := self._seen(sample.image, remember=not without) or (self._bare(sample.image) if without else ""):
            return None, reason
        return replace(sample, captions=captions) if self.captions else sample, ""

    def report(self) -> dict[str, int]:
        """How many passed, and how many each rule refused, most first."""
        return {"passed": self.counts["passed"]} | {
            reason: count for reason, count in self.counts.most_common() if reason != "passed"
        }


def fit_size(sample: Sample, rules: Rules = RULES) -> str:
    """Why the picture's size is refused, or "": its own, or the one it had before it was made smaller or square."""
    first = sample.meta.get("original_width"), sample.meta.get("original_height")
    width, height = (side if isinstance(side, int) and side < 1 << 32 else 0 for side in first)
    return (rules.size(width, height) if width > 0 and height > 0 else "") or rules.size(*sample.size)
