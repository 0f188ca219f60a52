"""What a run of the benchmark found: a table, a plot and one object for JSON. Every row has its floor beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from app.commands.bench.clients import LOAD, Load

if TYPE_CHECKING:
    from model.benchmark.measure import Result
    from model.benchmark.steps import Pictures


@dataclass(frozen=True)
class Row:
    """A line of the table. found, floor: in `unit`; a floor of None where there is none. note: how it came about.

    faster: the larger figure is the better one, as of pictures a minute.
    """

    what: str
    found: float
    floor: float | None
    unit: str
    note: str = ""
    faster: bool = False

    @property
    def share(self) -> float | None:
        """What the floor is of the figure, 0 to 1; the other way round, if more is better. None without a floor."""
        if self.floor is None or not self.found or not self.floor:
            return None
        return self.found / self.floor if self.faster else self.floor / self.found


@dataclass
class Serving:
    """What was measured of the server.

    ready, imports: seconds until it is ready, and those that importing PyTorch alone takes. memory: MiB, see `memory`;
    bare: of a process that has imported PyTorch. alone: seconds of one request after another, ascending. loads: of
    several clients. plain, live: seconds of four pictures at once, without unfinished ones and with every second row.
    """

    ready: float
    imports: float
    memory: dict[str, float]
    bare: float
    alone: tuple[float, ...] = ()
    loads: list[Load] = field(default_factory=list)
    plain: float = 1.0
    live: float = 1.0

    @property
    def stream_cost(self) -> float:
        """The share of the throughput that sending every second row costs."""
        return 1 - self.plain / self.live


def rows_of(result: Result, serving: Serving, png: float) -> list[Row]:
    """The table's rows. png: seconds of encoding a picture."""
    machine, at = result.machine, result.transformer
    rows = [Row(part.name, 1e3 * part.seconds, 1e3 * part.floor, "ms") for part in result.parts]
    for width, found in result.steps.items():
        for where, name in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
            if (part := found.part(where)) is not None:
                floor = found.floor(at, machine, part[0])
                rows.append(Row(f"step of {_rows(width)}, {name}", 1e3 * part[1], 1e3 * floor, "ms", _cut(found)))
    for images, found in result.pictures.items():
        rate = f"{images / found.seconds:.3g} pictures/s" if images > 1 else ""
        note = "; ".join(filter(None, (rate, f"guidance {result.params.guidance:g}", _cut(found))))
        rows.append(Row(f"{_images(images)} in the engine", found.seconds, result.picture_floor(images), "s", note))
        rows.append(Row("  its step", 1e3 * found.step, 1e3 * found.floor(at, machine), "ms", f"{found.rows} rows"))
    loose = result.loose
    floor = 1e3 * loose.floor(at, machine)
    note = "; ".join(filter(None, (f"strict mode takes {result.strict_cost:+.0%}", _cut(loose))))
    rows.append(Row("  its step in fast mode", 1e3 * loose.step, floor, "ms", note))
    size = result.side
    rows.append(Row("PNG of a picture", 1e3 * png, 1e3 * 3 * size * size / machine.read, "ms", "floor: reading it"))
    return rows + _serving_rows(result, serving)


