"""Explains in a sentence why no GPU can be used.

Callers pass `torch.cuda` as `cuda`, because this folder does not import torch.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from shared.errors import InputError

DRIVER = Path("/proc/driver/nvidia/version")


def why_no_gpu(cuda: Any) -> str | None:
    """Return PyTorch's reason in one sentence, or None if a GPU can be used.

    Examples are "Found no NVIDIA driver on your system" and "The NVIDIA driver on your system is
    too old (found version 11040)".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch also warns, in several lines
        if cuda.is_available():
            return None
        try:
            cuda.init()
        except (RuntimeError, AssertionError) as error:
            return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
    return "PyTorch finds none"


def refuse_too_few(cuda: Any, asked: int, option: str) -> None:
    """Refuse to start with fewer GPUs than were asked for.

    Raises:
        InputError: it names the number of GPUs, or the reason why there are none.
    """
    reason = why_no_gpu(cuda)
    if reason is not None:
        raise InputError(
            "no-gpu", f"{option} {asked}: no GPU can be used here: {reason}; {_remedy(reason)}"
        )
    if cuda.device_count() < asked:
        raise InputError(
            "no-gpu",
            f"{option} {asked}: this machine has {cuda.device_count()} GPUs; give a lower number",
        )


def unused_gpu(cuda: Any) -> str | None:
    """Return a line if there is a driver but no usable GPU, otherwise None."""
    reason = why_no_gpu(cuda)
    if reason is None or not DRIVER.exists():
        return None
    return f"computing on the CPU: {reason}; {_remedy(reason)}"


def _remedy(reason: str) -> str:
    if "too old" in reason:
        return "update the driver, or install a PyTorch for this driver into .venv (pytorch.org)"
    if "not compiled" in reason:
        return "install a PyTorch with CUDA into .venv (pytorch.org), or use the CPU"
    return "leave the option out to compute on the CPU"
