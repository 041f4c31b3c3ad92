"""Count the entries without data of an AVI file: each shows the frame before it once more.

Capture programs write them for frames that came too late, and copies for frames that do not exist
at the frame rate of the file. The header counts them as frames; FFmpeg gives no packet for them.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

CHUNK = struct.Struct("<4sI")  # identifier, bytes of data
LISTS = (b"RIFF", b"LIST")  # chunks that begin with a type and may hold chunks
ENTERED = (b"AVI ", b"AVIX", b"movi", b"rec ")  # types of the lists that hold frames


def count_empty_entries(path: Path, stream_index: int) -> int:
    """How many entries of a stream have no data.

    Reads the chunk headers alone, up to the first one that is damaged.

    Args:
        path: an AVI file.
        stream_index: of the picture, as the file numbers it.
    """
    digits = f"{stream_index:02d}".encode()
    num_empty = 0
    with open(path, "rb") as file:
        while (chunk := _next_chunk(file)) is not None:
            identifier, num_bytes = chunk
            num_empty += num_bytes == 0 and identifier.startswith(digits)
    return num_empty


def _next_chunk(file: BinaryIO) -> tuple[bytes, int] | None:
    """(identifier, bytes of data) of the next chunk that is not a list; None at the end."""
    while len(header := file.read(CHUNK.size)) == CHUNK.size:
        identifier, num_bytes = CHUNK.unpack(header)
        if not identifier.isascii() or b"\0" in identifier:
            return None
        begin = file.tell()
        if identifier in LISTS and file.read(4) in ENTERED:
            continue  # with the first chunk in the list
        file.seek(begin + num_bytes + num_bytes % 2)  # chunks begin at even positions
        return identifier, num_bytes
    return None
