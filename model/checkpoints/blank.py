"""Builds a network without values: on the meta device, and with nothing drawn for its weights.

PyTorch draws and multiplies on the meta device by code that imports torch._dynamo. That takes three seconds and 190
MB, and a network that is about to be filled needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset({"normal_", "uniform_", "trunc_normal_", "zero_"})  # methods that fill a tensor


class _DrawsNothing(TorchFunctionMode):
    """Functions that would give a tensor its first values leave it as it is."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__module__", None) == "torch.nn.init" or getattr(func, "__name__", None) in _DRAWS:
            return args[0] if args else given["tensor"]
        if func is torch.Tensor.mul and isinstance(args[1], float):  # scales what was drawn
            return args[0]
        if func is torch.randn:
            return torch.empty(*args, **given)
        return func(*args, **given)


@contextmanager
def blank() -> Iterator[None]:
    """A network that is made in here has shapes and types, and no memory."""
    with torch.device("meta"), _DrawsNothing():
        yield
