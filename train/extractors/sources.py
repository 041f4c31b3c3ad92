"""Finds the extractor that `--from` of train.probe names.

FOLDER                       a Hugging Face folder of V-JEPA 2 or Hiera
timm:NAME=FILE.safetensors   an image model of timm with the weights of a file
timm:NAME                    the same with random weights
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train.extractors.extractor import Extractor

TIMM = "timm:"


@dataclass(frozen=True)
class ExtractorSource:
    """A model of others.

    Attributes:
        kind: "vjepa2", "hiera" or "timm".
        name: short name of the model.
        weights: folder or file of the weights; None for random ones.
    """

    kind: str
    name: str
    weights: Path | None

    def read(self, seed: int, num_frames: int) -> Extractor:
        """Build the extractor; see `read_timm` and `read_huggingface` for what it raises."""
        # Imported here, which takes seconds.
        from train.extractors.huggingface import read_huggingface
        from train.extractors.timm_models import read_timm

        if self.kind == "timm":
            return read_timm(self.name, self.weights, seed, num_frames)
        assert self.weights is not None
        return read_huggingface(self.weights, self.kind, num_frames)


def find_extractor(source: str) -> ExtractorSource | None:
    """The extractor that a source names; None if it names weights of this project's encoder."""
    if source.startswith(TIMM):
        name, _, path = source.removeprefix(TIMM).partition("=")
        return ExtractorSource("timm", name, Path(path) if path else None)
    config = Path(source) / "config.json"
    if not config.is_file():
        return None
    from train.weights.files import read_json  # it imports PyTorch, which takes seconds

    kind = read_json(config).get("model_type")
    if kind not in ("vjepa2", "hiera"):
        return None
    return ExtractorSource(kind, Path(source).name, Path(source))
