"""Stage 2: what is gained by choosing the picture with the best score of several, as the API's best_of does.

It is measured on things alone and on things on colours. On things alone a good model leaves little to gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from model.recipes.default.evaluation.compositions import background_tasks, on_background
from model.recipes.default.evaluation.context import Context
from model.recipes.default.evaluation.findings import Findings, NotMeasured, Section
from model.styles import AUTO
from model.training.estimates import mean, proportion

SHOWN = 6  # prompts of each kind


def best_of(context: Context) -> Findings:
    """Measure these figures, with N pictures for each prompt.

    best_of_N_top1: how often the best picture shows the thing. best_of_N_background_both: how often it also has the
    colour. best_of_lift, background_lift: the difference to the first picture. any_of_top1, any_of_background: how
    often any of the N is right, which no choice can exceed. best_of_4_top1 is null, with a reason, if N is not 4.
    """
    n = context.options.seeds
    if n < 2:
        raise NotMeasured(f"the number of pictures a prompt must be 2 or more, got {n}")
    numbers = context.sample("best of", range(len(context.tested)), context.options.compositions)
    prompts = [context.tested[number].name.full for number in numbers]
    findings = Findings()
    names = (f"best_of_{n}_top1", "best_of_lift", "any_of_top1")
    _chosen(context, prompts, lambda pictures: (context.ranks(pictures, numbers) == 1).tolist(), names, findings)
    tasks = background_tasks(context)
    if len(tasks) > 1:
        names = (f"best_of_{n}_background_both", "background_lift", "any_of_background")
        asked = [task.prompt for task in tasks]
        _chosen(context, asked, lambda pictures: on_background(context, pictures, tasks)[1], names, findings)
    if n != 4:
        findings.reasons["best_of_4_top1"] = f"{n} pictures a prompt were painted: see best_of_{n}_top1"
    return findings


def _chosen(
    context: Context,
    prompts: Sequence[str],
    right: Callable[[Sequence[Image.Image]], list[bool]],
    names: tuple[str, str, str],
    findings: Findings,
) -> None:
    """Add figures and a section. names: of three figures: the share of the best, the lift, the share of any."""
    n = context.options.seeds
    painted = context.album.paint(prompts, n, lambda done, total: context.progress("painting", done, total), AUTO)
    hits = list(
        zip(*[right([row[i].image for row in painted]) for i in range(n)], strict=True)
    )  # n pictures of each prompt
    best_at = [max(range(n), key=lambda i: row[i].score) for row in painted]
    best = [of[i] for of, i in zip(hits, best_at, strict=True)]
    lift = [float(chosen) - float(of[0]) for of, chosen in zip(hits, best, strict=True)]
    findings.figures |= {
        names[0]: proportion(best),
        names[1]: mean(lift),
        names[2]: proportion([any(of) for of in hits]),
    }
    pictures: list[Image.Image] = []
    captions: list[str] = []
    for i in sorted(range(len(prompts)), key=lambda i: (-lift[i], i))[:SHOWN]:
        row = sorted(painted[i], key=lambda painting: -painting.score)
        pictures += [painting.image for painting in row]
        captions += [f"{prompts[i]} {painting.score:+.3f}" for painting in row]
    title = f"{names[0]}: the best score first, where the choice helped most"
    findings.sections.append(Section(title, pictures, captions, columns=2 * n))
