"""The worker process over a real pipe: paints, refuses, and is gone when nobody needs it."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoints import Checkpoint, save
from model.errors import InvalidRequest
from model.inference import worker
from model.inference.cores import usable_cores
from model.inference.devices import pick_dtype
from model.inference.engine import Engine
from model.inference.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Painted,
)
from model.inference.messages import Cancel, Heartbeat, Ready, StartFailed, WorkerOptions
from model.inference.requests import GenerationRequest, SamplingParams
from model.kernels.library import built

LIMIT = 300.0  # seconds for anything that must come


@pytest.fixture(autouse=True)
def _same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that runs in this process sets what it needs; it is gone again after the test."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def folder(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:

    path = tmp_path_factory.mktemp("worker") / "small"
    save(path, small.config, small.tokenizer, small.vae, small.transformer, dtype=torch.float32)
    return path


@pytest.fixture
def options(folder: Path) -> WorkerOptions:
    return WorkerOptions(str(folder), device="cpu", slots=4, threads=1, heartbeat=0.1)


class Worker:
    """A process and our end of its pipe."""

    def __init__(self, options: WorkerOptions) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=worker.run, args=(theirs, options), daemon=True)
        self.process.start()
        theirs.close()

    def receive(self) -> Any:
        assert self.connection.poll(LIMIT), "nothing came"
        return self.connection.recv()

    def until(self, *kinds: type) -> list[Any]:
        """Messages up to the first of these kinds, heartbeats apart."""
        got: list[Any] = []
        while not (got and isinstance(got[-1], kinds)):
            message = self.receive()
            if not isinstance(message, Heartbeat) or Heartbeat in kinds:
                got.append(message)
        return got


@contextmanager
def started(options: WorkerOptions) -> Iterator[Worker]:
    running = Worker(options)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.join()
        running.connection.close()


def request(small: Checkpoint, name: str, images: int = 1, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(name, tuple(small.tokenizer.encode("a red apple")), images, SamplingParams(1, **sampling))


def alone(small: Checkpoint, wanted: GenerationRequest) -> list[Painted]:
    engine = Engine(small, slots=4)
    engine.add(wanted)
    events: list[Event] = []
    while engine.has_work:
        events += engine.step()
    return [e for e in events if isinstance(e, Painted)]


@pytest.mark.skipif(sys.platform != "linux", reason="the worker itself paints unfinished pictures there")
def test_the_process_that_paints_unfinished_pictures_ends_with_its_worker(options: WorkerOptions) -> None:
    with started(options) as running:
        assert isinstance(running.receive(), Ready)
        pid = running.process.pid
        (painter,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        assert os.sched_getscheduler(painter) == os.SCHED_IDLE
        ended = os.pidfd_open(painter)
        try:
            running.process.kill()
            with pytest.raises((EOFError, ConnectionResetError)):  # its copy of our pipe is closed
                list(iter(running.receive, None))
            assert multiprocessing.connection.wait([ended], LIMIT)
        finally:
            os.close(ended)


def test_a_worker_lives_a_whole_life(small: Checkpoint, options: WorkerOptions) -> None:
    began = time.monotonic()
    with started(options) as running:
        ready = running.receive()
        assert isinstance(ready, Ready)
        assert (ready.slots, ready.dtype) == (4, "float32")
        assert ready.seconds_per_step > 0.0
        beat = running.until(Heartbeat)[-1]
        assert began < beat.time <= time.monotonic()

        threads = Path(f"/proc/{running.process.pid}/task").iterdir()
        niceness = {os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in threads}
        assert niceness == {min(19, os.getpriority(os.PRIO_PROCESS, 0) + worker.NICE)}  # behind the HTTP process

        pid = running.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGINT)  # the parent decides, not the terminal
        os.kill(pid, signal.SIGSTOP)  # it reads all messages at once
        wanted = request(small, "a", images=3, guidance=2.0)
        running.connection.send(wanted)
        running.connection.send(request(small, "bad", temperature=9.0))
        running.connection.send(dataclasses.replace(request(small, "late"), deadline=time.monotonic() - 1))
        running.connection.send(request(small, "leaves", images=64))
        running.connection.send(Cancel("leaves"))
        running.connection.send(Cancel("never seen"))
        os.kill(pid, signal.SIGCONT)
        messages = running.until(Finished)
        failed = {m.request_id: (m.code, m.field) for m in messages if isinstance(m, Failed)}
        assert failed == {"bad": ("invalid_request", "temperature"), "late": ("deadline_exceeded", None)}
        assert [m.request_id for m in messages if isinstance(m, Cancelled)] == ["leaves"]
        painted = [m for m in messages if isinstance(m, Painted)]
        for mine, reference in zip(painted, alone(small, wanted), strict=True):
            assert (mine.index, mine.tokens, mine.rgb) == (reference.index, reference.tokens, reference.rgb)

        running.connection.close()
        running.process.join(LIMIT)
        assert running.process.exitcode == 0


def test_the_end_of_the_pipe_ends_the_loop(
    small: Checkpoint, options: WorkerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = multiprocessing.Pipe()
    thread = threading.Thread(target=worker.run, args=(theirs, options))
    thread.start()
    assert ours.poll(LIMIT)
    assert isinstance(ours.recv(), Ready)
    closed, steps, step = threading.Event(), [], Engine.step

    def after_the_end(engine: Engine) -> list[Event]:
        assert closed.wait(LIMIT)
        steps.append(engine)
        return step(engine)

    monkeypatch.setattr(Engine, "step", after_the_end)
    ours.send(request(small, "long", images=64))
    ours.close()
    closed.set()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert len(steps) < 3
    theirs.close()


def test_damaged_weights_are_told_in_one_line(folder: Path, options: WorkerOptions, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (shard,) = broken.glob("transformer*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    for path in (broken, tmp_path / "absent"):
        failed = start_in_process(dataclasses.replace(options, checkpoint=str(path)))
        assert failed.permanent
        assert str(path) in failed.message
        assert "\n" not in failed.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "cuda:77"}, "device must be one of this machine, which has"),
        ({"device": "abacus"}, "device must be auto, cpu, cuda, cuda:0 ..., got 'abacus'"),
        ({"device": "mps"}, "device must be auto, cpu, cuda, cuda:0 ..., got 'mps'"),
        ({"dtype": "int3"}, "dtype must be auto, float32, bfloat16, int8 on cpu, got 'int3'"),
        ({"slots": 1}, "slots must be 2 or more"),
    ],
)
def test_options_that_cannot_be_honoured_are_told(options: WorkerOptions, change: dict[str, Any], message: str) -> None:
    failed = start_in_process(dataclasses.replace(options, **change))
    assert failed.message.startswith(message)


def start_in_process(options: WorkerOptions) -> StartFailed:
    """Run the worker here: it must send one StartFailed and return."""
    ours: Connection
    ours, theirs = multiprocessing.Pipe()
    handler = signal.getsignal(signal.SIGINT)
    try:
        worker.run(theirs, options)
    finally:
        signal.signal(signal.SIGINT, handler)
    failed = ours.recv()
    assert isinstance(failed, StartFailed)
    assert not ours.poll(0)
    ours.close()
    theirs.close()
    return failed


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", "bfloat16"), ("int8", "float32")])
def test_other_types_paint(small: Checkpoint, options: WorkerOptions, name: str, dtype: str) -> None:
    if name == "int8" and not built():
        pytest.skip("the native kernels are not built here, or not for this processor")
    engine, ready = worker.start(dataclasses.replace(options, dtype=name, threads=1))
    assert ready.dtype == dtype
    assert name != "int8" or ready.products == "int8"
    engine.add(request(small, "a", guidance=3.0))
    events: list[Event] = []
    while engine.has_work:
        events += engine.step()
    assert isinstance(events[-1], Finished)


def test_int8_needs_the_native_kernels(options: WorkerOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.kernels.step.load", lambda **_: None)
    failed = start_in_process(dataclasses.replace(options, dtype="int8"))
    assert failed.permanent
    assert failed.message.startswith(
        "dtype must be auto, float32 or bfloat16, got int8: the native kernels, which alone"
    )


def test_int8_is_for_the_cpu() -> None:
    with pytest.raises(InvalidRequest, match="dtype must be auto, float32, bfloat16 on cuda, got 'int8'"):
        pick_dtype("int8", torch.device("cuda"))


def test_the_worker_ends_when_its_parent_is_killed(folder: Path) -> None:
    # The pipe stays open in this process, so that its end cannot be what ends the worker.
    ours, theirs = multiprocessing.Pipe()
    code = textwrap.dedent(f"""
        import multiprocessing, sys, time
        from multiprocessing.connection import Connection
        from model.inference import worker
        from model.inference.messages import WorkerOptions
        if __name__ == "__main__":
            theirs = Connection({theirs.fileno()})
            options = WorkerOptions({str(folder)!r}, device="cpu", slots=2, threads=1, heartbeat=0.1)
            process = multiprocessing.get_context("spawn").Process(target=worker.run, args=(theirs, options))
            process.start()
            print(process.pid, flush=True)
            time.sleep(600)
    """)
    script = folder.parent / "parent.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, pass_fds=[theirs.fileno()], env=environment
    )
    assert parent.stdout is not None
    try:
        pid = int(parent.stdout.readline())
        assert ours.poll(LIMIT)
        assert isinstance(ours.recv(), Ready)
        os.kill(pid, 0)  # it lives
        parent.kill()
        parent.wait()
        until = time.monotonic() + LIMIT
        while is_running(pid) and time.monotonic() < until:
            time.sleep(0.02)
        assert not is_running(pid)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        ours.close()
        theirs.close()


def is_running(pid: int) -> bool:
    """Not gone, and no zombie that waits for its new parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("text", "quota"),
    [("50000 100000\n", 1), ("100000 100000\n", 1), ("200000 100000\n", 2), ("max 100000\n", None), ("nonsense", None)],
)
def test_cores_follow_the_quota(tmp_path: Path, text: str, quota: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    everywhere = usable_cores(tmp_path / "absent")
    assert everywhere >= 1
    assert usable_cores(tmp_path / "cpu.max") == min(everywhere, quota or everywhere)


def test_the_worker_module_imports_no_torch() -> None:
    code = "import sys, model.inference.worker; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_heartbeat_tells_of_the_end_of_a_long_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0

    class Slow:
        has_work = True
        stats = staticmethod(lambda: None)

        def step(self) -> list[Event]:
            nonlocal clock
            if clock > 107.0:
                raise EOFError
            clock += 7.0
            return []

    def tick() -> float:
        nonlocal clock
        clock += 0.001
        return clock

    ours, theirs = multiprocessing.Pipe()
    monkeypatch.setattr("model.inference.worker.time.monotonic", tick)
    with ours, theirs:
        with pytest.raises(EOFError):
            worker._Loop(theirs, Slow(), 0.5).run()  # type: ignore[arg-type]
        assert ours.recv().time > 107.0
