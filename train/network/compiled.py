"""torch.compile on the blocks of a model: fused norms, GELUs and sums between the matrix products.

Blocks alone, because all of an encoder have one shape: it is compiled once, in seconds, and what
lies around them (masks, gathers) stays plain. Where compiling fails, for want of a compiler for
example, the blocks run as they are, which is said once.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def wants_compiling(where: str, uses_cuda: bool) -> bool:
    """What loader.compile means here: always, never, or on a GPU."""
    return where == "always" or (where == "gpu" and uses_cuda)


def compile_blocks(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile every transformer block of a model in place; names of parameters stay."""
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    stacks = [module for name, module in model.named_modules() if name.endswith("blocks")]
    blocks = [block for stack in stacks for block in stack]
    # Blocks have rates of drop path of their own, and each is compiled for training, testing and a
    # last, smaller batch; beyond PyTorch's limit of 8 they would silently run as they are.
    limit = max(torch._dynamo.config.recompile_limit, 8 * len(blocks))
    torch._dynamo.config.recompile_limit = limit
    eager = {block: block.forward for block in blocks}

    def give_up(error: Exception) -> None:
        for block, forward in eager.items():
            block.forward = forward
        reason = " ".join(str(error).split("\n")[:2]).strip()
        warnings.warn(
            f"torch.compile failed ({reason}); blocks run without it, more slowly", stacklevel=2
        )

    for block, forward in eager.items():
        # Shapes are few and stay: one per stack, and one more for a last, smaller batch.
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
