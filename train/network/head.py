"""What turns the tokens of a clip into class scores: pooling heads and the classifier.

Letters in shapes: B clips, N tokens of a clip, D channels of a token, h attention heads. `inside`
is bool [B, N], True where a token's patch lies in the motion box: inner tokens; the rest is outer.
"""

from __future__ import annotations

from collections.abc import Mapping

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
        eps: of the LayerNorm.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.config = HeadConfig("mean")
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, tokens: Tensor, inside: Tensor | None = None) -> Tensor:
        """Pool tokens [B, N, D] -> [B, D]; `inside` makes no difference here."""
        return self.norm(tokens.mean(dim=1))


class CrossAttentionHead(nn.Module):
    """MOFO's motion-focused finetuning head (Ahmadian et al. 2023, sec. 3.3).

    Inner tokens ask, outer tokens answer: queries come from the inside of the motion box, keys and
    values from its outside. In deeper layers the queries go on as updated, keys and values stay
    the outer tokens. The inner tokens are then averaged and normalised.

    A clip with no inner or no outer token uses all its tokens for both.

    Every clip of a batch has its own number of inner tokens. All tokens are sent through as
    queries, outer ones are masked as keys, and the outer queries are left out of the mean: that
    needs neither a loop nor a wait for the device, at the price of queries nobody reads.

    Args:
        width: D.
        config: of kind mca.
        eps: of the LayerNorms.

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
            InputError: no `inside`, that is, clips without motion boxes.
        """
        if inside is None:
            raise InputError(
                "missing-data",
                "the cross-attention head (mca) needs the motion boxes of the clips; "
                "make them (make boxes) or use the head mean",
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
    """Norms, cross attention, optional residual, then an MLP with a residual of its own."""

    def __init__(self, width: int, config: HeadConfig, eps: float) -> None:
        super().__init__()
        if config.head_width == "split" and width % config.num_heads:
            raise InputError(
                "out-of-range",
                f"head_width split needs a number of heads that divides the width: "
                f"{config.num_heads} heads, width {width}",
            )
        inner_width = width * config.num_heads if config.head_width == "model" else width
        self.num_heads = config.num_heads
        self.residual = config.residual
        self.query_norm = nn.LayerNorm(width, eps=eps)
        self.key_norm = nn.LayerNorm(width, eps=eps)
        self.query = nn.Linear(width, inner_width)
        self.key = nn.Linear(width, inner_width, bias=False)  # softmax would cancel a bias
        self.value = nn.Linear(width, inner_width)
        self.proj = nn.Linear(inner_width, width)
        hidden = round(width * config.mlp_ratio)
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
    """The pooling head of a configuration, over tokens of `width` channels."""
    if config.kind == "mean":
        return MeanHead(width, eps)
    return CrossAttentionHead(width, config, eps)


# ---------------------------------------------------------------------------------------------
# Classifier
# ---------------------------------------------------------------------------------------------


class VideoClassifier(nn.Module):
    """Encoder, pooling head, and one linear classifier for each kind of label.

    Args:
        encoder: with final_norm=False, since the head normalises.
        head: pools the encoder's tokens.
        num_classes: classes by kind of label, for example {"label": 174} or
            {"verb": 97, "noun": 300}; the scores come under the same names.
        dropout: of the pooled vector, 0..1.
        init_scale: factor on the initial weights of the classifiers; small, so that the first
            scores are nearly even (VideoMAE: 0.001).
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        head: MeanHead | CrossAttentionHead,
        num_classes: Mapping[str, int],
        dropout: float = 0.0,
        init_scale: float = 0.001,
    ) -> None:
        super().__init__()
        if not num_classes or min(num_classes.values()) < 1:
            raise InputError(
                "too-few-clips",
                f"a classifier needs at least one class a label: {dict(num_classes)}",
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
        """The pooled vector of each clip [B, D]: what a linear probe and k-NN see."""
        return self.head(self.encoder(clips), inside)

    def forward(self, clips: Tensor, inside: Tensor | None = None) -> dict[str, Tensor]:
        """Scores before the softmax, by kind of label: [B, number of classes] each.

        Args:
            clips: standardised RGB [B, C, T, H, W], any float type.
            inside: bool [B, N], needed where `head.config.needs_boxes`.
        """
        pooled = self.dropout(self.features(clips, inside))
        return {name: classifier(pooled) for name, classifier in self.classifiers.items()}


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Parameters of each direct part of a model, and their `total`.

    A parameter of the model itself counts as a part.
    """
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".", 1)[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return {**counts, "total": sum(counts.values())}
