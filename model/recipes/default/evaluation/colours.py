"""Stage 2: things alone in a given colour. Pixels decide whether the colour is right, the judge on the thing.

Half of the prompts name dyed things that training showed in this colour. The others name dyed things that were held
out.
"""

from __future__ import annotations

from functools import partial

from model.drawings.colours import SHADES
from model.recipes.default.evaluation import ink
from model.recipes.default.evaluation.compositions import OnBackground, on_background, section, split
from model.recipes.default.evaluation.context import Context
from model.recipes.default.evaluation.drawings import Line
from model.recipes.default.evaluation.findings import REAL, SHUFFLED, Findings, NotMeasured
from model.training.estimates import proportion


def _coloured(context: Context, line: Line) -> tuple[int, str] | None:
    """(thing, colour) of a dyed picture. None if its thing is not tested, or if its background is coloured."""
    number = context.number.get(line.concept)
    if number is None or number >= len(context.tested) or line.caption.endswith(" background"):
        return None
    words = line.caption.split()[:2]
    return next(((number, colour) for colour in SHADES if colour in words), None)


def _tasks(context: Context) -> list[tuple[OnBackground, Line]]:
    """Prompts, each with the corpus's own picture of it."""
    number, tasks = context.options.compositions, []
    for seen in (True, False):
        lines = context.drawings.shown("dyed") if seen else context.drawings.of("dyed", "val")
        found = [
            (OnBackground(line.caption, *task, seen), line) for line in lines if (task := _coloured(context, line))
        ]
        context.random(f"colours {seen}").shuffle(found)
        tasks += found[: number // 2]
    return tasks


def colours(context: Context) -> Findings:
    """coloured: how often most of the ink has the prompt's colour. coloured_both: how often the thing is right, too."""
    found = _tasks(context)
    if len(found) < 2:
        raise NotMeasured("the corpus shows no thing in other colours, because it was made without --in-colours")
    tasks = [task for task, _ in found]
    pictures = [row[0] for row in context.paint([task.prompt for task in tasks])]
    in_colour = partial(on_background, context, colour_of=ink.main_colour)
    right, both = in_colour(pictures, tasks)
    findings = Findings(figures={"coloured": proportion(right), "coloured_both": proportion(both)})
    split(findings, "colours", [task.seen for task in tasks], both)
    chance = in_colour(pictures, [tasks[i] for i in context.others("colours", len(tasks))])
    findings.baseline(SHUFFLED, coloured=proportion(chance[0]), coloured_both=proportion(chance[1]))
    real = in_colour([line.picture() for _, line in found], tasks)
    findings.baseline(REAL, coloured=proportion(real[0]), coloured_both=proportion(real[1]))
    captions = [
        f"{task.prompt}: {'right' if hit else ink.main_colour(picture) or 'blank'}"
        for task, hit, picture in zip(tasks, right, pictures, strict=True)
    ]
    findings.sections.append(section(context, "Colours: of the largest part of the ink", pictures, captions))
    return findings
