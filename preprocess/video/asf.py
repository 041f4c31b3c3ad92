"""Read the file size in the header of an ASF file (.wmv, .asf), which FFmpeg does not report.

If a file is cut short, FFmpeg drops its duration and decodes the rest without an error.
"""

from __future__ import annotations

import struct
from pathlib import Path

# Advanced Systems Format specification 1.2, 3.2: GUID, size of the object, GUID of the file, size
# of the file, creation date, number of packets, durations, preroll, flags; little-endian.
FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
OBJECT = struct.Struct("<Q16s6QI")
IS_LIVE = 1  # a flag: sizes and durations were not known when the header was written
HEADER_BYTES = 1 << 16  # read at most


def announced_bytes(path: Path) -> int | None:
    """The size of the whole file in bytes; None if the header does not have it."""
    with open(path, "rb") as stream:
        header = stream.read(HEADER_BYTES)
    start = header.find(FILE_PROPERTIES) + len(FILE_PROPERTIES)
    if start < len(FILE_PROPERTIES) or start + OBJECT.size > len(header):
        return None
    _, _, num_bytes, *_, flags = OBJECT.unpack_from(header, start)
    return None if flags & IS_LIVE else num_bytes
