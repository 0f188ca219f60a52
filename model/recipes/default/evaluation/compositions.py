"""Stage 2: backgrounds, counts and pairs of things, measured by pixels and by the judge on each half.

The corpus's own compositions are scored by the same code, to show how good the measure itself is. Half of the prompts
for backgrounds and pairs are combinations that training saw, and half are new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random

import numpy as np
from PIL import Image

from model.drawings.captions import NUMBERS, of_background, of_count, of_pair
from model.drawings.colours import COLOURS
from model.drawings.concepts import Name
from model.recipes.default.evaluation import ink
from model.recipes.default.evaluation.context import Context
from model.recipes.default.evaluation.drawings import Line, Thing
from model.recipes.default.evaluation.findings import REAL, SHUFFLED, Findings, NotMeasured, Section
from model.training.estimates import proportion

BACKGROUNDS = tuple(name for name in COLOURS if name != "white")
CONTRAST, CONTRAST_SHARE = 60.0, 0.75  # the same contrast that the corpus's own backgrounds need
SOLID = 0.8  # share of a thing's real drawings that must be one piece, so that pieces can be counted
PRESENT = 100  # a thing is present when it is among the nearest 1/100 of the things: the five nearest of 500
SHOWN = 40


@dataclass(frozen=True)
class OnBackground:
    """A thing, by its number, on or in a named colour. seen: whether training saw this; None if that is not known."""

    prompt: str
    thing: int
    colour: str
    seen: bool | None = None


@dataclass(frozen=True)
class Paired:
    """Two things, by their numbers. relation: "left" or "above" if the first is so, or "beside" without an order."""

    prompt: str
    first: int
    second: int
    relation: str
    seen: bool | None = None


def split(findings: Findings, name: str, shown: Sequence[bool | None], hits: Sequence[bool]) -> None:
    """Add the trials of combinations that training saw, and those of new ones. `report.merge` pools them."""
    for key, seen in ((f"seen_{name}", True), (f"unseen_{name}", False)):
        trials = [hit for was_shown, hit in zip(shown, hits, strict=True) if was_shown is seen]
        if trials:
            findings.trials[key] = trials
            findings.figures[key] = proportion(trials)
        else:
            findings.reasons[key] = f"training saw {'none' if seen else 'all'} of the {name} in the prompts"


def _composed(context: Context, kind: str) -> list[int]:
    """Countable tested things. If the corpus has compositions of this kind, only the things in these."""
    shown = context.drawings.composed(kind)
    return [i for i, t in enumerate(context.tested) if t.countable and (not shown or shown.intersection(t.slugs))]


# Backgrounds.


def _stands_out(thing: Thing, colour: str) -> bool:
    """Whether the ink of its first drawing differs enough from the colour."""
    picture = thing.drawings[0].picture()
    inked = np.asarray(picture, dtype=np.float32)[ink.ink(picture)]
    far = np.linalg.norm(inked - np.array(COLOURS[colour]), axis=-1) >= CONTRAST
    return bool(len(far)) and float(far.mean()) >= CONTRAST_SHARE


def background_tasks(context: Context) -> list[OnBackground]:
    """At most `options.compositions` prompts of tested things on colours. Training saw half of them."""
    random, number = context.random("backgrounds"), context.options.compositions
    shown = {task[:2] for line in context.drawings.shown("background") if (task := _grounded(context, line))}
    tested = set(range(len(context.tested)))
    seen = sorted(pair for pair in shown if pair[0] in tested)
    random.shuffle(seen)
    tasks = [OnBackground(_on(context.things[i].name, colour), i, colour, True) for i, colour in seen[: number // 2]]
    unseen = [(i, colour) for i in sorted(tested) for colour in BACKGROUNDS if (i, colour) not in shown]
    random.shuffle(unseen)
    for i, colour in unseen:
        if len(tasks) == number:
            break
        if _stands_out(context.things[i], colour):
            tasks.append(OnBackground(_on(context.things[i].name, colour), i, colour, False))
    return tasks


def _on(name: Name, colour: str) -> str:
    return of_background(name, colour)[0][1]


def _grounded(context: Context, line: Line) -> tuple[int, str] | None:
    """(thing, colour) of a background of the corpus. None if the judge does not know its thing."""
    number = context.number.get(line.concept)
    if number is None:
        return None
    name = context.things[number].name
    return next(((number, colour) for colour in BACKGROUNDS if _on(name, colour) == line.caption), None)


def _present(context: Context) -> int:
    """The largest rank at which a thing counts as present."""
    return max(1, len(context.things) // PRESENT)


def on_background(
    context: Context,
    pictures: Sequence[Image.Image],
    tasks: Sequence[OnBackground],
    colour_of: Callable[[Image.Image], str | None] = ink.background,
) -> tuple[list[bool], list[bool]]:
    """For each picture two answers: whether the colour is right, and whether the thing is present, too."""
    right = [colour_of(picture) == task.colour for picture, task in zip(pictures, tasks, strict=True)]
    ranks = context.ranks(pictures, [task.thing for task in tasks])
    return right, [hit and rank <= _present(context) for hit, rank in zip(right, ranks.tolist(), strict=True)]


def background(context: Context) -> Findings:
    """background: how often the frame has the prompt's colour. background_both: how often the thing is present, too."""
    tasks = background_tasks(context)
    if len(tasks) < 2:
        raise NotMeasured("no thing stands out from two colours")
    pictures = [row[0] for row in context.paint([task.prompt for task in tasks])]
    right, both = on_background(context, pictures, tasks)
    findings = Findings(figures={"background": proportion(right), "background_both": proportion(both)})
    split(findings, "backgrounds", [task.seen for task in tasks], both)
    others = [tasks[i] for i in context.others("backgrounds", len(tasks))]
    right_by_chance, both_by_chance = on_background(context, pictures, others)
    findings.baseline(SHUFFLED, background=proportion(right_by_chance), background_both=proportion(both_by_chance))
    real = [(line, task) for line in context.drawings.of("background") if (task := _grounded(context, line))]
    real = context.sample("real backgrounds", real, context.options.compositions)
    if real:
        right_real, both_real = on_background(
            context, [line.picture() for line, _ in real], [OnBackground(line.caption, *task) for line, task in real]
        )
        findings.baseline(REAL, background=proportion(right_real), background_both=proportion(both_real))
    captions = [
        f"{task.prompt}: {'right' if hit else ink.background(picture) or 'no plain background'}"
        for task, hit, picture in zip(tasks, right, pictures, strict=True)
    ]
    findings.sections.append(section(context, "Backgrounds: the colour of the frame", pictures, captions))
    return findings


