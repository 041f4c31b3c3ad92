"""How a classifier is used: the names of its classes, and which views of a clip it gets.

Runs record this in options.json. Weights that leave a run carry it with them: safetensors files of
this project in their metadata, Hugging Face folders in config.json (`id2label`, and `mofo`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from shared.errors import InputError


@dataclass(frozen=True)
class Usage:
    """What is known about the use of a classifier. What is not known is empty or None."""

    class_names: dict[str, list[str]] = field(default_factory=dict)
    """Names of the classes by kind of label."""
    frames: dict[str, Any] | None = None
    """The rule that samples frames, as a recipe has it: {"kind": "dense", "stride": 4}."""
    segments: int | None = None
    """Number of test views along time."""
    crops: int | None = None
    """Number of test crops of each view."""
    dataset: str | None = None
    """Name of the dataset that the classifier was trained on."""

    def to_dict(self) -> dict[str, Any]:
        """The known fields as plain values, for JSON."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: object) -> Usage:
        """Read the fields that are known here; the others may be of a newer version.

        Args:
            source: the file, for messages.

        Raises:
            InputError: a value has another type.
        """
        kinds = {"class_names": dict, "frames": dict, "segments": int, "crops": int, "dataset": str}
        if not isinstance(values, Mapping):
            raise InputError("damaged-file", f"{source}: {str(values)[:60]!r} is not an object")
        known = {name: value for name, value in values.items() if name in kinds}
        for name, value in known.items():
            if type(value) is not kinds[name]:
                raise InputError(
                    "damaged-file",
                    f"{source}: {name} is {str(value)[:60]!r}; it must be of type "
                    f"{kinds[name].__name__}",
                )
        return cls(**known)

    @classmethod
    def of_run(cls, options: Mapping[str, Any]) -> Usage:
        """What the options.json of a finetuned run records; runs of old versions record less."""
        views = options.get("evaluate") or {}
        return cls(
            options.get("class_names") or {},
            options["config"].get("frames"),
            views.get("segments"),
            views.get("crops"),
            options.get("dataset"),
        )
