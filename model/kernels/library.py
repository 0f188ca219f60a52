"""Finds and loads the library that is built from `source/`, for the registers that this processor has.

It is built when the package is installed, if there is a C++ compiler. Without it PyTorch computes the steps.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch

from model.kernels.layout import LAYOUT, Model, PictureDecoder, Rows, State

log = logging.getLogger(__name__)

_FOR = {"AVX512": ("_avx512", "_avx2"), "AVX2": ("_avx2",)}  # torch's name of a processor -> libraries, best first
_NARROW = "_avx512bf16"


@cache
def load(narrow: bool = False) -> ctypes.CDLL | None:
    """The library, None where there is none. Says why in one log line, once.

    narrow: the one that multiplies in bfloat16. Where the processor does not, or no library is built, None without a
    line.
    """
    if narrow and not (multiplies_in_bfloat16() and built()):
        return None
    reason = f"no library for a processor of the kind {torch.backends.cpu.get_cpu_capability()} is built"
    for path in built(narrow):
        try:
            library = ctypes.CDLL(str(path))
            found = library.dalle_layout()
        except (OSError, AttributeError) as error:
            reason = str(error)
            continue
        if found == LAYOUT:
            return declared(library)
        reason = f"{path.name} was built from other sources; install again"
    what = "for bfloat16 " if narrow else ""
    log.warning("the native kernels %sare left out, so steps are slower: %s", what, reason)
    return None


def multiplies_in_bfloat16() -> bool:
    """Whether this processor has AVX512-BF16, and torch is not told to do without AVX-512."""
    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)  # torch 2.11 may not have it
    return bool(capabilities().get("avx512_bf16")) and torch.backends.cpu.get_cpu_capability() == "AVX512"


def built(narrow: bool = False) -> list[Path]:
    """The libraries for this processor, best first."""
    names = (_NARROW,) if narrow else _FOR.get(torch.backends.cpu.get_cpu_capability(), ())
    paths = [Path(__file__).with_name(name + suffix) for name in names for suffix in EXTENSION_SUFFIXES]
    return [path for path in paths if path.exists()]


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, told the types of its functions."""
    for verb in (library.dalle_sample, library.dalle_decode):
        verb.argtypes = [ctypes.POINTER(Model), ctypes.POINTER(State), ctypes.POINTER(Rows)]
        verb.restype = None
    if hasattr(library, "dalle_ordinary_leap"):  # the library for bfloat16 has our own model's step alone
        for verb in (library.dalle_ordinary_sample, library.dalle_ordinary_decode):
            verb.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(Rows)]
            verb.restype = None
        library.dalle_ordinary_leap.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(Rows), ctypes.c_void_p]
        library.dalle_ordinary_leap.restype = None
    library.dalle_paint.argtypes = [
        ctypes.POINTER(PictureDecoder),
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_void_p,
    ]
    library.dalle_paint.restype = None
    library.dalle_threads.argtypes = [ctypes.c_int]
    library.dalle_threads.restype = None
    return library
