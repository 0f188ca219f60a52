"""The parts of DALLE-pytorch's layers: attention, the gated MLP that may stand in its place, and the feed-forward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.families.dalle_pytorch.config import DallePytorchConfig
from model.families.dalle_pytorch.rotary import Rotation, turn
from model.transformer.linear import Linear


class Attention(nn.Module):
    """Multi-head attention; what a position may see is said from outside. x (b, n, dim) -> the same shape."""

    def __init__(self, config: DallePytorchConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        inner = config.heads * config.head_dim
        self.qkv = Linear(config.dim, 3 * inner, bias=False)
        self.out = Linear(inner, config.dim)

    def project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, n, dim), rotation (n | b 1 n, turned) -> q, k, v, each (b, heads, n, head_dim)."""
        qkv = rearrange(self.qkv(x), "b n (h d) -> b h n d", d=self.head_dim)
        if rotation is not None:
            qkv = turn(qkv, rotation)
        q, k, v = qkv.chunk(3, dim=1)
        return q, k, v

    def forward(self, x: Tensor, rotation: Rotation | None, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """All positions at once. mask (n, n) bool, True where a query may look; None for all that is earlier.

        Returns the output and, for a cache, the keys and values (b, heads, n, head_dim).
        """
        q, k, v = self.project(x, rotation)
        found = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        return self.out(rearrange(found, "b h n d -> b n (h d)")), k, v

    def shares(self, q: Tensor, keys: Tensor) -> Tensor:
        """Scores of q (b, heads, 1, head_dim) with keys (b, heads, n, head_dim): (b, heads, 1, n) float32."""
        return (q @ keys.to(q.dtype).mT * self.head_dim**-0.5).float()


class GatedMLP(nn.Module):
    """gMLP's block (2105.08050, section 2.1), causal. x (b, n, dim) -> the same shape.

    Each position is multiplied by a gate: a mix of the earlier positions' gate values, with weights for each pair of
    places that do not depend on what stands there.
    """

    def __init__(self, config: DallePytorchConfig) -> None:
        super().__init__()
        inner = 2 * config.dim
        self.enter = Linear(config.dim, 2 * inner)
        self.norm = nn.LayerNorm(inner)
        self.weight = nn.Parameter(torch.empty(config.capacity, config.capacity).uniform_(-1e-3, 1e-3))
        self.bias = nn.Parameter(torch.ones(config.capacity))
        self.leave = Linear(inner, config.dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, n, dim) -> what is gated and the gate values, each (b, n, 2 dim)."""
        passed, gates = F.gelu(self.enter(x)).chunk(2, dim=-1)
        return passed, self.norm(gates)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All positions at once. Returns the output and, for a cache, the gate values (b, n, 2 dim)."""
        n = x.shape[1]
        passed, gates = self.project(x)
        mixed = self.weight[:n, :n].tril() @ gates + self.bias[:n, None]
        return self.leave(passed * mixed), gates

    def decode(self, passed: Tensor, gates: Tensor, place: Tensor) -> Tensor:
        """One position a row. passed (b, 1, 2 dim), gates (b, span, 2 dim) cached with its own, place (b,)."""
        span = gates.shape[1]
        earlier = torch.arange(span, device=place.device) <= place[:, None]
        weight = (self.weight[place, :span] * earlier.to(self.weight.dtype)).unsqueeze(1)  # (b, 1, span)
        mixed = weight @ gates.to(weight.dtype) + self.bias[place, None, None]
        return self.leave(passed * mixed)


class FeedForward(nn.Module):
    """Linear, GEGLU (2002.05202) with the exact GELU, linear. (..., dim) -> the same shape."""

    def __init__(self, config: DallePytorchConfig) -> None:
        super().__init__()
        inner = 4 * config.dim
        self.w1 = Linear(config.dim, 2 * inner)
        self.w2 = Linear(inner, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        passed, gates = self.w1(x).chunk(2, dim=-1)
        return self.w2(passed * F.gelu(gates))


class Layer(nn.Module):
    """What a layer has of its own, where it shares the rest: norms, and the scales of its two parts (2103.17239)."""

    def __init__(self, config: DallePytorchConfig, number: int) -> None:
        super().__init__()
        scale = 0.1 if number < 18 else 1e-5 if number < 24 else 1e-6  # 2103.17239, section 2.2
        self.norm1 = nn.LayerNorm(config.dim)
        self.norm2 = nn.LayerNorm(config.dim)
        self.after1 = nn.LayerNorm(config.dim) if config.sandwich else nn.Identity()
        self.after2 = nn.LayerNorm(config.dim) if config.sandwich else nn.Identity()
        self.scale1 = nn.Parameter(torch.full((config.dim,), scale))
        self.scale2 = nn.Parameter(torch.full((config.dim,), scale))
