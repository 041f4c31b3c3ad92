"""Compiles the blocks of a model with torch.compile, which fuses norms, GELUs and sums.

Only the blocks are compiled. All blocks of an encoder have the same shapes, so that compiling takes
seconds; masks and gathers around them stay as they are. If compiling fails, for example without a
compiler, the blocks run uncompiled and a warning is printed once.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def wants_compiling(where: str, uses_cuda: bool) -> bool:
    """Whether loader.compile means compiling on this device."""
    return where == "always" or (where == "gpu" and uses_cuda)


def compile_blocks(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile every transformer block of a model in place. Parameter names do not change."""
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    stacks = [module for name, module in model.named_modules() if name.endswith("blocks")]
    blocks = [block for stack in stacks for block in stack]
    # Each block has its own drop path rate and is compiled for training, for testing and for a
    # smaller last batch. Beyond PyTorch's limit of 8 compilations, blocks silently run uncompiled.
    limit = max(torch._dynamo.config.recompile_limit, 8 * len(blocks))
    torch._dynamo.config.recompile_limit = limit
    eager = {block: block.forward for block in blocks}

    def give_up(error: Exception) -> None:
        for block, forward in eager.items():
            block.forward = forward
        reason = " ".join(str(error).split("\n")[:2]).strip()
        warnings.warn(
            f"torch.compile failed ({reason}); the blocks run uncompiled and more slowly",
            stacklevel=2,
        )

    for block, forward in eager.items():
        # There are few shapes: one per stack, and one for a smaller last batch.
        compiled = torch.compile(forward, backend=backend, dynamic=False)
        block.forward = _with_fallback(compiled, forward, give_up)


def _with_fallback(
    compiled: Callable[..., Any], eager: Callable[..., Any], give_up: Callable[[Exception], None]
) -> Callable[..., Any]:
    def forward(*inputs: Any) -> Any:
        try:
            return compiled(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            give_up(error)
            return eager(*inputs)

    return forward
