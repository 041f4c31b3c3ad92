"""Count the entries without data of an AVI file: each shows the frame before it once more.

Capture programs write them for frames that came too late, and copies for frames that do not exist
at the frame rate of the file. The header counts them as frames; FFmpeg gives no packet for them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

CHUNK = struct.Struct("<4sI")  # identifier, bytes of data
LISTS = (b"RIFF", b"LIST")  # chunks that begin with a type and may hold chunks
ENTERED = (b"AVI ", b"AVIX", b"movi", b"rec ")  # types of the lists that hold frames


@dataclass(frozen=True)
class EmptyEntries:
    """How many entries of a stream have no data.

    Attributes:
        total: in the file.
        at_end: after the last entry that has data.
    """

    total: int
    at_end: int


def count_empty_entries(path: Path, stream_index: int) -> EmptyEntries:
    """Read the chunk headers of a file and count; none are found in a damaged file.

    Args:
        path: an AVI file.
        stream_index: of the picture, as the file numbers it.
    """
    digits = f"{stream_index:02d}".encode()
    total = at_end = riff_end = 0
    with open(path, "rb") as file:
        while len(header := file.read(CHUNK.size)) == CHUNK.size:
            identifier, num_bytes = CHUNK.unpack(header)
            begin = file.tell()
            if identifier == b"RIFF":
                riff_end = begin + num_bytes
            elif not identifier.isascii() or b"\0" in identifier:
                if begin < riff_end:
                    return EmptyEntries(0, 0)
                break  # padding behind the end
            if identifier in LISTS and file.read(4) in ENTERED:
                continue  # with the first chunk in the list
            if identifier.startswith(digits):
                total += num_bytes == 0
                at_end = at_end + 1 if num_bytes == 0 else 0
            file.seek(begin + num_bytes + num_bytes % 2)  # chunks begin at even positions
    return EmptyEntries(total, at_end)
