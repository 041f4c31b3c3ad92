"""Features of any encoder: what a vector is computed from, and how large it is.

Letters: B views, N tokens, T' time steps, D channels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from train.clips.table import DEFAULT_BOXES
from train.evaluation.classifiers import frames_of
from train.evaluation.features import pooled
from train.network.autoencoder import VideoEncoder
from train.network.head import VideoClassifier
from train.network.head_config import HeadConfig
from train.network.model_config import ModelConfig
from train.options.config import FinetuneConfig
from train.samples.datasets import Sample
from train.tables.typed import Choice
from train.weights.exchange import ImportedWeights, build_encoder, import_weights
from train.weights.own_runs import with_usage

POOLS = {"clip": "clip", "step": "steps", "token": "tokens"}
"""How tokens become vectors, see `pooled`, by what has a vector."""
PER = tuple(POOLS)
"""What has a vector: a clip, each of its time steps, or each of its tokens."""


@dataclass(frozen=True)
class Embedder:
    """An encoder, and how it sees clips.

    Attributes:
        imported: its weights.
        frames: the rule that samples frames.
        per: clip, step or token.
        box_source: source of the motion boxes, if the head needs them.
    """

    imported: ImportedWeights
    frames: Choice
    per: str
    box_source: str = DEFAULT_BOXES

    @property
    def model(self) -> ModelConfig:
        return self.imported.config

    @property
    def head(self) -> HeadConfig:
        return self.imported.head

    @property
    def pools_with_head(self) -> bool:
        """Whether a vector is what the classifier of a finetuned model gets."""
        return self.per == "clip" and self.imported.kind == "classification"

    @property
    def needs_boxes(self) -> bool:
        return self.pools_with_head and self.head.needs_boxes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the features of a clip: [D], [T', D] or [N, D]."""
        model = self.model
        lengths = {"clip": (), "step": (model.time_steps,), "token": (model.num_tokens,)}
        return (*lengths[self.per], model.width)

    @property
    def dims(self) -> str:
        """The axes of the features, for an attribute of the file."""
        return {"clip": "clip, channel", "step": "clip, step, channel"}.get(
            self.per, "clip, token, channel"
        )

    @property
    def description(self) -> str:
        """What a vector is, in a sentence."""
        if self.pools_with_head:
            return f"Pooled vector of the head {self.head.kind}, the input of the classifier."
        of_what = {"clip": "all tokens of the clip", "step": "the tokens of a time step"}
        if self.per in of_what:
            return f"Mean of the encoder's output over {of_what[self.per]}."
        return "Output of the encoder for each token, in the order time step, row, column."

    def build(self) -> VideoClassifier | VideoEncoder:
        """The network that `compute` uses, with its weights, on the CPU."""
        if not self.pools_with_head:
            return build_encoder(self.model, self.imported)
        network = self.imported.build()
        assert isinstance(network, VideoClassifier)
        return network

    def compute(self, network: VideoClassifier | VideoEncoder, batch: Sample) -> Tensor:
        """Features of a batch of views on the device, float [B, D], [B, T' * D] or [B, N * D]."""
        if self.pools_with_head:
            assert isinstance(network, VideoClassifier)
            return network.features(batch["clips"], batch["inside"])
        return pooled(network(batch["clips"]), POOLS[self.per], self.model.time_steps)


def read_embedder(weights: Path, config: FinetuneConfig, per: str) -> Embedder:
    """Read weights of any kind.

    Args:
        weights: file or folder of weights; a file in the folder of a run is used as the run is.
        config: says how frames are sampled, unless the weights or their run say it.
        per: clip, step or token.

    Raises:
        InputError: the weights cannot be read, or what they say of their use is wrong.
    """
    imported = with_usage(import_weights(weights, "encoder"), weights)
    frames = frames_of(imported, config.frames, weights)
    return Embedder(imported, frames, per, _box_source(weights))


def _box_source(weights: Path) -> str:
    record = weights.parent / "options.json"
    if not (weights.is_file() and record.is_file()):
        return DEFAULT_BOXES
    options = json.loads(record.read_text(encoding="utf-8"))["options"]
    return options["config"].get("box_source", DEFAULT_BOXES)
