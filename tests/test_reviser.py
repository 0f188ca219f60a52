"""The reviser: what its positions see, how it ends, and its place in a checkpoint."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

import model
from model.checkpoints import load
from model.checkpoints.describe import describe
from model.config import ReviserConfig, from_preset
from model.errors import CheckpointError, InvalidRequest
from model.reviser import Reviser
from model.tokenizer import Tokenizer
from tests.conftest import randomise
from tests.revising import CIRCLE, KITTEN, keep, learnt, with_reviser


@pytest.fixture(scope="module")
def reviser() -> Reviser:
    made = Reviser(from_preset(ReviserConfig, "tiny", text_vocab=512))
    randomise(made, seed=5)
    return made.eval()


@pytest.fixture(scope="module")
def revised(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_reviser(tiny_checkpoint, tmp_path_factory.mktemp("reviser") / "tiny")


def logits(reviser: Reviser, prompt: torch.Tensor, lengths: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
    return reviser.logits(reviser.states(prompt, lengths, written)).detach()


def test_padding_and_what_comes_later_change_nothing(reviser: Reviser) -> None:
    prompt, written = torch.tensor([[0, 20, 30, 1]]), torch.tensor([[0, 40, 50]])
    found = logits(reviser, prompt, torch.tensor([4]), written)
    assert found.shape == (1, 3, 512)
    assert found.dtype == torch.float32
    padded = torch.tensor([[0, 20, 30, 1, 2, 2], [0, 20, 30, 35, 36, 1]])
    both = logits(reviser, padded, torch.tensor([4, 6]), torch.tensor([[0, 40, 50], [0, 40, 50]]))
    assert torch.allclose(both[0], found[0], atol=1e-5)
    assert not torch.allclose(both[1], found[0], atol=1e-3)
    later = logits(reviser, prompt, torch.tensor([4]), torch.tensor([[0, 40, 60]]))
    assert torch.allclose(later[:, :2], found[:, :2], atol=1e-6)
    assert not torch.allclose(later[:, 2], found[:, 2], atol=1e-3)


def test_the_whole_prompt_is_seen_from_each_of_its_places(reviser: Reviser) -> None:
    """Its first layer sees the end of the prompt from its beginning, which a causal one would not."""
    lengths, written = torch.tensor([3]), torch.tensor([[0]])
    first, other = (logits(reviser, torch.tensor([[0, last, 1]]), lengths, written) for last in (20, 30))
    assert not torch.allclose(first, other, atol=1e-3)
    turned = logits(reviser, torch.tensor([[0, 20, 30, 1]]), torch.tensor([4]), written)
    assert not torch.allclose(
        turned, logits(reviser, torch.tensor([[0, 30, 20, 1]]), torch.tensor([4]), written), atol=1e-4
    )


def test_more_positions_than_it_has_are_refused_with_both_numbers(reviser: Reviser) -> None:
    with pytest.raises(ValueError, match="prompt and written must have at most 258 and 48 ids, got 259 and 1"):
        reviser.states(torch.zeros(1, 259).long(), torch.tensor([259]), torch.zeros(1, 1).long())
    with pytest.raises(ValueError, match="preset must be one of tiny, default, got 'huge'"):
        from_preset(ReviserConfig, "huge")
    with pytest.raises(ValueError, match="heads: 4 is no multiple of kv_heads 3"):
        from_preset(ReviserConfig, "default", kv_heads=3)


def test_it_writes_what_it_learnt_and_ends(tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer.load(tiny_checkpoint / "tokenizer.json")
    made = learnt(tokenizer)
    for prompt, caption in ((KITTEN, "a small orange cat"), (CIRCLE, CIRCLE)):
        written = made.write(tokenizer.encode(prompt), tokenizer.bos, tokenizer.eot)
        assert written == tokenizer.encode(caption)


def test_writing_id_by_id_is_the_same_as_reading_all_at_once(reviser: Reviser) -> None:
    for seed in range(3):
        prompt = [0, *torch.randint(3, 512, (20,), generator=torch.Generator().manual_seed(seed)).tolist(), 1]
        expected = [0]
        while len(expected) < reviser.config.written_positions and expected[-1] != 1:
            found = logits(reviser, torch.tensor([prompt]), torch.tensor([len(prompt)]), torch.tensor([expected]))
            expected.append(int(found[0, -1].argmax()))
        assert reviser.write(prompt, 0, eot=1) == (expected if expected[-1] == 1 else None)
        assert reviser.write(prompt, 0, eot=expected[5]) == expected[: expected.index(expected[5], 1) + 1]


def test_a_text_without_an_end_is_none(reviser: Reviser) -> None:
    endless = Reviser(reviser.config)
    endless.load_state_dict(reviser.state_dict())
    with torch.no_grad():
        endless.norm.weight.zero_()  # all logits 0: the likeliest is the first id, which is no end
    assert endless.write([0, 20, 1], Tokenizer.bos, Tokenizer.eot) is None


def test_of_too_long_a_prompt_the_beginning_is_read(tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer.load(tiny_checkpoint / "tokenizer.json")
    made, prompt = learnt(tokenizer), tokenizer.encode(KITTEN)
    short = Reviser(dataclasses.replace(made.config, prompt_positions=len(prompt)))
    short.load_state_dict(made.state_dict())
    longer = [*prompt[:-1], *tokenizer.encode(CIRCLE)[1:]]
    assert short.write(longer, tokenizer.bos, tokenizer.eot) == tokenizer.encode("a small orange cat")


def test_it_comes_back_from_a_checkpoint_and_is_described(revised: Path, tiny_checkpoint: Path) -> None:
    found = load(revised)
    assert found.reviser is not None
    assert found.reviser.config == found.config.reviser
    assert not found.reviser.training
    state = learnt(found.own().tokenizer).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.reviser.state_dict().items())
    assert dict(describe(revised).parameters)["reviser"] == sum(p.numel() for p in found.reviser.parameters())
    without = load(tiny_checkpoint)
    assert (without.reviser, without.config.reviser) == (None, None)
    assert "reviser" not in dict(describe(tiny_checkpoint).parameters)


def test_one_that_does_not_fit_is_not_saved_or_loaded(revised: Path, tmp_path: Path) -> None:
    checkpoint = load(revised)
    assert checkpoint.reviser is not None
    other = Reviser(dataclasses.replace(checkpoint.reviser.config, text_vocab=259))
    with pytest.raises(CheckpointError, match="and the reviser's table has 259"):
        keep(checkpoint, other, tmp_path / "wrong")
    copy = Path(shutil.copytree(revised, tmp_path / "copy"))
    (copy / "reviser-1-of-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"reviser-1-of-1\.safetensors: no such file"):
        load(copy)
    bare = dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, reviser=None))
    with pytest.raises(ValueError, match="reviser: the config says None"):
        model.checkpoints.save(
            tmp_path / "x", bare.config, bare.tokenizer, bare.vae, bare.transformer, reviser=checkpoint.reviser
        )


def test_a_painter_paints_the_revised_text(revised: Path, tiny_checkpoint: Path) -> None:
    painter = model.load(revised, "cpu")
    assert painter.revise(KITTEN) == "a small orange cat"
    (picture,) = painter.generate(KITTEN, seed=1)
    assert picture.info["revised"] == "a small orange cat"
    (written_out,) = painter.generate("a small orange cat", seed=1, revise=False)
    assert picture.tobytes() == written_out.tobytes()
    assert "revised" not in written_out.info
    (same,) = painter.generate(CIRCLE, seed=1)
    assert "revised" not in same.info  # it is said as it was
    (as_it_is,) = painter.generate(KITTEN, seed=1, revise=False)
    assert as_it_is.tobytes() != picture.tobytes()
    assert [one.tobytes() for one in painter.generate_each([KITTEN, CIRCLE], seed=1)] == [
        picture.tobytes(),
        same.tobytes(),
    ]
    without = model.load(tiny_checkpoint, "cpu")
    with pytest.raises(InvalidRequest, match="^revise must be left out: tiny has no reviser"):
        without.generate(CIRCLE, revise=True)
    with pytest.raises(InvalidRequest, match="^revise must "):
        without.revise(CIRCLE)
