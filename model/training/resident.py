"""Batches drawn on a GPU, from tokens and captions that lie there.

A processor takes a millisecond or more for a sample, and a GPU learns from some thousand samples a second. So all
pictures' tokens and all texts, encoded, are put on the GPU once. A batch is then a few look-ups there. Its texts are
padded to the longest of all, so that every step has the same shapes.

The caption of a sample is drawn by the captions' weights, as on the host. Captions with clutter are made beforehand, as
many as the run will ask for, POOL at most: each may come several times in a long run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.tokenizer import Tokenizer
from model.tokenizers import AnyTokenizer
from model.training.batches import ONE_THING, Drawn, Told, as_typed
from model.training.clutter import UNKNOWN
from model.training.data import sample_caption
from model.training.examples import Examples, Table
from model.training.loop import Place
from model.training.options import TransformerOptions
from model.training.prefetch import prefetched, workers_for

log = logging.getLogger(__name__)

DEVICES = ("cuda",)  # kinds of device that batches are drawn on
POOL = 2**19  # captions with clutter
CHUNK = 1024  # texts that are encoded together
FREE_SHARE = 0.5  # of a GPU's free memory that the data may take


def _encoded(texts: Callable[[int], list[str]], chunks: int, tokenizer: AnyTokenizer, workers: int) -> list[Tensor]:
    """Chunks of texts -> all their ids (n, longest) int32, padded on the right, and their lengths (n,) int64."""

    def make(chunk: int) -> tuple[Tensor, Tensor]:
        ids = [torch.tensor(tokenizer.encode(text, truncate=True), dtype=torch.int32) for text in texts(chunk)]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=Tokenizer.pad)
        return padded, torch.tensor(list(map(len, ids)))

    with prefetched(make, range(chunks), min(workers, chunks // 8), torch.device("cpu")) as made:
        parts, lengths = zip(*made, strict=True)
    width = max(part.shape[1] for part in parts)
    return [torch.cat([F.pad(p, (0, width - p.shape[1]), value=Tokenizer.pad) for p in parts]), torch.cat(lengths)]


def _chunks(count: int) -> int:
    return -(-count // CHUNK)


class ResidentDraws:
    """Draws from a table whose pictures and texts lie on `device`; see `batches.Draws`."""

    def __init__(
        self, table: Table, tokenizer: AnyTokenizer, options: TransformerOptions, device: torch.device, workers: int = 0
    ) -> None:
        """workers: processes that encode the texts."""
        self.options, self.device = options, device
        count, image_vocab = len(table.shares), int(table.tokens.max(initial=0)) + 1
        self.edges = torch.from_numpy(np.cumsum(table.shares)).to(device)
        images = np.concatenate([table.tokens, table.mirrored]) if options.mirror else table.tokens
        self.images = torch.from_numpy(images.astype(np.int16 if image_vocab <= 2**15 else np.int32)).to(device)
        mirrored = np.arange(count)  # the row of each picture's mirror image; its own where it has none
        mirrored[table.may_mirror] = count + np.arange(len(table.mirrored))
        self.mirrored = torch.from_numpy(mirrored).to(device)
        self.one_thing = torch.tensor([kind in ONE_THING for kind in table.kinds], device=device)
        unknown = np.array([concept == UNKNOWN for concept in table.concepts]) & (options.clutter > 0)
        self.unknown = torch.from_numpy(unknown).to(device)

        texts = list(dict.fromkeys(["", *(text for of_one in table.captions for _, text in of_one)]))
        row_of = {text: row for row, text in enumerate(texts)}
        ids, lengths = _encoded(lambda i: texts[i * CHUNK : (i + 1) * CHUNK], _chunks(len(texts)), tokenizer, workers)
        null = torch.tensor(tokenizer.null, dtype=torch.int32)  # "" is the null caption: row 0
        ids[0], lengths[0] = F.pad(null, (0, ids.shape[1] - len(null)), value=Tokenizer.pad), len(null)
        rows = [row_of[text] for of_one in table.captions for _, text in of_one]
        # A caption's edge is its picture's index and the cumulative share of the captions up to it.
        shares = [np.cumsum([weight for weight, _ in of_one]) for of_one in table.captions]
        edges = np.concatenate([picture + share / share[-1] for picture, share in enumerate(shares)])
        self.caption_edges, self.caption_rows = torch.from_numpy(edges).to(device), torch.tensor(rows, device=device)
        self.last_caption = torch.from_numpy(np.cumsum(list(map(len, shares))) - 1).to(device)

        if options.clutter > 0:
            counts = self._pool_sizes(table.shares, unknown)
            owners = np.repeat(np.arange(count), counts)

            def typed(chunk: int) -> list[str]:
                random = np.random.default_rng((options.loop.seed, chunk))
                return [
                    as_typed(sample_caption(table.captions[own], random), table.concepts[own], table.kinds[own], random)
                    for own in owners[chunk * CHUNK : (chunk + 1) * CHUNK]
                ]

            more, more_lengths = _encoded(typed, _chunks(len(owners)), tokenizer, workers)
            width = max(ids.shape[1], more.shape[1])
            both = [F.pad(part, (0, width - part.shape[1]), value=Tokenizer.pad) for part in (ids, more)]
            self.pool_first = torch.from_numpy(len(ids) + np.cumsum(counts) - counts).to(device)
            self.pool_counts = torch.from_numpy(counts).to(device)
            ids, lengths = torch.cat(both), torch.cat([lengths, more_lengths])
        self.texts, self.lengths = ids.to(device), lengths.to(device)

    def _pool_sizes(self, shares: np.ndarray, unknown: np.ndarray) -> np.ndarray:
        """How many captions with clutter are made of each picture, by how often the run will ask for one."""
        options = self.options
        asked = shares * (np.where(unknown, 1.0, options.clutter) + options.glimpses)
        asked *= options.loop.steps * options.loop.batch
        return np.ceil(asked * min(1.0, POOL / asked.sum())).clip(1).astype(np.int64)

    def __call__(self, step: int, first: int, end: int, random: torch.Generator) -> Drawn:  # noqa: ARG002
        """See `batches.Draws`."""
        options, batch = self.options, self.options.loop.batch

        def uniform(*shape: int) -> Tensor:  # drawn for all processes, so that their number changes nothing
            return torch.rand(*shape, generator=random, device=self.device, dtype=torch.float64)

        pick, turn, swap, drop, cluttered, word = uniform(6, batch).unbind()
        picture = self._pictures(pick)
        contradicted = (swap < options.contradict) & self.one_thing[picture]
        told = torch.where(contradicted, picture.roll(-1), picture)
        dropped, changed = drop < options.null_captions, (cluttered < options.clutter) | self.unknown[told]
        text = torch.where(changed, self._typed(told, word), self._captions(told, word)).masked_fill(dropped, 0)
        part, text_only = slice(first, end), None
        if options.glimpses:
            pick, turned, word = (draw[part].flatten() for draw in uniform(3, batch, options.glimpses).unbind())
            other = self._pictures(pick)
            of_text = self._typed if options.clutter > 0 else self._captions
            text_only = self._told(other, of_text(other, word), turned)
        return Drawn(
            self._told(picture[part], text[part], turn[part]),
            ~(dropped | changed | contradicted)[part],
            contradicted[part],
            text_only,
        )

    def _pictures(self, drawn: Tensor) -> Tensor:
        return torch.searchsorted(self.edges, drawn).clamp_max(len(self.edges) - 1)

    def _captions(self, picture: Tensor, drawn: Tensor) -> Tensor:
        """Rows of texts, by the weights of each picture's captions."""
        found = torch.searchsorted(self.caption_edges, picture + drawn, right=True)
        return self.caption_rows[torch.minimum(found, self.last_caption[picture])]

    def _typed(self, picture: Tensor, drawn: Tensor) -> Tensor:
        """Rows of texts: of the picture's captions with clutter; without clutter 0."""
        if self.options.clutter == 0:
            return torch.zeros_like(picture)
        return self.pool_first[picture] + (drawn * self.pool_counts[picture]).long()

    def _told(self, picture: Tensor, text: Tensor, turned: Tensor) -> Told:
        row = torch.where(turned < self.options.mirror, self.mirrored[picture], picture)
        return Told(self.texts[text].long(), self.lengths[text], self.images[row].long())


def resident(
    examples: Examples, tokenizer: AnyTokenizer, options: TransformerOptions, place: Place
) -> ResidentDraws | None:
    """Draws on the training's GPU; None where batches are made on the host. On a GPU the log then says why."""
    if place.device.type not in DEVICES:
        return None
    why, table = "", examples.table()
    if table is None:
        why = "a stream reads the pictures from disk, in order"
    elif place.device.type == "cuda":
        asked = table.tokens.nbytes + table.mirrored.nbytes
        free, _ = torch.cuda.mem_get_info(place.device)
        if asked > FREE_SHARE * free:
            why = f"the tokens take {asked >> 20} MiB and the GPU has {free >> 20} MiB free, of which half may be used"
    if table is None or why:
        log.info("batches are made on the host, which is slower, because %s", why)
        return None
    workers = workers_for(options.loop.workers, place.device, place.world)
    found = ResidentDraws(table, tokenizer, options, place.device, workers)
    log.info("%d pictures and %d texts lie on the GPU", len(table.shares), len(found.lengths))
    return found
