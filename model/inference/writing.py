"""What is done to a prompt before it is painted: it is completed, or said in words that the model was taught.

    writer = Writer(checkpoint, device)
    writer.complete(tokenizer.encode("a red"), Completion(), seed=1)  # "a red apple"
    writer.revise(tokenizer.encode("a cute kitten reading in the rain"))  # "a cat"

Completion is the method of DALLE-pytorch's generate_texts: the text half of the sequence model, sampled. Revision is
the reviser's (`model.reviser`). One text at a time, so that what is written is a function of (model, text, parameters,
seed, index) alone; text ids only, never image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.checkpoints import Checkpoint
from model.errors import DalleError, InvalidRequest
from model.inference.sampling import TEXT, RowParams, sample, uniforms
from model.inference.sequence import Completion, SamplingParams
from model.reviser import Reviser, plain


class Writer:
    """The text head of one checkpoint's transformer, which is on `device` in its final type; and its reviser."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self._tokenizer, self._transformer = checkpoint.tokenizer, checkpoint.transformer
        self._able, self._name = checkpoint.config.completes, checkpoint.config.name
        self._device = device
        self._reviser = checkpoint.reviser.to(device).eval() if checkpoint.reviser else None

    def check_completes(self) -> None:
        """Raises InvalidRequest for a model whose text head was not trained."""
        if not self._able:
            raise InvalidRequest("complete", f"complete: the model {self._name} was not trained to continue texts")

    @torch.inference_mode()
    def complete(self, text_ids: Sequence[int], how: Completion, seed: int, index: int = 0) -> str:
        """The text of text_ids (<bos>, tokens, <eot>) and what follows it; unchanged where the model ends it at once.

        seed, index: another index is another completion. Raises InvalidRequest naming the parameter out of range, and
        DalleError if the model's output is not finite.
        """
        self.check_completes()
        how.check(self._transformer.config.text_vocab)
        tokenizer, config = self._tokenizer, self._transformer.config
        ids = list(text_ids[:-1])
        room = min(how.tokens, config.text_tokens - len(ids) + 1)
        if room <= 0:
            return tokenizer.decode(ids).rstrip("�")  # a text may be cut inside a character
        rows = RowParams.prepare(
            [SamplingParams(seed, how.temperature, how.top_k)], (), config.text_vocab, self._device
        )
        noise = torch.from_numpy(uniforms(seed, index, room, TEXT)).to(self._device)
        barred = torch.ones(config.text_vocab, dtype=torch.bool, device=self._device)
        barred[: tokenizer.vocab_size] = False
        barred[[tokenizer.bos, tokenizer.pad]] = True
        written: list[int] = []
        logits, state = self._transformer.read_text(torch.tensor([ids], device=self._device))
        for i in range(room):
            drawn, sound = sample(logits.masked_fill(barred, float("-inf")), rows, noise[i : i + 1])
            if not bool(sound):
                raise DalleError("the model gave no finite probabilities for what follows this text")
            if int(drawn) == tokenizer.eot:
                break
            written.append(int(drawn))
            logits, state = self._transformer.read_text(drawn[None], state)
        begun = tokenizer.decode(ids)
        return begun + tokenizer.decode([*ids, *written]).removeprefix(begun).replace("�", "")

    def check_revises(self) -> Reviser:
        """The reviser. Raises InvalidRequest for a model without one."""
        if self._reviser is None:
            raise InvalidRequest("revise", f"revise: the model {self._name} has no reviser")
        return self._reviser

    def revise(self, text_ids: Sequence[int]) -> str | None:
        """A prompt (<bos>, tokens, <eot>) in the words of the captions that the model was taught.

        None where there is nothing better to say: for the empty prompt, where the reviser finds no end, and where it
        says the same. Raises InvalidRequest without a reviser.
        """
        reviser, tokenizer = self.check_revises(), self._tokenizer
        if len(text_ids) <= len(tokenizer.null):
            return None
        text = tokenizer.decode(text_ids)
        read = tokenizer.encode(plain(text.rstrip("\ufffd")), truncate=True)
        written = reviser.write(read, tokenizer.bos, tokenizer.eot)
        said = tokenizer.decode(written).strip() if written else ""
        return said if said and "\ufffd" not in said and said != text else None
