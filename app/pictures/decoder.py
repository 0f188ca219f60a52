"""The process that decodes pictures for the server, one after another, until its input ends.

It loads Pillow and little else. It can be killed at any time. The kernel ends it if a picture takes too long. A picture
arrives as ASKED and its bytes. The answer is HEAD and a body. The body of ANSWER is PICTURE, the pixels
and the empty cells. The body of REFUSED is the text of a PictureError.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import struct
import sys
import warnings

from app.pictures.decode import Upload, read_upload
from model.picture_files import PictureError

ASKED = struct.Struct(">IHH")  # bytes of the file; side and grid as in `read_upload`
HEAD = struct.Struct(">BI")  # ANSWER or REFUSED, bytes of the body
PICTURE = struct.Struct(">II?")  # width, height, whether empty cells follow the pixels
ANSWER, REFUSED = 0, 1
BYTES_PER_PIXEL = 48  # of address space; the ordinary picture that takes most, a progressive JPEG in CMYK, takes 22
BYTES_BESIDE = 256 << 20  # for the threads of image libraries, and for memory that a process reserves without using it


def pack(upload: Upload) -> bytes:
    """The body of an ANSWER."""
    head = PICTURE.pack(upload.width, upload.height, upload.empty is not None)
    return head + upload.rgb + (upload.empty or b"")


def unpack(body: bytes, side: int, grid: int) -> Upload:
    """The picture that `pack` packed. Raises ValueError for other bytes, since an attacker may control the process."""
    width, height, has_empty = PICTURE.unpack_from(body)
    middle = PICTURE.size + side * side * 3
    if len(body) != middle + grid * grid * has_empty:
        raise ValueError(f"{len(body)} bytes are no picture")
    return Upload(width, height, body[PICTURE.size : middle], body[middle:] if has_empty else None)


def limit_memory(most: int) -> None:
    """Let the process take `most` bytes more than it has now. Nothing happens on a system without such a limit."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            own = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (OSError, ValueError):
        pass  # macOS: no /proc


def main(max_pixels: int, seconds: float) -> None:
    """Serve until the input ends. seconds: processor time for a picture. If it takes more, SIGPROF ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal: the server ends this process
    warnings.simplefilter("ignore")  # Pillow warns of oddities in clients' files
    logging.disable()
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not write into the answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold clients' pictures
    with contextlib.suppress(BrokenPipeError):
        while len(head := source.read(ASKED.size)) == ASKED.size:
            length, side, grid = ASKED.unpack(head)
            limit_memory(BYTES_PER_PIXEL * max_pixels + 4 * length + BYTES_BESIDE)
            data = source.read(length)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                kind, body = ANSWER, pack(read_upload(data, side, grid, max_pixels))
            except PictureError as error:
                kind, body = REFUSED, str(error).encode()
            signal.setitimer(signal.ITIMER_PROF, 0)
            answers.write(HEAD.pack(kind, len(body)) + body)
            answers.flush()
    os._exit(0)  # the quickest way
