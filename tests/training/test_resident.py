"""The training step of a GPU, on a CPU: its losses, its batches, and that it never waits for the host."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import TransformerConfig, from_preset
from model.tokenizer import Tokenizer
from model.training import resident
from model.training.batches import Batch, Batches, ExampleDraws
from model.training.clutter import UNKNOWN
from model.training.examples import Example, PreparedExamples, StreamedExamples
from model.training.loop import Place, Run, training_step
from model.training.optimizers import matrices_and_rest, muon_and_adamw
from model.training.options import LoopOptions, TransformerOptions
from model.training.prepare import Prepared
from model.training.preserve import PreservingExamples
from model.training.resident import ResidentDraws
from model.training.selection import Selection
from model.training.train_transformer import TABLES, losses
from model.transformer import Transformer

CPU = torch.device("cpu")
ALL: dict[str, Any] = {"clutter": 0.3, "contradict": 0.3, "glimpses": 2, "null_captions": 0.2, "mirror": 0.5}
LINES: list[dict[str, Any]] = [
    {"captions": [[3.0, "a cat"], [1.0, "one cat"]], "concept": "cat", "mirror": True},
    {"captions": [[1.0, "a dog"]], "concept": "dog-face"},
    {"captions": [[1.0, "a cat and a dog"]], "concept": "cat+dog", "kind": "pair"},
    {"captions": [[1.0, "a thinking face"]], "concept": UNKNOWN, "mirror": True},
    {"captions": [[1.0, "a bus"]], "concept": "bus", "split": "val"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text for line in LINES for _, text in line["captions"]], vocab_size=300)


def examples() -> PreparedExamples:
    """Picture i is of the token 100 i + 100 on a white background; its mirror image of the next one."""
    tokens = np.zeros((2, len(LINES), 1024), dtype=np.uint16)
    for i in range(len(LINES)):
        tokens[:, i, 300:700] = np.array([[100 * i + 100], [100 * i + 101]])
    lines = [{"kind": "single", **line} for line in LINES]
    return PreparedExamples(Prepared(Path(), np.zeros(0, np.uint8), lines), (tokens[0], tokens[1]), Selection())


def options_of(batch: int = 8, **changes: Any) -> TransformerOptions:
    loop = LoopOptions(out=Path("nowhere"), steps=50, batch=batch)
    return TransformerOptions((), loop, **{"null_captions": 0.0, "mirror": 0.0, **changes})


def config_of(tokenizer: Tokenizer) -> TransformerConfig:
    return from_preset(TransformerConfig, "tiny", text_vocab=tokenizer.vocab_size)


def batches_of(tokenizer: Tokenizer, options: TransformerOptions) -> Batches:
    table = examples().table()
    return Batches(ResidentDraws(table, tokenizer, options, CPU), options, config_of(tokenizer))


@pytest.fixture
def model(tokenizer: Tokenizer) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(config_of(tokenizer))
    with torch.no_grad():  # as blocks start as the identity
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def one_by_one(model: Transformer, batch: Batch) -> torch.Tensor:
    """The loss in nats as the paper states it: of each sequence alone, without padding, all logits at once."""
    image_loss = text_loss = torch.zeros(())
    predicted = 0
    for i, length in enumerate(batch.lengths.tolist()):
        text, image = batch.text[i : i + 1, :length], batch.image[i : i + 1]
        told, inputs = model.states(text, batch.lengths[i : i + 1], image, batch.seen[i : i + 1])
        found = F.cross_entropy(model.local.logits(inputs)[0], image[0], reduction="none")
        image_loss = image_loss + (found * batch.loss_weights[i]).sum()
        if batch.plain is not None and batch.plain[i]:
            text_loss = text_loss + F.cross_entropy(model.text_logits(told[0, :-1]), text[0, 1:], reduction="sum")
            predicted += length - 1
    asked = batch.text_only
    assert asked is not None
    for i, length in enumerate(asked.lengths.tolist()):
        inputs = model.text_only_states(
            asked.text[i : i + 1, :length], asked.lengths[i : i + 1], asked.steps[i : i + 1]
        )
        image_loss = image_loss + F.cross_entropy(model.local.logits(inputs)[0], asked.image[i], reduction="sum")
    return (text_loss / predicted + 7 * image_loss / batch.image.numel()) / 8


def gradients(model: Transformer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("every", [False, True])
def test_the_loss_and_its_gradients_are_those_of_each_sequence_alone(
    model: Transformer, tokenizer: Tokenizer, every: bool
) -> None:
    batch = batches_of(tokenizer, options_of(**ALL))(0, 0, 8)
    assert len(set(batch.lengths.tolist())) > 1
    assert batch.plain is not None
    assert 0 < int(batch.plain.sum()) < 8
    found, expected = losses(model, batch, every=every)["loss"], one_by_one(model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    theirs = gradients(model, expected)
    for name, ours in gradients(model, found).items():
        torch.testing.assert_close(ours, theirs[name], rtol=1e-3, atol=1e-5, msg=name)


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where a GPU would have to wait for the host, or the host for it: values that are read, made or moved."""

    READ = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique",
        "_unique2",
        "is_nonzero",
        "equal",
        "lift_fresh",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = func.overloadpacket.__name__, kwargs or {}
        assert name not in self.READ, f"{func} waits"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            assert not any(x is not None and x.dtype == torch.bool for x in args[1]), f"{func} by a mask waits"
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            target = args[0].device if name == "copy_" else given.get("device") or args[0].device
            assert source.device == target, f"{func} moves"
        return func(*args, **given)


