"""Numbers and lists as a sentence has them."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """1 and "clip" as `1 clip`, 1200 as `1,200 clips`; `plural` where it is not noun + s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """`left, right`; the first `most` of a longer list and `...`; `none` of an empty one."""
    shown = [*names[:most], *(["..."] if len(names) > most else [])]
    return ", ".join(shown) or "none"
