"""Containers of tensors: torch's zip files, its older files, safetensors and plain pickles. Nothing is unpacked.

What is read are shapes, or tensors by `model.importing.tensors`. Imports no torch. Every size is compared with the
file before anything is made of it. Formats: torch/serialization.py, PKWARE's APPNOTE 6.3, safetensors' README.
"""

from __future__ import annotations

import math
import mmap
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import CheckpointError
from model.files import opened, parse_json
from model.importing.calls import Global
from model.importing.files import Weights
from model.importing.pickles import Machine
from model.importing.zips import MAX_ENTRIES, Entry, entries
from model.limits import shown

PICKLE_BYTES = 2**26  # of data.pkl: some hundred thousand tensors
HEADER_BYTES = 2**23  # of safetensors: some eighty thousand tensors
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py, MAGIC_NUMBER
PROTOCOL_VERSION = 1001
TYPES = {  # torch's names of storages -> the type
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "untyped",  # of types that are younger than these names, such as float8
}
SAFE_TYPES = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
BYTES = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "bool": 1, "untyped": 1,
}  # fmt: skip


class Mapped:
    """A file mapped into memory."""

    def __init__(self, path: Path) -> None:
        with opened(path) as (file, self.size):
            self.bytes = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_COPY)
        self.path = path
        self.view = memoryview(self.bytes)

    def forget(self, begin: int, end: int) -> None:
        """Give back the memory of the pages between these bytes, which were copied. They can be read again."""
        begin += -begin % mmap.PAGESIZE
        end -= end % mmap.PAGESIZE
        if end > begin and hasattr(mmap, "MADV_DONTNEED"):
            self.bytes.madvise(mmap.MADV_DONTNEED, begin, end - begin)


@dataclass(frozen=True)
class Stored:
    """A storage: where its bytes begin in the file, and how many elements of which type it has."""

    dtype: str
    begin: int
    count: int


@dataclass(frozen=True)
class Shape:
    """What stands for a tensor while no tensors are needed."""

    dtype: str
    shape: tuple[int, ...]


Make = Callable[[Mapped, Stored, int, tuple[int, ...], tuple[int, ...]], Any]


def shapes(_: Mapped, storage: Stored, __: int, size: tuple[int, ...], ___: tuple[int, ...]) -> Shape:
    """Makes no tensors: a Make for a first look at a file."""
    return Shape(storage.dtype, size)