def test_a_step_never_waits_for_the_host(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    options = options_of(batch=4, **ALL)
    options = replace(options, loop=replace(options.loop, out=tmp_path))
    optimizers = muon_and_adamw(*matrices_and_rest(model, TABLES), 0.02, 3e-3, 0.01)
    for group in optimizers[0].param_groups:
        group["fused"] = True  # as on a GPU; PyTorch's other AdamW counts its steps in tensors on the host

    def every(model: Transformer, batch: Batch) -> dict[str, torch.Tensor]:
        return losses(model, batch, every=True)

    batches = batches_of(tokenizer, options)
    run = Run(model, optimizers, options.loop, Place(CPU, None), batches, every, resident=True)

    def made() -> Iterator[Batch]:
        for step in range(3):
            yield batches(step, 0, 4)

    batch = made()
    training_step(run, batch)
    with NoWaiting():  # type: ignore[no-untyped-call]
        found = training_step(run, batch)
    assert found["loss"].isfinite()
    with pytest.raises(AssertionError, match="nonzero.* waits"), NoWaiting():  # type: ignore[no-untyped-call]
        losses(model, next(batch))


def test_samples_are_drawn_by_their_shares(tokenizer: Tokenizer) -> None:
    batch = batches_of(tokenizer, options_of(batch=4000, mirror=0.5, null_captions=0.25))(0, 0, 4000)
    texts = [tokenizer.decode(row[:n].tolist()) for row, n in zip(batch.text, batch.lengths.tolist(), strict=True)]
    drawn = Counter(zip(batch.image[:, 500].tolist(), texts, strict=True))
    expected = {"a cat": 0.75 / 4, "one cat": 0.25 / 4, "a dog": 1 / 4, "a cat and a dog": 1 / 4}
    for text, share in expected.items():
        assert sum(n for (_, said), n in drawn.items() if said == text) / 4000 == pytest.approx(0.75 * share, abs=0.03)
    images = Counter(batch.image[:, 500].tolist())
    assert set(images) == {100, 101, 200, 300, 400, 401}  # neither what is held out nor what may not be mirrored
    assert images[100] / 4000 == pytest.approx(1 / 8, abs=0.02)
    assert {said for image, said in drawn if image in (100, 101)} == {"a cat", "one cat", ""}
    assert batch.plain is not None
    assert float(batch.plain.float().mean()) == pytest.approx(0.75, abs=0.03)
    for rows, token in ((batch.seen, 500), (batch.loss_weights, 305)):
        assert 0 < float(rows[:, token].mean()) < 10


def test_captions_are_cluttered_and_exchanged_as_on_the_host(tokenizer: Tokenizer) -> None:
    """Shares of changed captions by picture agree with those of the present draws, one after another."""

    def shares(draws: Any, options: TransformerOptions) -> dict[int, tuple[float, float]]:
        found = draws(0, 0, options.loop.batch, torch.Generator().manual_seed(0))
        shown = found.told.image[:, 500]
        return {
            int(i): (
                float(found.plain[shown == i].float().mean()),
                float(found.contradicted[shown == i].float().mean()),
            )
            for i in shown.unique()
        }

    options = options_of(batch=2000, clutter=0.2, contradict=0.3)
    there = shares(ResidentDraws(examples().table(), tokenizer, options, CPU), options)
    here = shares(ExampleDraws(examples(), tokenizer, options), options)
    assert there.keys() == here.keys() == {100, 200, 300, 400}
    for image in here:
        assert there[image] == pytest.approx(here[image], abs=0.1)
    assert there[300][1] == 0  # a pair is never contradicted
    assert there[400][0] == 0  # the unknown is always drawn for unknown words


def test_the_pool_of_cluttered_captions_has_as_many_as_are_asked_for(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, options = examples().table(), options_of(batch=100, clutter=0.1)
    draws = ResidentDraws(table, tokenizer, options, CPU)
    assert draws.pool_counts.tolist() == [125, 125, 125, 1250]  # of 50 steps
    monkeypatch.setattr(resident, "POOL", 13)
    assert ResidentDraws(table, tokenizer, options, CPU).pool_counts.tolist() == [1, 1, 1, 10]


def test_a_batch_is_a_function_of_the_step_and_of_the_place_in_it(tokenizer: Tokenizer) -> None:
    batches = batches_of(tokenizer, options_of(**ALL))
    whole, parts = batches(3, 0, 8), [batches(3, 0, 2), batches(3, 2, 8)]
    for name in ("text", "lengths", "image", "seen", "loss_weights", "plain"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
    told = [part.text_only for part in (whole, *parts)]
    for name in ("text", "lengths", "steps", "image"):
        assert torch.equal(getattr(told[0], name), torch.cat([getattr(part, name) for part in told[1:]]))
    assert not torch.equal(whole.seen, batches(4, 0, 8).seen)


def test_preserved_drawings_are_drawn_too(tokenizer: Tokenizer) -> None:
    drawings = [Example([(1.0, "a red bus")], np.full(1024, 7000 + i)) for i in range(2)]
    table = PreservingExamples(examples(), drawings, 0.4).table()
    assert table is not None
    assert table.shares.tolist() == pytest.approx([0.15] * 4 + [0.2] * 2)
    options = options_of(batch=1000, mirror=0.5)
    draws = ResidentDraws(table, tokenizer, options, CPU)
    images = draws(0, 0, 1000, torch.Generator().manual_seed(0)).told.image[:, 500]
    assert float((images >= 7000).float().mean()) == pytest.approx(0.4, abs=0.05)
    assert set(images.tolist()) == {100, 101, 200, 300, 400, 401, 7000, 7001}


def test_a_stream_is_drawn_on_the_host_and_the_log_says_why(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place, stream = Place(CPU, None), StreamedExamples.__new__(StreamedExamples)
    assert resident.resident(examples(), tokenizer, options_of(), place) is None
    assert not caplog.records  # on a CPU it is as it was
    monkeypatch.setattr(resident, "DEVICES", ("cpu",))
    assert resident.resident(stream, tokenizer, options_of(), place) is None
    (record,) = caplog.records
    assert record.getMessage().endswith("because a stream reads the pictures from disk, in order")
