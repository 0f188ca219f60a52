"""The report of an evaluation: one line of JSON, a table, Markdown for a model card, and a sheet of pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from model.recipes.default.evaluation.context import Options
from model.recipes.default.evaluation.findings import REAL, REPAINTED, SHUFFLED, Findings, Section
from model.sheets import contact_sheet
from model.training.estimates import Estimate, proportion

# Keys that are always in the JSON. A key that was not measured is null.
KEYS = (
    "vae_psnr", "vae_psnr_openmoji", "vae_usage", "image_bits", "concept_top1", "concept_top5", "real_top1",
    "real_top5", "background", "counts", "both_objects", "left_right", "unseen_pairs", "styled_top1",
    "styled_top5", "best_of_4_top1", "nearest_train",
)  # fmt: skip
UNITS = {"vae_psnr": "dB", "vae_psnr_openmoji": "dB", "image_bits": "bits"}
PLAIN = ("vae_", "image_bits", "diversity", "nearest_train")  # not printed in percent, because they are no shares
SHARES = ("vae_usage",)
COLUMNS = (REAL, REPAINTED, SHUFFLED)


@dataclass(frozen=True)
class Report:
    """The findings of all parts. about: what was measured (weights, data, sampling), for the JSON."""

    findings: Findings
    options: Options
    about: Mapping[str, Any]


def merge(parts: Sequence[Findings]) -> Findings:
    """The findings of all parts in one. Trials of seen combinations are pooled over the parts, and so are new ones."""
    whole = Findings()
    for part in parts:
        whole.figures |= part.figures
        whole.chance |= part.chance
        whole.reasons |= part.reasons
        whole.trials |= part.trials
        whole.sections += part.sections
        for row, estimates in part.baselines.items():
            whole.baseline(row, **estimates)
    for name in ("seen", "unseen"):
        pooled = [hit for key, trials in whole.trials.items() if key.startswith(f"{name}_") for hit in trials]
        if pooled:
            whole.figures[f"{name}_pairs"] = proportion(pooled)
        elif reasons := [why for key, why in whole.reasons.items() if key.startswith(f"{name}_")]:
            whole.reasons[f"{name}_pairs"] = "; ".join(dict.fromkeys(reasons))
    return whole


def _number(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def to_json(report: Report) -> str:
    """The report as one line. Every key of KEYS is there. `reasons` says why a key is null."""
    findings = report.findings
    values: dict[str, Any] = dict.fromkeys(KEYS)
    figures = dict(findings.figures)
    for row, prefix in ((REAL, "real"), (SHUFFLED, "shuffled"), (REPAINTED, "repainted")):
        for name, estimate in findings.baselines.get(row, {}).items():
            figures[f"{prefix}_{name.removeprefix('concept_')}"] = estimate
    values.update((name, _number(estimate.value)) for name, estimate in figures.items())
    reasons = {name: findings.reasons.get(name, "this part was not run") for name, v in values.items() if v is None}
    reasons |= {name: why for name, why in findings.reasons.items() if name not in values}
    return json.dumps(
        {
            **values,
            "intervals": {name: [_number(e.low), _number(e.high)] for name, e in figures.items()},
            "n": {name: e.n for name, e in figures.items()},
            "reasons": reasons,
            "options": {name: value for name, value in asdict(report.options).items() if value is not None},
            **report.about,
        }
    )


def _shown(name: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    scale, digits = (1.0, 3) if name.startswith(PLAIN) and name not in SHARES else (100.0, 1)
    if name in UNITS or name == "vae_perplexity":
        digits = 2
    unit = f" {UNITS[name]}" if name in UNITS else " %" if scale == 100.0 else ""
    text = f"{estimate.value * scale:.{digits}f}{unit}"
    if estimate.low == estimate.high or not math.isfinite(estimate.low):
        return text
    return f"{text} [{estimate.low * scale:.{digits}f}, {estimate.high * scale:.{digits}f}]"


def table(findings: Findings) -> list[list[str]]:
    """Rows of text, the header first: figure, n, measured, and the baselines, each with its 95 % interval."""
    names = list(findings.figures)
    rows = [["figure", "n", "measured [95 %]", *COLUMNS, "chance"]]
    for name in names:
        estimate = findings.figures[name]
        chance = f"{100 * findings.chance[name]:.1f} %" if name in findings.chance else ""
        others = [_shown(name, findings.baselines.get(column, {}).get(name)) for column in COLUMNS]
        rows.append([name, str(estimate.n), _shown(name, estimate), *others, chance])
    return rows


def markdown(findings: Findings) -> str:
    """The table for a model card, with the figures that were not measured and why."""
    head, *rows = table(findings)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
    lines += [f"\n{name}: not measured: {why}." for name, why in findings.reasons.items()]
    return "\n".join(lines) + "\n"


def sheet(sections: Sequence[Section], cell: int = 112) -> Image.Image:
    """An image of all sections, one below the other, each with its title."""
    font, band = ImageFont.load_default(20), 40
    grids = [contact_sheet(s.pictures, s.captions, columns=s.columns, cell=cell) for s in sections]
    whole = Image.new("RGB", (max(g.width for g in grids), sum(g.height + band for g in grids)), (244, 244, 242))
    draw, top = ImageDraw.Draw(whole), 0
    for section, grid in zip(sections, grids, strict=True):
        draw.text((10, top + 10), section.title, fill=(20, 20, 20), font=font)
        whole.paste(grid, (0, top + band))
        top += grid.height + band
    return whole
