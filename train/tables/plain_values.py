"""Configurations as plain values, and back: what is recorded beside weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from shared.errors import InputError


@dataclass(frozen=True)
class PlainValues:
    """Base of the dataclasses whose fields are recorded.

    Attributes:
        what: it configures, for messages.
    """

    what: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A configuration from plain values; InputError names a field that does not exist."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise InputError(
                f"unknown {cls.what} option {', '.join(unknown)}; allowed: {', '.join(known)}"
            )
        return cls(**fields)
