"""How the changes of one table replace values of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.network.model_config import SIZES

SIZED_FIELDS = SIZES["vit-b"].keys()


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The table `base` with the values of `changes`; nested tables are merged in the same way.

    A table with another `kind` replaces the old table, because the options of one mask have no
    meaning for another mask. A name stands for a table with this `kind` alone. A model with a
    `size` drops the old width, depth and heads, because the size defines them.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = value
        if isinstance(old, str) and isinstance(value, Mapping):
            old = {"kind": old}
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if "size" in value:
                old = {name: each for name, each in old.items() if name not in SIZED_FIELDS}
            if value.get("kind", old.get("kind")) == old.get("kind"):
                merged[key] = merge(old, value)
    return merged
