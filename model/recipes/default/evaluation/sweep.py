"""Finds the best sampling parameters: guidance, temperature, top-k and top-p, one after another.

Each parameter is tried at several values, with the others as chosen before (at first the checkpoint's own). The score
is the mean reciprocal rank of the prompt's thing (Voorhees 1999): 1 where the judge names it first, 1/2 where second,
and so on. It has less noise than top-1. Values within one standard error of the best one, on the same prompts and
seeds, count as equal; of these, the one with the most diverse pictures is chosen.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import InvalidRequest
from model.inference.requests import SamplingParams
from model.painter import Painter
from model.recipes.default.evaluation.album import Album
from model.recipes.default.evaluation.context import Context, Options, Progress
from model.recipes.default.evaluation.variety import pairwise
from model.training.estimates import Estimate, mean, proportion

GRID: dict[str, tuple[float, ...]] = {
    "guidance": (1.0, 2.0, 3.0, 4.5, 7.0),
    "temperature": (0.4, 0.6, 0.8, 1.0),
    "top_k": (50, 200, 1000, 0),
    "top_p": (0.8, 0.9, 0.95, 1.0),
}


@dataclass(frozen=True)
class Trial:
    """The results of one setting. values: for each thing the reciprocal rank, averaged over its pictures."""

    params: SamplingParams
    values: tuple[float, ...]
    top1: Estimate
    top5: Estimate
    diversity: Estimate

    @property
    def score(self) -> Estimate:
        return mean(self.values)


@dataclass(frozen=True)
class Sweep:
    """tried: parameter -> its trials, in the order of the grid. chosen: parameter -> its best value."""

    tried: Mapping[str, Sequence[Trial]]
    chosen: Mapping[str, float]


def choose(trials: Sequence[Trial]) -> Trial:
    """The most diverse of the trials that are within one standard error of the best one."""
    best = max(trials, key=lambda trial: trial.score.value)

    def as_good(trial: Trial) -> bool:
        lost = np.subtract(best.values, trial.values)
        error = float(lost.std(ddof=1)) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
        return float(lost.mean()) <= error

    return max(filter(as_good, trials), key=lambda trial: trial.diversity.value)


def sweep(
    painter: Painter,
    data: Sequence[Path],
    out: Path,
    options: Options,
    *,
    grid: Mapping[str, Sequence[float]] = GRID,
    known: Path | None = None,
    progress: Progress,
) -> Sweep:
    """Try each parameter of `grid` in its order. `options.various` things are asked for, `options.seeds` pictures each.

    Pictures and features are kept in `out`, as `evaluate` keeps them. Raises InvalidRequest if no picture can be
    painted with a value, or for fewer than two pictures of a thing. Raises what `evaluate` raises.
    """
    if options.seeds < 2:
        raise InvalidRequest("seeds", f"seeds must be 2 or more, got {options.seeds}")
    start = painter.sampling(0, options.temperature, options.top_k, options.top_p, options.guidance)
    context = Context(painter, data, out, options, progress, known=known)
    for name, values in grid.items():
        for value in values:
            _with(start, name, value).check(painter.transformer.config.image_vocab)
    params, tried, measured = start, {}, {}
    for name, values in grid.items():
        trials = []
        for value in values:
            wanted = _with(params, name, value)
            if wanted not in measured:
                measured[wanted] = _measure(context, wanted)
            trials.append(measured[wanted])
        tried[name] = trials
        params = choose(trials).params
    return Sweep(tried, {name: getattr(params, name) for name in GRID})


def _with(params: SamplingParams, name: str, value: float) -> SamplingParams:
    kind = type(getattr(params, name))
    return dataclasses.replace(params, **{name: kind(value)})


def _measure(context: Context, params: SamplingParams) -> Trial:
    o = context.options
    n, things = o.seeds, context.tested[: o.various]
    album = Album(context.painter, context.out / "pictures", o.seed, params, revise=o.revise)
    what = f"guidance {params.guidance:g}, temperature {params.temperature:g}, k {params.top_k}, p {params.top_p:g}"
    painted = album.paint([thing.name.full for thing in things], n, lambda done, of: context.progress(what, done, of))
    features = context.see([painting.image for row in painted for painting in row])
    context.finish()
    ranks = context.prototypes.ranks(features, [i for i in range(len(things)) for _ in range(n)])
    directions = context.prototypes.directions(features).reshape(len(things), n, -1)
    return Trial(
        params,
        tuple((1 / ranks).reshape(len(things), n).mean(1).tolist()),
        proportion((ranks == 1).tolist()),
        proportion((ranks <= 5).tolist()),
        mean([pairwise(row) for row in directions]),
    )


def table(found: Sweep) -> list[list[str]]:
    """Rows of text, the header first."""
    rows = [["parameter", "value", "reciprocal rank [95 %]", "top-1", "top-5", "diversity", ""]]
    for name, trials in found.tried.items():
        kept = choose(trials)
        for trial in trials:
            score = trial.score
            rows.append(
                [
                    name,
                    f"{getattr(trial.params, name):g}",
                    f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]",
                    f"{100 * trial.top1.value:.1f} %",
                    f"{100 * trial.top5.value:.1f} %",
                    f"{trial.diversity.value:.3f}",
                    "chosen" if trial is kept else "",
                ]
            )
    return rows


def to_json(found: Sweep) -> str:
    """One line: the choice, and every trial."""

    def line(trial: Trial) -> dict[str, Any]:
        params = dataclasses.asdict(trial.params)
        del params["seed"]
        return {
            **params,
            "reciprocal_rank": round(trial.score.value, 5),
            "top1": round(trial.top1.value, 5),
            "top5": round(trial.top5.value, 5),
            "diversity": round(trial.diversity.value, 5),
            "things": len(trial.values),
        }

    tried = {name: [line(trial) for trial in trials] for name, trials in found.tried.items()}
    return json.dumps({**found.chosen, "tried": tried})


def plot(found: Sweep, path: Path) -> None:
    """A panel for each parameter: reciprocal rank with its interval, diversity on a second axis, the choice marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(found.tried), 3.6), layout="constrained")
    for at, (name, trials) in enumerate(found.tried.items()):
        axes = figure.add_subplot(1, len(found.tried), at + 1)
        labels = [f"{getattr(trial.params, name):g}" for trial in trials]
        positions, scores = range(len(trials)), [trial.score for trial in trials]
        errors = [[s.value - s.low for s in scores], [s.high - s.value for s in scores]]
        axes.errorbar(positions, [s.value for s in scores], yerr=errors, fmt="o-", capsize=3, label="reciprocal rank")
        kept = next(i for i, trial in enumerate(trials) if trial is choose(trials))
        axes.axvline(kept, color="tab:green", lw=6, alpha=0.25, label="chosen")
        axes.set(xlabel=name.replace("_", "-"), xticks=list(positions), xticklabels=labels)
        axes.grid(alpha=0.3)
        other = axes.twinx()
        other.plot(positions, [trial.diversity.value for trial in trials], "s--", color="tab:orange", label="diversity")
        if at == 0:
            axes.set_ylabel("mean reciprocal rank")
            shown = [*axes.get_legend_handles_labels()[0], *other.get_lines()]
            figure.legend(handles=shown, fontsize=8, ncols=len(shown), loc="outside upper center")
        if at == len(found.tried) - 1:
            other.set_ylabel("diversity")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
