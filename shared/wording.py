"""Numbers as sentences have them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """1 and "clip" as `1 clip`, 1200 as `1,200 clips`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