def _serving_rows(result: Result, serving: Serving) -> list[Row]:
    rows = []
    if serving.alone:
        middle = serving.alone[len(serving.alone) // 2]
        note = f"/generate, one client, median of {len(serving.alone)}"
        rows.append(Row("one picture over HTTP", middle, result.picture_floor(1), "s", note))
    together = result.loose.images
    best = 60 * together / result.picture_floor(together)
    for load in serving.loads:
        who = f"{load.clients} client{'s' * (load.clients > 1)}"
        floor = best if load.clients > 1 else 60 / result.picture_floor(1)
        rows.append(Row(f"throughput, {who}", 60 * load.per_second, floor, "/min", "each asks again at once", True))
        note = f"{len(load.seconds)} requests at {LOAD:.0%} of it, not waiting for each other"
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            rows.append(Row(f"  {name}", load.quantile(share), result.picture_floor(1), "s", note))
    if serving.loads:
        note = "every_rows 2 beside no unfinished pictures, four at once"
        rows.append(Row("streaming, share of throughput", 100 * serving.stream_cost, None, "%", note))
    rows.append(Row("ready after the start", serving.ready, serving.imports, "s", "floor: importing PyTorch"))
    if serving.memory:
        note = f"16 slots; {serving.memory['pss']:.0f} with shared pages once; floor: PyTorch imported"
        rows.append(Row("resident memory", serving.memory["rss"], serving.bare, "MiB", note))
    return rows


def _cut(found: Pictures) -> str:
    made = len(found.steps)
    return f"best of {found.runs}" if found.whole else f"cut short after {made} of {found.total} steps"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _images(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


def show(rows: Sequence[Row], result: Result, seed: int, console: Console) -> None:
    """Print the machine, the sizes, the method and the table."""
    machine = result.machine
    console.print(f"{machine.processor}, {machine.cores} cores, {machine.threads} threads; on {machine.device}")
    console.print(f"{' '.join(machine.instructions)}; torch {machine.torch}, python {machine.python}")
    console.print(
        f"reads {machine.read / 1e9:.1f} GB/s, multiplies {machine.multiply / 1e9:,.0f} GFLOP/s in {machine.narrow}, "
        "measured now; floors are taken with these"
    )
    console.print(f"{result.name}: {result.parameters / 1e6:.1f} M parameters, computed in {result.dtype}; seed {seed}")
    table = Table(box=None)
    for name in ("what", "found", "floor", "share", ""):
        table.add_column(name, justify="right" if name in ("found", "floor", "share") else "left", no_wrap=True)
    for row in rows:
        floor = "" if row.floor is None else f"{row.floor:.3g} {row.unit}"
        share = "" if row.share is None else f"{row.share:.0%}"
        table.add_row(row.what, f"{row.found:.3g} {row.unit}", floor, share, row.note)
    console.print(table, soft_wrap=True)


def as_json(result: Result, serving: Serving, rows: Sequence[Row], peers: dict[str, Any], seed: int) -> dict[str, Any]:
    """The object of the last line. Ratios of peers are above 1 where this project is faster."""
    machine = result.machine
    mbu = {f"mbu_{width}": found.mbu(result.transformer, machine) for width, found in result.steps.items()}
    loads = {str(load.clients): load for load in serving.loads}
    return {
        "machine": {
            "read_gbs": machine.read / 1e9,
            "gflops": machine.multiply / 1e9,
            "narrow": machine.narrow,
            "processor": machine.processor,
            "cores": machine.cores,
            "threads": machine.threads,
            "device": machine.device,
            "torch": machine.torch,
        },
        "model": {"name": result.name, "parameters": result.parameters, "dtype": result.dtype},
        "seed": seed,
        "decode": {
            **mbu,
            "one_image_s": result.pictures[1].seconds,
            "sixteen_images_s": result.pictures[16].seconds,
            "pictures_per_s": {str(images): images / found.seconds for images, found in result.pictures.items()},
            "strict_cost": result.strict_cost,
        },
        "peers": peers,
        "http": {
            "p50_s": {clients: load.quantile(0.5) for clients, load in loads.items()},
            "p95_s": {clients: load.quantile(0.95) for clients, load in loads.items()},
            "p99_s": {clients: load.quantile(0.99) for clients, load in loads.items()},
            "images_per_min": {clients: 60 * load.per_second for clients, load in loads.items()},
            "alone_s": serving.alone[len(serving.alone) // 2] if serving.alone else None,
        },
        "stream_cost": serving.stream_cost,
        "ready_s": serving.ready,
        "rss_mib": serving.memory.get("rss"),
        "pss_mib": serving.memory.get("pss"),
        "rows": [
            {"what": row.what.strip(), "found": row.found, "floor": row.floor, "unit": row.unit, "note": row.note}
            for row in rows
        ],
    }


def plot(rows: Sequence[Row], title: str, path: Path) -> bool:
    """Draw each row's share of its floor, as bars. Returns False, and draws nothing, where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    drawn = [(row, row.share) for row in rows if row.share is not None]
    figure = Figure(figsize=(9, 0.24 * len(drawn) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{row.what.strip()}  ({row.found:.3g} {row.unit})" for row, _ in drawn]
    axes.barh(range(len(drawn)), [share for _, share in drawn], color="tab:blue")
    axes.axvline(1.0, color="black", lw=1)
    axes.set_yticks(range(len(drawn)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="share of the floor; 1 is what the machine allows", title=title)
    axes.grid(axis="x", alpha=0.3, which="both")
    figure.savefig(path, dpi=110)
    return True
