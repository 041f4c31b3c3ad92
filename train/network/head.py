"""Pooling heads and the classifier, which compute class scores from the tokens of a clip.

Letters in shapes: B clips, N tokens of a clip, D channels of a token, h attention heads. `inside`
is bool [B, N], True for inner tokens, whose patch lies in the motion box; other tokens are outer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from shared.errors import InputError
from train.network.autoencoder import VideoEncoder, initialise
from train.network.head_config import HeadConfig

# ---------------------------------------------------------------------------------------------
# Pooling heads
# ---------------------------------------------------------------------------------------------


class MeanHead(nn.Module):
    """Mean over all tokens, then LayerNorm (VideoMAE's fc_norm).

    Args:
        width: D.
        eps: eps of the LayerNorm.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.config = HeadConfig("mean")
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, tokens: Tensor, inside: Tensor | None = None) -> Tensor:
        """Pool tokens [B, N, D] -> [B, D]; `inside` is not used."""
        return self.norm(tokens.mean(dim=1))


class CrossAttentionHead(nn.Module):
    """MOFO's motion-focused finetuning head (Ahmadian et al. 2023, sec. 2.3).

    Queries are the inner tokens of the motion box; keys and values are the outer tokens. Each layer
    updates the queries; keys and values are the same in all layers. The updated inner tokens are
    averaged and normalised.

    A clip without inner tokens, or without outer tokens, uses all its tokens for both.

    The clips of a batch have different numbers of inner tokens. Therefore all tokens are computed
    as queries, inner tokens are masked as keys, and outer queries are left out of the mean. This
    needs no loop and no wait for the device, but computes queries that are not used.

    Args:
        width: D.
        config: a configuration of kind mca.
        eps: eps of the LayerNorms.

    Raises:
        InputError: head_width is split and num_heads does not divide width.
    """

    def __init__(self, width: int, config: HeadConfig, eps: float = 1e-6) -> None:
        super().__init__()
        assert config.kind == "mca", config
        self.config = config
        self.layers = nn.ModuleList(
            CrossAttentionLayer(width, config, eps) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        self.apply(initialise)

    def forward(self, tokens: Tensor, inside: Tensor | None) -> Tensor:
        """Pool tokens [B, N, D] with inside bool [B, N] -> [B, D].

        Raises:
            InputError: `inside` is None, because the clips have no motion boxes.
        """
        if inside is None:
            raise InputError(
                "missing-data",
                "the head mca needs the motion boxes of the clips; make them with `make boxes`, "
                "or use the head mean",
            )
        num_inside = inside.sum(dim=1, keepdim=True)
        whole = (num_inside == 0) | (num_inside == inside.shape[1])
        inner, outer = inside | whole, ~inside | whole
        queries = tokens
        for layer in self.layers:
            queries = layer(queries, tokens, outer)
        weights = (inner / inner.sum(dim=1, keepdim=True)).to(queries.dtype)
        return self.norm((queries * weights[:, :, None]).sum(dim=1))


class CrossAttentionLayer(nn.Module):
    """Norms, cross attention with an optional residual, and an MLP with a residual.

    With `block = false` of the configuration, cross attention alone.
    """

    def __init__(self, width: int, config: HeadConfig, eps: float) -> None:
        super().__init__()
        if config.head_width == "split" and width % config.num_heads:
            raise InputError(
                "out-of-range",
                f"head_width is split, and {config.num_heads} heads do not divide the width "
                f"{width}; give another number of heads, or head_width model",
            )
        inner_width = width * config.num_heads if config.head_width == "model" else width
        self.num_heads = config.num_heads
        self.residual = config.adds_queries
        self.query_norm = nn.LayerNorm(width, eps=eps) if config.block else nn.Identity()
        self.key_norm = nn.LayerNorm(width, eps=eps) if config.block else nn.Identity()
        self.query = nn.Linear(width, inner_width)
        self.key = nn.Linear(width, inner_width, bias=False)  # softmax cancels a bias
        self.value = nn.Linear(width, inner_width)
        self.proj = nn.Linear(inner_width, width)
        hidden = round(width * config.mlp_share)
        self.mlp_norm = nn.LayerNorm(width, eps=eps) if hidden else None
        self.mlp = Mlp(width, hidden) if hidden else None

    def forward(self, queries: Tensor, tokens: Tensor, outer: Tensor) -> Tensor:
        """Queries [B, Q, D] attend to tokens [B, N, D] where outer, bool [B, N] -> [B, Q, D]."""
        keys = self.key_norm(tokens)
        attended = F.scaled_dot_product_attention(
            self._heads(self.query(self.query_norm(queries))),
            self._heads(self.key(keys)),
            self._heads(self.value(keys)),
            attn_mask=outer[:, None, None, :],
        )
        attended = self.proj(attended.transpose(1, 2).flatten(2))
        queries = queries + attended if self.residual else attended
        if self.mlp is None or self.mlp_norm is None:
            return queries
        return queries + self.mlp(self.mlp_norm(queries))

    def _heads(self, x: Tensor) -> Tensor:
        """[B, Q, h * d] -> [B, h, Q, d]."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def build_head(config: HeadConfig, width: int, eps: float = 1e-6) -> MeanHead | CrossAttentionHead:
    """Build the pooling head of a configuration, for tokens of `width` channels."""
    if config.kind == "mean":
        return MeanHead(width, eps)
    return CrossAttentionHead(width, config, eps)


# ---------------------------------------------------------------------------------------------
# Classifier
# ---------------------------------------------------------------------------------------------


class VideoClassifier(nn.Module):
    """Encoder, pooling head, and one linear classifier for each kind of label.

    Args:
        encoder: an encoder with final_norm=False, because the head normalises.
        head: pools the tokens of the encoder.
        num_classes: number of classes of each kind of label, such as {"label": 174} or
            {"verb": 97, "noun": 300}. The scores have the same names.
        dropout: dropout probability of the pooled vector, 0..1.
        init_scale: factor on the initial weights of the classifiers. A small factor gives nearly
            equal scores at the start (VideoMAE: 0.001).
        token_share: share of the tokens of a clip that training computes, drawn at random for each
            forward pass (MME, table 10). In evaluation mode all tokens are computed.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        head: MeanHead | CrossAttentionHead,
        num_classes: Mapping[str, int],
        dropout: float = 0.0,
        init_scale: float = 0.001,
        token_share: float = 1.0,
    ) -> None:
        super().__init__()
        self.token_share = token_share
        if not num_classes or min(num_classes.values()) < 1:
            raise InputError(
                "too-few-clips",
                f"each kind of label needs at least one class; found: {dict(num_classes)}",
            )
        self.encoder = encoder
        self.head = head
        self.num_classes = dict(num_classes)
        self.dropout = nn.Dropout(dropout)
        self.classifiers = nn.ModuleDict()
        for name, count in self.num_classes.items():
            classifier = nn.Linear(encoder.config.width, count)
            nn.init.trunc_normal_(classifier.weight, std=0.02 * init_scale)
            nn.init.zeros_(classifier.bias)
            self.classifiers[name] = classifier

    def features(self, clips: Tensor, inside: Tensor | None = None) -> Tensor:
        """The pooled vector of each clip, [B, D]: the input of a linear probe and of k-NN."""
        if not self.training or self.token_share == 1.0:
            return self.head(self.encoder(clips), inside)
        config = self.encoder.config
        order = torch.rand(len(clips), config.num_tokens, device=clips.device).argsort(dim=1)
        kept, _ = order[:, : config.num_kept(self.token_share)].sort(dim=1)
        inside = None if inside is None else inside.gather(1, kept)
        return self.head(self.encoder(clips, kept), inside)

    def forward(self, clips: Tensor, inside: Tensor | None = None) -> dict[str, Tensor]:
        """Scores before the softmax, [B, number of classes] for each kind of label.

        Args:
            clips: standardised RGB [B, C, T, H, W], any float type.
            inside: bool [B, N]; needed if `head.config.needs_boxes`.
        """
        pooled = self.dropout(self.features(clips, inside))
        return {name: classifier(pooled) for name, classifier in self.classifiers.items()}


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """The number of parameters of each direct submodule of a model, and their `total`.

    A parameter of the model itself has an entry of its own.
    """
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".", 1)[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return {**counts, "total": sum(counts.values())}
