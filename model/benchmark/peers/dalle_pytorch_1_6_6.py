"""Makes a checkpoint of DALLE-pytorch 1.6.6 with random weights, and measures the package with it.

Run with one argument, an object in JSON: folder, threads, seed, images (numbers of pictures at once), positions and
repeats (how many places of a picture are measured, and how often), hparams, vae_params. It writes folder/dalle.pt, and
one line of JSON to stdout.

A picture takes minutes with this package. So single steps are measured at several places of a picture, and the time of
a whole one is their integral. "repaired" hands on the cache at cond_scale 1, as the package meant to. "published" has
no cache then, and computes the whole sequence at each step; its time grows with the square of the place.
"""

from __future__ import annotations

import json
import sys
import time
import types
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any

# Image tokenizers of taming-transformers are not used here, and need thirty packages more.
for _name in ("taming", "taming.models", "taming.models.vqgan", "omegaconf"):
    sys.modules[_name] = types.ModuleType(_name)
for _class in ("VQModel", "GumbelVQ"):
    setattr(sys.modules["taming.models.vqgan"], _class, type(_class, (), {}))
sys.modules["omegaconf"].OmegaConf = type("OmegaConf", (), {})  # type: ignore[attr-defined]

import torch  # noqa: E402
from dalle_pytorch import DALLE, DiscreteVAE  # type: ignore[import-not-found]  # noqa: E402
from dalle_pytorch.dalle_pytorch import gumbel_sample, top_k  # type: ignore[import-not-found]  # noqa: E402
from torch import Tensor  # noqa: E402

TEXT = (320, 736, 3055)  # "a red apple" in the BPE of OpenAI's CLIP
PROBE = 8  # logits that are written for a comparison


def make(asked: dict[str, Any]) -> Any:
    """The model, and its file as train_dalle.py saves it."""
    torch.manual_seed(asked["seed"])
    hparams, vae_params = asked["hparams"], asked["vae_params"]
    vae = DiscreteVAE(**vae_params)
    dalle = DALLE(vae=vae, **hparams).eval()
    content = {
        "hparams": hparams,
        "vae_params": vae_params,
        "epoch": 0,
        "version": "1.6.6",
        "vae_class_name": "DiscreteVAE",
        "weights": dalle.state_dict(),
    }
    torch.save(content, Path(asked["folder"]) / "dalle.pt")
    return dalle


def widened(state: Any, rows: int) -> Any:
    """A cache of one row, for so many rows."""
    if isinstance(state, Tensor):
        return state.expand(rows, *state.shape[1:]).contiguous()
    if isinstance(state, dict):
        return {key: widened(value, rows) for key, value in state.items()}
    if isinstance(state, deque):
        return deque((widened(value, rows) for value in state), state.maxlen)
    if isinstance(state, list | tuple):
        return type(state)(widened(value, rows) for value in state)
    return state


def step(dalle: Any, text: Tensor, image: Tensor, cache: dict[str, Any] | None) -> Tensor:
    """What one turn of the loop in generate_images does. Returns the image with its next token."""
    logits = dalle(text.clone(), image, cache=cache)[:, -1, :]
    drawn = gumbel_sample(top_k(logits, thres=0.5), temperature=1.0, dim=-1) - dalle.num_text_tokens
    return torch.cat((image, drawn[:, None].clamp(0, dalle.num_image_tokens - 1)), dim=-1)


def timed(work: Any, repeats: int) -> float:
    """Seconds of the fastest run."""
    found = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found = min(found, time.perf_counter() - began)
    return found


def cached_seconds(dalle: Any, text: Tensor, rows: int, places: list[int], repeats: int) -> tuple[float, list[Any]]:
    """Seconds of `rows` pictures with the cache: the text, all steps by the trapezoidal rule, and the VAE."""
    found = []
    for place in places:
        source = torch.Generator().manual_seed(place)
        image = torch.randint(0, dalle.num_image_tokens, (1, place), generator=source)
        cache: dict[str, Any] = {}
        dalle(text.clone(), image, cache=cache)  # what the steps before have left
        cache, image = widened(cache, rows), image.expand(rows, -1)
        texts = text.expand(rows, -1)
        times = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            image = step(dalle, texts, image, cache)
            times.append(time.perf_counter() - began)
        found.append((place, min(times[1:])))
    whole = sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairwise(found))
    whole *= (dalle.image_seq_len - 1) / (places[-1] - places[0])
    empty = torch.zeros(rows, 0, dtype=torch.int64)
    prefill = timed(lambda: step(dalle, text.expand(rows, -1), empty, {}), 2)
    tokens = torch.zeros(rows, dalle.image_seq_len, dtype=torch.int64)
    painting = timed(lambda: dalle.vae.decode(tokens), 2)
    return prefill + whole + painting, found


def published_seconds(dalle: Any, text: Tensor) -> tuple[float, list[Any]]:
    """Seconds of one picture without the cache: steps at its start, middle and end, by Simpson's rule."""
    last = dalle.image_seq_len - 1
    found = []
    for place in (0, last // 2, last):
        image = torch.zeros(1, place, dtype=torch.int64)
        found.append((place, timed(lambda image=image: step(dalle, text, image, None), 1)))
    (_, low), (_, middle), (_, high) = found
    return dalle.image_seq_len * (low + 4 * middle + high) / 6, found


@torch.no_grad()
def main() -> None:
    """Make, measure, and write."""
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    dalle = make(asked)
    text = torch.zeros(1, dalle.text_seq_len, dtype=torch.int64)
    text[0, : len(TEXT)] = torch.tensor(TEXT)
    last = dalle.image_seq_len - asked["repeats"] - 2
    places = sorted({round(i * last / (asked["positions"] - 1)) for i in range(asked["positions"])})
    image = (torch.arange(min(40, last)) * 7 % dalle.num_image_tokens)[None]
    logits = dalle(text.clone(), image)[0, -1, dalle.num_text_tokens :][:PROBE]
    out: dict[str, Any] = {
        "probe": {"text": list(TEXT), "image": image[0].tolist(), "logits": logits.tolist()},
        "repaired": {},
        "steps": {},
    }
    step(dalle, text, image, None)  # the first call is slow
    for rows in asked["images"]:
        out["repaired"][str(rows)], out["steps"][str(rows)] = cached_seconds(
            dalle, text, rows, places, asked["repeats"]
        )
    out["published"], out["published_steps"] = published_seconds(dalle, text)
    sys.stdout.write(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
