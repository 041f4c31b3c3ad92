"""The attentive probe: a learned query that attends to the frozen tokens of a clip.

A mean over tokens hides what only a few of them hold. V-JEPA (Bardes et al. 2024, sec. 4.2) and
others therefore test frozen features with a cross-attention pooling layer, of which only the query
and its maps are trained. The layer is timm's AttentionPoolLatent.

Letters: n clips, N tokens of a clip, D channels, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from shared.errors import InputError
from train.evaluation.frozen import Standardiser
from train.evaluation.gradient_probes import (
    at_best_rate,
    chosen_to_fit,
    refuse_too_few,
    train_classifier,
)

RATES = (3e-4, 1e-3, 3e-3)  # learning rates that are tried
WEIGHT_DECAY = 0.1
EPOCHS = 30
BATCH = 64
CHANNELS_OF_HEAD = 64
MOST_BYTES = 16e9
"""Most bytes of the tokens of all clips in float16, which are in memory together.

For an attentive probe and Fisher vectors they are most of the memory. Beside them there is at most
one more copy of a split, while its file is written. Other probes on all tokens (--pool tokens) make
float32 vectors of them, which take several times as much.
"""


class AttentivePooling(nn.Module):
    """Attention pooling and a linear classifier: tokens [B, N, D] -> logits [B, C].

    It standardises each channel itself, so that no float32 copy of all tokens is needed.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, standardise: Standardiser, num_classes: int) -> None:
        super().__init__()
        width = len(standardise.mean)
        heads = max(1, width // CHANNELS_OF_HEAD)
        while width % heads:
            heads -= 1
        self.register_buffer("mean", torch.from_numpy(standardise.mean).float())
        self.register_buffer("deviation", torch.from_numpy(standardise.deviation).float())
        self.pool = AttentionPoolLatent(width, num_heads=heads, norm_layer=nn.LayerNorm)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        standard = (tokens.float() - self.mean) / self.deviation
        return self.classifier(self.norm(self.pool(standard)))


@dataclass(frozen=True)
class AttentiveProbe:
    """A trained attentive probe, and the learning rate that was chosen for it."""

    model: AttentivePooling
    device: torch.device
    learning_rate: float

    @torch.inference_mode()
    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens [m, N, D] -> scores float32 [m, C]; each row adds up to 1."""
        scores = [
            self.model(torch.from_numpy(part).to(self.device)).softmax(1).cpu()
            for part in np.array_split(tokens, max(1, len(tokens) // BATCH))
        ]
        return torch.cat(scores).numpy()


def fit_attentive_probe(
    tokens: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    held_out: tuple[np.ndarray, np.ndarray] | None,
    seed: int = 0,
    device: torch.device | None = None,
) -> AttentiveProbe:
    """Train the pooling and the classifier with AdamW; the learning rate is chosen on other clips.

    Args:
        tokens: float [n, N, D].
        labels: int64 [n], 0 to num_classes - 1.
        held_out: tokens and labels of the clips that choose the learning rate. None chooses it on
            every fifth training clip, and trains on all clips again.
        seed: of the initial weights and of the order of clips.

    Raises:
        InputError: there are fewer than two classes, or fewer than five clips.
    """
    refuse_too_few(labels, "an attentive probe")
    device = device or torch.device("cpu")
    is_fit = chosen_to_fit(len(labels), held_out is not None, seed)
    chooses = held_out or (tokens[~is_fit], labels[~is_fit])
    standardise = Standardiser.of(tokens, is_fit)
    inputs = torch.from_numpy(tokens).to(device)
    targets = torch.from_numpy(labels).to(device)

    def train_probe(rate: float, chosen: np.ndarray) -> AttentiveProbe:
        model = _train(standardise, inputs, targets, chosen, num_classes, rate, seed)
        return AttentiveProbe(model, device, rate)

    return at_best_rate(train_probe, RATES, is_fit, chooses)


def refuse_too_many(
    clips: int, num_tokens: int, width: int, advice: str = "give --labels-per-class"
) -> None:
    """Refuse tokens that do not fit into memory.

    Args:
        advice: what the user can do, for the message.

    Raises:
        InputError: they take more than MOST_BYTES.
    """
    needed = 2.0 * clips * num_tokens * width  # float16
    if needed > MOST_BYTES:
        raise InputError(
            "out-of-range",
            f"the tokens of {clips:,} clips take {needed / 1e9:.0f} GB, and a probe keeps at most "
            f"{MOST_BYTES / 1e9:.0f} GB in memory; {advice}",
        )


def _train(
    standardise: Standardiser,
    inputs: Tensor,
    targets: Tensor,
    chosen: np.ndarray,
    num_classes: int,
    rate: float,
    seed: int,
) -> AttentivePooling:
    torch.manual_seed(seed)
    model = AttentivePooling(standardise, num_classes).to(inputs.device)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=WEIGHT_DECAY)
    order = torch.default_generator  # seeded above, and used for the initial weights
    train_classifier(model, optimizer, inputs, targets, chosen, EPOCHS, BATCH, order)
    return model.eval()
