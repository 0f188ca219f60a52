"""Tensors of a mapped file. They are views of it, so that they cost no memory until they are read."""

from __future__ import annotations

import torch
from torch import Tensor

from model.importing.archives import Mapped, Stored


class Tensors:
    """Makes the tensors of files. Storages that are not aligned in their file (torch before 1.6) are copied, once."""

    def __init__(self) -> None:
        self._copies: dict[tuple[int, int], torch.UntypedStorage] = {}
        self._files: dict[int, torch.UntypedStorage] = {}
        self._kept: list[Mapped] = []  # whose numbers are the keys above

    def make(
        self, mapped: Mapped, storage: Stored, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> Tensor:
        """A tensor of this storage; the caller has compared its sizes with the file's."""
        dtype = getattr(torch, storage.dtype)
        if 0 in size:
            return torch.empty(size, dtype=dtype)
        empty = torch.empty(0, dtype=dtype)
        if storage.begin % dtype.itemsize:
            return empty.set_(self._copy(mapped, storage, dtype), offset, size, stride)
        return empty.set_(self._whole(mapped), storage.begin // dtype.itemsize + offset, size, stride)

    def _whole(self, mapped: Mapped) -> torch.UntypedStorage:
        if id(mapped) not in self._files:
            self._kept.append(mapped)
            self._files[id(mapped)] = torch.frombuffer(mapped.bytes, dtype=torch.uint8).untyped_storage()
        return self._files[id(mapped)]

    def _copy(self, mapped: Mapped, storage: Stored, dtype: torch.dtype) -> torch.UntypedStorage:
        place = id(mapped), storage.begin
        if place not in self._copies:
            self._kept.append(mapped)
            end = storage.begin + storage.count * dtype.itemsize
            data = bytearray(mapped.view[storage.begin : end])
            mapped.forget(storage.begin, end)
            self._copies[place] = torch.frombuffer(data, dtype=torch.uint8).untyped_storage()
        return self._copies[place]
