"""How good a checkpoint is: both stages measured on drawings, by pixels and by an independent judge.

    from model.recipes.default.evaluation import evaluate, to_json

`evaluation` leads through it; `stage_one`, `likelihood`, `concepts`, `compositions`, `best_of` and `variety` are the
parts; `sweep` looks for the best sampling parameters.
"""

from . import sweep
from .context import QUICK, Options
from .evaluation import PARTS, evaluate
from .report import Report, markdown, sheet, table, to_json

__all__ = ["PARTS", "QUICK", "Options", "Report", "evaluate", "markdown", "sheet", "sweep", "table", "to_json"]
