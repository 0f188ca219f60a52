"""Loss curves of a run."""

from __future__ import annotations

from pathlib import Path

from model.training.extras import lacking

HELD_OUT = ("val_image_bits", "psnr", "val_text_to_image")  # the first one that the run has is plotted


def loss_curve(history: list[dict[str, float]], path: Path, title: str) -> None:
    """Plot the loss of every report over the steps, and a held-out figure, if there is one, on a second axis.

    Raises DataError if matplotlib is not installed.
    """
    if not history:
        return
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure
    except ImportError:
        raise lacking("matplotlib") from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([line["step"] for line in history], [line["loss"] for line in history], lw=1, label="loss")
    axes.set(xlabel="step", ylabel="loss", title=title, yscale="log")
    axes.grid(alpha=0.3, which="both")
    handles = axes.get_lines()
    for name in HELD_OUT:
        points = [(line["step"], line[name]) for line in history if name in line]
        if points:
            other = axes.twinx()
            other.plot(*zip(*points, strict=True), "o-", color="tab:red", ms=3, lw=1, label=name)
            other.set_ylabel(name)
            handles = [*handles, *other.get_lines()]
            break
    axes.legend(handles=handles)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
