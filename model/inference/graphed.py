"""The step as CUDA graphs: kernels that are captured once and replayed. The host launches one thing.

A step of PyTorch's operations is some 650 kernels, which take 1.25 ms of an H200 and 8 to 10 ms of the host that
launches them one by one. A graph holds addresses and shapes. So it computes all slots 0 to rows - 1, for a few numbers
of rows, and who is in these slots and how they sample stands in one table on the device:

    `prefill`:             replay the graph that reads a prompt of this length, those that copy a slot to another, and
                           the one that starts a picture in its slot
    then, and at an end:   the table is written anew on the host, and copied without waiting
    `sample`:              replay the graph of (rows)
    `decode`:              replay the graph of (rows)

What is captured has two implementations. The fused kernels (`model.kernels.gpu`) compute every row as if it were alone,
and only as far as its own context goes. Where they cannot be had, and as the reference, the operations of
`SlotDecoder` are called with a batch whose tensors are made from the table; then there is a graph for each way of
sampling, and for each number of cached positions. In that case requests that ask for a score by likelihood, and rows
that only agree one by one, take the plain path.

The host reads nothing but `Flags`, a step late. A graph is captured when it is needed for the second time: the first
time the work runs plainly, which also lets the libraries allocate what they keep. Where there is no CUDA it always runs
plainly, which is how tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.checkpoints.networks import AnyTransformer
from model.inference.batch import Batch, Work
from model.inference.decoder import SlotDecoder
from model.inference.requests import Sequence
from model.inference.sampling import RowParams, uniforms
from model.inference.table import Table, Tables
from model.kernels import SlotTensors
from model.kernels.gpu import Column, can_fuse, fused_step
from model.transformer import KVCache, Transformer

if TYPE_CHECKING:
    from model.kernels.gpu.step import FusedStep

_POSITIONS = 64  # cached positions are read in multiples of this


class GraphedDecoder(SlotDecoder):
    """A SlotDecoder of our transformer that replays graphs: of the fused kernels, or of PyTorch's operations."""

    def __init__(
        self,
        transformer: AnyTransformer,
        null: Seq[int],
        slots: int,
        device: torch.device,
        strict: bool = True,
        likelihood: bool = True,
        native: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        """As SlotDecoder. native: with the fused kernels, where they can be had. dtype: of the CPU's kernels alone."""
        fusable = transformer if native and can_fuse(transformer) else None
        self._may_fuse = fusable is not None
        super().__init__(transformer, null, slots, device, strict, likelihood, native=False, dtype=dtype)
        slots = self.state.position.shape[0]
        self._table = torch.zeros(len(Column), slots, dtype=torch.float64, device=device)
        self._in_table: Table | None = None  # what stands there
        self._tables = Tables(slots, self.config.image_vocab)
        self.fused = self._fuse(fusable) if fusable else None
        if fusable and self.fused is None:
            super()._measure_widths()
        powers = {2**i for i in range(1, slots.bit_length())} | {slots}
        any_width = self.fused is not None or not self.strict
        self._buckets = tuple(sorted(n for n in powers if n <= slots)) if any_width else tuple(self.widths)
        self._positions: int | None = None  # cached positions that a graph of PyTorch's operations reads
        # What the graphs of an admission read: a prompt and its slot, two slots, a picture's slot with its numbers.
        self._prompt = torch.zeros(1, self.config.max_ids, dtype=torch.int64, device=device)
        self._prompt_slot = torch.zeros(1, dtype=torch.int64, device=device)
        self._from_to = torch.zeros(2, dtype=torch.int64, device=device)
        self._picture = torch.zeros(1 + 2 * self.config.image_tokens, dtype=torch.float64, device=device)
        self._graphs = Graphs(device)

    def _fuse(self, transformer: Transformer) -> FusedStep | None:
        assert isinstance(self.cache, KVCache)
        return fused_step(transformer, self.cache, SlotTensors.of(self.state), self._table, self.strict)

    def _measure_widths(self) -> None:
        if not self._may_fuse:  # the fused kernels compute every row as if it were alone
            super()._measure_widths()

    def batch(self, running: Seq[Sequence]) -> Work:
        """As SlotDecoder.batch; a table, if the graphs can compute it."""
        last = max(slot for sequence in running for slot in sequence.slots)
        width = next((width for width in self._buckets if width > last), None)
        if width is None or (self.fused is None and any(sequence.request.score for sequence in running)):
            return super().batch(running)
        return self._tables.of(running, width)

    def prefill(self, sequences: list[Sequence], forced: Tensor | None) -> None:
        """As SlotDecoder.prefill. The host waits for nothing."""
        first, *others = (s.slots[0] for s in sequences)
        text_ids = sequences[0].text_ids
        self._send(self._prompt[0, : len(text_ids)], torch.tensor(text_ids))
        self._send(self._prompt_slot, torch.tensor([first]))
        self._graphs.run(("prefill", len(text_ids)), lambda: self._read_prompt(len(text_ids)))
        nulls = [slot for s in sequences for slot in s.slots[1:]]
        for source, target in (*((first, slot) for slot in others), *((self._null_slot, slot) for slot in nulls)):
            self._send(self._from_to, torch.tensor([source, target]))
            self._graphs.run("copy", self._copy_row)
        tokens = self.config.image_tokens
        free = torch.full((tokens,), -1.0)
        for sequence in sequences:
            self._tables.tell(sequence)
            noise = torch.from_numpy(uniforms(sequence.request.params.seed, sequence.index, tokens))
            slot = torch.tensor([float(sequence.slots[0])])
            self._send(self._picture, torch.cat([slot, noise, free if forced is None else forced]).double())
            self._graphs.run("start", self._start_picture)

    def sample(self, batch: Work) -> None:
        """As SlotDecoder.sample."""
        if not isinstance(batch, Table):
            super().sample(batch)
            return
        self._fill_table(batch)
        rows, fused = batch.width, self.fused
        if fused is not None:
            self._graphs.run(("sample", rows), lambda: fused.sample(rows))
        else:
            sampling = batch.sampling
            self._graphs.run(("sample", rows, sampling), lambda: self._sample_rows(rows, sampling))
        self._flags.post()

    def decode(self, batch: Work) -> int:
        """As SlotDecoder.decode."""
        if not isinstance(batch, Table):
            return super().decode(batch)
        self._fill_table(batch)
        rows, fused = batch.width, self.fused
        if fused is not None:
            self._graphs.run(("decode", rows), lambda: fused.decode(rows))
            return 0
        positions = None if self.strict else self._longest(batch)
        if positions is not None:
            positions = min(-(-positions // _POSITIONS) * _POSITIONS, self.cache.capacity)
        self._positions = positions
        self._graphs.run(("decode", rows, positions), lambda: self._decode_rows(rows))
        return 0

    def _send(self, there: Tensor, here: Tensor) -> None:
        """Copy a tensor to the device without waiting."""
        there.copy_(here.pin_memory() if self.device.type == "cuda" else here, non_blocking=True)

    def _fill_table(self, table: Table) -> None:
        """Send the table, if it is another one: one copy, which the host does not wait for."""
        if table is not self._in_table:
            self._send(self._table, table.columns)
            self._in_table = table

    # What follows runs on the device alone: it is captured.

    def _read_prompt(self, length: int) -> None:
        hidden = self.transformer.prefill(self.cache, self._prompt_slot, self._prompt[:, :length])
        self.state.hidden.index_copy_(0, self._prompt_slot, hidden)

    def _copy_row(self) -> None:
        """One row of the cache, and its hidden, to another. The null slot has a row, but no hidden."""
        source, target = self._from_to[:1], self._from_to[1:]
        cache, hidden = self.cache, self.state.hidden
        for buffer in (cache.k, cache.v):
            buffer.index_copy_(1, target, buffer.index_select(1, source))
        for state in (cache.length, cache.step, cache.tokens, cache.caption):
            state.index_copy_(0, target, state.index_select(0, source))
        own = hidden.index_select(0, source.clamp(max=self._null_slot - 1))
        hidden.index_copy_(0, target, torch.where(source == self._null_slot, self._null_hidden, own))

    def _start_picture(self) -> None:
        """As SlotState.start."""
        state, tokens = self.state, self.config.image_tokens
        at, noise, forced = self._picture[:1].long(), self._picture[1 : 1 + tokens], self._picture[1 + tokens :]
        state.noise.index_copy_(0, at, noise[None])
        state.forced.index_copy_(0, at, forced.long()[None])
        for numbers in (state.tokens, state.position, state.begun, state.bad, state.score):
            numbers.index_fill_(0, at, 0)

    def _sample_rows(self, rows: int, sampling: tuple[int, bool]) -> None:
        self.state.position[:rows] *= self._table[Column.IMAGE, :rows].long()  # others draw at 0, and are dropped
        super()._draw(self._batch_of(rows, sampling))

    def _decode_rows(self, rows: int) -> None:
        held = self._table[Column.HELD, :rows] > 0
        cache = self.cache
        cache.length[:rows] = torch.where(held, cache.length[:rows], self._null_length)
        cache.step[:rows] *= held.long()
        super()._feed(self._batch_of(rows, (0, False)), self._positions)

    def _batch_of(self, rows: int, sampling: tuple[int, bool]) -> Batch:
        """All of the first `rows` slots as images of a batch, by the table."""
        table = self._table[:, :rows]
        every = torch.arange(rows, device=self.device)
        none = every[:0]
        largest_k, any_nucleus = sampling

        def column(name: Column, dtype: torch.dtype = torch.float32) -> Tensor:
            return table[name].to(dtype)[:, None]  # (rows, 1)

        params = RowParams(
            temperature=column(Column.TEMPERATURE),
            opening=column(Column.OPENING),
            greedy=table[Column.GREEDY] > 0,
            guided=every,  # those without guidance are their own null row, which changes nothing
            guidance=column(Column.GUIDANCE),
            restricted=every,
            top_k=column(Column.TOP_K, torch.int64),
            top_p=column(Column.TOP_P, torch.float64),
            any_opening=True,
            any_greedy=True,
            all_greedy=False,
            any_nucleus=any_nucleus,
            largest_k=self.config.image_vocab if largest_k < 0 else min(largest_k, self.config.image_vocab),
        )
        return Batch(
            sequences=(),
            slices=(slice(0, rows),),
            rows=every,
            idle=none,
            source=table[Column.SOURCE].long(),
            images=every,
            conditional=every,
            null=table[Column.NULL].long(),
            params=params,
            forces=True,
            scored=none,
            scored_null=none,
        )


class Graphs:
    """Work that is captured when it is asked for again, and replayed from then on. Runs plainly where there is no CUDA.

    All graphs share one pool of memory, because only one of them runs at a time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen: set[Hashable] = set()
        self._captured: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Do the work that `key` stands for: the same operations on the same tensors every time."""
        if self._device.type != "cuda" or key not in self._seen:
            self._seen.add(key)
            work()
            return
        if key not in self._captured:
            self._captured[key] = self._capture(work)
        self._captured[key].replay()

    def _capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Write down what the work would do. `torch.cuda.graph` would also wait for the device and empty its caches."""
        graph, present = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(present)
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        present.wait_stream(stream)
        return graph
