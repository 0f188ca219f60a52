"""Evaluates a checkpoint. Both stages are measured on drawings, by pixels and by an independent judge.

    from model.recipes.default.evaluation import evaluate, to_json

`evaluation` runs all parts: `stage_one`, `likelihood`, `concepts`, `compositions`, `colours`, `best_of` and `variety`.
`sweep` finds the best sampling parameters.
"""

from . import sweep
from .context import QUICK, Options
from .evaluation import PARTS, evaluate
from .report import Report, markdown, sheet, table, to_json

__all__ = ["PARTS", "QUICK", "Options", "Report", "evaluate", "markdown", "sheet", "sweep", "table", "to_json"]
