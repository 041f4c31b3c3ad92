"""How progress is shown: a bar on a terminal, one line a minute in a log file.

A bar is redrawn with carriage returns. In the log of a batch system this would give one line of
thousands of characters, so tqdm writes lines there: `tqdm(..., **bar_options())`. The text after a
bar is set without drawing it: `bar.set_postfix(shown, refresh=False)`.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

LINE_SECONDS = 60.0
"""Seconds between two lines and before the first one, so a short job writes no line."""
LINE = "{desc}: {n_fmt} of {total_fmt} ({percentage:.0f} %), {rate_fmt}, {elapsed} so far, "
LINE += "{remaining} left{postfix}"
CURSOR_UP = "\x1b[A"  # what tqdm writes after a bar below another one


def bar_options(delay: float = 0.0) -> dict[str, Any]:
    """Keyword arguments of tqdm that suit where stderr goes.

    Args:
        delay: seconds before a bar is shown on a terminal.
    """
    if sys.stderr.isatty():
        return {"mininterval": 0.5, "delay": delay}
    return {
        "file": Lines(sys.stderr),
        "mininterval": LINE_SECONDS,
        "maxinterval": LINE_SECONDS,
        "delay": LINE_SECONDS,
        "bar_format": LINE,
    }


class Lines:
    """A file for tqdm that writes each text as a line instead of drawing it over the last one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write the text without control characters as a line; write nothing if it is blank."""
        if line := text.replace(CURSOR_UP, "").strip():
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        self._stream.flush()
