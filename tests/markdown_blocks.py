"""Code blocks of the project's pages, to be run as they stand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the word after the opening fence, "" for shell commands.
        text: the lines between the fences, with the last line end.
        above: the line directly above the fence.
        heading: the last heading before it, without the # signs.
    """

    language: str
    text: str
    above: str
    heading: str


def read_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a Markdown page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for found in FENCE.finditer(text):
        before = text[: found.start()].rstrip("\n").splitlines()
        headings = [line for line in before if line.startswith("#")]
        heading = headings[-1].lstrip("# ") if headings else ""
        blocks.append(Block(found[1], found[2], before[-1] if before else "", heading))
    return blocks
