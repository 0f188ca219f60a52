"""Compiles every kernel of a step on a GPU to machine code, without a GPU: python -m tests.kernels.ahead [PRESET ...]

Needs triton, and no environment variable TRITON_INTERPRET. Prints a line for each kernel; ends with 1 if one fails.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from triton import compile as compiled
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model.config import TransformerConfig, from_preset
from model.inference.batch import SlotState
from model.kernels import SlotTensors
from model.kernels.gpu import Column
from model.kernels.gpu.step import FusedStep
from model.transformer import Transformer

TARGET = GPUTarget("cuda", 90, 32)  # an H100 or H200
SHARED = 227 * 1024  # bytes of shared memory that a program may have there
VARIED = ("rows", "token_of_group")  # for whose values nothing is compiled anew
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}
Launch = tuple[Any, tuple[object, ...], dict[str, Any]]


def launches(preset: str, dtype: torch.dtype, slots: int = 64) -> list[Launch]:
    """What a step of a preset launches: kernels with their arguments."""
    noted: list[Launch] = []

    def note(kernel: Any, _: tuple[int, ...], *args: object, **constants: Any) -> None:
        noted.append((kernel, args, constants))

    config = from_preset(TransformerConfig, preset)
    with torch.device("meta"), torch.inference_mode():
        transformer = Transformer(config).to(dtype)
        cache = transformer.new_cache(slots)
        hidden = torch.zeros(1, config.group * config.local_dim, dtype=dtype)
        state = SlotState(config, slots, torch.device("meta"), hidden)
        tensors = SlotTensors.of(state)
        table = torch.zeros(len(Column), slots, dtype=torch.float64)
        step = FusedStep(transformer, cache, tensors, table, strict=False, launch=note)
        step.compile()
    return noted


def described(name: str, argument: object) -> tuple[str, bool]:
    """An argument's type as Triton writes it, and whether it is taken to be a multiple of 16."""
    if isinstance(argument, torch.Tensor):
        return TYPES[argument.dtype], True
    if isinstance(argument, int):
        return "i32", argument % 16 == 0 and name not in VARIED
    return ("constexpr" if argument is None else "fp32"), False


def source(kernel: Any, args: tuple[object, ...], constants: dict[str, Any]) -> tuple[ASTSource, dict[str, Any]]:
    """What the compiler takes for a launch: the source, and the options."""
    options = {"enable_fp_fusion": True} | {
        name: value for name, value in constants.items() if name in ("num_warps", "num_stages")
    }
    known: dict[Any, Any] = {(i,): None for i, value in enumerate(args) if value is None}
    told = {name: described(name, value) for name, value in zip(kernel.arg_names, args, strict=False)}
    signature = {name: kind for name, (kind, _) in told.items()}
    for i, name in list(enumerate(kernel.arg_names))[len(args) :]:
        signature[name], known[(i,)] = "constexpr", constants[name]
    aligned = {(i,): [["tt.divisibility", 16]] for i, (_, whole) in enumerate(told.values()) if whole}
    return ASTSource(kernel, signature, known, aligned), options


def main(presets: list[str]) -> int:
    """Compile for each preset in both types. Returns how many failed."""
    failed, seen = 0, set()
    for preset in presets:
        for dtype in (torch.bfloat16, torch.float32):
            for kernel, args, constants in launches(preset, dtype):
                key = (kernel.__name__, *map(described, kernel.arg_names, args), tuple(constants.items()))
                if key in seen:
                    continue
                seen.add(key)
                made, options = source(kernel, args, constants)
                began = time.perf_counter()
                try:
                    found = compiled(made, target=TARGET, options=options)
                except Exception as error:
                    failed += 1
                    print(f"{preset} {dtype} {kernel.__name__} {constants}: {error!r}")  # noqa: T201
                    continue
                took, shared = time.perf_counter() - began, found.metadata.shared
                failed += shared > SHARED
                print(f"{preset:8} {kernel.__name__:12} {took:5.1f} s, {shared / 1024:5.1f} KiB shared, {dtype}")  # noqa: T201
    return failed


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:] or ["default"]) else 0)
