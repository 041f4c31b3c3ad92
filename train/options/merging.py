"""How one part of a recipe is laid over another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.network.model_config import SIZES

SIZED_FIELDS = SIZES["vit-b"].keys()


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top, table by table.

    A table that names another `kind` replaces the old one: the options of one mask mean nothing to
    another. A model that names a `size` loses the old one's width, depth and heads, which the size
    is to say.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = value
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if "size" in value:
                old = {name: each for name, each in old.items() if name not in SIZED_FIELDS}
            if value.get("kind", old.get("kind")) == old.get("kind"):
                merged[key] = merge(old, value)
    return merged
