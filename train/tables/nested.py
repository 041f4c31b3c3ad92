"""Nested tables of plain values: flattened for printing, and their keys and names checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import InputError


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one table with dotted keys, for printing and comparing."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def refuse_unknown(table: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """InputError for a key of `table` that is not in `known`."""
    unknown = sorted(set(table) - set(known))
    if unknown:
        allowed = ", ".join(known) or "none"
        raise InputError(f"[{where}] does not use {', '.join(unknown)}; allowed: {allowed}")


def check_name(what: str, name: str, allowed: tuple[str, ...]) -> None:
    """InputError for a name that is not allowed."""
    if name not in allowed:
        raise InputError(f"{what} is {name!r}; allowed: {', '.join(allowed)}")
