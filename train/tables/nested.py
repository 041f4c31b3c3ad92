"""Nested tables of plain values: flattening, and checks of keys and names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import InputError


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One flat table with dotted keys, for printing and for comparing."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def refuse_unknown(table: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Raise InputError if `table` has a key that is not in `known`."""
    unknown = sorted(set(table) - set(known))
    if unknown:
        allowed = ", ".join(known) or "none"
        raise InputError(
            "unknown-key", f"[{where}] has no option {', '.join(unknown)}; allowed: {allowed}"
        )


def check_positive(options: object, *names: str) -> None:
    """Raise InputError if one of these numbers is not above 0."""
    for name in names:
        if not getattr(options, name) > 0.0:
            raise InputError(
                "out-of-range", f"{name} is {getattr(options, name)}; it must be above 0"
            )


def check_name(what: str, name: str, allowed: tuple[str, ...]) -> None:
    """Raise InputError if `name` is not one of the allowed names."""
    if name not in allowed:
        raise InputError("unknown-name", f"{what} is {name!r}; allowed: {', '.join(allowed)}")
