"""Names of tensors in weights of others: what wraps them, and biases without effect."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from shared.errors import InputError

WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.")
"""Prefixes of DistributedDataParallel, torch.compile, VideoMAE V2 on the Hub, and mmaction."""
COMPILED = "._orig_mod."  # in the middle of a name: a compiled part of a model
KEY_BIASES = (".attention.attention.key.bias", ".attn.k_bias")
"""Biases of the keys, by the names of transformers and of VideoMAE. A bias of the keys adds the
same number to all scores of a query, which the softmax removes: leaving it out changes nothing."""
QKV_BIAS = ".attn.qkv.bias"  # one vector for queries, keys and values, as in timm


def plain_names(theirs: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors without what wraps their names, and without biases of the keys.

    Args:
        source: the file, for messages.

    Raises:
        InputError: two tensors have the same name without their wrappers.
    """
    found: dict[str, Tensor] = {}
    wrapped: dict[str, str] = {}
    for name, tensor in theirs.items():
        plain = _unwrapped(name)
        if plain in wrapped:
            raise InputError(
                "duplicate",
                f"{source} holds {wrapped[plain]} and {name}, which are both {plain}; leave one of "
                "the two models out",
            )
        wrapped[plain] = name
        if plain.endswith(QKV_BIAS):
            block = plain.removesuffix("qkv.bias")
            query, _, value = tensor.chunk(3)
            found |= {f"{block}q_bias": query.clone(), f"{block}v_bias": value.clone()}
        elif not plain.endswith(KEY_BIASES):
            found[plain] = tensor
    return found


def _unwrapped(name: str) -> str:
    name = name.replace(COMPILED, ".")
    while prefix := next((each for each in WRAPPERS if name.startswith(each)), None):
        name = name.removeprefix(prefix)
    return name
