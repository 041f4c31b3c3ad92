"""Check whether an Ogg file (.ogv) has its end; FFmpeg accepts any last page as the end."""

from __future__ import annotations

import os
from pathlib import Path

# RFC 3533, 6: capture pattern, version, flags, 20 bytes, number of segments, length of each.
CAPTURE_PATTERN = b"OggS\0"
FLAGS, NUM_SEGMENTS, SEGMENTS = 5, 26, 27  # places in a page
END_OF_STREAM = 4  # a flag of the last page of a stream
TAIL_BYTES = 4 * 65_307  # four of the largest pages; streams of a file end on different pages


def has_end(path: Path) -> bool:
    """Whether a stream ends on one of the last pages of the file, and that page is whole."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - TAIL_BYTES))
        tail = file.read()
    page = tail.find(CAPTURE_PATTERN)
    while page >= 0 and page + SEGMENTS <= len(tail):
        content = page + SEGMENTS + tail[page + NUM_SEGMENTS]
        end = content + sum(tail[page + SEGMENTS : content])
        if tail[page + FLAGS] & END_OF_STREAM and end <= len(tail):
            return True
        page = tail.find(CAPTURE_PATTERN, page + 1)
    return False
