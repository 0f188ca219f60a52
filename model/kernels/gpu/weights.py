"""What the kernels read beside a transformer's own weights, made of these once: tables and rotations."""

from __future__ import annotations

import torch
from torch import Tensor

from model.transformer import Transformer
from model.transformer.local import ABOVE, LEFT


class Folded:
    """Products that do not depend on a request. The default model's take 54 MB in bfloat16."""

    def __init__(self, transformer: Transformer) -> None:
        """transformer: whose weights stay as they are."""
        config, local = transformer.config, transformer.local
        with torch.no_grad():
            self.codes = local.codes().contiguous()  # (vocab, code_dim)
            self.group_in = self._tables(transformer.group_in.weight, config.group)  # (group, vocab, dim)
            self.above = self._tables(local.from_above.weight, 2 * ABOVE + 1)  # (5, vocab, local_dim)
            self.left = self._tables(local.from_left.weight, LEFT)  # (3, vocab, local_dim)
        self.rotation = transformer.rotations(self.codes.device)

    def _tables(self, weight: Tensor, count: int) -> Tensor:
        """weight (out, count * code_dim) -> (count, vocab, out): what each code adds in each of `count` places."""
        return torch.stack([self.codes @ part.T for part in weight.chunk(count, dim=1)])