def section(context: Context, title: str, pictures: Sequence[Image.Image], captions: Sequence[str]) -> Section:
    """A section of the report with some of the pictures."""
    shown = context.sample(title, list(zip(pictures, captions, strict=True)), SHOWN)
    return Section(title, [picture for picture, _ in shown], [caption for _, caption in shown])


# Counts.


def _solid(context: Context, random: Random) -> Iterator[int]:
    """Tested things whose drawings are one piece, in random order. See `_composed`."""
    numbers = _composed(context, "count")
    random.shuffle(numbers)
    for i in numbers:
        single = [ink.count(line.picture()) == 1 for line in context.things[i].drawings]
        if sum(single) >= SOLID * len(single):
            yield i


def _counted(name: Name, number: int) -> str:
    return of_count(name, number)[0][1] if number > 1 else f"one {name.text}"


def _number(line: Line) -> int | None:
    """The number of things on a count of the corpus, from its caption."""
    word = line.caption.split(" ")[0]
    return next((number for number, name in NUMBERS.items() if name == word), None)


def counts(context: Context) -> Findings:
    """counts: how often the number of pieces is the number in the prompt, one to five."""
    random, number = context.random("counts"), context.options.compositions
    wanted = -(-number // len(NUMBERS))
    solid = [i for i, _ in zip(_solid(context, random), range(wanted), strict=False)]
    if not solid:
        raise NotMeasured("no thing can be counted: none has drawings that are one piece")
    tasks = [(i, n) for i in solid for n in NUMBERS][:number]
    prompts = [_counted(context.things[i].name, n) for i, n in tasks]
    pictures = [row[0] for row in context.paint(prompts)]
    found = [ink.count(picture) for picture in pictures]
    findings = Findings(figures={"counts": proportion([n == seen for (_, n), seen in zip(tasks, found, strict=True)])})
    for n, word in NUMBERS.items():
        trials = [n == seen for (_, asked), seen in zip(tasks, found, strict=True) if asked == n]
        if trials:
            findings.figures[f"counts_{word}"] = proportion(trials)
    shuffled = [tasks[i][1] for i in context.others("counts", len(tasks))]
    findings.baseline(SHUFFLED, counts=proportion([n == seen for n, seen in zip(shuffled, found, strict=True)]))
    slugs = {slug for i in solid for slug in context.things[i].slugs}
    real = [(line, of) for line in context.drawings.of("count") if line.concept in slugs and (of := _number(line))]
    real = context.sample("real counts", real, number)
    if real:
        findings.baseline(REAL, counts=proportion([ink.count(line.picture()) == n for line, n in real]))
    captions = [f"{prompt}: {seen}" for prompt, seen in zip(prompts, found, strict=True)]
    findings.sections.append(section(context, "Counts: pieces on the background", pictures, captions))
    return findings


# Pairs.

# relation -> its texts; {a} is left of or above {b}.
RELATIONS: dict[str, tuple[str, ...]] = {
    "beside": ("{a} and {b}",),
    "left": ("{a} to the left of {b}", "{b} to the right of {a}"),
    "above": ("{a} above {b}", "{b} below {a}"),
}
TURNS = ("left", "above", "left", "beside")  # relations of the prompts, in turn


def _ask(context: Context, random: Random, first: int, second: int, relation: str, seen: bool) -> Paired:
    text = random.choice(RELATIONS[relation])
    names = context.things[first].name.full, context.things[second].name.full
    return Paired(text.format(a=names[0], b=names[1]), first, second, relation, seen)


def _paired(context: Context, line: Line) -> tuple[int, int, bool] | None:
    """(first, second, above) of a pair of the corpus. None if the judge does not know one of its things."""
    numbers = [context.number.get(slug) for slug in line.concept.split("+")]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        return None
    names = context.things[numbers[0]].name, context.things[numbers[1]].name
    return numbers[0], numbers[1], line.caption == of_pair(*names, above=True)[0][1]


def _pair_tasks(context: Context) -> list[Paired]:
    random, number = context.random("pairs"), context.options.compositions
    tested = len(context.tested)
    shown = [task for line in context.drawings.shown("pair") if (task := _paired(context, line))]
    known = {frozenset(task[:2]) for task in shown}
    seen = [task for task in shown if max(task[:2]) < tested]
    random.shuffle(seen)
    tasks = []
    sides = cycle(relation for relation in TURNS if relation != "above")
    for first, second, above in seen[: number // 2]:
        tasks.append(_ask(context, random, first, second, "above" if above else next(sides), True))
    turns = cycle(TURNS)
    things = _composed(context, "pair")
    for _ in range(20 * number if len(things) > 1 else 0):
        if len(tasks) == number:
            break
        first, second = random.sample(things, 2)
        if frozenset((first, second)) not in known:
            known.add(frozenset((first, second)))
            tasks.append(_ask(context, random, first, second, next(turns), False))
    return tasks


@dataclass(frozen=True)
class _Seen:
    """What the judge sees of a pair. It looks at the two halves that fit the two things best.

    both: whether each thing is present in a half. relation: of the halves. in_order: whether the first thing is in the
    first half.
    """

    both: bool
    relation: str
    in_order: bool


def _see_pairs(context: Context, pictures: Sequence[Image.Image], tasks: Sequence[Paired]) -> list[_Seen]:
    """What the judge sees of each picture.

    A picture is cut into left and right halves, and into upper and lower ones. Of these cuts, and of both orders of the
    things, the one with the largest similarity between halves and things counts.
    """
    cuts = [(at, above, ink.halves(picture, above)) for at, picture in enumerate(pictures) for above in (False, True)]
    halves = [(at, above, half) for at, above, found in cuts if found for half in found]
    readings: list[tuple[float, _Seen]] = [(-np.inf, _Seen(False, "beside", False)) for _ in tasks]
    if halves:
        similar = context.prototypes.similarities(context.look([half for *_, half in halves]))
    for i in range(0, len(halves), 2):
        at, above, _ = halves[i]
        task = tasks[at]
        for first, second, in_order in ((i, i + 1, True), (i + 1, i, False)):
            score = float(similar[first, task.first] + similar[second, task.second])
            if score > readings[at][0]:
                ranks = [
                    int((similar[half] > similar[half, thing]).sum()) + 1
                    for half, thing in ((first, task.first), (second, task.second))
                ]
                seen = _Seen(max(ranks) <= _present(context), "above" if above else "left", in_order)
                readings[at] = (score, seen)
    return [seen for _, seen in readings]


def _relations(seen: Sequence[_Seen], tasks: Sequence[Paired], relation: str) -> list[bool]:
    """Whether the relation is right, for each pair with this relation whose things are both present."""
    return [
        found.relation == relation and found.in_order
        for found, task in zip(seen, tasks, strict=True)
        if task.relation == relation and found.both
    ]


def pairs(context: Context) -> Findings:
    """both_objects: how often both things are present. left_right, above_below: how often their order is then right."""
    tasks = _pair_tasks(context)
    if len(tasks) < 2:
        raise NotMeasured("there are fewer than two pairs of things to ask for")
    pictures = [row[0] for row in context.paint([task.prompt for task in tasks])]
    seen = _see_pairs(context, pictures, tasks)
    both = [found.both for found in seen]
    findings = Findings(figures={"both_objects": proportion(both)})
    for name, relation in (("left_right", "left"), ("above_below", "above")):
        if trials := _relations(seen, tasks, relation):
            findings.figures[name] = proportion(trials)
        else:
            findings.reasons[name] = (
                f"no picture of {sum(task.relation == relation for task in tasks)} shows both things"
            )
    split(findings, "objects", [task.seen for task in tasks], both)
    by_chance = _see_pairs(context, pictures, [tasks[i] for i in context.others("pairs", len(tasks))])
    findings.baseline(SHUFFLED, both_objects=proportion([found.both for found in by_chance]))
    _real_pairs(context, findings)
    captions = [f"{task.prompt}: {'both' if hit else 'not both'}" for task, hit in zip(tasks, both, strict=True)]
    findings.sections.append(section(context, "Pairs: the judge on each half", pictures, captions))
    return findings


def _real_pairs(context: Context, findings: Findings) -> None:
    real = [(line, task) for line in context.drawings.of("pair") if (task := _paired(context, line))]
    real = context.sample("real pairs", real, context.options.compositions)
    if not real:
        return
    tasks = [Paired(line.caption, a, b, "above" if above else "left") for line, (a, b, above) in real]
    seen = _see_pairs(context, [line.picture() for line, _ in real], tasks)
    findings.baseline(REAL, both_objects=proportion([found.both for found in seen]))
    for name, relation in (("left_right", "left"), ("above_below", "above")):
        if trials := _relations(seen, tasks, relation):
            findings.baseline(REAL, **{name: proportion(trials)})
