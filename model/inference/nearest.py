"""What a model knows that is nearest to a prompt that its reviser does not understand.

    named("the dragon who guards an old castle", things)  # a dragon, which can be painted
    closest("portrait of Albert Einstein", things, "a thinking face")  # "a man", which is only told

Where nothing is near, nothing is told: a wrong hint is worse than none. Plain Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

from model.inference.asking import COLOURS, FUNCTION, attribute, code, content, digits, foreign, slip, wanted, whole
from model.inference.people import nearest_people
from model.things import WORD, Thing, Things, stem, stems

# What may stand behind the noun that a prompt is about; another noun makes it a part of a name: "a fire hydrant".
_BEHIND = """
    a an the and or of in on at to with by for from near under over above below behind beside between before after
    during into onto through across around against along among without within like as than but if because so while
    when where who whom whose which that is are was were be been being has have had can could will would should must
    may do does did says said looks look looking please now then here there again very not no it he she they we you i my
    your his her its our their me him them all too also only just up down off out away back next inside outside
    yesterday today tomorrow tonight every each
    able alone asleep full hidden lost made stuck ate came fell got ran sat saw stood took went eats hates likes loves
    runs sits sleeps wants
"""
_LIKE = ("colored", "coloured", "shaped", "flavored", "flavoured", "themed", "sized")  # "a rainbow coloured unicorn"
FOLLOWS = frozenset(_BEHIND.split())
_THAN = re.compile(r"(?i)(?:(?:more|less) )?\w+ than ")  # "a snail faster than a rocket"
_BEFORE_NOUNS = "a an the my your his her our their this that some many several"
_DETERMINERS = frozenset(_BEFORE_NOUNS.split())
_TOUCHED = frozenset(("animal", "food", "clothes"))  # groups whose texts name few ideas
_FEW = 3  # words of a prompt, among which one may be a slip
_BEFORE_VERBS = "to i you we they he she can will would could should must let's please who"
_VERB = frozenset(_BEFORE_VERBS.split())  # what stands behind it may be no noun: "to fish"


def named(prompt: str, things: Things) -> Thing | None:
    """The first thing that a prompt is about by its own words, for a reviser that has not understood the prompt.

    Its whole name must stand there, as a noun and not within a longer one: "a tractor" in "my uncle bought a tractor
    yesterday". None for none, in another language, or in a piece of code.
    """
    text = wanted(prompt, things)
    asked = content(text)
    accented = any(not word.isascii() and not things.knows(word) for word in asked)  # "éléphant rose" is no rose
    if code(prompt) or foreign(prompt, things) or accented:
        return None
    return next((thing for thing, _, alone in names(text, things) if alone), None)


def meant(prompt: str, things: Things) -> Thing | None:
    """The first thing that a prompt means by a noun of what can be touched: a cat in "my uncle bought a kitten".

    The noun is a text that the thing was taught for, behind an article, a number or a colour: a couch in "two sofas".
    In a sentence it may be an idea, so there it means an animal, food or clothes. As in `named`.
    """
    text = wanted(prompt, things)
    if code(prompt) or foreign(prompt, things):
        return None
    words = list(WORD.finditer(text))
    tells = [(told := word[0].lower()) in _DETERMINERS or attribute(digits(stem(told))) for word in words]
    for start in range(1, len(words)):
        if not tells[start - 1]:
            continue
        for end in range(min(len(words), start + 3), start, -1):
            groups = None if all(tells[:start]) and end == len(words) else _TOUCHED
            thing = things.meant_by(text[words[start].start() : words[end - 1].end()], groups)
            if thing and _ends(text, words[end - 1 : end + 1]):
                return thing
    return None


def closest(prompt: str, things: Things, unknown: str) -> str:
    """The name of the thing that is worth telling for a prompt that the model does not know; "" for none.

    It is a thing that the prompt names somewhere, a person where it names one, a thing that was taught for most of its
    words, or one that is spelled like one of its few words. unknown: the caption of unknown words, which is never near.
    """
    near = _candidates(prompt, things, unknown)
    return next((name for name in near if name != unknown and things.find(name)), "")


def _candidates(prompt: str, things: Things, unknown: str) -> Iterator[str]:
    text = wanted(prompt, things)
    asked = content(text)
    if not asked or code(prompt) or foreign(prompt, things):
        return
    yield from (thing.name for thing, _, _ in names(text, things))
    yield from nearest_people(asked)
    if text == whole(prompt):
        yield _taught(asked, things, unknown)
        if len(asked) <= _FEW:
            yield _spelled_like(asked, things)


def names(text: str, things: Things) -> Iterator[tuple[Thing, bool, bool]]:
    """The things that a text names in whole, in its order: (thing, whether it is a noun, and one that stands alone).

    Of two that follow each other the second is the noun, "a turkey sandwich", but behind a plural: "penguins fly".
    """
    words = list(WORD.finditer(text))
    start = 0
    while start < len(words):
        if found := _name_at(start, words, text, things):
            thing, end = found
            before = words[start - 1] if start and _apart(text, words[start - 1 : start + 1]) else None
            like = any(word[0].lower().endswith(_LIKE) for word in words[end : end + 1])
            next_one = _apart(text, words[end - 1 : end + 1]) and _name_at(end, words, text, things)
            many = stem(words[end - 1][0]) != words[end - 1][0].lower()
            noun = _begins(words[start], before) and not like and (many or not next_one)
            yield thing, noun, noun and (bool(next_one) or _ends(text, words[end - 1 : end + 1]))
            start = end - 1
        start += 1


def modifiers(thing: Thing, text: str) -> set[str]:
    """The words before a thing that a text names, back to one that only joins: {"cardboard"} in "a cardboard house"."""
    words, name = stems(text), stems(thing.bare)
    at = (i for i in range(len(words)) if words[i : i + len(name)] == name)
    start = next(at, words.index(name[-1]))  # "apple" names a red one
    joins = (FOLLOWS | FUNCTION) - {"colored"}  # "a rainbow colored horse"
    return set(takewhile(lambda word: word not in joins, reversed(words[:start])))


def _name_at(start: int, words: Sequence[re.Match[str]], text: str, things: Things) -> tuple[Thing, int] | None:
    """The thing that a text names from one of its words on, by the longest name; and the word behind it."""
    for end in range(min(len(words), start + 6), start, -1):
        name = text[words[start].start() : words[end - 1].end()]
        thing = things.find(name) or things.of_any_colour(name, COLOURS)
        if thing and _is_name(name, thing):
            return thing, end
    return None


def _is_name(name: str, thing: Thing) -> bool:
    """Whether these words name the thing: a glass is no "glasses", and a colour no thing."""
    plural_only = stem(thing.bare) != thing.bare
    return not all(map(attribute, stems(name))) and (not plural_only or name.lower() == thing.bare)


def _begins(word: re.Match[str], before: re.Match[str] | None) -> bool:
    """Whether a noun begins with this word. before: the word before it, if nothing but blanks stands between them."""
    if before is None:
        return True
    told = before[0].lower()
    adjective = told in FUNCTION or attribute(digits(told))  # "Two Dogs"
    name = word[0].istitle() and before[0][0].isupper() and not adjective  # "Tiger Woods"
    return told not in _VERB and not name


def _apart(text: str, pair: Sequence[re.Match[str]]) -> bool:
    """Whether nothing but blanks stands between two words of a text. False for a last word alone."""
    return len(pair) == 2 and text[pair[0].end() : pair[1].start()].isspace()


def _ends(text: str, pair: Sequence[re.Match[str]]) -> bool:
    """Whether a noun ends with the first of two words that follow each other in a text, or with its only one."""
    if len(pair) < 2:
        return not text[pair[0].end() :].strip(" .,;:!?'\")-…")
    between, behind = text[pair[0].end() : pair[1].start()], pair[1][0].lower()
    if not between.isspace():
        return between.lstrip().startswith((",", ".", ";", ":", "!", "?", ")", "-", "–", "—", '"')) and " " in between
    follows = behind in FOLLOWS or stem(behind) in FUNCTION or behind.endswith(("ing", "ed"))
    return follows or bool(_THAN.match(text, pair[1].start()))


def _taught(asked: Sequence[str], things: Things, unknown: str) -> str:
    """The name of the thing that was taught for most of the words, if these are more than half of them."""
    most, name = 0, ""
    for thing, called, texts in things.stems:
        if thing.name == unknown:
            continue
        for text in (called, *texts):
            words = {digits(word) for word in text - FUNCTION}
            if (
                len(words) > most
                and 2 * len(words) > len(asked)
                and words.issubset(asked)
                and not all(map(attribute, words))
            ):
                most, name = len(words), thing.name
    return name


def _spelled_like(asked: Sequence[str], things: Things) -> str:
    """The name of the thing of one word from which a word of the prompt differs by a slip; "" for none."""
    single = {words[0]: thing.name for thing in reversed(things.things) if len(words := content(thing.name)) == 1}
    for word in asked:
        if things.knows(word):
            continue
        for name, full in single.items():
            heard, meant = word.replace("ph", "f"), name.replace("ph", "f")
            if min(len(word), len(name)) > 4 and (_single(heard) == _single(meant) or slip(heard, meant)):
                return full
    return ""


def _single(word: str) -> str:
    """A word without its double letters: "girrafe" and "giraffe" are alike."""
    return re.sub(r"(.)\1", r"\1", word)