def rebuilder(mapped: Mapped, where: str, make: Make) -> Any:
    """The function that makes tensors of `Stored` for a `Machine`; it compares their sizes with the storage."""

    def rebuild(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Any:
        if not isinstance(storage, Stored) or storage.dtype == "untyped":
            raise CheckpointError(f"{where}: a tensor has no storage that has a type")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and (last >= storage.count or math.prod(size) > storage.count):
            told = f"a tensor of the shape {shown(size)} needs more than the {storage.count:,} elements of its storage"
            raise CheckpointError(f"{where}: {told}")
        if any(n >= 2**40 for n in size):
            raise CheckpointError(f"{where}: a tensor has the shape {shown(size)}")
        return make(mapped, storage, offset, size, stride)

    return rebuild


def storage_of(persistent: Any, where: str) -> tuple[str, str, int]:
    """What torch's persistent id says: ("storage", type, key, location, elements[, view]) -> type, key, elements."""
    match persistent:
        case ("storage", Global(name=name), str(key), _, int(count)) | (
            "storage",
            Global(name=name),
            str(key),
            _,
            int(count),
            None,
        ):
            kind = name.rpartition(".")[2]
            if not name.startswith("torch.") or kind not in TYPES:
                raise CheckpointError(f"{where}: tensors of the type {shown(name)[1:-1]} are not read")
            if not 0 <= count < 2**48:
                raise CheckpointError(f"{where}: a storage must have 0 or more elements, got {shown(count)}")
            return TYPES[kind], key, count
    raise CheckpointError(f"{where}: the pickle refers to something that is no storage of a tensor")


# torch.save since 1.6: a zip, nothing in it compressed.


def read_zip(mapped: Mapped, make: Make, compare: bool) -> Weights:
    """What torch.save wrote. compare: the sums of all entries, which reads the whole file. Raises CheckpointError."""
    where = str(mapped.path)
    found = entries(mapped.view, where)
    pickled = [name for name in found if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickled) > 1:
        raise CheckpointError(f"{where}: a zip must have one data.pkl, got {len(pickled)}")
    if not pickled:
        first = shown(next(iter(found), "nothing"))
        raise CheckpointError(f"{where}: a zip, but not one of torch.save: it has no data.pkl, and begins with {first}")
    folder = pickled[0].removesuffix("data.pkl")
    order = found.get(folder + "byteorder")
    if order and bytes(mapped.view[order.begin : order.begin + min(order.size, 16)]) != b"little":
        raise CheckpointError(f"{where}: its tensors are big-endian, which is not read")
    entry = found[pickled[0]]
    if entry.size > PICKLE_BYTES:
        raise CheckpointError(f"{where}: its data.pkl must have at most {PICKLE_BYTES:,} bytes, got {entry.size:,}")
    if compare:
        _compare(mapped, found)

    def persistent(said: Any) -> Stored:
        dtype, key, count = storage_of(said, where)
        stored = found.get(f"{folder}data/{key}")
        if stored is None:
            raise CheckpointError(f"{where}: the storage {shown(key)} of a tensor is missing")
        if stored.size != count * BYTES[dtype]:
            told = f"{count * BYTES[dtype]:,} bytes, got {stored.size:,}"
            raise CheckpointError(f"{where}: the storage {shown(key)} must have {told}")
        return Stored(dtype, stored.begin, count)

    data = mapped.view[entry.begin : entry.begin + entry.size]
    content, _ = Machine(data, where, rebuilder(mapped, where, make), persistent).load()
    return Weights(mapped.path, "torch zip", content, mapped.size)


def _compare(mapped: Mapped, found: dict[str, Entry]) -> None:
    for entry in found.values():
        crc, at, end = 0, entry.begin, entry.begin + entry.size
        while at < end:
            crc = zlib.crc32(mapped.view[at : min(end, at + 2**24)], crc)
            at += 2**24
        if crc != entry.crc:
            raise CheckpointError(f"{mapped.path}: damaged: {shown(entry.name)} is not what its sum says")


# torch.save before 1.6: three small pickles, the object's, the keys', and then the storages.


def is_legacy(mapped: Mapped) -> bool:
    """Whether the file begins with torch's magic number, pickled."""
    number = LEGACY_MAGIC.to_bytes(10, "little")
    return bytes(mapped.view[:2]) == b"\x80\x02" and number in bytes(mapped.view[:32])


def read_legacy(mapped: Mapped, make: Make) -> Weights:
    """What torch.save wrote before 1.6. Raises CheckpointError."""
    where = str(mapped.path)
    at = 0

    def plain(at: int) -> tuple[Any, int]:
        def nothing(*_: Any) -> Any:
            raise CheckpointError(f"{where}: a damaged file of torch.save: tensors where none can be")

        return Machine(mapped.view, where, nothing, nothing, at).load()

    magic, at = plain(at)
    version, at = plain(at)
    system, at = plain(at)
    if magic != LEGACY_MAGIC or version != PROTOCOL_VERSION or not isinstance(system, dict):
        raise CheckpointError(f"{where}: a damaged file of torch.save: it does not begin as one")
    if system.get("little_endian") is not True:
        raise CheckpointError(f"{where}: its tensors are big-endian, which is not read")
    said: dict[str, tuple[str, int]] = {}

    def module(persistent: Any) -> Any:
        """The class of a saved network, whose source text stands beside it; None for what else is referred to."""
        match persistent:
            case ("module", Global() as named, _, _):
                return named
        return None

    def note(persistent: Any) -> Any:
        if named := module(persistent):
            return named
        dtype, key, count = storage_of(persistent, where)
        if said.setdefault(key, (dtype, count)) != (dtype, count):
            raise CheckpointError(f"{where}: the storage {shown(key)} is said to have two types or sizes")
        return key

    _, behind = Machine(mapped.view, where, lambda *_: None, note, at).load()
    keys, place = plain(behind)
    if not isinstance(keys, list) or len(keys) > MAX_ENTRIES or any(not isinstance(key, str) for key in keys):
        raise CheckpointError(f"{where}: a damaged file of torch.save: the list of its storages")
    begins: dict[str, Stored] = {}
    for key in keys:
        if key not in said or key in begins:
            raise CheckpointError(f"{where}: the storage {shown(key)} belongs to no tensor, or is there twice")
        dtype, count = said[key]
        if place + 8 > mapped.size:
            raise CheckpointError(f"{where}: cut short: the storage {shown(key)} is missing")
        if struct.unpack("<q", mapped.view[place : place + 8])[0] != count:
            raise CheckpointError(f"{where}: damaged: the storage {shown(key)} must have {count:,} elements")
        begins[key] = Stored(dtype, place + 8, count)
        place += 8 + count * BYTES[dtype]
        if place > mapped.size:
            told = f"the storage {shown(key)} needs {place - mapped.size:,} bytes more"
            raise CheckpointError(f"{where}: cut short: {told}")
    if missing := [key for key in said if key not in begins]:
        raise CheckpointError(f"{where}: the storage {shown(missing[0])} of a tensor is missing")
    if place != mapped.size:
        raise CheckpointError(f"{where}: damaged: {mapped.size - place:,} bytes follow the last tensor")
    content, _ = Machine(
        mapped.view,
        where,
        rebuilder(mapped, where, make),
        lambda persistent: module(persistent) or begins[storage_of(persistent, where)[1]],
        at,
    ).load()
    return Weights(mapped.path, "legacy torch", content, mapped.size)


def read_pickle(mapped: Mapped) -> Weights:
    """A plain pickle, which has no tensors of its own. Raises CheckpointError."""
    where = str(mapped.path)

    def nothing(*_: Any) -> Any:
        raise CheckpointError(f"{where}: a plain pickle refers to tensors that are in no file")

    content, end = Machine(mapped.view, where, nothing, nothing).load()
    if end != mapped.size:
        raise CheckpointError(f"{where}: {mapped.size - end:,} bytes follow the pickle, so it is no checkpoint")
    return Weights(mapped.path, "pickle", content, mapped.size)


def read_safetensors(mapped: Mapped, make: Make) -> Weights:
    """A state dict in a safetensors file. Raises CheckpointError."""
    where = str(mapped.path)
    length = struct.unpack("<Q", mapped.view[:8])[0]
    if length > min(HEADER_BYTES, mapped.size - 8):
        told = f"its header must have at most {min(HEADER_BYTES, mapped.size - 8):,} bytes, got {length:,}"
        raise CheckpointError(f"{where}: a safetensors file that is cut short or damaged: {told}")
    header = parse_json(bytes(mapped.view[8 : 8 + length]), f"{where}: header")
    if not isinstance(header, dict):
        raise CheckpointError(f"{where}: a damaged safetensors file: its header is no object")
    header.pop("__metadata__", None)
    content: dict[str, Any] = {}
    places: list[tuple[int, int, str]] = []  # where each tensor begins and ends, and its key
    for key, entry in header.items():
        match entry:
            case {"dtype": str(name), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if (
                name in SAFE_TYPES
            ):
                dtype = SAFE_TYPES[name]
                right = len(shape) <= 16 and all(type(n) is int and 0 <= n < 2**48 for n in shape)
                if not right or end - begin != math.prod(shape) * BYTES[dtype]:
                    raise CheckpointError(f"{where}: {shown(key)} has the shape {shown(shape)}, and other bytes")
                if not 0 <= begin <= end <= mapped.size - 8 - length:
                    raise CheckpointError(f"{where}: cut short: {shown(key)} ends behind the file")
                stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
                stored = Stored(dtype, 8 + length + begin, math.prod(shape))
                content[key] = make(mapped, stored, 0, tuple(shape), stride)
                places.append((begin, end, key))
            case {"dtype": str(name)} if name not in SAFE_TYPES:
                raise CheckpointError(f"{where}: {shown(key)} is of the type {shown(name)[1:-1]}, which is not read")
            case _:
                raise CheckpointError(f"{where}: a damaged safetensors file: the entry {shown(key)} of its header")
    at = 0
    for begin, end, key in sorted(places):
        if begin != at:
            told = f"{shown(key)} begins at {begin:,}, and the tensor before it ends at {at:,}"
            raise CheckpointError(f"{where}: a damaged safetensors file: {told}")
        at = end
    if at != mapped.size - 8 - length:
        told = f"{mapped.size - 8 - length - at:,} bytes follow the last tensor"
        raise CheckpointError(f"{where}: a damaged safetensors file: {told}")
    return Weights(mapped.path, "safetensors", content, mapped.size)
