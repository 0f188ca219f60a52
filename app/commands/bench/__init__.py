"""`dalle-server bench` measures the speed of a checkpoint, and compares it with the machine's limits and with peers.

machine, engine    in this process, by `model.benchmark`
server             in processes of its own, by `serving`; clients of it by `clients`
peers              in an environment of their own, by `peers`
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer import Option

from app.commands.common import DEFAULT_WEIGHTS, Device, Weights, check_out
from app.commands.signals import ending_at_sigterm
from model.errors import InvalidRequest
from model.inference.cores import usable_cores

MOST_ROWS = 1024
CLIENTS = (1, 8, 32)
SEED = 0  # of the pictures


def bench(
    rows: Annotated[str, Option(help="Rows of a step to measure: numbers separated by commas.")] = "1,4,16,64",
    seconds: Annotated[
        float, Option(min=0.1, max=3600, help="Seconds for measuring each figure. At least one run is measured.")
    ] = 8.0,
    threads: Annotated[int, Option(min=0, max=1024, help="Threads to compute with. 0 means one for each core.")] = 0,
    peers: Annotated[
        bool, Option("--peers", help="Also measure DALLE-pytorch and min-dalle. Their packages are installed once.")
    ] = False,
    plot: Annotated[Path, Option(help="Picture to draw: how near each figure is to the limit of the machine.")] = Path(
        "bench.png"
    ),
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
) -> None:
    """Measure steps, pictures and a server, each beside its floor: the least time that this machine needs for it.

    The last line on stdout is JSON.
    """
    wanted = numbers(rows)
    check_out(plot)
    threads = threads or usable_cores()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from app.commands.bench import report
    from app.commands.bench.peers import compare
    from app.pictures.encode import encode_png

    console = Console(stderr=True, highlight=False)
    with ending_at_sigterm(), console.status("a server starts") as status:
        serving = _serve(weights, device, threads, seconds, status.update)
        import torch

        from model.benchmark.machine import best
        from model.benchmark.measure import CROWD, measure
        from model.checkpoints import load
        from model.inference.devices import pick_device

        torch.set_num_threads(threads)
        place = pick_device(device)
        result = measure(
            load(weights, device=place),
            place,
            rows=wanted,
            images=(CROWD,) if place.type == "cuda" else (),
            seed=SEED,
            seconds=seconds,
            on_progress=status.update,
        )
        side = result.side
        noise = os.urandom(3 * side) * side  # lines alike, as in a drawing
        png = best(lambda: encode_png(noise, side, side), torch.device("cpu"), 20)
        found: dict[str, Any] = {}
        lines = report.rows_of(result, serving, png)
        if peers:
            compared = compare(threads, SEED, seconds, status.update)
            found, lines = compared.to_json(), [*lines, *compared.rows()]
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    report.show(lines, result, SEED, out)
    if report.plot(lines, f"{result.name} on {result.machine.processor}", plot):
        out.print(f"{plot} shows the shares")
    else:
        out.print("there is no plot, because matplotlib is missing: `make train-deps` installs it")
    typer.echo(json.dumps(report.as_json(result, serving, lines, found, SEED)))


def _serve(weights: Path, device: str, threads: int, seconds: float, say: Any) -> Any:
    """Start the server twice, the first time to warm the disk's cache, and measure the second one."""
    from app.commands.bench import clients
    from app.commands.bench.report import Serving
    from app.commands.bench.serving import memory, seconds_of, server

    imports = seconds_of("import torch")
    bare = memory_of_torch()
    with server(weights, device, threads) as first:
        ready = first.ready
    with server(weights, device, threads) as running:
        seeds = clients.numbered(SEED)
        asyncio.run(clients.alone(running.url, seeds, 0))  # what is made at the first request is made
        serving = Serving(min(ready, running.ready), imports, {}, bare)
        say("one client")
        serving.alone = asyncio.run(clients.alone(running.url, seeds, seconds))
        for count in CLIENTS:
            say(f"{count} clients")
            serving.loads.append(asyncio.run(clients.load(running.url, count, seeds, seconds)))
        serving.memory = memory(running.pid)
        say("streaming")
        serving.plain, serving.live = asyncio.run(clients.streamed(running.url, seeds, 4, 2 * seconds))
    return serving


def memory_of_torch() -> float:
    """MiB of a process that has imported PyTorch and nothing else."""
    import subprocess
    import sys

    program = "import resource, torch; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)


def numbers(text: str) -> tuple[int, ...]:
    """ "1,4,16" -> (1, 4, 16). Raises InvalidRequest."""
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise InvalidRequest(
            "rows", f"--rows must be whole numbers separated by commas, such as 1,4,16, got {text!r}"
        ) from None
    if wrong := [number for number in found if not 1 <= number <= MOST_ROWS]:
        raise InvalidRequest("rows", f"--rows must be numbers from 1 to {MOST_ROWS}, got {wrong[0]}")
    return found
