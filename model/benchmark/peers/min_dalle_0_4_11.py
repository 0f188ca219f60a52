"""Makes the files of a min-dalle 0.4.11 model with random weights, and measures the package with them.

Run with one argument, an object in JSON: folder, threads, seed, repeats, and sizes: layers, heads, width, hidden,
text_vocab. It writes encoder.pt, decoder.pt, detoker.pt, vocab.json and merges.txt to folder, and one line of JSON to
stdout. Nothing is downloaded.
"""

from __future__ import annotations

import json
import string
import sys
import time
from pathlib import Path
from typing import Any

import torch
from min_dalle import MinDalle  # type: ignore[import-not-found]
from min_dalle.models import (  # type: ignore[import-not-found]
    DalleBartDecoder,
    DalleBartEncoder,
    VQGanDetokenizer,
)
from min_dalle.text_tokenizer import TextTokenizer  # type: ignore[import-not-found]

TEXT = "a red apple"
CODES = 2**14


def make(asked: dict[str, Any]) -> Any:
    """The model with its networks, and its files. The constructor is passed over, because it downloads."""
    torch.manual_seed(asked["seed"])
    sizes, folder = asked["sizes"], Path(asked["folder"])
    model = MinDalle.__new__(MinDalle)
    model.device, model.dtype, model.is_reusable, model.is_verbose = "cpu", torch.float32, True, False
    model.text_token_count, model.layer_count, model.embed_count = 64, sizes["layers"], sizes["width"]
    shared = {
        "attention_head_count": sizes["heads"],
        "embed_count": sizes["width"],
        "glu_embed_count": sizes["hidden"],
        "layer_count": sizes["layers"],
        "device": "cpu",
    }
    model.encoder = DalleBartEncoder(text_token_count=64, text_vocab_count=sizes["text_vocab"], **shared).eval()
    model.decoder = DalleBartDecoder(image_vocab_count=CODES, **shared).eval()
    model.detokenizer = VQGanDetokenizer().eval()
    for name in ("encoder", "decoder"):
        network = getattr(model, name).half().float()  # float16 holds the values exactly, as in the published files
        torch.save({key: tensor.half() for key, tensor in network.state_dict().items()}, folder / f"{name}.pt")
    torch.save(model.detokenizer.state_dict(), folder / "detoker.pt")
    words = ["<s>", "<pad>", "</s>", "<unk>", "\u0120", *string.ascii_lowercase, "\u0120a"]
    vocabulary, merges = {word: number for number, word in enumerate(words)}, ["#version: 0.2", "\u0120 a", ""]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(merges))
    model.tokenizer = TextTokenizer(vocabulary, merges[1:-1])
    return model


@torch.no_grad()
def main() -> None:
    """Make, measure, and write."""
    asked = json.loads(sys.argv[1])
    model = make(asked)
    torch.set_num_threads(asked["threads"])  # the package took all cores
    times = []
    for _ in range(asked["repeats"]):
        began = time.perf_counter()
        next(model.generate_raw_image_stream(TEXT, seed=1, grid_size=1))
        times.append(time.perf_counter() - began)
    sys.stdout.write(json.dumps({"one": min(times)}) + "\n")


if __name__ == "__main__":
    main()
